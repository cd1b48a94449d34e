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
node= receiver= receivers=
end() {
    for process in $receiver $receivers $node; do
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
point_to_point() {
    language=$1
    shift
    case $language in
    C) $before "$programs/point_to_point" "$@" ;;
    Python) $before "${PYTHON:-python3}" "$examples/python/point_to_point.py" "$@" ;;
    Go) $before "$programs/go-point_to_point" "$@" ;;
    esac
}
languages="C Python"
if command -v "${GO:-go}" >/dev/null; then
    languages="$languages Go"
    (cd "$examples/go" && PKG_CONFIG_PATH=$library "${GO:-go}" build -o "$programs/go-point_to_point" ./cmd/point_to_point)
else
    echo "demo:     no Go here, so it is left out"
fi
for to in $languages; do
    : >"$log.$to"
    (before=exec; point_to_point "$to" --local "org/demo/$to") >"$log.$to" 2>&1 &
    receivers="$receivers $!"
    while ! grep -q 'waiting for new session' "$log.$to"; do
        kill -0 $! 2>/dev/null || { cat "$log.$to" >&2; exit 1; }
        sleep 0.05
    done
done
for from in $languages; do
    for to in $languages; do
        [ "$from" != "$to" ] || continue
        point_to_point "$from" --local org/demo/sender --remote "org/demo/$to" --sticky \
            --message "hello from $from to $to" --iterations 1 >"$log.sender" 2>&1 ||
            { cat "$log.sender" >&2; exit 1; }
        answer=$(sed -n 's/.*received (from session [0-9]*): //p' "$log.sender")
        [ -n "$answer" ] || { cat "$log.sender" >&2; exit 1; }
        printf '%-9s got the answer "%s"\n' "$from:" "$answer"
    done
done
for process in $receivers; do
    kill -TERM "$process"
    wait "$process"
done
receivers=

kill -TERM "$node"
wait "$node"
node=
echo "node:     stopped by SIGTERM"
echo "demo: done"
