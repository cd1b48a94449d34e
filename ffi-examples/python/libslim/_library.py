"""The library that is loaded, its errors as exceptions, and what all handles have in common."""

import builtins
import contextlib
import ctypes as c
import math
import pathlib
import threading
import time

from . import _ffi


def _load():
    packaged = pathlib.Path(__file__).with_name("libslim.so.0")
    library = c.CDLL(str(packaged) if packaged.exists() else "libslim.so.0")
    for name, (result, arguments) in _ffi.FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    major, minor, _ = _ffi.VERSION
    if library.slim_version_number() >> 8 != major << 8 | minor:
        found = library.slim_version().decode()
        raise ImportError(f"libslim {found} is loaded, this package is for {major}.{minor}")
    return library


lib = _load()


class SlimError(Exception):
    """A call has failed: `status` is the number that it returned, str() says what happened."""

    def __init__(self, status, text):
        super().__init__(f"{text} ({lib.slim_status_name(status).decode()})")
        self.status = status


# The name of each status in Python's way: SLIM_ERR_NO_ROUTE becomes NoRouteError.
ERRORS = {}
for _name, _status in list(vars(_ffi).items()):
    if _name.startswith("SLIM_ERR_"):
        _words = "".join(word.capitalize() for word in _name[len("SLIM_ERR_") :].split("_"))
        _bases = (SlimError, builtins.TimeoutError) if _words == "Timeout" else (SlimError,)
        _error = type(_words + "Error", _bases, {"__module__": "libslim"})
        _error.__doc__ = f"A call returned {_name}: see slim.h."
        ERRORS[_status] = _error


def check(status):
    """Raises what a failing call says."""
    if status != _ffi.SLIM_OK:
        text = lib.slim_last_error().decode(errors="replace")
        raise ERRORS.get(status, SlimError)(status, text)


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


class Handle:
    """Owns a handle of the library. It is freed by close(), by `with`, or by the collector.

    close() may be called while another thread waits on the same object: the handle is freed when
    the last call on it has returned, which is soon, since no call waits for more than a second
    at a time. (So Ctrl-C works, too: Python runs its handlers between the calls.)
    """

    _free = None  # name of the function
    _SLICE = 1.0

    def __init__(self, pointer):
        self._pointer = pointer
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @contextlib.contextmanager
    def _use(self):
        with self._lock:
            if self._closed:
                raise ERRORS[_ffi.SLIM_ERR_CLOSED](
                    _ffi.SLIM_ERR_CLOSED, f"this {type(self).__name__.lower()} is closed"
                )
            self._users += 1
        try:
            yield self._pointer
        finally:
            with self._lock:
                self._users -= 1
                last = self._closed and self._users == 0
            if last:
                getattr(lib, self._free)(self._pointer)

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

    def _release(self):
        with self._lock:
            free = not self._closed and self._users == 0
            self._closed = True
        if free:
            getattr(lib, self._free)(self._pointer)

    def close(self):
        """Frees the handle; what waits on it in other threads ends. Again it does nothing."""
        self._release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        # An object whose making failed has no handle.
        if hasattr(self, "_closed"):
            self._release()


def interruptible(call, cancel):
    """Runs a call that cannot be cut into slices so that Ctrl-C ends it, by `cancel`."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome = []

    def run():
        try:
            outcome.append((call(), None))
        except BaseException as error:  # handed over, not swallowed
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="slim-call", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        cancel()
        thread.join()
        raise
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
