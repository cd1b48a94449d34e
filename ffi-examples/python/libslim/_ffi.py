"""What slim.h declares, for ctypes. Written by make_ffi.py; do not edit."""

import ctypes as c

VERSION = (0, 1, 0)

SLIM_OK = 0
SLIM_ERR_INVALID_ARGUMENT = -1
SLIM_ERR_INVALID_NAME = -2
SLIM_ERR_INVALID_CONFIG = -3
SLIM_ERR_TIMEOUT = -4
SLIM_ERR_CLOSED = -5
SLIM_ERR_NOT_FOUND = -6
SLIM_ERR_EXISTS = -7
SLIM_ERR_NOT_ALLOWED = -8
SLIM_ERR_TOO_LARGE = -9
SLIM_ERR_LIMIT = -10
SLIM_ERR_CONNECT = -11
SLIM_ERR_TLS = -12
SLIM_ERR_AUTH = -13
SLIM_ERR_PROTOCOL = -14
SLIM_ERR_MLS = -15
SLIM_ERR_NO_ROUTE = -16
SLIM_ERR_UNDELIVERED = -18
SLIM_ERR_IO = -19
SLIM_ERR_UNSUPPORTED = -20
SLIM_ERR_FORKED = -21
SLIM_ERR_INTERNAL = -22

SLIM_LOG_OFF = 0
SLIM_LOG_ERROR = 1
SLIM_LOG_WARN = 2
SLIM_LOG_INFO = 3
SLIM_LOG_DEBUG = 4
SLIM_LOG_TRACE = 5

SLIM_SESSION_POINT_TO_POINT = 1
SLIM_SESSION_GROUP = 2

SLIM_MESSAGE = 0
SLIM_EVENT_PEER_OFFLINE = 1
SLIM_EVENT_PEER_ONLINE = 2
SLIM_EVENT_PEER_LEFT = 3
SLIM_EVENT_CONNECTION_LOST = 4
SLIM_EVENT_CONNECTION_BACK = 5
SLIM_EVENT_MESSAGE_LOST = 6
SLIM_EVENT_SESSION_CLOSED = 7
SLIM_EVENT_ENCRYPTION_LOST = 8

slim_log_fn = c.CFUNCTYPE(None, c.c_void_p, c.c_int32, c.c_char_p, c.c_char_p)


class slim_pair(c.Structure):
    _fields_ = [
        ("key", c.c_char_p),
        ("value", c.c_char_p),
    ]


class slim_session_options(c.Structure):
    _fields_ = [
        ("size", c.c_uint32),
        ("kind", c.c_int32),
        ("delivery", c.c_int32),
        ("addressing", c.c_int32),
        ("direction", c.c_int32),
        ("events", c.c_int32),
        ("mls", c.c_int32),
        ("max_retries", c.c_int32),
        ("retry_interval_ms", c.c_uint32),
        ("mls_header_check", c.c_int32),
        ("metadata", c.POINTER(slim_pair)),
        ("metadata_len", c.c_size_t),
    ]


class slim_session_fields(c.Structure):
    _fields_ = [
        ("size", c.c_uint32),
        ("id", c.c_uint32),
        ("kind", c.c_int32),
        ("initiator", c.c_int32),
        ("source", c.c_char_p),
        ("destination", c.c_char_p),
        ("metadata", c.POINTER(slim_pair)),
        ("metadata_len", c.c_size_t),
        ("mls", c.c_int32),
        ("mls_header_check", c.c_int32),
        ("epoch", c.c_int64),
    ]


class slim_publish_options(c.Structure):
    _fields_ = [
        ("size", c.c_uint32),
        ("payload_type", c.c_char_p),
        ("metadata", c.POINTER(slim_pair)),
        ("metadata_len", c.c_size_t),
    ]


class slim_message_fields(c.Structure):
    _fields_ = [
        ("size", c.c_uint32),
        ("kind", c.c_int32),
        ("is_reply", c.c_int32),
        ("data", c.c_void_p),
        ("data_len", c.c_size_t),
        ("source", c.c_char_p),
        ("destination", c.c_char_p),
        ("payload_type", c.c_char_p),
        ("identity", c.c_char_p),
        ("connection", c.c_uint64),
        ("metadata", c.POINTER(slim_pair)),
        ("metadata_len", c.c_size_t),
    ]


# Name: (result, arguments).
FUNCTIONS = {
    "slim_version": (c.c_char_p, []),
    "slim_version_number": (c.c_uint32, []),
    "slim_build_info": (c.c_char_p, []),
    "slim_status_name": (c.c_char_p, [c.c_int32]),
    "slim_last_error": (c.c_char_p, []),
    "slim_log_set": (c.c_int32, [c.c_int32, slim_log_fn, c.c_void_p]),
    "slim_node_new": (c.c_int32, [c.c_char_p, c.POINTER(c.c_void_p)]),
    "slim_node_listen": (c.c_int32, [c.c_void_p, c.c_char_p, c.POINTER(c.c_uint16)]),
    "slim_node_connect": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_uint64)]),
    "slim_node_disconnect": (c.c_int32, [c.c_void_p, c.c_uint64]),
    "slim_node_stop": (None, [c.c_void_p]),
    "slim_node_wait": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_node_stats": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_size_t, c.POINTER(c.c_size_t)]),
    "slim_node_free": (None, [c.c_void_p]),
    "slim_app_new": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_char_p, c.POINTER(c.c_void_p)]),
    "slim_app_new_with_secret": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_char_p, c.POINTER(c.c_void_p)]),
    "slim_app_name": (c.c_char_p, [c.c_void_p]),
    "slim_app_connect": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_uint64)]),
    "slim_app_subscribe": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_uint64, c.c_int32]),
    "slim_app_unsubscribe": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_uint64, c.c_int32]),
    "slim_app_set_route": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_uint64]),
    "slim_app_remove_route": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_uint64]),
    "slim_app_set_direction": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_app_accept": (c.c_int32, [c.c_void_p, c.c_int32, c.POINTER(c.c_void_p)]),
    "slim_app_fd": (c.c_int32, [c.c_void_p]),
    "slim_app_next_done": (c.c_int32, [c.c_void_p, c.POINTER(c.c_uint64)]),
    "slim_app_free": (None, [c.c_void_p]),
    "slim_session_open": (c.c_int32, [c.c_void_p, c.POINTER(slim_session_options), c.c_char_p, c.c_int32, c.POINTER(c.c_void_p)]),
    "slim_session_open_start": (c.c_int32, [c.c_void_p, c.POINTER(slim_session_options), c.c_char_p, c.POINTER(c.c_void_p), c.POINTER(c.c_void_p)]),
    "slim_session_view": (c.c_int32, [c.c_void_p, c.POINTER(slim_session_fields)]),
    "slim_session_publish": (c.c_int32, [c.c_void_p, c.c_void_p, c.c_size_t, c.POINTER(slim_publish_options), c.c_int32]),
    "slim_session_publish_to": (c.c_int32, [c.c_void_p, c.c_void_p, c.c_void_p, c.c_size_t, c.POINTER(slim_publish_options), c.c_int32]),
    "slim_session_publish_start": (c.c_int32, [c.c_void_p, c.c_void_p, c.c_void_p, c.c_size_t, c.POINTER(slim_publish_options), c.POINTER(c.c_void_p)]),
    "slim_session_flush": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_session_receive": (c.c_int32, [c.c_void_p, c.c_int32, c.POINTER(c.c_void_p)]),
    "slim_session_set_events": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_session_fd": (c.c_int32, [c.c_void_p]),
    "slim_session_invite": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_int32]),
    "slim_session_invite_start": (c.c_int32, [c.c_void_p, c.c_char_p, c.POINTER(c.c_void_p)]),
    "slim_session_remove": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_int32]),
    "slim_session_remove_start": (c.c_int32, [c.c_void_p, c.c_char_p, c.POINTER(c.c_void_p)]),
    "slim_session_suspend": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_session_rejoin": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_session_participants": (c.c_int32, [c.c_void_p, c.c_int32, c.POINTER(c.c_void_p)]),
    "slim_session_close": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_session_free": (None, [c.c_void_p]),
    "slim_participants_count": (c.c_size_t, [c.c_void_p]),
    "slim_participants_at": (c.c_char_p, [c.c_void_p, c.c_size_t, c.POINTER(c.c_int32)]),
    "slim_participants_free": (None, [c.c_void_p]),
    "slim_message_data": (c.c_void_p, [c.c_void_p, c.POINTER(c.c_size_t)]),
    "slim_message_view": (c.c_int32, [c.c_void_p, c.POINTER(slim_message_fields)]),
    "slim_message_free": (None, [c.c_void_p]),
    "slim_op_wait": (c.c_int32, [c.c_void_p, c.c_int32]),
    "slim_op_notify": (c.c_int32, [c.c_void_p, c.c_uint64]),
    "slim_op_free": (None, [c.c_void_p]),
}
