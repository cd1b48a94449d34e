"""What the example programs share: options, the printed lines, the app."""

import argparse
import json
import os
import signal
import sys

import libslim

DEFAULT_NODE = "http://127.0.0.1:46357"
TRUE, FALSE = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def wrong(text):
    """A wrong use of the program."""
    print(f"Error: {text}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """Options that may also be environment variables, and one line for what is wrong."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.variables = {}

    def error(self, message):
        wrong(message)

    def option(self, name, **more):
        """An option --some-name that SLIM_SOME_NAME stands for, too."""
        value = os.environ.get("SLIM_" + name.upper().replace("-", "_")) or None
        if value is not None and more.get("action") == "store_true":
            if value not in TRUE + FALSE:
                wrong(f"Invalid value for '--{name}': '{value}' is not a valid boolean.")
            value = value in TRUE
        if more.get("action") == "append":
            # What the command line says stands alone.
            self.variables[name] = (value or "").split()
            value = None
        self.add_argument(f"--{name}", default=value, **more)


def parse_options():
    """Reads the command line and the environment."""
    parser = Parser(allow_abbrev=False)
    parser.option("local", metavar="NAME", help="organization/namespace/service of this program")
    parser.option("remote", metavar="NAME", help="of the other one")
    parser.option("slim", metavar="URL|JSON", help=f"the node; {DEFAULT_NODE} if not given")
    parser.option("message", metavar="TEXT", help="what to send; without it, receive")
    parser.option("iterations", metavar="N", help="how often to send it; 2 if not given")
    parser.option("shared-secret", metavar="SECRET", help="32 bytes or more, the same for all")
    parser.option("sticky", action="store_true", help="one instance for all messages, reliably")
    parser.option("invites", action="append", metavar="NAME", help="whom to invite; repeatable")
    parser.option("enable-mls", action="store_true", help="encrypt the session end to end")
    parser.option("enable-opentelemetry", action="store_true", help=argparse.SUPPRESS)
    for name in ("jwt", "bundle", "audience"):
        parser.option(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.invites = options.invites or parser.variables["invites"]
    if options.local is None:
        wrong("Missing option '--local'.")
    for name in ("enable-opentelemetry", "jwt", "bundle", "audience"):
        if getattr(options, name.replace("-", "_")):
            wrong(f"--{name} is not in this version of libslim.")
    try:
        options.iterations = int(options.iterations or 2)
    except ValueError:
        wrong(f"Invalid value for '--iterations': '{options.iterations}' is not a valid integer.")
    if (options.slim or "").startswith("{"):
        try:
            options.slim = json.loads(options.slim)
        except ValueError:
            wrong(f"Invalid value for '--slim': {options.slim} is not valid JSON")
    return options


def format_message(message1, message2=""):
    """`message1` in bold cyan, 45 columns wide, and `message2` behind it."""
    return f"\x1b[1m\x1b[96m{message1.capitalize():<45}\x1b[0m{message2}"


def format_message_print(message1, message2=""):
    """Prints it: one whole line, whatever other threads print."""
    sys.stdout.write(format_message(message1, message2) + "\n")
    sys.stdout.flush()


def split_id(name):
    """The three parts of a name."""
    parts = name.split("/")
    if len(parts) != 3 or not all(parts):
        print("Error: IDs must be in the format organization/namespace/app-or-stream.")
        raise ValueError(name)
    return parts


def create_local_app(node, local, slim=None, shared_secret=None):
    """Makes the app and connects; gives it and the connection's number."""
    if not shared_secret:
        raise ValueError("Either JWT or bundle must be provided, or a shared secret.")
    split_id(local)
    app = node.app(local, secret=shared_secret)
    format_message_print(app.id, "Created app")
    slim = slim or DEFAULT_NODE
    try:
        connection = app.connect(slim)
    except libslim.InvalidConfigError as error:
        wrong(f"Invalid value for '--slim': {error}")
    endpoint = slim["endpoint"] if isinstance(slim, dict) else slim
    format_message_print(app.id, f"Connected to {endpoint}")
    return app, connection


def end_on_signals():
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, also where a shell ignores Ctrl-C for us."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def run(main):
    """Runs a program to its end, which may be Ctrl-C."""
    end_on_signals()
    try:
        main()
    except KeyboardInterrupt:
        print("Client interrupted by user.")
    except (libslim.SlimError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
