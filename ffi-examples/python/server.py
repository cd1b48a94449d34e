"""A node.  server.py [-s|--slim ADDRESS|JSON]"""

import os
import sys

import libslim
from common import Parser, end_on_signals, wrong


def main():
    parser = Parser()
    default = os.environ.get("SLIM_SLIM") or "127.0.0.1:46357"
    parser.add_argument("-s", "--slim", default=default, metavar="ADDRESS|JSON")
    parser.add_argument("-t", "--enable-opentelemetry", action="store_true")
    options = parser.parse_args()
    if options.enable_opentelemetry:
        wrong("--enable-opentelemetry is not in this version of libslim.")
    end_on_signals()
    try:
        with libslim.Node() as node:
            print(f"listening on port {node.listen(options.slim)}", file=sys.stderr, flush=True)
            node.wait()
    except KeyboardInterrupt:
        print("\nShutting down...")
    except libslim.SlimError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
