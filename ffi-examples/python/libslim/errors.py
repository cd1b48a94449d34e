"""The errors of slim.h as exceptions. Written by make_ffi.py; do not edit."""

import builtins


class SlimError(Exception):
    """A call has failed: `status` is the number that it returned, str() says what happened."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class InvalidArgumentError(SlimError):
    """A pointer is NULL, a string is not UTF-8, a number is out of range, a struct size is wrong."""


class InvalidNameError(SlimError):
    """A name is not "org/namespace/service" or "org/namespace/service/ID"."""


class InvalidConfigError(SlimError):
    """A JSON text does not parse, or a key or value in it is not accepted."""


class TimeoutError(SlimError, builtins.TimeoutError):
    """The time given to the call ran out; with a time of 0, nothing was ready."""


class ClosedError(SlimError):
    """The handle, its session or its node has been closed, by this side or by the peer."""


class NotFoundError(SlimError):
    """No such connection, subscription, route or participant."""


class ExistsError(SlimError):
    """The participant, subscription or listener is there already."""


class NotAllowedError(SlimError):
    """Not possible for this kind of session, in its present state, for a non-moderator, or in a log callback."""


class TooLargeError(SlimError):
    """A payload, a name or a metadata entry is over its limit."""


class LimitError(SlimError):
    """A queue or table is at its limit."""


class ConnectError(SlimError):
    """The endpoint could not be resolved, or could not be connected to."""


class TlsError(SlimError):
    """The TLS handshake failed, or a certificate or key could not be used. Not in this version."""


class AuthError(SlimError):
    """An identity or token was rejected, here or by the node."""


class ProtocolError(SlimError):
    """The peer sent something that the protocol does not allow."""


class MlsError(SlimError):
    """An MLS group could not be set up or changed, or this side is not in it any more."""


class NoRouteError(SlimError):
    """Nobody valid answered for a name: no such app, or one with another secret."""


class UndeliveredError(SlimError):
    """The message was not acknowledged in all its tries. It may have arrived all the same."""


class IoError(SlimError):
    """The operating system refused something; slim_last_error() has its words."""


class UnsupportedError(SlimError):
    """This version does not do that."""


class ForkedError(SlimError):
    """The handle was made before fork() and is used in the child."""


class InternalError(SlimError):
    """A bug in libslim was caught. The node involved is dead: free its handles."""


# Of each status.
ERRORS = {
    -1: InvalidArgumentError,
    -2: InvalidNameError,
    -3: InvalidConfigError,
    -4: TimeoutError,
    -5: ClosedError,
    -6: NotFoundError,
    -7: ExistsError,
    -8: NotAllowedError,
    -9: TooLargeError,
    -10: LimitError,
    -11: ConnectError,
    -12: TlsError,
    -13: AuthError,
    -14: ProtocolError,
    -15: MlsError,
    -16: NoRouteError,
    -18: UndeliveredError,
    -19: IoError,
    -20: UnsupportedError,
    -21: ForkedError,
    -22: InternalError,
}
