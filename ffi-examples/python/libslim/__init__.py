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

import ctypes as c
import dataclasses
import json
import typing

from . import _ffi
from ._library import ERRORS, Handle, SlimError, check, dictionary, interruptible, lib
from ._library import milliseconds, pairs, payload, text

globals().update({error.__name__: error for error in ERRORS.values()})

__version__ = ".".join(map(str, _ffi.VERSION))
__all__ = ["App", "Message", "Node", "Session", "SlimError"]
__all__ += [error.__name__ for error in ERRORS.values()]


def _new(function, *arguments):
    """Calls a function whose last argument receives a handle."""
    pointer = c.c_void_p()
    check(function(*arguments, c.byref(pointer)))
    return pointer


def _config(value):
    """A configuration as the library wants it: a dict becomes JSON, a string stays."""
    return None if value is None else text(value if isinstance(value, str) else json.dumps(value))


class Node(Handle):
    """A SLIM data plane in this process: it connects to other nodes, listens for them, or both."""

    _free = "slim_node_free"

    def __init__(self, config=None):
        """`config`: None, a dict or JSON (slim-config.md, "Node")."""
        super().__init__(_new(lib.slim_node_new, _config(config)))

    def app(self, name, secret=None, identity=None):
        """Makes an App called "org/namespace/service" with a secret or an identity object."""
        return App(self, name, secret, identity)

    def listen(self, server="127.0.0.1:46357"):
        """Listens at an address, or as a server object says; gives the port."""
        port = c.c_uint16()
        with self._use() as node:
            check(lib.slim_node_listen(node, _config(server), c.byref(port)))
        return port.value

    def connect(self, client="http://127.0.0.1:46357", timeout=30.0):
        """Connects to another node; gives the connection's number."""
        with self._use() as node:
            return self._connect(lib.slim_node_connect, node, client, timeout)

    def _connect(self, function, pointer, client, timeout):
        number = c.c_uint64()

        def call():
            check(function(pointer, _config(client), milliseconds(timeout), c.byref(number)))
            return number.value

        return interruptible(call, self.stop)

    def disconnect(self, connection):
        """Closes a connection."""
        with self._use() as node:
            check(lib.slim_node_disconnect(node, connection))

    def stop(self):
        """Asks the node to stop. Returns at once."""
        with self._use() as node:
            lib.slim_node_stop(node)

    def wait(self, timeout=None):
        """Waits until the node has stopped."""
        self._wait(lib.slim_node_wait, timeout)

    def stats(self):
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

    _free = "slim_app_free"

    def __init__(self, node, name, secret=None, identity=None):
        if (secret is None) == (identity is None):
            raise ValueError("an app needs a secret or an identity")
        with node._use() as pointer:
            if secret is not None:
                function, proof = lib.slim_app_new_with_secret, text(secret)
            else:
                function, proof = lib.slim_app_new, _config(identity)
            super().__init__(_new(function, pointer, text(name), proof))
        self._node = node
        #: Full name, "org/namespace/service/ID".
        self.name = lib.slim_app_name(self._pointer).decode()
        #: Last part of the name.
        self.id = self.name.rpartition("/")[2]

    def connect(self, client="http://127.0.0.1:46357", timeout=30.0):
        """Connects the node and subscribes to the app's name; gives the connection's number."""
        with self._use() as app:
            return self._node._connect(lib.slim_app_connect, app, client, timeout)

    def subscribe(self, name, connection, timeout=30.0):
        """Asks for messages to `name` over a connection."""
        self._bounded(lib.slim_app_subscribe, name, connection, timeout)

    def unsubscribe(self, name, connection, timeout=30.0):
        """Takes a subscription back."""
        self._bounded(lib.slim_app_unsubscribe, name, connection, timeout)

    def _bounded(self, function, name, connection, timeout):
        with self._use() as app:
            arguments = app, text(name), connection, milliseconds(timeout)
            interruptible(lambda: check(function(*arguments)), self._node.stop)

    def set_route(self, name, connection):
        """Sends what is meant for `name` over a connection; needed with several only."""
        with self._use() as app:
            check(lib.slim_app_set_route(app, text(name), connection))

    def remove_route(self, name, connection):
        """Takes a route back."""
        with self._use() as app:
            check(lib.slim_app_remove_route(app, text(name), connection))

    def accept(self, timeout=None):
        """Waits for a Session that somebody else opened."""
        pointer = c.c_void_p()
        self._wait(lambda app, ms: lib.slim_app_accept(app, ms, c.byref(pointer)), timeout)
        return Session(self, pointer)

    def open(
        self,
        destination,
        timeout=30.0,
        *,
        reliable=True,
        max_retries=None,
        retry_interval=None,
        metadata=None,
        events=False,
    ):
        """Opens a Session to an app and waits until it has joined."""
        options = _ffi.slim_session_options(c.sizeof(_ffi.slim_session_options))
        options.delivery = 0 if reliable else 1
        # 0 is the library's default there, -1 means never.
        options.max_retries = 0 if max_retries is None else max_retries or -1
        options.retry_interval_ms = 0 if retry_interval is None else milliseconds(retry_interval)
        options.events = events
        options.metadata, options.metadata_len = pairs(metadata)
        pointer, op = c.c_void_p(), c.c_void_p()
        start = lib.slim_session_open_start
        with self._use() as app:
            arguments = app, c.byref(options), text(destination)
            check(start(*arguments, c.byref(pointer), c.byref(op)))
        session = Session(self, pointer)
        try:
            with _Op(op) as operation:
                operation.wait(timeout)
        except BaseException:
            session._release()
            raise
        session._view()
        return session

    def fileno(self):
        """A descriptor that is readable while accept() has something to give."""
        with self._use() as app:
            return lib.slim_app_fd(app)


class _Op(Handle):
    _free = "slim_op_free"

    def wait(self, timeout):
        self._wait(lib.slim_op_wait, timeout)


class _Taken(Handle):
    _free = "slim_message_free"


@dataclasses.dataclass(frozen=True)
class Message:
    """A received message, or an event of a session that asked for them (`kind` is not 0)."""

    data: bytes
    source: str
    destination: str
    payload_type: str
    identity: str
    connection: int
    metadata: typing.Dict[str, str]
    kind: int = 0
    is_reply: bool = False
    _handle: typing.Optional[_Taken] = dataclasses.field(default=None, repr=False, compare=False)

    @classmethod
    def _of(cls, pointer):
        fields = _ffi.slim_message_fields(c.sizeof(_ffi.slim_message_fields))
        handle = _Taken(pointer)
        check(lib.slim_message_view(pointer, c.byref(fields)))
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
            handle,
        )


class Session(Handle):
    """A conversation. Made by App.open() and App.accept(); iterating gives its messages."""

    _free = "slim_session_free"

    def __init__(self, app, pointer):
        super().__init__(pointer)
        self._app = app
        self._view()

    def _view(self):
        fields = _ffi.slim_session_fields(c.sizeof(_ffi.slim_session_fields))
        check(lib.slim_session_view(self._pointer, c.byref(fields)))
        #: Its number.
        self.id = fields.id
        #: Whether this side opened it.
        self.initiator = bool(fields.initiator)
        #: This side's full name.
        self.source = fields.source.decode()
        #: The peer's name.
        self.destination = fields.destination.decode()
        #: What it was opened with.
        self.metadata = dictionary(fields)

    def publish(self, data, *, payload_type=None, metadata=None, timeout=30.0):
        """Hands a message over; returns when it is in the send queue. See flush()."""
        options, data = self._options(payload_type, metadata), payload(data)
        function = lib.slim_session_publish
        self._wait(lambda p, ms: function(p, data, len(data), c.byref(options), ms), timeout)

    def publish_to(self, message, data, *, payload_type=None, metadata=None, timeout=30.0):
        """Publishes to the sender of `message` only: a reply."""
        options, data = self._options(payload_type, metadata), payload(data)
        function = lib.slim_session_publish_to
        with message._handle._use() as to:
            self._wait(
                lambda p, ms: function(p, to, data, len(data), c.byref(options), ms), timeout
            )

    @staticmethod
    def _options(payload_type, metadata):
        options = _ffi.slim_publish_options(c.sizeof(_ffi.slim_publish_options))
        options.payload_type = None if payload_type is None else text(payload_type)
        options.metadata, options.metadata_len = pairs(metadata)
        return options

    def flush(self, timeout=30.0):
        """Waits until all that was published is acknowledged, else raises UndeliveredError."""
        self._wait(lib.slim_session_flush, timeout)

    def receive(self, timeout=None):
        """Waits for the next Message."""
        pointer = c.c_void_p()
        self._wait(lambda p, ms: lib.slim_session_receive(p, ms, c.byref(pointer)), timeout)
        return Message._of(pointer)

    def __iter__(self):
        """Messages until the session is closed."""
        while True:
            try:
                yield self.receive()
            except ERRORS[_ffi.SLIM_ERR_CLOSED]:
                return

    def participants(self, timeout=30.0):
        """Who takes part: full names, each with whether it can be reached."""
        pointer, online = c.c_void_p(), c.c_int32()
        self._wait(lambda p, ms: lib.slim_session_participants(p, ms, c.byref(pointer)), timeout)
        try:
            names = {}
            for at in range(lib.slim_participants_count(pointer)):
                name = lib.slim_participants_at(pointer, at, c.byref(online))
                names[name.decode()] = bool(online.value)
            return names
        finally:
            lib.slim_participants_free(pointer)

    def fileno(self):
        """A descriptor that is readable while receive() has something to give."""
        with self._use() as session:
            return lib.slim_session_fd(session)

    def close(self, timeout=30.0):
        """Ends the session, waits until the peer knows, and frees the handle."""
        try:
            with self._use() as session:
                call = lib.slim_session_close
                interruptible(lambda: check(call(session, milliseconds(timeout))), self._app._node.stop)
        except ERRORS[_ffi.SLIM_ERR_CLOSED]:
            pass  # by the peer, or by an earlier call
        finally:
            self._release()

    def __exit__(self, kind, *_):
        # After an error nobody is waited for.
        if kind is None:
            self.close()
        else:
            self._release()
