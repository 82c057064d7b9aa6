#!/usr/bin/env bash
# mosquitto_pub, kcat and curl log in by every mechanism that they have, over TLS.
source "$(dirname "$0")/check.sh"
folder=$CONFORMANCE_CREDENTIALS
token=$(<"$folder/token")
wrong=$(<"$folder/wrong.token")
mqtt=$(address mqtt "$@")
kafka=$(address kafka "$@")
http=$(address http "$@")

# With version 5 and QoS 1 a refusal for want of rights is told by the program.
publish() { # TOPIC options...
    local topic=$1
    shift
    mosquitto_pub -h "${mqtt%:*}" -p "${mqtt##*:}" -V mqttv5 -q 1 --cafile "$folder/authority.pem" -t "$topic" -m x "$@"
}
certificate=(--cert "$folder/mia.pem" --key "$folder/mia.key")

mosquitto_let_in() { # USER options...
    local user=$1 said
    shift
    publish "$user/a" "$@"
    said=$(publish other/a "$@" 2>&1) && [[ -z $said ]] && fail "it may publish everywhere"
    true
}
mosquitto_kept_out() {
    publish ann/a "$@" && fail "it was let in"
    true
}
check "mosquitto_pub: password" mosquitto_let_in ann -u ann -P ann-password
check "mosquitto_pub: token" mosquitto_let_in tom -u tom -P "$token"
check "mosquitto_pub: certificate" mosquitto_let_in mia "${certificate[@]}"
check "mosquitto_pub: a wrong password is refused" mosquitto_kept_out -u ann -P wrong
check "mosquitto_pub: another issuer's token is refused" mosquitto_kept_out -u tom -P "$wrong"
check "mosquitto_pub: no credentials are refused" mosquitto_kept_out

topics() { # options...
    kcat -b "$kafka" -L -m 20 -X broker.address.family=v4 -X ssl.ca.location="$folder/authority.pem" "$@" 2>&1
}
kcat_let_in() {
    local said
    said=$(topics "$@") || fail "$said"
    [[ $said == *"brokers:"* ]] || fail "$said"
}
kcat_kept_out() {
    timeout 30 kcat -b "$kafka" -L -m 2 -X broker.address.family=v4 \
        -X ssl.ca.location="$folder/authority.pem" "$@" >/dev/null 2>&1 && fail "it was let in"
    true
}
for mechanism in PLAIN SCRAM-SHA-256 SCRAM-SHA-512; do
    sasl=(-X security.protocol=SASL_SSL -X "sasl.mechanism=$mechanism" -X sasl.username=ann)
    check "kcat: $mechanism" kcat_let_in "${sasl[@]}" -X sasl.password=ann-password
done
check "kcat: a wrong password is refused" kcat_kept_out "${sasl[@]}" -X sasl.password=wrong
check "kcat: a client certificate" kcat_let_in -X security.protocol=SSL \
    -X ssl.certificate.location="$folder/mia.pem" -X ssl.key.location="$folder/mia.key"

ask() { # options...
    curl --silent --output /dev/null --write-out '%{http_code}' --cacert "$folder/authority.pem" \
        "https://$http/v1/users/$1" "${@:2}"
}
curl_asks() {
    equal "$(ask ann -u ann:ann-password)" 200 "Basic"
    equal "$(ask ann -u ann:wrong)" 401 "Basic with a wrong password"
    equal "$(ask mia "${certificate[@]}")" 200 "a certificate"
    equal "$(ask mia)" 401 "no credentials"
    # Tom has no entry to look at, and is let in all the same.
    equal "$(ask tom -H "Authorization: Bearer $token")" 404 "Bearer"
    equal "$(ask tom -H "Authorization: Bearer $wrong")" 401 "Bearer of another issuer"
}
check "curl: Basic, Bearer and a certificate" curl_asks
finish
