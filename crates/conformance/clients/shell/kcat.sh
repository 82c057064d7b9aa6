#!/usr/bin/env bash
# kcat: librdkafka 2.0 as distributions ship it.
source "$(dirname "$0")/check.sh"
broker=$(address kafka "$@")

consume() { # TOPIC COUNT [kcat options]
    local topic=$1 count=$2
    shift 2
    timeout 30 kcat -b "$broker" -C -t "$topic" -c "$count" -o beginning -q "$@"
}

metadata() {
    local topic
    topic=$(unique kcat)
    echo x | kcat -b "$broker" -P -t "$topic"
    kcat -b "$broker" -L -t "$topic" -m 10 >"$work/metadata"
    grep -q "topic \"$topic\" with 1 partitions" "$work/metadata" || fail "no such line: $(cat "$work/metadata")"
}
check "metadata and automatic creation" metadata

codec() {
    local topic
    topic=$(unique kcat)
    seq 1 300 | sed 's/.*/key&:value & value & value &/' |
        kcat -b "$broker" -P -t "$topic" -K : -z "$1" -H number=7 -H empty= -X acks=all
    consume "$topic" 300 -f '%k:%s|%h\n' >"$work/out"
    seq 1 300 | sed 's/.*/key&:value & value & value &|number=7,empty=/' >"$work/expected"
    cmp "$work/out" "$work/expected" || fail "records changed: $(head -n 1 "$work/out")"
}
for name in none gzip snappy lz4 zstd; do
    check "produce and consume $name" codec "$name"
done

acknowledgement() {
    local topic
    topic=$(unique kcat)
    seq 1 50 | kcat -b "$broker" -P -t "$topic" -X acks="$1"
    equal "$(consume "$topic" 50 | md5sum)" "$(seq 1 50 | md5sum)" "records"
}
check "produce with acks 0" acknowledgement 0
check "produce with acks 1" acknowledgement 1

offsets() {
    local topic
    topic=$(unique kcat)
    seq 1 20 | kcat -b "$broker" -P -t "$topic"
    equal "$(kcat -b "$broker" -Q -t "$topic:0:-1")" "$topic [0] offset 20" "end"
    equal "$(kcat -b "$broker" -Q -t "$topic:0:-2")" "$topic [0] offset 0" "beginning"
    equal "$(kcat -b "$broker" -C -t "$topic" -p 0 -o -5 -e -q | tr '\n' ' ')" "16 17 18 19 20 " "last five"
    equal "$(kcat -b "$broker" -C -t "$topic" -p 0 -o 3 -c 2 -q | tr '\n' ' ')" "4 5 " "from offset 3"
}
check "offsets" offsets

group() {
    local topic group
    topic=$(unique kcat) group=$(unique group)
    seq 1 30 | kcat -b "$broker" -P -t "$topic"
    timeout 60 kcat -b "$broker" -G "$group" -q -c 10 -X auto.offset.reset=earliest "$topic" >"$work/first"
    equal "$(tr '\n' ' ' <"$work/first")" "$(seq -s ' ' 1 10) " "first ten"
    timeout 60 kcat -b "$broker" -G "$group" -q -c 20 -X auto.offset.reset=earliest "$topic" >"$work/rest"
    equal "$(tr '\n' ' ' <"$work/rest")" "$(seq -s ' ' 11 30) " "the rest"
}
check "group resumes where it stopped" group

unknown() {
    local topic
    topic=$(unique missing)
    if timeout 20 kcat -b "$broker" -C -t "$topic" -e -q 2>"$work/unknown"; then
        fail "an unknown topic was read"
    fi
    grep -qi "unknown topic" "$work/unknown" || fail "unexpected error: $(cat "$work/unknown")"
}
check "unknown topic" unknown

finish
