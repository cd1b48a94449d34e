#!/bin/sh
# The demo: a node, and programs in C, Python and (if present) Go that talk through it.
# Usage: demo.sh SLIM DIRECTORY, where the C programs are. The library is beside SLIM.
set -eu
slim=$1
programs=$2
hello=$programs/hello
library=$(cd "$(dirname "$slim")" && pwd)
examples=$(cd "$(dirname "$0")/../ffi-examples" && pwd)
log=$(mktemp)
node= receiver= receivers= members=
end() {
    for process in $receiver $receivers $members $node; do
        kill "$process" 2>/dev/null || true
    done
    rm -f "$log" "$log".*
}
trap end EXIT

"$slim" node --listen 127.0.0.1:0 2>"$log" &
node=$!
while ! grep -q '^listening on' "$log"; do
    kill -0 "$node" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.05
done
endpoint=http://$(sed -n 's/^listening on //p' "$log")
echo "node:     slim node listens at $endpoint"

"$hello" receive "$endpoint" org/demo/alice 2>>"$log" >"$log.alice" &
receiver=$!
while ! grep -q '^waiting as' "$log"; do
    kill -0 "$receiver" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.05
done
echo "receiver: hello (C) is $(sed -n 's/^waiting as //p' "$log")"
answer=$("$hello" send "$endpoint" org/demo/bob org/demo/alice)
wait "$receiver"
receiver=
echo "receiver: got \"$(cat "$log.alice")\""
echo "sender:   hello (C) got the answer \"$answer\""

# The same program in each language: one receives and replies, the next one sends.
export SLIM_SLIM="$endpoint" SLIM_SHARED_SECRET="a secret for demos, never for real use"
export LD_LIBRARY_PATH="$library" PYTHONUNBUFFERED=1
# With `exec` before it in a background job, the job is the program.
before=
example() {
    language=$1 name=$2
    shift 2
    case $language in
    C) $before "$programs/$name" "$@" ;;
    Python) $before "${PYTHON:-python3}" "$examples/python/$name.py" "$@" ;;
    Go) $before "$programs/go/$name" "$@" ;;
    esac
}
# Waits until a program's output has so many lines with a text.
lines() {
    until [ "$(grep -c "$2" "$1")" -ge "$3" ]; do
        kill -0 "$4" 2>/dev/null || { cat "$1" >&2; exit 1; }
        sleep 0.05
    done
}
# A receiver called org/demo/NAME.
receiver() {
    : >"$log.$2"
    (before=exec; example "$1" point_to_point --local "org/demo/$2") >"$log.$2" 2>&1 &
    receivers="$receivers $!"
    lines "$log.$2" 'waiting for new session' 1 $!
}
languages="C Python"
if command -v "${GO:-go}" >/dev/null; then
    languages="$languages Go"
    mkdir -p "$programs/go"
    (cd "$examples/go" && PKG_CONFIG_PATH=$library "${GO:-go}" build -o "$programs/go" ./cmd/...)
else
    echo "demo:     no Go here, so it is left out"
    [ "${CI:-}" != true ] || exit 1
fi
for to in $languages; do
    receiver "$to" "$to"
done
for from in $languages; do
    for to in $languages; do
        [ "$from" != "$to" ] || continue
        example "$from" point_to_point --local org/demo/sender --remote "org/demo/$to" --sticky \
            --message "hello from $from to $to" --iterations 1 >"$log.sender" 2>&1 ||
            { cat "$log.sender" >&2; exit 1; }
        answer=$(sed -n 's/.*received (from session [0-9]*): //p' "$log.sender")
        [ -n "$answer" ] || { cat "$log.sender" >&2; exit 1; }
        printf '%-9s got the answer "%s"\n' "$from:" "$answer"
    done
done

# Two instances of one name: without --sticky any of them gets a message.
receiver C any
mv "$log.any" "$log.any.C" # the program goes on writing to it
receiver Python any
example C point_to_point --local org/demo/sender --remote org/demo/any --message hello \
    --iterations 4 >"$log.sender" 2>&1 || { cat "$log.sender" >&2; exit 1; }
printf '%-9s sent 4 messages to any instance of org/demo/any: %s went to C, %s to Python\n' C: \
    "$(grep -c replies: "$log.any.C")" "$(grep -c replies: "$log.any")"
for process in $receivers; do
    kill -TERM "$process"
    wait "$process"
done
receivers=

# A group of programs in all languages, encrypted end to end. What each is to say comes through a pipe.
number=0
for member in $languages; do
    mkfifo "$log.$member.in"
done
for member in $languages; do
    : >"$log.$member"
    if [ "$member" = C ]; then
        set -- --local org/demo/C-moderator # begins last
        continue
    fi
    (before=exec; example "$member" multicast --local "org/demo/$member-member") \
        <>"$log.$member.in" >"$log.$member" 2>&1 &
    members="$members $!"
    lines "$log.$member" 'Waiting for session' 1 $!
    set -- "$@" --invites "org/demo/$member-member"
    number=$((number + 1))
done
(before=exec; example C multicast "$@" --remote org/demo/chat --enable-mls) <>"$log.C.in" >"$log.C" 2>&1 &
moderator=$!
members="$members $moderator"
lines "$log.C" 'has joined' $number $moderator
sed -n 's/.*-> \(org[^ ]* has joined\)/C:        \1 org\/demo\/chat, encrypted end to end/p' "$log.C"
for from in $languages; do
    echo "hello from $from" >"$log.$from.in"
    for to in $languages; do
        [ "$from" != "$to" ] || continue
        lines "$log.$to" "hello from $from" 1 $moderator
        heard=$(sed -n "s/.*Received message from [0-9]*: \(hello from $from\)/\1/p" "$log.$to")
        printf '%-9s heard "%s" in the group\n' "$to:" "$heard"
    done
done
echo exit >"$log.C.in"
for process in $members; do
    wait "$process"
done
members=
echo "C:        has ended the group, and with it everybody's session"

kill -TERM "$node"
wait "$node"
node=
echo "node:     stopped by SIGTERM"
echo "demo: done"
