"""The library that is loaded, and what all handles have in common."""

import atexit
import collections
import contextlib
import ctypes as c
import math
import os
import pathlib
import threading
import time
from typing import Any, TypeVar

from . import _ffi
from .errors import ERRORS, ClosedError, SlimError


def _load():
    """The one that LIBSLIM names, or that came with the package, or that the system finds."""
    packaged = pathlib.Path(__file__).with_name("libslim.so.0")
    name = os.environ.get("LIBSLIM") or str(packaged if packaged.exists() else packaged.name)
    try:
        library = c.CDLL(name)
    except OSError as error:
        raise ImportError(f"{error}; LIBSLIM=PATH says where libslim.so.0 is") from None
    for name, (result, arguments) in _ffi.FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    major, minor, _ = _ffi.VERSION
    if library.slim_version_number() >> 8 != major << 8 | minor:
        found = library.slim_version().decode()
        raise ImportError(f"libslim {found} is loaded, this package is for {major}.{minor}")
    return library


lib = _load()
Self = TypeVar("Self")


def check(status):
    """Raises what a failing call says."""
    if status != _ffi.SLIM_OK:
        said = lib.slim_last_error().decode(errors="replace")
        name = lib.slim_status_name(status).decode()
        raise ERRORS.get(status, SlimError)(status, f"{said} ({name})")


def descriptor(number):
    """Raises instead of giving a negative one."""
    check(min(number, _ffi.SLIM_OK))
    return number


def milliseconds(timeout):
    """Seconds as the library wants them; None is for ever."""
    if timeout is None:
        return -1
    if not timeout >= 0:  # NaN, too
        raise ValueError(f"a timeout of {timeout} s is no time")
    # Up, so that a short time does not become "do not wait".
    return min(math.ceil(min(timeout, 2**31) * 1000), 2**31 - 1)


def text(string):
    """A string for C."""
    return string.encode()


def payload(data):
    """Bytes for C, of anything like bytes. Text is not: its encoding is the caller's to choose."""
    return bytes(memoryview(data))


def pairs(metadata):
    """A dict as an array of C, and its length."""
    metadata = metadata or {}
    entries = [_ffi.slim_pair(text(key), text(value)) for key, value in metadata.items()]
    return (_ffi.slim_pair * len(entries))(*entries), len(entries)


def dictionary(fields):
    """The metadata of a view."""
    found = (fields.metadata[at] for at in range(fields.metadata_len))
    return {pair.key.decode(): pair.value.decode() for pair in found}


class Owned:
    """A handle of the library, freed when nobody refers to this any more.

    It is there before the library gives the handle, which is written into `pointer`. So whatever
    a signal handler raises, and wherever, no handle is without an owner.
    """

    pointer: Any = None

    def __init__(self, kind):
        self._free = kind._free
        self.pointer = c.c_void_p()

    def __del__(self):
        if self.pointer:
            self._free(self.pointer)


# Nodes that were found by the collector, which must not wait: they say goodbye to their peers
# while the program goes on. They are freed when the next node is made, and when Python ends.
_stopping: "collections.deque[c.c_void_p]" = collections.deque()
_ending = False


def free_node(pointer):
    """Frees a node that has stopped. Another is asked to stop, and freed later."""
    if _ending or lib.slim_node_wait(pointer, 0) != _ffi.SLIM_ERR_TIMEOUT:
        lib.slim_node_free(pointer)
    else:
        lib.slim_node_stop(pointer)
        _stopping.append(pointer)


def free_stopped_nodes():
    """Frees what has stopped meanwhile."""
    for _ in range(len(_stopping)):
        with contextlib.suppress(IndexError):  # another thread does the same
            free_node(_stopping.popleft())


@atexit.register
def _end():
    global _ending
    _ending = True
    free_stopped_nodes()


# Held while something left by an interrupted call changes hands. A child of fork() must not
# inherit it from a thread that it does not have.
_left_lock = threading.RLock()
os.register_at_fork(
    before=_left_lock.acquire,
    after_in_parent=_left_lock.release,
    after_in_child=_left_lock.release,
)


class Handle:
    """Owns a handle of the library. It is freed by close(), by `with`, or by the collector.

    close() may be called while another thread waits on the same object: each call refers to the
    handle, and the last one to return frees it, which is soon, since most calls wait for no more
    than half a second at a time. Not so connect, subscribe, unsubscribe and what changes a group:
    they keep it until their time is up or their node is closed. (So Ctrl-C works, too: Python runs
    its handlers between the calls.)
    """

    _free: Any = None
    _SLICE = 0.5

    def __init__(self, owned):
        self._owned = owned
        # What the library gave to calls that a signal handler's exception interrupted.
        self._left = []

    @classmethod
    def _new(cls, call, *arguments):
        """Calls a function whose last argument receives a handle of this kind."""
        owned = Owned(cls)
        check(call(*arguments, c.byref(owned.pointer)))
        return owned

    @contextlib.contextmanager
    def _use(self):
        owned = self._owned
        if owned is None:
            name = type(self).__name__.lower()
            raise ClosedError(_ffi.SLIM_ERR_CLOSED, f"this {name} is closed")
        try:
            yield owned.pointer
        finally:
            # Not later: the traceback of an exception refers to this.
            del owned

    def _wait(self, call, timeout):
        """Calls with a time in milliseconds, again and again while it is only a slice that ran out."""
        end = None if timeout is None else time.monotonic() + timeout
        milliseconds(timeout)
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            piece = self._SLICE if left is None else min(left, self._SLICE)
            with self._use() as pointer:
                status = call(pointer, milliseconds(piece))
                if status != _ffi.SLIM_ERR_TIMEOUT or (left is not None and left <= piece):
                    check(status)
                    return

    def _take(self, call, timeout, kind, make):
        """Waits for a handle of this kind, and makes what the caller wants of it.

        An exception of a signal handler may come when the library has given it already, up to
        the last moment: then it is left to the next call.
        """
        owned = Owned(kind)
        try:
            with _left_lock:
                if self._left:
                    owned = self._left[0]
                    del self._left[0]
            if not owned.pointer:
                self._wait(lambda p, ms: call(p, ms, c.byref(owned.pointer)), timeout)
            return make(owned)
        except BaseException:
            if owned.pointer and owned not in self._left:
                self._left.insert(0, owned)
            raise

    def _release(self):
        self._owned = None

    def close(self) -> None:
        """Frees the handle; what waits on it in other threads ends. Again it does nothing."""
        self._release()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def interruptible(call, undo=None):
    """Runs a call that cannot be cut into slices so that Ctrl-C leaves it at once.

    It then goes on by itself until its time is up, as it does after a timeout; what it has
    achieved is handed to `undo`.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome, left, ended = [], [], threading.Event()

    def take_back():
        if left and outcome and outcome[0][1] is None and undo is not None:
            with contextlib.suppress(SlimError):  # done already, or the node is closed
                undo(outcome[0][0])

    def run():
        try:
            outcome.append((call(), None))
        except BaseException as error:  # handed over, not swallowed
            outcome.append((None, error))
        ended.set()
        take_back()

    try:
        threading.Thread(target=run, name="slim-call", daemon=True).start()
        # A signal just before this thread blocks would not wake it: it looks now and then.
        while not ended.wait(0.1):
            pass
        result, error = outcome[0]
    except BaseException:
        left.append(True)
        take_back()
        raise
    if error is not None:
        raise error
    return result
