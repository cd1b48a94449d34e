#!/usr/bin/env python3
"""Rates of this build beside the published implementation, in one run, alternating.

Each round measures every pairing once; what is printed is the median of the rounds, and its ratio to the
first pairing. Absolute figures of two runs are not comparable: the machine's load differs.

The published node is the one of the wheel (target/venv), which is always there. With --published DIR, that
holds the programs `slim` and `slimctl` of the published release, these are measured, too. --python measures
one program with our Python package and with the wheel, encrypted and in groups as well. --instructions
counts instructions for each forwarded message with valgrind's callgrind.
"""
import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OURS = os.path.join(ROOT, "target/release/slim")
PYTHON = os.path.join(ROOT, "target/venv/bin/python")
SECRET = "my_shared_secret_for_testing_purposes_only"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A node that is ended with the block."""

    def __init__(self, kind, published, prefix=()):
        self.port = free_port()
        address = f"127.0.0.1:{self.port}"
        if kind == "ours":
            command = [OURS, "node", "--listen", address]
        elif kind == "wheel":
            command = [PYTHON, os.path.join(ROOT, "tests/interop/upstream_peer.py"), "node", "--listen", address,
                       "--seconds", "3600", "--log", "error"]
        else:
            self.file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
            self.file.write(CONFIG.format(address=address))
            self.file.flush()
            command = [os.path.join(published, "slim"), "--config", self.file.name]
        self.process = subprocess.Popen([*prefix, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise SystemExit("a node does not listen")

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


CONFIG = """
tracing:
  log_level: error
runtime:
  n_cores: 0
services:
  slim/0:
    node_id: bench
    dataplane:
      servers:
        - endpoint: "{address}"
          tls:
            insecure: true
"""


def bench(program, server, messages, mode):
    """Rate at the subscriber, median latency (us), CPU of the node for each message (us)."""
    url = f"http://127.0.0.1:{server.port}"
    common = ["--server", url, "--secret", SECRET, "-n", str(messages)]
    sub_flags = ["--reply"] if "request" in mode else []
    pub_flags = [f"--{flag}" for flag in mode]
    before = server.cpu()
    sub = subprocess.Popen([program, "bench", "sub", *common, *sub_flags], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True)
    time.sleep(1)
    pub = subprocess.Popen([program, "bench", "pub", *common, *pub_flags], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True)
    said = ""
    for line in sub.stdout:
        said += line
        if line.startswith("Sub stats"):
            break
    after = server.cpu()
    pub_said = pub.communicate()[0] if mode else ""
    for process in (pub, sub):
        process.kill()
        process.wait()
    rate = re.search(r"Sub stats: ([\d,]+) msgs/sec.*\(([\d,]+) msgs", said)
    if not rate:
        raise SystemExit(f"{program} gave no rate:\n{said}")
    rate = [int(number.replace(",", "")) for number in rate.groups()]
    if rate[1] != messages and not mode:
        print(f"  {program}: {rate[1]} of {messages} messages arrived", file=sys.stderr)
    latency = re.search(r"p50 ([\d.]+)\s?(us|µs|ms)", pub_said)
    scale = {"us": 1, "µs": 1, "ms": 1000}
    p50 = float(latency[1]) * scale[latency[2]] if latency else float("nan")
    return rate[0], p50, (after - before) / messages * 1e6


def rates(options):
    pairings = [("ours", OURS, "our node, our clients"), ("wheel", OURS, "the wheel's node, our clients")]
    if options.published:
        slimctl = os.path.join(options.published, "slimctl")
        pairings += [("published", OURS, "published node, our clients"),
                     ("ours", slimctl, "our node, published clients"),
                     ("published", slimctl, "published node, published clients")]
    modes = [((), options.messages), (("reliable",), options.messages // 20), (("request",), options.messages // 20)]
    for mode, messages in modes:
        print(f"\n{' '.join(mode) or 'best effort'}, {messages} messages of 128 B, {options.rounds} rounds, "
              f"load {os.getloadavg()[0]:.1f}")
        seen = {title: [] for _, _, title in pairings}
        for _ in range(options.rounds):
            for kind, program, title in pairings:
                with Server(kind, options.published) as server:
                    seen[title].append(bench(program, server, messages, mode))
        base = None
        for title, rounds in seen.items():
            rate, p50, cpu = (statistics.median(column) for column in zip(*rounds))
            base = base or rate
            spread = f"{min(r[0] for r in rounds)}..{max(r[0] for r in rounds)}"
            print(f"  {title:34} {rate:9.0f} msg/s ({spread}), ratio {rate / base:5.2f}, "
                  f"p50 {p50:7.0f} us, node CPU {cpu:6.2f} us/msg")


CLIENT = os.path.join(ROOT, "tests/bench/python_client.py")
ENCRYPTED = "best effort, 1 KiB, MLS"
PYTHON_MODES = [
    ("best effort, 1 KiB", 1, 1024, []),
    (ENCRYPTED, 1, 1024, ["--mls"]),
    ("best effort to a group of 8 receivers, 128 B", 8, 128, ["--group"]),
    ("best effort to a group of 8 receivers, 128 B, MLS", 8, 128, ["--group", "--mls"]),
]


def python_bench(stack, server, count, messages, size, flags):
    """Messages a second that came out at all receivers together, and the part that arrived."""
    environment = {**os.environ, "LIBSLIM": os.path.join(ROOT, "target/release/libslim.so"),
                   "PYTHONPATH": os.path.join(ROOT, "ffi-examples/python")}
    common = [f"http://127.0.0.1:{server.port}", str(count), str(messages), str(size), *flags]
    pipes = {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE, "text": True, "env": environment}
    sub = subprocess.Popen([PYTHON, CLIENT, stack, "sub", *common], **pipes)
    if sub.stdout.readline().strip() != "ready":
        raise SystemExit(f"{stack}: the receivers did not start")
    pub = subprocess.Popen([PYTHON, CLIENT, stack, "pub", *common], **pipes)
    said = sub.communicate()[0]
    pub.kill()
    pub.communicate()
    rate = re.search(r"rate (\d+) received (\d+) of (\d+)", said)
    if not rate:
        raise SystemExit(f"{stack} gave no rate: {said}")
    return int(rate[1]), int(rate[2]) / int(rate[3])


def python_rates(options):
    """The same program with either Python package."""
    pairings = [("ours", "ours", "our package, our node"), ("ours", "wheel", "our package, the wheel's node"),
                ("wheel", "ours", "the wheel, our node"), ("wheel", "wheel", "the wheel, its own node")]
    slow = None
    for title, count, size, flags in PYTHON_MODES:
        messages = options.messages // 20 // count
        print(f"\nPython: {title}, {messages} messages, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}")
        seen = {pairing: [] for pairing in pairings}
        for _ in range(options.rounds):
            for pairing in pairings:
                stack, node, _ = pairing
                with Server(node, None) as server:
                    seen[pairing].append(python_bench(stack, server, count, messages, size, flags))
        found = []
        for (_, _, name), rounds in seen.items():
            rate, part = (statistics.median(column) for column in zip(*rounds))
            found.append(rate)
            print(f"  {name:30} {rate:9.0f} msg/s, ratio {rate / found[0]:5.2f}, {part:.0%} arrived")
        if title == ENCRYPTED and found[0] < 3 * found[-1]:
            slow = f"encrypted, ours is to be at least 3 times as fast: {found[0] / found[-1]:.2f}"
    if slow:
        raise SystemExit(slow)


def instructions(options):
    print("\ninstructions for each message forwarded (whole process, best effort, 128 B)")
    kinds = ["ours"] + (["published"] if options.published else [])
    for kind in kinds:
        counts = []
        for messages in (2_000, 12_000):
            out = tempfile.mktemp(prefix="callgrind-")
            prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
            with Server(kind, options.published, prefix) as server:
                bench(OURS, server, messages, ())
            with open(out) as file:
                counts.append(int(re.search(r"^(?:totals|summary): (\d+)", file.read(), re.M)[1]))
            if options.keep and messages == 12_000:
                os.replace(out, f"{options.keep}.{kind}")
            else:
                os.unlink(out)
        print(f"  {kind} node: {(counts[1] - counts[0]) / 10_000:.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--published", metavar="DIR", default=os.environ.get("SLIM_PUBLISHED"))
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--keep", metavar="FILE", help="keep callgrind's output in FILE.ours and FILE.published")
    parser.add_argument("--python", action="store_true", help="only the Python packages, ours beside the wheel")
    options = parser.parse_args()
    with open("/proc/cpuinfo") as file:
        model = re.search(r"^model name\s*: (.*)", file.read(), re.M)
    print(f"{os.cpu_count()} cores, {model[1] if model else os.uname().machine}")
    if options.instructions:
        return instructions(options)
    if options.python:
        return python_rates(options)
    rates(options)


main()
