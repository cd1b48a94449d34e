"""Messaging over SLIM: named apps that talk in sessions, through a node.

    import libslim

    with libslim.Node() as node, node.app("org/demo/bob", secret=SECRET) as app:
        app.connect("http://127.0.0.1:46357")
        with app.open("org/demo/alice") as session:
            session.publish(b"hello")
            print(session.receive(timeout=10).data)

Everything blocks and may be called from any thread. Times are in seconds; None waits for ever.
A failing call raises a subclass of SlimError. slim.h says more about each call.
"""

import contextlib
import ctypes as c
import dataclasses
import enum
import json
from typing import Any, Dict, Iterator, Mapping, Optional, Union

from . import _ffi, errors
from .errors import *  # noqa: F403
from .errors import ClosedError, SlimError
from ._library import Handle, Owned, check, descriptor, dictionary, free_node
from ._library import free_stopped_nodes, interruptible, lib, milliseconds, pairs, payload, text

__version__ = ".".join(map(str, _ffi.VERSION))
__all__ = ["App", "Kind", "Message", "Node", "Op", "Session", "SlimError"]
__all__ += [error.__name__ for error in errors.ERRORS.values()]


Timeout = Optional[float]
Metadata = Optional[Mapping[str, str]]
Config = Union[str, Mapping[str, Any]]
DEFAULT_NODE = "http://127.0.0.1:46357"
Payload = Union[bytes, bytearray, memoryview]
#: Which way data goes at one side of a session.
DIRECTIONS = ("both", "send-only", "receive-only", "neither")


def _config(value):
    """A configuration as the library wants it: a dict becomes JSON, a string stays."""
    return None if value is None else text(value if isinstance(value, str) else json.dumps(value))


def _direction(name):
    """A direction as the library wants it."""
    if name not in DIRECTIONS:
        raise ValueError(f"{name!r} is none of the directions {', '.join(DIRECTIONS)}")
    return DIRECTIONS.index(name)


def session_options(
    reliable=True,
    max_retries=None,
    retry_interval=None,
    metadata=None,
    events=False,
    group=False,
    anycast=False,
    direction="both",
    mls=False,
    mls_header_check=None,
):
    """What App.open() was told, for C."""
    options = _ffi.slim_session_options(c.sizeof(_ffi.slim_session_options))
    options.kind = _ffi.SLIM_SESSION_GROUP if group else _ffi.SLIM_SESSION_POINT_TO_POINT
    options.addressing = 1 if anycast else 0
    options.direction = _direction(direction)
    options.delivery = 0 if reliable else 1
    # 0 is the library's default there, -1 means never.
    options.max_retries = 0 if max_retries is None else max_retries or -1
    options.retry_interval_ms = 0 if retry_interval is None else milliseconds(retry_interval)
    options.events = events
    options.mls = bool(mls)
    options.mls_header_check = 0 if mls_header_check is None else mls_header_check or -1
    options.metadata, options.metadata_len = pairs(metadata)
    return options


class Node(Handle):
    """A SLIM data plane in this process: it connects to other nodes, listens for them, or both."""

    _free = staticmethod(free_node)

    def __init__(self, config: Optional[Config] = None) -> None:
        """`config`: None, a dict or JSON (slim-config.md, "Node")."""
        free_stopped_nodes()
        super().__init__(self._new(lib.slim_node_new, _config(config)))

    def app(
        self, name: str, secret: Optional[str] = None, identity: Optional[Config] = None
    ) -> "App":
        """Makes an App called "org/namespace/service" with a secret or an identity object."""
        return App(self, name, secret, identity)

    def listen(self, server: Config = "127.0.0.1:46357") -> int:
        """Listens at an address, or as a server object says; gives the port."""
        port = c.c_uint16()
        with self._use() as node:
            check(lib.slim_node_listen(node, _config(server), c.byref(port)))
        return port.value

    def connect(self, client: Config = DEFAULT_NODE, timeout: Timeout = 30.0) -> int:
        """Connects to another node; gives the connection's number."""
        return self._connect(lib.slim_node_connect, self, client, timeout)

    def _connect(self, function, handle, client, timeout):
        arguments = _config(client), milliseconds(timeout)

        def call():
            number = c.c_uint64()
            with handle._use() as pointer:
                check(function(pointer, *arguments, c.byref(number)))
            return number.value

        return interruptible(call, undo=self.disconnect)

    def disconnect(self, connection: int) -> None:
        """Closes a connection."""
        with self._use() as node:
            check(lib.slim_node_disconnect(node, connection))

    def stop(self) -> None:
        """Asks the node to stop. Returns at once."""
        with self._use() as node:
            lib.slim_node_stop(node)

    def wait(self, timeout: Timeout = None) -> None:
        """Waits until the node has stopped."""
        self._wait(lib.slim_node_wait, timeout)

    def close(self) -> None:
        """Stops the node, waits until its peers know, and frees it. Waits on it end."""
        try:
            with contextlib.suppress(SlimError):  # closed before, or of no use in this process
                self.stop()
                self.wait()
        finally:
            self._release()

    def stats(self) -> Dict[str, Any]:
        """The node's counters and connections, as a dict."""
        needed = c.c_size_t(4096)
        with self._use() as node:
            while True:
                buffer = c.create_string_buffer(needed.value + 1)
                check(lib.slim_node_stats(node, buffer, len(buffer), c.byref(needed)))
                if needed.value < len(buffer):
                    return json.loads(buffer.value)


class App(Handle):
    """A named participant on a node. Made by Node.app()."""

    _free = lib.slim_app_free

    def __init__(self, node, name, secret=None, identity=None):
        if (secret is None) == (identity is None):
            raise ValueError("an app needs a secret or an identity")
        with node._use() as pointer:
            if secret is not None:
                call, proof = lib.slim_app_new_with_secret, text(secret)
            else:
                call, proof = lib.slim_app_new, _config(identity)
            super().__init__(self._new(call, pointer, text(name), proof))
        self._node = node
        with self._use() as app:
            #: Full name, "org/namespace/service/ID".
            self.name = lib.slim_app_name(app).decode()
        #: Last part of the name.
        self.id = self.name.rpartition("/")[2]

    def connect(self, client: Config = DEFAULT_NODE, timeout: Timeout = 30.0) -> int:
        """Connects the node and subscribes to the app's name; gives the connection's number."""
        return self._node._connect(lib.slim_app_connect, self, client, timeout)

    def subscribe(self, name: str, connection: int, timeout: Timeout = 30.0) -> None:
        """Asks for messages to `name` over a connection."""
        self._bounded(lib.slim_app_subscribe, name, connection, timeout)

    def unsubscribe(self, name: str, connection: int, timeout: Timeout = 30.0) -> None:
        """Takes a subscription back."""
        self._bounded(lib.slim_app_unsubscribe, name, connection, timeout)

    def _bounded(self, function, name, connection, timeout):
        arguments = text(name), connection, milliseconds(timeout)

        def call():
            with self._use() as app:
                check(function(app, *arguments))

        interruptible(call)

    def set_route(self, name: str, connection: int) -> None:
        """Sends what is meant for `name` over a connection; needed with several, and where there is
        no default gateway."""
        with self._use() as app:
            check(lib.slim_app_set_route(app, text(name), connection))

    def remove_route(self, name: str, connection: int) -> None:
        """Takes a route back."""
        with self._use() as app:
            check(lib.slim_app_remove_route(app, text(name), connection))

    def set_direction(self, direction: str) -> None:
        """Which way data goes in sessions that others open from now on; one of DIRECTIONS."""
        with self._use() as app:
            check(lib.slim_app_set_direction(app, _direction(direction)))

    def accept(self, timeout: Timeout = None) -> "Session":
        """Waits for a Session that somebody else opened."""
        return self._take(
            lib.slim_app_accept, timeout, Session, lambda owned: Session(self, owned)
        )

    def open(
        self,
        destination: str,
        timeout: Timeout = 30.0,
        *,
        reliable: bool = True,
        max_retries: Optional[int] = None,
        retry_interval: Optional[float] = None,
        metadata: Metadata = None,
        events: bool = False,
        group: bool = False,
        anycast: bool = False,
        direction: str = "both",
        mls: bool = False,
        mls_header_check: Optional[int] = None,
    ) -> "Session":
        """Opens a Session to an app and waits until it has joined.

        With `group` the destination is the name of a group, and others are invited into it. With
        `anycast` each message goes to any instance of the app. `direction`: one of DIRECTIONS. With
        `mls` the session is encrypted end to end; of so many percent of the messages, 100 if not
        given, the header is checked against a signed copy.
        """
        options = session_options(
            reliable,
            max_retries,
            retry_interval,
            metadata,
            events,
            group,
            anycast,
            direction,
            mls,
            mls_header_check,
        )
        session, op = Session._open(self, options, destination)
        try:
            op.wait(timeout)
            session._view()
        except BaseException:
            session._release()
            raise
        return session

    def fileno(self) -> int:
        """A descriptor that is readable while accept() has something to give."""
        with self._use() as app:
            return descriptor(lib.slim_app_fd(app))


class Op(Handle):
    """Something that was started. It goes on when this is freed."""

    _free = lib.slim_op_free

    def wait(self, timeout: Timeout = None) -> None:
        """Waits until it has ended, and raises what went wrong."""
        self._wait(lib.slim_op_wait, timeout)


class _Taken(Handle):
    _free = lib.slim_message_free


class _Participants:
    _free = lib.slim_participants_free


class Kind(enum.IntEnum):
    """What Session.receive() gave: a message, or an event."""

    MESSAGE = _ffi.SLIM_MESSAGE
    PEER_OFFLINE = _ffi.SLIM_EVENT_PEER_OFFLINE
    PEER_ONLINE = _ffi.SLIM_EVENT_PEER_ONLINE
    PEER_LEFT = _ffi.SLIM_EVENT_PEER_LEFT
    CONNECTION_LOST = _ffi.SLIM_EVENT_CONNECTION_LOST
    CONNECTION_BACK = _ffi.SLIM_EVENT_CONNECTION_BACK
    MESSAGE_LOST = _ffi.SLIM_EVENT_MESSAGE_LOST
    SESSION_CLOSED = _ffi.SLIM_EVENT_SESSION_CLOSED
    ENCRYPTION_LOST = _ffi.SLIM_EVENT_ENCRYPTION_LOST


@dataclasses.dataclass(frozen=True)
class Message:
    """A received message, or an event of a session that asked for them: see Kind."""

    data: bytes
    source: str
    destination: str
    payload_type: str
    identity: str
    connection: int
    metadata: Dict[str, str]
    kind: int = 0
    is_reply: bool = False
    _handle: Any = dataclasses.field(default=None, repr=False, compare=False)

    @classmethod
    def _of(cls, owned):
        fields = _ffi.slim_message_fields(c.sizeof(_ffi.slim_message_fields))
        check(lib.slim_message_view(owned.pointer, c.byref(fields)))
        return cls(
            c.string_at(fields.data, fields.data_len) if fields.data_len else b"",
            fields.source.decode(),
            fields.destination.decode(),
            fields.payload_type.decode(),
            fields.identity.decode(),
            fields.connection,
            dictionary(fields),
            fields.kind,
            bool(fields.is_reply),
            _Taken(owned),
        )


class Session(Handle):
    """A conversation, with an app or a group. Made by App.open() and App.accept(); iterating gives
    its messages."""

    _free = lib.slim_session_free

    def __init__(self, app, owned):
        super().__init__(owned)
        self._app = app
        self._view()

    @classmethod
    def _open(cls, app, options, destination):
        """Begins to open one; gives it and the operation that ends when the peer has joined."""
        session, op = Owned(cls), Owned(Op)
        places = c.byref(session.pointer), c.byref(op.pointer)
        with app._use() as pointer:
            arguments = c.byref(options), text(destination)
            check(lib.slim_session_open_start(pointer, *arguments, *places))
        return cls(app, session), Op(op)

    def _view(self):
        fields = _ffi.slim_session_fields(c.sizeof(_ffi.slim_session_fields))
        with self._use() as session:
            check(lib.slim_session_view(session, c.byref(fields)))
            self._fill(fields)

    def _fill(self, fields):
        #: Its number.
        self.id = fields.id
        #: Whether it is a group.
        self.group = fields.kind == _ffi.SLIM_SESSION_GROUP
        #: Whether this side opened it; of a group it is the moderator then.
        self.initiator = bool(fields.initiator)
        #: Whether it is encrypted end to end.
        self.mls = bool(fields.mls)
        #: This side's full name.
        self.source = fields.source.decode()
        #: The peer's or the group's name.
        self.destination = fields.destination.decode()
        #: What it was opened with.
        self.metadata = dictionary(fields)

    def publish(
        self,
        data: Payload,
        *,
        payload_type: Optional[str] = None,
        metadata: Metadata = None,
        timeout: Timeout = 30.0,
    ) -> None:
        """Hands a message over; returns when it is in the send queue. See flush()."""
        options, data = self._options(payload_type, metadata), payload(data)
        call = lib.slim_session_publish
        self._wait(lambda p, ms: call(p, data, len(data), c.byref(options), ms), timeout)

    def publish_to(
        self,
        message: Message,
        data: Payload,
        *,
        payload_type: Optional[str] = None,
        metadata: Metadata = None,
        timeout: Timeout = 30.0,
    ) -> None:
        """Publishes to the sender of `message` only: a reply."""
        options, data = self._options(payload_type, metadata), payload(data)
        call = lib.slim_session_publish_to
        with message._handle._use() as to:
            self._wait(lambda p, ms: call(p, to, data, len(data), c.byref(options), ms), timeout)

    def publish_start(
        self,
        data: Payload,
        *,
        to: Optional[Message] = None,
        payload_type: Optional[str] = None,
        metadata: Metadata = None,
    ) -> Op:
        """Publishes without waiting: the Op ends when every receiver that could be reached has
        acknowledged the message; best effort, as soon as it is sent.
        `to`: the message whose sender alone gets it. LimitError: the send queue is full."""
        options, data = self._options(payload_type, metadata), payload(data)
        with contextlib.ExitStack() as used:
            message = used.enter_context(to._handle._use()) if to is not None else None
            session = used.enter_context(self._use())
            arguments = session, message, data, len(data), c.byref(options)
            return Op(Op._new(lib.slim_session_publish_start, *arguments))

    @staticmethod
    def _options(payload_type, metadata):
        options = _ffi.slim_publish_options(c.sizeof(_ffi.slim_publish_options))
        options.payload_type = None if payload_type is None else text(payload_type)
        options.metadata, options.metadata_len = pairs(metadata)
        return options

    def flush(self, timeout: Timeout = 30.0) -> None:
        """Waits until all that was published is acknowledged (best effort: sent), else raises
        UndeliveredError."""
        self._wait(lib.slim_session_flush, timeout)

    def receive(self, timeout: Timeout = None) -> Message:
        """Waits for the next Message."""
        return self._take(lib.slim_session_receive, timeout, _Taken, Message._of)

    def __iter__(self) -> Iterator[Message]:
        """Messages until the session is closed."""
        while True:
            try:
                yield self.receive()
            except ClosedError:
                return

    def set_events(self, events: bool) -> None:
        """Whether receive() gives events, too; for sessions that were accepted."""
        with self._use() as session:
            check(lib.slim_session_set_events(session, int(events)))

    def invite(self, name: str, timeout: Timeout = 30.0) -> None:
        """Invites an app into the group, and waits until it has joined and the others know. When
        the time is up the invitation is taken back."""
        self._change(lib.slim_session_invite, timeout, text(name))

    def invite_start(self, name: str) -> Op:
        """Invites without waiting: the Op ends when invite() would have."""
        return self._start(lib.slim_session_invite_start, name)

    def remove(self, name: str, timeout: Timeout = 30.0) -> None:
        """Removes a member from the group, and waits until it and the others know."""
        self._change(lib.slim_session_remove, timeout, text(name))

    def remove_start(self, name: str) -> Op:
        """Removes without waiting: the Op ends when remove() would have."""
        return self._start(lib.slim_session_remove_start, name)

    def suspend(self, timeout: Timeout = 30.0) -> None:
        """Goes away from the group for a while, and waits until the others know."""
        self._change(lib.slim_session_suspend, timeout)

    def rejoin(self, timeout: Timeout = 30.0) -> None:
        """Comes back after suspend()."""
        self._change(lib.slim_session_rejoin, timeout)

    def _change(self, function, timeout, *arguments):
        ms = milliseconds(timeout)

        def call():
            with self._use() as session:
                check(function(session, *arguments, ms))

        interruptible(call)

    def _start(self, function, name):
        with self._use() as session:
            return Op(Op._new(function, session, text(name)))

    def participants(self, timeout: Timeout = 30.0) -> Dict[str, bool]:
        """Who takes part: full names, each with whether it can be reached."""
        owned, call = Owned(_Participants), lib.slim_session_participants
        self._wait(lambda p, ms: call(p, ms, c.byref(owned.pointer)), timeout)
        online, names = c.c_int32(), {}
        for at in range(lib.slim_participants_count(owned.pointer)):
            name = lib.slim_participants_at(owned.pointer, at, c.byref(online))
            names[name.decode()] = bool(online.value)
        return names

    @property
    def epoch(self) -> Optional[int]:
        """How often the keys of an encrypted session have changed; None: it has none,
        or is one with any instance of a name."""
        fields = _ffi.slim_session_fields(c.sizeof(_ffi.slim_session_fields))
        with self._use() as session:
            check(lib.slim_session_view(session, c.byref(fields)))
        return None if fields.epoch < 0 else fields.epoch

    def fileno(self) -> int:
        """A descriptor that is readable while receive() has something to give."""
        with self._use() as session:
            return descriptor(lib.slim_session_fd(session))

    def close(self, timeout: Timeout = 30.0) -> None:
        """Ends the session, waits until the peer knows, and frees the handle. A group ends for all
        when its moderator does this; another member leaves it."""
        ms = milliseconds(timeout)

        def call():
            with self._use() as session:
                check(lib.slim_session_close(session, ms))

        try:
            interruptible(call)
        except ClosedError:
            pass  # by the peer, or by an earlier call
        finally:
            self._release()

    def __exit__(self, kind: object = None, *_: object) -> None:
        # After an error nobody is waited for.
        if kind is None:
            self.close()
        else:
            self._release()
