# What the shell client programs share; source it. `address PROTOCOL "$@"` finds HOST:PORT among the arguments, `check
# NAME FUNCTION` prints `ok NAME` or `not ok NAME: reason`, `finish` ends with the result.

set -uo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
ran=0

address() {
    local wanted=$1 argument
    shift
    for argument in "$@"; do
        if [[ $argument == "$wanted="* ]]; then
            echo "${argument#*=}"
            return
        fi
    done
    echo "usage: $0 $wanted=HOST:PORT" >&2
    exit 2
}

unique() {
    echo "$1-$(od -An -N5 -tx1 /dev/urandom | tr -d ' \n')"
}

# Fails the check: the reason is its last line on standard output.
fail() {
    echo "$*"
    exit 1
}

equal() {
    [[ $1 == "$2" ]] || fail "$3: expected '${2:0:300}', was '${1:0:300}'"
}

check() {
    local name=$1 reason
    shift
    ran=$((ran + 1))
    if reason=$(set -e; "$@" 2>"$work/errors"); then
        echo "ok $name"
    else
        failed=1
        echo "not ok $name: $(tail -n 1 <<<"$reason") $(tail -n 1 "$work/errors")"
        cat "$work/errors" >&2
    fi
}

finish() {
    [[ $failed == 0 && $ran -gt 0 ]]
    exit
}
