"""libslim for asyncio: the calls that wait are awaited, the others are as in libslim.

    from libslim import aio

    async with aio.Node() as node, node.app("org/demo/bob", secret=SECRET) as app:
        await app.connect("http://127.0.0.1:46357")
        async with await app.open("org/demo/alice") as session:
            await session.publish(b"hello")
            print((await session.receive()).data)

receive() and accept() watch a descriptor: they cost no thread, and who is cancelled has taken
nothing. The other calls wait in the loop's executor; one that is cancelled goes on by itself until
its time is up or its session or node is closed.
"""

import asyncio
import functools
from typing import Any, AsyncIterator, Optional

import libslim

from ._library import Self


def _awaited(method):
    """A blocking method, in the loop's executor."""

    @functools.wraps(method)
    async def call(self, *arguments, **more):
        run = functools.partial(method, self._blocking, *arguments, **more)
        return await asyncio.get_running_loop().run_in_executor(None, run)

    return call


class _Awaitable:
    """What stands before a blocking object."""

    def __init__(self, blocking):
        self._blocking = blocking
        # Those who wait do so in their order: the first watches the descriptor.
        self._turn = asyncio.Lock()
        self._ready = None

    def __getattr__(self, name):
        return getattr(self._blocking, name)

    async def _take(self, take):
        """Waits for what `take` gives. There is no await behind it, so that nothing gets lost."""
        async with self._turn:
            while True:
                try:
                    return take(timeout=0)
                except libslim.TimeoutError:
                    await self._readable()

    async def _readable(self):
        loop = asyncio.get_running_loop()
        # The descriptor is open as long as the handle is in use.
        with self._blocking._use():
            descriptor = self._blocking.fileno()
            self._ready = loop.create_future()
            loop.add_reader(descriptor, self._wake)
            try:
                await self._ready
            finally:
                loop.remove_reader(descriptor)

    def _wake(self):
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _release(self):
        self._blocking._release()
        self._wake()

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Node(_Awaitable):
    """As libslim.Node."""

    def __init__(self, config: Optional[libslim.Config] = None) -> None:
        super().__init__(libslim.Node(config))

    connect = _awaited(libslim.Node.connect)
    wait = _awaited(libslim.Node.wait)
    close = _awaited(libslim.Node.close)

    def app(
        self, name: str, secret: Optional[str] = None, identity: Optional[libslim.Config] = None
    ) -> "App":
        """Makes an App."""
        return App(self._blocking.app(name, secret, identity))


class App(_Awaitable):
    """As libslim.App. Made by Node.app()."""

    connect = _awaited(libslim.App.connect)
    subscribe = _awaited(libslim.App.subscribe)
    unsubscribe = _awaited(libslim.App.unsubscribe)

    async def accept(self) -> "Session":
        """Waits for a Session that somebody else opened."""
        return Session(await self._take(self._blocking.accept))

    async def open(
        self, destination: str, timeout: libslim.Timeout = 30.0, **options: Any
    ) -> "Session":
        """Opens a Session to an app and waits until it has joined; see libslim.App.open()."""
        how = libslim.session_options(**options)
        session, op = libslim.Session._open(self._blocking, how, destination)
        try:
            await Op(op).wait(timeout)
            session._view()
        except BaseException:
            # This ends the operation, too.
            session._release()
            raise
        return Session(session)

    async def close(self) -> None:
        """Closes the app's sessions without waiting for their peers, and frees the handle."""
        self._release()


class Op(_Awaitable):
    """As libslim.Op."""

    wait = _awaited(libslim.Op.wait)

    async def close(self) -> None:
        """Frees the handle; the operation goes on."""
        self._release()


class Session(_Awaitable):
    """As libslim.Session. Made by App.open() and App.accept()."""

    flush = _awaited(libslim.Session.flush)
    invite = _awaited(libslim.Session.invite)
    remove = _awaited(libslim.Session.remove)
    suspend = _awaited(libslim.Session.suspend)
    rejoin = _awaited(libslim.Session.rejoin)
    participants = _awaited(libslim.Session.participants)
    close = _awaited(libslim.Session.close)
    _publish = _awaited(libslim.Session.publish)
    _publish_to = _awaited(libslim.Session.publish_to)

    def publish_start(self, data: libslim.Payload, **options: Any) -> Op:
        """Publishes without waiting: the Op ends when every receiver that could be reached has the
        message; best effort, as soon as it is sent."""
        return Op(self._blocking.publish_start(data, **options))

    def invite_start(self, name: str) -> Op:
        """Invites without waiting: the Op ends when invite() would have."""
        return Op(self._blocking.invite_start(name))

    def remove_start(self, name: str) -> Op:
        """Removes without waiting: the Op ends when remove() would have."""
        return Op(self._blocking.remove_start(name))

    async def publish(
        self, data: libslim.Payload, *, timeout: libslim.Timeout = 30.0, **options: Any
    ) -> None:
        """Hands a message over; waits while the send queue is full. See flush()."""
        try:
            self._blocking.publish(data, timeout=0, **options)
        except libslim.TimeoutError:
            await self._publish(data, timeout=timeout, **options)

    async def publish_to(
        self,
        message: libslim.Message,
        data: libslim.Payload,
        *,
        timeout: libslim.Timeout = 30.0,
        **options: Any,
    ) -> None:
        """Publishes to the sender of `message` only: a reply."""
        try:
            self._blocking.publish_to(message, data, timeout=0, **options)
        except libslim.TimeoutError:
            await self._publish_to(message, data, timeout=timeout, **options)

    async def receive(self) -> libslim.Message:
        """Waits for the next Message."""
        return await self._take(self._blocking.receive)

    async def __aiter__(self) -> AsyncIterator[libslim.Message]:
        """Messages until the session is closed."""
        while True:
            try:
                message = await self.receive()
            except libslim.ClosedError:
                return
            yield message

    async def __aexit__(self, kind: object = None, *_: object) -> None:
        # After an error nobody is waited for.
        if kind is None:
            await self.close()
        else:
            self._release()
