"""libslim.aio against nodes of its own."""

import asyncio
import concurrent.futures
import threading
import unittest

from test_libslim import SECRET  # which finds the package, too

import libslim  # noqa: E402
from libslim import aio  # noqa: E402


class Conversations(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.server = await self.enter(aio.Node())
        self.endpoint = f"http://127.0.0.1:{self.server.listen('127.0.0.1:0')}"
        self.alice = await self.app("org/test/alice")
        self.bob = await self.app("org/test/bob")

    async def enter(self, manager):
        self.addAsyncCleanup(manager.close)
        return manager

    async def app(self, name):
        app = await self.enter((await self.enter(aio.Node())).app(name, secret=SECRET))
        await app.connect(self.endpoint)
        return app

    async def pair(self):
        opened, accepted = await asyncio.gather(
            self.bob.open("org/test/alice", metadata={"topic": "tests"}), self.alice.accept()
        )
        return await self.enter(opened), await self.enter(accepted)

    async def test_a_conversation_both_ways(self):
        near, far = await self.pair()
        self.assertEqual((near.id, far.metadata), (far.id, {"topic": "tests"}))
        await near.publish(b"question", payload_type="text/plain")
        await near.flush()
        got = await far.receive()
        self.assertEqual((got.data, got.source), (b"question", self.bob.name))
        await far.publish_to(got, b"answer")
        self.assertEqual((await near.receive()).data, b"answer")
        self.assertEqual(set(await near.participants()), {self.bob.name, self.alice.name})
        await near.publish(b"last")
        await near.close()
        self.assertEqual([message.data async for message in far], [b"last"])

    async def test_a_group(self):
        group = await self.enter(await self.bob.open("org/test/chat", group=True))
        op = group.invite_start("org/test/alice")
        member = await self.enter(await self.alice.accept())
        await op.wait(30)
        await op.close()
        await member.publish_start(b"hello").wait(30)
        self.assertEqual((await group.receive()).data, b"hello")
        await member.suspend()
        self.assertEqual(await group.participants(), {self.bob.name: True, self.alice.name: False})
        await member.rejoin()
        with self.assertRaises(libslim.ExistsError):
            await group.invite("org/test/alice")
        await group.remove("org/test/alice")
        with self.assertRaises(libslim.ClosedError):
            await member.receive()

    async def test_waiting_costs_no_thread_and_goes_in_order(self):
        near, far = await self.pair()
        before = threading.active_count()
        waiters = [asyncio.create_task(far.receive()) for _ in range(100)]
        await asyncio.sleep(0)
        self.assertEqual(threading.active_count(), before)
        waiters.pop(17).cancel()
        for number in range(len(waiters)):
            await near.publish(b"%d" % number)
        got = await asyncio.gather(*waiters)
        self.assertEqual([int(message.data) for message in got], list(range(99)))

    async def test_cancellation_loses_no_message(self):
        near, far = await self.pair()
        got, cancelled = [], 0
        for number in range(200):
            waiter = asyncio.create_task(far.receive())
            # It is cancelled before, while and after the message comes.
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await near.publish(b"%d" % number)
            if number % 2:
                await near.flush()
            for _ in range(number % 7):
                await asyncio.sleep(0)
            waiter.cancel()
            try:
                got.append(await waiter)
            except asyncio.CancelledError:
                cancelled += 1
        while len(got) < 200:
            got.append(await asyncio.wait_for(far.receive(), 30))
        self.assertEqual([int(message.data) for message in got], list(range(200)))
        self.assertTrue(0 < cancelled < 200, cancelled)

    async def test_closing_ends_waits(self):
        near, far = await self.pair()
        other, _ = await self.pair()
        for close, wait in (
            (near.close, near.receive),
            (other._release, other.receive),
            (self.alice.close, self.alice.accept),
        ):
            waiter = asyncio.create_task(wait())
            await asyncio.sleep(0)
            ended = close()
            if ended is not None:
                await ended
            with self.assertRaises(libslim.ClosedError):
                await asyncio.wait_for(waiter, 30)

    async def test_opening_ends_with_its_task(self):
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        opening = self.bob.open("org/test/nobody", timeout=None, max_retries=1000)
        waiter = asyncio.create_task(opening)
        await asyncio.sleep(0)
        waiter.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiter
        # The only thread is free again.
        await asyncio.wait_for(loop.run_in_executor(None, threading.get_ident), 30)

    async def test_a_full_queue_is_waited_for(self):
        near, far = await self.pair()
        publishing = asyncio.create_task(self.publish_much(near))
        got = [len((await far.receive()).data) for _ in range(600)]
        await publishing
        self.assertEqual(got, [100_000] * 600)

    async def publish_much(self, session):
        for _ in range(600):
            await session.publish(bytes(100_000))


if __name__ == "__main__":
    unittest.main()
