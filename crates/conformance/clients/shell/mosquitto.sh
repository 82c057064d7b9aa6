#!/usr/bin/env bash
# mosquitto_pub and mosquitto_sub, MQTT 3.1, 3.1.1 and 5.
source "$(dirname "$0")/check.sh"
broker=$(address mqtt "$@")
host=${broker%:*}
port=${broker##*:}

publish() { mosquitto_pub -h "$host" -p "$port" "$@"; }
subscribe() { timeout 30 mosquitto_sub -h "$host" -p "$port" "$@"; }

# Subscribes in the background with its output in a file, and returns once the broker granted the subscription.
subscribe_behind() { # FILE options...
    local file=$1
    shift
    # Here, not by the process behind: what an earlier subscriber left there must not be taken for this one's.
    : >"$file.debug"
    timeout 30 stdbuf -oL mosquitto_sub -h "$host" -p "$port" -d "$@" >>"$file.debug" &
    subscriber=$!
    for _ in $(seq 1 300); do
        grep -q 'Subscribed (mid' "$file.debug" && return
        sleep 0.05
    done
    fail "not subscribed: $(cat "$file.debug")"
}

# The payload lines of a debug output.
payloads() { grep -v -E '^(Client|Subscribed)' "$1.debug" || true; }

quality() { # VERSION QOS
    local topic
    topic=$(unique mosquitto)
    subscribe_behind "$work/out" -V "$1" -q "$2" -t "$topic/#" -C 20
    seq 1 20 | publish -V "$1" -q "$2" -t "$topic/a" -l
    wait "$subscriber" || fail "the subscriber ended with $?: $(payloads "$work/out" | wc -l) messages"
    equal "$(payloads "$work/out")" "$(seq 1 20)" "payloads"
}
for version in mqttv31 mqttv311 mqttv5; do
    for qos in 0 1 2; do
        check "publish and subscribe at $qos ($version)" quality "$version" "$qos"
    done
done

retained() {
    local topic
    topic=$(unique mosquitto)
    publish -V "$1" -q 1 -r -t "$topic/a" -m one
    publish -V "$1" -q 1 -r -t "$topic/b" -m two
    equal "$(subscribe -V "$1" -t "$topic/+" -C 2 -F '%t %p %r' | sort)" "$(printf '%s/a one 1\n%s/b two 1' "$topic" "$topic")" "retained"
    publish -V "$1" -q 1 -r -t "$topic/a" -n
    equal "$(subscribe -V "$1" -t "$topic/+" -C 1 -F '%t')" "$topic/b" "after clearing one"
    publish -V "$1" -q 1 -r -t "$topic/b" -n
    equal "$(subscribe -V "$1" -t "$topic/+" -W 1 || true)" "" "after clearing both"
}
check "retained messages (mqttv311)" retained mqttv311
check "retained messages (mqttv5)" retained mqttv5

session() {
    local topic client
    topic=$(unique mosquitto) client=$(unique client)
    local persistent=(-V "$1" -i "$client" -c -q 2 -t "$topic")
    [[ $1 == mqttv5 ]] && persistent+=(-x 600)
    subscribe "${persistent[@]}" -E
    seq 1 15 | publish -V "$1" -q 2 -t "$topic" -l
    equal "$(subscribe "${persistent[@]}" -C 15)" "$(seq 1 15)" "what came while away"
}
check "persistent session (mqttv311)" session mqttv311
check "persistent session (mqttv5)" session mqttv5

will() {
    local topic
    topic=$(unique mosquitto)
    subscribe_behind "$work/will" -q 1 -t "$topic" -C 1
    local watcher=$subscriber
    subscribe_behind "$work/dying" -t "$topic/other" --will-topic "$topic" --will-payload gone --will-qos 1
    # timeout passes no SIGKILL on: the client itself has to die.
    pkill -KILL -P "$subscriber"
    wait "$watcher" || fail "no will came"
    equal "$(payloads "$work/will")" "gone" "will"
}
check "will" will

properties() {
    local topic
    topic=$(unique mosquitto)
    subscribe_behind "$work/properties" -V mqttv5 -q 1 -t "$topic" -C 1 -F '%p|%A|%C|%D|%E|%P|%R'
    publish -V mqttv5 -q 1 -t "$topic" -m body -D publish user-property a 1 -D publish user-property b 2 \
        -D publish content-type text/plain -D publish correlation-data c7 -D publish response-topic answers \
        -D publish message-expiry-interval 300
    wait "$subscriber" || fail "no message"
    equal "$(payloads "$work/properties")" "body||text/plain|c7|300|a:1 b:2|answers" "properties"
}
check "properties (mqttv5)" properties

request() {
    local topic
    topic=$(unique mosquitto)
    subscribe_behind "$work/request" -V mqttv5 -q 1 -t "$topic/question" -C 1 -F '%R %p'
    timeout 30 mosquitto_rr -h "$host" -p "$port" -V mqttv5 -q 1 -t "$topic/question" -e "$topic/answer" -m ping >"$work/answer" &
    local asking=$!
    wait "$subscriber" || fail "no question"
    local reply
    reply=$(payloads "$work/request")
    equal "$reply" "$topic/answer ping" "question"
    publish -V mqttv5 -q 1 -t "${reply% *}" -m pong
    wait "$asking" || fail "no answer"
    equal "$(cat "$work/answer")" "pong" "answer"
}
check "request and response (mqttv5)" request

shared() {
    local topic share one
    topic=$(unique mosquitto) share=$(unique share)
    subscribe_behind "$work/one" -V mqttv5 -q 1 -t "\$share/$share/$topic" -W 4
    one=$subscriber
    subscribe_behind "$work/two" -V mqttv5 -q 1 -t "\$share/$share/$topic" -W 4
    seq 1 40 | publish -V mqttv5 -q 1 -t "$topic" -l
    wait "$one" "$subscriber" || true
    equal "$( (payloads "$work/one"; payloads "$work/two") | sort -n)" "$(seq 1 40)" "both together"
    [[ -n $(payloads "$work/one") && -n $(payloads "$work/two") ]] || fail "one received nothing"
}
check "shared subscription (mqttv5)" shared

finish
