"""Sends a message some times and prints the replies, or receives and replies.

    point_to_point.py --local org/ns/alice --shared-secret S                        receives
    point_to_point.py --local org/ns/bob --remote org/ns/alice --message "hello" \\
                      --iterations 3 --sticky --shared-secret S                     sends

--slim names the node (a URL or JSON); every option can be an environment variable, too.
"""

import os
import sys
import threading
import time

import libslim
from common import create_local_app, format_message_print, parse_options, run

RETRIES, RETRY_INTERVAL = 5, 5.0
# A reply may take as long as all tries of a message.
REPLY = (RETRIES + 1) * RETRY_INTERVAL


def check_name(message, local):
    """Ends the program if a message is not for this app."""
    if message.destination.split("/")[:3] != local.split("/"):
        print(
            f"received message with wrong name, exit. local {local}, dst {message.destination}",
            flush=True,
        )
        os._exit(1)


def serve(session, app, local):
    """Replies to everything that comes in one session."""
    try:
        for message in session:
            check_name(message, local)
            text = message.data.decode(errors="replace")
            format_message_print(app.id, f"received (from session {session.id}): {text}")
            reply = f"{text} from {app.id}"
            session.publish_to(message, reply.encode())
            format_message_print(app.id, f"replies: {reply}")
    except libslim.SlimError as error:
        print(f"Error: {error}", file=sys.stderr)


def receive(app, local):
    """Takes sessions for ever and serves each in a thread of its own."""
    while True:
        format_message_print(app.id, "waiting for new session to be established")
        session = app.accept()
        format_message_print(f"{app.id} received a new session:", session.id)
        threading.Thread(target=serve, args=(session, app, local), daemon=True).start()


def send(app, connection, options):
    """Sends the message, waits for the reply, and again."""
    app.set_route(options.remote, connection)
    if options.sticky or options.enable_mls:
        how = {"max_retries": RETRIES, "retry_interval": RETRY_INTERVAL}
        how["mls"] = options.enable_mls
    else:
        # Each message goes to any instance, once.
        how = {"reliable": False, "anycast": True}
    with app.open(options.remote, REPLY, **how) as session:
        for i in range(options.iterations):
            try:
                session.publish(options.message.encode())
                sent = f"Sent message {options.message} - {i + 1}/{options.iterations}:"
                format_message_print(app.id, sent)
                session.flush(REPLY + RETRY_INTERVAL)
                message = session.receive(REPLY)
                check_name(message, options.local)
                text = message.data.decode(errors="replace")
                format_message_print(app.id, f"received (from session {session.id}): {text}")
            except libslim.SlimError as error:
                print("received error: ", error, flush=True)
            time.sleep(1)


def main():
    options = parse_options()
    with libslim.Node() as node:
        app, connection = create_local_app(
            node, options.local, options.slim, shared_secret=options.shared_secret
        )
        with app:
            if options.message is not None and not options.remote:
                raise ValueError("Remote ID must be provided when message is specified.")
            if options.message is not None:
                send(app, connection, options)
            else:
                receive(app, options.local)


if __name__ == "__main__":
    run(main)
