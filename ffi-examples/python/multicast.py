"""A member of a group: its moderator, or somebody who was invited.

    multicast.py --local org/ns/client-1 --shared-secret S                    waits to be invited
    multicast.py --local org/ns/moderator --remote org/ns/chat \\
                 --invites org/ns/client-1 --invites org/ns/client-2 --shared-secret S

What is typed is published to the group, but for a few words: "invite NAME" and "remove NAME", for
the moderator, and "exit" or "quit", which leave the group (the moderator's ends it).
"""

import os
import select
import sys
import threading

import libslim
from common import create_local_app, format_message_print, parse_options, run
from libslim import Kind

RETRIES, RETRY_INTERVAL = 5, 5.0
# Joining, leaving and each message may take as long as all tries.
PATIENCE = (RETRIES + 1) * RETRY_INTERVAL
EVENTS = {
    Kind.PEER_LEFT: "has left",
    Kind.PEER_OFFLINE: "does not answer",
    Kind.PEER_ONLINE: "is back",
}
PROMPT = "\x1b[1mmessage>\x1b[0m "


class Member:
    """This side of the group."""

    def __init__(self, local, session):
        self.local, self.session = local, session
        self.leaving = False
        self.at_terminal = sys.stdin is not None and sys.stdin.isatty()
        self.typed = b""

    def tell(self, text):
        """Prints, over the prompt."""
        if self.at_terminal:
            sys.stdout.write("\r")
        format_message_print(self.local, text)

    def failed(self, what, error):
        """Says so, unless it was only cut short by leaving."""
        if not self.leaving:
            self.tell(f"{what}: {error}")

    def start(self, begin, failure, success=None):
        """Begins something; a thread waits for its end and says how it went."""

        def wait(op):
            try:
                op.wait(None)
                if success:
                    self.tell(success)
            except libslim.SlimError as error:
                self.failed(failure, error)

        try:
            threading.Thread(target=wait, args=(begin(),), daemon=True).start()
        except libslim.SlimError as error:
            self.failed(failure, error)

    def invite(self, name):
        begin = lambda: self.session.invite_start(name)  # noqa: E731
        self.start(begin, f"-> Error inviting {name}", f"-> {name} has joined")

    def remove(self, name):
        begin = lambda: self.session.remove_start(name)  # noqa: E731
        self.start(begin, f"-> Error removing {name}", f"-> {name} was removed")

    def obey(self, line):
        """Does what was typed. False: that is all."""
        words = line.split()
        if len(words) == 1 and words[0].lower() in ("exit", "quit"):
            return False
        if len(words) == 2 and words[0] == "invite":
            self.invite(words[1])
        elif len(words) == 2 and words[0] == "remove":
            self.remove(words[1])
        elif words:
            begin = lambda: self.session.publish_start(line.encode())  # noqa: E731
            self.start(begin, "-> Error sending message")
        return True

    def hear(self):
        """Prints what the others say, and what happens to them. False: the group is over."""
        try:
            while True:
                message = self.session.receive(timeout=0)
                if message.kind == Kind.MESSAGE:
                    text = message.data.decode(errors="replace")
                    self.tell(f"-> Received message from {self.session.id}: {text}")
                elif message.kind in EVENTS:
                    self.tell(f"-> {message.source} {EVENTS[message.kind]}")
                elif message.kind == Kind.ENCRYPTION_LOST:
                    self.tell(f"-> {message.data.decode()}")
        except libslim.TimeoutError:
            return True
        except libslim.SlimError as error:
            self.tell(f"-> Error receiving message: {error}")
            return False

    def take_part(self):
        """Listens to the others and to what is typed, until one of them ends it."""
        watched, more = [self.session] + [sys.stdin] * (sys.stdin is not None), True
        while more:
            if self.at_terminal:
                print(PROMPT, end="", flush=True)
            ready, _, _ = select.select(watched, [], [])
            if self.session in ready:
                more = self.hear()
            if sys.stdin in ready and more:
                typed = os.read(sys.stdin.fileno(), 65536)
                if not typed:
                    # No more input, but the others may have something to say.
                    watched.remove(sys.stdin)
                *lines, self.typed = (self.typed + typed).split(b"\n")
                more = all(self.obey(line.decode(errors="replace").rstrip("\r")) for line in lines)
        self.leaving = True


def main():
    options = parse_options()
    local = options.local
    with libslim.Node() as node:
        app, connection = create_local_app(
            node, local, options.slim, shared_secret=options.shared_secret
        )
        with app:
            if options.remote and options.invites:
                format_message_print(local, "Creating new multicast sessions...")
                session = app.open(
                    options.remote,
                    PATIENCE,
                    group=True,
                    events=True,
                    mls=options.enable_mls,
                    max_retries=RETRIES,
                    retry_interval=RETRY_INTERVAL,
                )
            else:
                format_message_print(local, "-> Waiting for session...")
                session = app.accept()
                session.set_events(True)
                options.invites = []
            member = Member(local, session)
            with session:
                for name in options.invites:
                    app.set_route(name, connection)
                    member.invite(name)
                    print(f"{local} -> add {name} to the group", flush=True)
                member.take_part()
                session.close(PATIENCE)


if __name__ == "__main__":
    run(main)
