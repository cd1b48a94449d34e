#!/bin/sh
# The demo: a node, a receiver and a sender in C, talking through it. Usage: demo.sh SLIM HELLO
set -eu
slim=$1
hello=$2
log=$(mktemp)
node= receiver=
end() {
    [ -z "$receiver" ] || kill "$receiver" 2>/dev/null || true
    [ -z "$node" ] || kill "$node" 2>/dev/null || true
    rm -f "$log"
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
rm -f "$log.alice"

kill -TERM "$node"
wait "$node"
node=
echo "node:     stopped by SIGTERM"
echo "demo: done"
