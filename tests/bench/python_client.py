#!/usr/bin/env python3
"""One side of a measurement in Python, with either package: libslim's or the published one.

    python_client.py STACK sub URL COUNT MESSAGES         COUNT apps that receive; prints a rate
    python_client.py STACK pub URL COUNT MESSAGES SIZE    opens the session and publishes

STACK is `ours` or `wheel`; behind it options: --group (else one app), --mls. Everything is best effort.
"""
import argparse
import asyncio
import datetime
import sys
import threading
import time

SECRET = "my_shared_secret_for_testing_purposes_only"
GROUP, MEMBER = "bench/py/group", "bench/py/sub"
IDLE = 3.0


class Tally:
    def __init__(self):
        self.count, self.first, self.last = 0, 0.0, 0.0

    def add(self):
        now = time.monotonic()
        self.first = self.first or now
        self.last = now
        self.count += 1


def finish(tallies, messages):
    total = sum(tally.count for tally in tallies)
    first = min((tally.first for tally in tallies if tally.count), default=0.0)
    last = max(tally.last for tally in tallies)
    rate = total / (last - first) if last > first else 0
    print(f"rate {rate:.0f} received {total} of {messages * len(tallies)}", flush=True)


# libslim

def ours_sub(a):
    import libslim
    tallies = [Tally() for _ in range(a.count)]

    def serve(at):
        node = libslim.Node()
        app = node.app(f"{MEMBER}{at}", secret=SECRET)
        app.connect(a.url)
        ready.release()
        session = app.accept()
        tally = tallies[at]
        while tally.count < a.messages:
            try:
                session.receive(timeout=IDLE if tally.count else 60)
            except libslim.SlimError:
                return
            tally.add()

    ready = threading.Semaphore(0)
    threads = [threading.Thread(target=serve, args=(at,), daemon=True) for at in range(a.count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    finish(tallies, a.messages)


def ours_pub(a):
    import libslim
    node = libslim.Node()
    app = node.app("bench/py/pub", secret=SECRET)
    app.connect(a.url)
    if a.group:
        session = app.open(GROUP, group=True, reliable=False, mls=a.mls)
        for at in range(a.count):
            session.invite(f"{MEMBER}{at}")
    else:
        session = app.open(f"{MEMBER}0", reliable=False, mls=a.mls)
    time.sleep(0.5)
    data = b"x" * a.size
    for _ in range(a.messages):
        session.publish(data)
    session.flush(timeout=120)
    print("sent", flush=True)
    sys.stdin.readline()


# The published package

async def wheel_app(a, name):
    import slim_bindings as sb
    service = sb.Service(name.replace("/", "-"))
    connection = await service.connect_async(sb.new_insecure_client_config(a.url))
    app = service.create_app_with_secret(sb.Name.from_string(name), SECRET)
    await app.subscribe_async(sb.Name.from_string(name), connection)
    return service, app, connection


def wheel_start():
    import slim_bindings as sb
    tracing = sb.new_tracing_config()
    tracing.log_level = "error"
    sb.initialize_with_configs(tracing_config=tracing, runtime_config=sb.new_runtime_config(),
                               service_config=[sb.new_service_config()])


async def wheel_sub(a):
    wheel_start()
    seconds = lambda s: datetime.timedelta(seconds=s)  # noqa: E731
    tallies = [Tally() for _ in range(a.count)]
    apps = [await wheel_app(a, f"{MEMBER}{at}") for at in range(a.count)]
    print("ready", flush=True)

    async def serve(at):
        session = await apps[at][1].listen_for_session_async(timeout=seconds(60))
        tally = tallies[at]
        while tally.count < a.messages:
            try:
                await session.get_message_async(timeout=seconds(IDLE if tally.count else 60))
            except Exception:
                return
            tally.add()

    await asyncio.gather(*(serve(at) for at in range(a.count)))
    finish(tallies, a.messages)


async def wheel_pub(a):
    import slim_bindings as sb
    wheel_start()
    _service, app, connection = await wheel_app(a, "bench/py/pub")
    kind = sb.SessionType.GROUP if a.group else sb.SessionType.POINT_TO_POINT
    mls = sb.MlsSettings(header_integrity_validation_percent=100, max_seen_control_message_ids_size=None)
    config = sb.SessionConfig(session_type=kind, max_retries=None, interval=None, metadata={},
                              mls_settings=mls if a.mls else None)
    to = sb.Name.from_string(GROUP if a.group else f"{MEMBER}0")
    await app.set_route_async(to, connection)
    session = await app.create_session_and_wait_async(config, to)
    if a.group:
        for at in range(a.count):
            name = sb.Name.from_string(f"{MEMBER}{at}")
            await app.set_route_async(name, connection)
            await session.invite_and_wait_async(name)
    await asyncio.sleep(0.5)
    data = b"x" * a.size
    for _ in range(a.messages):
        await session.publish_async(data, None, None)
    print("sent", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", choices=["ours", "wheel"])
    parser.add_argument("role", choices=["sub", "pub"])
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("messages", type=int)
    parser.add_argument("size", type=int, nargs="?", default=128)
    parser.add_argument("--group", action="store_true")
    parser.add_argument("--mls", action="store_true")
    a = parser.parse_args()
    run = globals()[f"{a.stack}_{a.role}"]
    asyncio.run(run(a)) if asyncio.iscoroutinefunction(run) else run(a)


main()
