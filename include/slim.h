/* slim.h - C interface of libslim, messaging over SLIM.
 *
 * Ownership
 *   A handle (slim_node, slim_app, slim_session, slim_message, slim_op, slim_participants) that a
 *   call stores through a pointer belongs to the caller, who frees it with the slim_..._free() of
 *   its type, once. When a call fails it stores nothing. Handles may be freed in any order.
 *   Nothing else is ever freed by the caller. Arguments are copied: a string, a payload or an
 *   options struct may be changed or freed as soon as the call returns.
 *
 * Threads
 *   Any function may be called from any thread, also on the same handle at the same time, with
 *   one exception: freeing a handle must be the last call on it. Each node runs one thread of its
 *   own, and a short-lived one for each look-up of a host name, with all signals blocked; no
 *   function is called back but the log callback.
 *
 * Time
 *   timeout_ms is in milliseconds: 0 does not wait, SLIM_WAIT_FOREVER (-1) waits without limit.
 *   Signals do not interrupt a wait; closing or freeing a parent handle ends it with
 *   SLIM_ERR_CLOSED.
 *
 * Strings
 *   UTF-8, NUL-terminated. Names are "org/namespace/service" or, with the ID of one instance,
 *   "org/namespace/service/0b3fc0de-...".
 *
 * Errors
 *   "Errors:" lists what a call adds to these: every call may return INVALID_ARGUMENT (a NULL, a
 *   text that is not UTF-8, a number out of range) and INTERNAL; one that takes a handle, FORKED;
 *   one that takes a name, INVALID_NAME, and TOO_LARGE for more than 4096 bytes; one that takes
 *   options, UNSUPPORTED (a field of a later release), TOO_LARGE and LIMIT (their metadata).
 *
 * fork()
 *   Handles do not survive fork(): in the child every call on them that returns a status returns
 *   SLIM_ERR_FORKED, and freeing them frees only memory. Nodes made after fork() work. A child has
 *   no descriptor of its parent's nodes, and their peers notice nothing of it; all descriptors are
 *   close-on-exec.
 */


#ifndef SLIM_H
#define SLIM_H

#include <stddef.h>
#include <stdint.h>

/* Written by `make header` from src/ffi. Do not edit. */

#define SLIM_VERSION "0.1.0"
#define SLIM_VERSION_MAJOR 0
#define SLIM_VERSION_MINOR 1
#define SLIM_VERSION_PATCH 0
#define SLIM_VERSION_BITS(major, minor, patch) ((major) << 16 | (minor) << 8 | (patch))
#define SLIM_VERSION_NUMBER \
    SLIM_VERSION_BITS(SLIM_VERSION_MAJOR, SLIM_VERSION_MINOR, SLIM_VERSION_PATCH)
#define SLIM_VERSION_AT_LEAST(major, minor, patch) \
    (SLIM_VERSION_NUMBER >= SLIM_VERSION_BITS(major, minor, patch))

#define SLIM_WAIT_FOREVER (-1)

#define SLIM_SESSION_OPTIONS_INIT \
    {sizeof(slim_session_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0}
#define SLIM_PUBLISH_OPTIONS_INIT {sizeof(slim_publish_options), NULL, NULL, 0}
#define SLIM_SESSION_FIELDS_INIT \
    {sizeof(slim_session_fields), 0, 0, 0, NULL, NULL, NULL, 0, 0, 0, 0}
#define SLIM_MESSAGE_FIELDS_INIT \
    {sizeof(slim_message_fields), 0, 0, NULL, 0, NULL, NULL, NULL, NULL, 0, NULL, 0}

#if defined(__GNUC__)
#define SLIM_API __attribute__((visibility("default")))
#define SLIM_CHECKED __attribute__((warn_unused_result))
#else
#define SLIM_API
#define SLIM_CHECKED
#endif


// Result of almost every call: SLIM_OK, or a negative code.
//
// The numbers never change and are never reused; later releases may add codes, so a switch needs
// a default.
typedef enum {
    // The call did what it says.
    SLIM_OK = 0,
    // A pointer is NULL, a string is not UTF-8, a number is out of range, a struct size is wrong.
    SLIM_ERR_INVALID_ARGUMENT = -1,
    // A name is not "org/namespace/service" or "org/namespace/service/ID".
    SLIM_ERR_INVALID_NAME = -2,
    // A JSON text does not parse, or a key or value in it is not accepted.
    SLIM_ERR_INVALID_CONFIG = -3,
    // The time given to the call ran out; with a time of 0, nothing was ready.
    SLIM_ERR_TIMEOUT = -4,
    // The handle, its session or its node has been closed, by this side or by the peer.
    SLIM_ERR_CLOSED = -5,
    // No such connection, subscription, route or participant.
    SLIM_ERR_NOT_FOUND = -6,
    // The participant, subscription or listener is there already.
    SLIM_ERR_EXISTS = -7,
    // Not possible for this kind of session, in its present state, for a non-moderator, or in a log
    // callback.
    SLIM_ERR_NOT_ALLOWED = -8,
    // A payload, a name or a metadata entry is over its limit.
    SLIM_ERR_TOO_LARGE = -9,
    // A queue or table is at its limit.
    SLIM_ERR_LIMIT = -10,
    // The endpoint could not be resolved, or could not be connected to.
    SLIM_ERR_CONNECT = -11,
    // The TLS handshake failed, or a certificate or key could not be used. Not in this version.
    SLIM_ERR_TLS = -12,
    // An identity or token was rejected, here or by the node.
    SLIM_ERR_AUTH = -13,
    // The peer sent something that the protocol does not allow.
    SLIM_ERR_PROTOCOL = -14,
    // An MLS group could not be set up or changed, or this side is not in it any more.
    SLIM_ERR_MLS = -15,
    // Nobody valid answered for a name: no such app, or one with another secret.
    SLIM_ERR_NO_ROUTE = -16,
    // The message was not acknowledged in all its tries. It may have arrived all the same.
    SLIM_ERR_UNDELIVERED = -18,
    // The operating system refused something; slim_last_error() has its words.
    SLIM_ERR_IO = -19,
    // This version does not do that.
    SLIM_ERR_UNSUPPORTED = -20,
    // The handle was made before fork() and is used in the child.
    SLIM_ERR_FORKED = -21,
    // A bug in libslim was caught. The node involved is dead: free its handles.
    SLIM_ERR_INTERNAL = -22,
} slim_status;

// How much is logged: each level includes the ones before it.
typedef enum {
    // Nothing.
    SLIM_LOG_OFF = 0,
    // What failed for good.
    SLIM_LOG_ERROR = 1,
    // What somebody should look at.
    SLIM_LOG_WARN = 2,
    // Connections that come and go.
    SLIM_LOG_INFO = 3,
    // What happens to single messages that are dropped.
    SLIM_LOG_DEBUG = 4,
    // Everything.
    SLIM_LOG_TRACE = 5,
} slim_log_level;

// What a session is for.
typedef enum {
    // With one app: the instance that a destination with an ID names, or any one instance, which
    // is then kept.
    SLIM_SESSION_POINT_TO_POINT = 1,
    // With everyone who was invited; the destination is the group's name. The creator is its
    // moderator: it invites and removes.
    SLIM_SESSION_GROUP = 2,
} slim_session_kind;

// What slim_session_receive() gave. Other kinds than 0 only come from sessions that asked for
// events; later releases may add some.
typedef enum {
    // A message.
    SLIM_MESSAGE = 0,
    // The peer named by `source` does not answer any more.
    SLIM_EVENT_PEER_OFFLINE = 1,
    // It is back.
    SLIM_EVENT_PEER_ONLINE = 2,
    // It has left.
    SLIM_EVENT_PEER_LEFT = 3,
    // The link of the session is gone. One that this side dialled is made again, unless it was
    // disconnected, refused, or has no attempts left.
    SLIM_EVENT_CONNECTION_LOST = 4,
    // It is back.
    SLIM_EVENT_CONNECTION_BACK = 5,
    // A message of the peer named by `source` cannot be had any more.
    SLIM_EVENT_MESSAGE_LOST = 6,
    // The session is over; the data is the reason, as text.
    SLIM_EVENT_SESSION_CLOSED = 7,
    // This side does not follow an encrypted session any more; the data says why and what to do,
    // as text.
    SLIM_EVENT_ENCRYPTION_LOST = 8,
} slim_message_kind;

// A named participant on a node, with an identity.
typedef struct slim_app slim_app;

// A received message.
typedef struct slim_message slim_message;

// A SLIM data plane in this process, with its own I/O thread.
//
// It may connect to other nodes, listen for them, or both, and it carries the apps made on it.
typedef struct slim_node slim_node;

// Something that was started and has not been waited for.
typedef struct slim_op slim_op;

// The members of a session at one moment.
typedef struct slim_participants slim_participants;

// A conversation: with one app, or with the members of a group.
typedef struct slim_session slim_session;

// Receives one log line. `target` and `message` are NUL-terminated and valid during the call.
//
// It is called from any thread, the library's own included, also from several at once. It must
// not block: calls that would have to wait return SLIM_ERR_NOT_ALLOWED in it, and what they log is
// dropped. A child that it forks must not return from it.
//
// Secrets, tokens and payloads are never logged.
typedef void (*slim_log_fn)(void *user, int32_t level, const char *target, const char *message);

// One entry of metadata. Both strings are UTF-8 and NUL-terminated.
typedef struct {
    // What it is called.
    const char *key;
    // What it says.
    const char *value;
} slim_pair;

// How to open a session. Start from SLIM_SESSION_OPTIONS_INIT; a field of 0 means its default.
typedef struct {
    // sizeof(slim_session_options), as the caller was compiled.
    uint32_t size;
    // A slim_session_kind. Default: point to point.
    int32_t kind;
    // 0: reliable (acknowledged, in order, sent again); 1: best effort.
    int32_t delivery;
    // 0: unicast, one instance for the whole session; 1: anycast, any instance for each message,
    // found anew each time. What they answer comes out of one inbox.
    int32_t addressing;
    // 0: both ways; 1: this side only publishes; 2: it only receives; 3: neither.
    int32_t direction;
    // 1: events come out of slim_session_receive(), too. Default: 0, no.
    int32_t events;
    // 1: encrypted end to end with MLS: nodes on the way see who talks to whom, but not what.
    // Default: 0, no.
    int32_t mls;
    // How often an unacknowledged message is sent again; -1 for never. Default: 10.
    int32_t max_retries;
    // Milliseconds between two tries, 1 to 3600000. Default: 1000.
    uint32_t retry_interval_ms;
    // With MLS: percent of received messages whose header is checked against a signed copy;
    // -1 for none. Default: 100.
    int32_t mls_header_check;
    // Key-value pairs that the peers see with the session.
    const slim_pair *metadata;
    // Number of pairs.
    size_t metadata_len;
} slim_session_options;

// What is known about a session. The strings are valid until the session is freed.
typedef struct {
    // sizeof(slim_session_fields), as the caller was compiled; set it before the call.
    uint32_t size;
    // The session's number.
    uint32_t id;
    // A slim_session_kind.
    int32_t kind;
    // 1 if this side opened the session.
    int32_t initiator;
    // This side's full name.
    const char *source;
    // The peer's or the group's name.
    const char *destination;
    // The pairs that the session was opened with; NULL if there are none.
    const slim_pair *metadata;
    // Number of pairs.
    size_t metadata_len;
    // 1 if the session is encrypted end to end with MLS.
    int32_t mls;
    // With MLS: percent of received messages whose header is checked; -1 for none.
    int32_t mls_header_check;
    // With MLS: how often the keys have changed; 0 while nobody has joined, -1 before anybody was
    // invited. Without MLS, and with anycast (each instance has keys of its own), -1.
    int64_t epoch;
} slim_session_fields;

// How to publish a message. Start from SLIM_PUBLISH_OPTIONS_INIT; 0 and NULL mean the default.
typedef struct {
    // sizeof(slim_publish_options), as the caller was compiled.
    uint32_t size;
    // What the payload is, for example "application/json". Default: "msg".
    const char *payload_type;
    // Key-value pairs that travel with the message: at most 256, each text at most 64 KiB. Keys
    // that begin with "slim-", and PUBLISH_TO, LEAVING_SESSION, LEAVE_REPLY_SENT, DELETE_GROUP,
    // traceparent, tracestate and baggage belong to the protocol: they are refused, and not given
    // out.
    const slim_pair *metadata;
    // Number of pairs.
    size_t metadata_len;
} slim_publish_options;

// What came with a message. The pointers are valid until the message is freed.
typedef struct {
    // sizeof(slim_message_fields), as the caller was compiled; set it before the call.
    uint32_t size;
    // A slim_message_kind.
    int32_t kind;
    // 1 if the message was sent to this member of a group alone with slim_session_publish_to(); 0
    // in other sessions.
    int32_t is_reply;
    // The payload; NULL if it is empty.
    const void *data;
    // Length of the payload in bytes.
    size_t data_len;
    // Full name of the sender.
    const char *source;
    // Name that it was sent to.
    const char *destination;
    // What the sender says that the payload is.
    const char *payload_type;
    // The sender's identity, proved by its keys in a session with MLS; else "".
    const char *identity;
    // The connection that it came over.
    uint64_t connection;
    // Pairs that travelled with the message; NULL if there are none.
    const slim_pair *metadata;
    // Number of pairs.
    size_t metadata_len;
} slim_message_fields;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of the library that is loaded, for example "0.1.0".
//
// The string is static. Compare with SLIM_VERSION to find a program that was compiled against
// another release than the one it runs with.
SLIM_API const char *slim_version(void);

// Version of the loaded library as a number, laid out like SLIM_VERSION_NUMBER.
SLIM_API uint32_t slim_version_number(void);

// What the library was built from, for bug reports: "libslim/0.1.0 slim-protocol/3.4.6 ...".
//
// The string is static. Its format is for people, not for programs.
SLIM_API const char *slim_build_info(void);

// Name of a status, for example "SLIM_ERR_TIMEOUT". The string is static; never NULL.
SLIM_API const char *slim_status_name(int32_t status);

// What went wrong in the last call on this thread that returned an error.
//
// One line of UTF-8 without a final newline; "" when nothing has failed yet. Never NULL. The
// string stays valid until the next slim call on this thread. Calls that succeed leave it as it
// was, so look at it only after an error.
SLIM_API const char *slim_last_error(void);

// Sets who receives the log of the whole process, and up to which slim_log_level.
//
// NULL for `callback` writes to standard error. Until the first call nothing is logged, unless
// the environment variable SLIM_LOG names a level. When the call returns, the callback that was
// set before is no longer running, in any thread; made from inside that callback, the call waits
// for its runs in other threads only.
// Errors: INVALID_ARGUMENT.
SLIM_API slim_status slim_log_set(int32_t level, slim_log_fn callback, void *user);

// Makes a node and starts its thread.
//
// `config_json` is an object ("node_id", "domain_name", "default_gateway",
// "stuck_receiver_timeout"), or NULL for the defaults.
// Errors: INVALID_CONFIG, UNSUPPORTED, IO.
SLIM_API SLIM_CHECKED slim_status slim_node_new(const char *config_json, slim_node **node);

// Opens a listening socket and serves it.
//
// `server` is one server object in JSON ("endpoint", "tls"), or just an address like
// "127.0.0.1:46357". The socket is bound when the call returns; `port`, unless NULL, receives its
// port, which tells what ":0" became.
// Errors: INVALID_CONFIG, UNSUPPORTED, IO, EXISTS, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_node_listen(slim_node *node,
                             const char *server,
                             uint16_t *port);

// Connects to another node and waits until the link is usable, at most `timeout_ms`.
//
// `client` is one client object in JSON ("endpoint", "tls", "backoff", ...), or just an endpoint
// like "http://127.0.0.1:46357". `connection`, unless NULL, receives the number that
// subscriptions and routes refer to. A link that is lost later is made again under the same
// number.
// Errors: INVALID_CONFIG, UNSUPPORTED, CONNECT, AUTH, TIMEOUT, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_node_connect(slim_node *node,
                              const char *client,
                              int32_t timeout_ms,
                              uint64_t *connection);

// Closes a connection and forgets the subscriptions and routes over it.
// Errors: NOT_FOUND, CLOSED.
SLIM_API slim_status slim_node_disconnect(slim_node *node, uint64_t connection);

// Asks the node to stop: no new connections, open ones drained and closed. What peers have not
// taken within 2 s is lost.
//
// Returns at once. It may be called from any thread and from a signal handler. Calling it again
// is harmless.
SLIM_API void slim_node_stop(slim_node *node);

// Waits until the node has stopped, at most `timeout_ms`.
//
// A server's main thread spends its life here.
// Errors: TIMEOUT.
SLIM_API slim_status slim_node_wait(slim_node *node, int32_t timeout_ms);

// Writes the node's counters and connections as a JSON object into `buffer`. Of messages it counts
// those that could not be forwarded ("dropped"), those that came in encrypted sessions in clear
// or could not be opened ("unreadable"; what is sent again counts again), and those that sessions
// of its apps lost ("lost": best-effort ones for which the inbox had no room or for which this node
// knew nobody, reliable ones that their receiver gave up).
//
// Like snprintf(): at most `capacity` bytes, always NUL-terminated when `capacity` is not 0, and
// `needed`, unless NULL, receives the length without the NUL, which may be more than fitted.
// Errors: CLOSED.
SLIM_API
slim_status slim_node_stats(const slim_node *node,
                            char *buffer,
                            size_t capacity,
                            size_t *needed);

// Stops the node, waits for its thread and frees the handle. NULL is allowed.
//
// Apps and sessions made on it answer SLIM_ERR_CLOSED from then on and still have to be freed.
SLIM_API void slim_node_free(slim_node *node);

// Makes an app called `name` ("org/namespace/service") on `node`.
//
// `identity_json` says how the app proves who it is and how it checks others: an object with
// "provider" and "verifier".
// Errors: INVALID_NAME, INVALID_CONFIG, UNSUPPORTED, AUTH, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_app_new(slim_node *node,
                         const char *name,
                         const char *identity_json,
                         slim_app **app);

// Makes an app whose identity is a secret of at least 32 bytes, shared by all parties: for tests
// and closed systems.
// Errors: INVALID_NAME, AUTH, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_app_new_with_secret(slim_node *node,
                                     const char *name,
                                     const char *secret,
                                     slim_app **app);

// The app's full name, "org/namespace/service/ID". Valid until the app is freed.
SLIM_API const char *slim_app_name(const slim_app *app);

// Connects the app's node and subscribes to the app's own name over the new connection: the usual
// beginning. Otherwise as slim_node_connect().
// Errors: those of slim_node_connect() and slim_app_subscribe().
SLIM_API
SLIM_CHECKED
slim_status slim_app_connect(slim_app *app,
                             const char *client,
                             int32_t timeout_ms,
                             uint64_t *connection);

// Asks for messages to `name` over `connection`. The answer of the node is waited for 10 s at most,
// whatever `timeout_ms` is.
// Errors: INVALID_NAME, NOT_FOUND, PROTOCOL, TIMEOUT, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_app_subscribe(slim_app *app,
                               const char *name,
                               uint64_t connection,
                               int32_t timeout_ms);

// Takes a subscription back. The answer of the node is waited for as with slim_app_subscribe().
// Errors: INVALID_NAME, NOT_FOUND, PROTOCOL, TIMEOUT, CLOSED.
SLIM_API
slim_status slim_app_unsubscribe(slim_app *app,
                                 const char *name,
                                 uint64_t connection,
                                 int32_t timeout_ms);

// Sends what is meant for `name` over `connection`. Needed with several connections, with one to
// another node ("remote"), and with default_gateway "off": else everything that is not in this
// process goes over the only one.
// Errors: INVALID_NAME, NOT_FOUND, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_app_set_route(slim_app *app,
                               const char *name,
                               uint64_t connection);

// Takes a route back.
// Errors: INVALID_NAME, NOT_FOUND, CLOSED.
SLIM_API slim_status slim_app_remove_route(slim_app *app, const char *name, uint64_t connection);

// Which way data goes in sessions that others open to this app from now on: the values of
// slim_session_options.direction.
// Errors: INVALID_ARGUMENT, CLOSED.
SLIM_API slim_status slim_app_set_direction(slim_app *app, int32_t direction);

// Waits for a session that somebody else opened to this app.
//
// The session is ready for use and belongs to the caller.
// Errors: TIMEOUT, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_app_accept(slim_app *app,
                            int32_t timeout_ms,
                            slim_session **session);

// A descriptor that is readable while slim_app_accept() or slim_app_next_done() has something to
// give, or the app is closed; a negative status on failure.
//
// Watch it with poll(), epoll, kqueue or an event loop, level- or edge-triggered; after it turns
// readable, call with a timeout of 0 until SLIM_ERR_TIMEOUT. Never read from it, write to it or
// close it: it belongs to the app and lives as long as it does.
SLIM_API int32_t slim_app_fd(slim_app *app);

// Takes one ended operation off the app's list: `tag` receives what slim_op_notify() was given.
// Never waits.
// Errors: TIMEOUT (none has ended), CLOSED.
SLIM_API slim_status slim_app_next_done(slim_app *app, uint64_t *tag);

// Closes the app's sessions without waiting for their peers and frees the handle. NULL is
// allowed.
SLIM_API void slim_app_free(slim_app *app);

// Opens a session to `destination` and waits until the peer has joined. A group is there at once,
// with nobody else in it; with anycast nobody is looked for before the first message.
//
// `options` may be NULL for a reliable point-to-point session.
// Errors: INVALID_ARGUMENT, INVALID_NAME, NO_ROUTE, MLS (the peer cannot do it, or its keys are
// refused), UNSUPPORTED, TIMEOUT (the attempt is given up), LIMIT, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_session_open(slim_app *app,
                              const slim_session_options *options,
                              const char *destination,
                              int32_t timeout_ms,
                              slim_session **session);

// Opens a session without waiting: `op` ends when slim_session_open() would have returned. What is
// published before is kept until the peer has joined.
// Errors: INVALID_ARGUMENT, INVALID_NAME, UNSUPPORTED, LIMIT, CLOSED; the others come with the
// operation.
SLIM_API
SLIM_CHECKED
slim_status slim_session_open_start(slim_app *app,
                                    const slim_session_options *options,
                                    const char *destination,
                                    slim_session **session,
                                    slim_op **op);

// Fills `fields` with what is known about the session.
// Errors: INVALID_ARGUMENT.
SLIM_API slim_status slim_session_view(const slim_session *session, slim_session_fields *fields);

// Hands a message to the session. Returns when it is in the send queue, not when it has arrived:
// see slim_session_flush().
//
// The payload is copied. While the queue is full the call waits, at most `timeout_ms`. `options`
// may be NULL.
// Errors: INVALID_ARGUMENT, TOO_LARGE, TIMEOUT, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_session_publish(slim_session *session,
                                 const void *data,
                                 size_t len,
                                 const slim_publish_options *options,
                                 int32_t timeout_ms);

// Publishes to the sender of `message` only: a reply. Otherwise as slim_session_publish().
SLIM_API
SLIM_CHECKED
slim_status slim_session_publish_to(slim_session *session,
                                    const slim_message *message,
                                    const void *data,
                                    size_t len,
                                    const slim_publish_options *options,
                                    int32_t timeout_ms);

// Publishes without waiting: `op` ends when every receiver that could be reached when it was sent
// has acknowledged the message; best effort, as soon as it is sent, which says nothing of arrival.
//
// `message` is NULL, or the message to reply to.
// Errors: TOO_LARGE, LIMIT (also: the queue is full), CLOSED. With the operation come UNDELIVERED,
// NOT_ALLOWED (this side is suspended, or only receives, or who is to be answered only publishes),
// MLS (this side is not in the encrypted group any more) and NOT_FOUND (who is to be answered has
// left).
SLIM_API
SLIM_CHECKED
slim_status slim_session_publish_start(slim_session *session,
                                       const slim_message *message,
                                       const void *data,
                                       size_t len,
                                       const slim_publish_options *options,
                                       slim_op **op);

// Waits until all that this session published before the call is acknowledged or given up; best
// effort, until it is sent.
// Errors: UNDELIVERED, NOT_ALLOWED, MLS and NOT_FOUND as with slim_session_publish_start() (the
// first that there was since the last flush), TIMEOUT, CLOSED.
SLIM_API SLIM_CHECKED slim_status slim_session_flush(slim_session *session, int32_t timeout_ms);

// Waits for the next message of this session, or event if those were asked for. Free it with
// slim_message_free().
//
// Messages that arrived before the session was closed are still given out; then the answer is
// CLOSED.
// Errors: TIMEOUT, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_session_receive(slim_session *session,
                                 int32_t timeout_ms,
                                 slim_message **message);

// Whether events come out of slim_session_receive(), too: 1 yes, 0 no. For sessions that were
// accepted; slim_session_options says it for those that are opened.
// Errors: INVALID_ARGUMENT, CLOSED.
SLIM_API slim_status slim_session_set_events(slim_session *session, int32_t events);

// A descriptor that is readable while slim_session_receive() has something to give, or the
// session is closed; a negative status on failure. The rules of slim_app_fd() apply.
SLIM_API int32_t slim_session_fd(slim_session *session);

// Invites an app into the group and waits until it has joined and the other members know. `name`
// may have an ID; without one, any instance of that name is invited.
// Errors: INVALID_NAME, INVALID_ARGUMENT (this app itself), EXISTS (it is in the group),
// NOT_ALLOWED (no group, this side is not its moderator, or it is suspended), NO_ROUTE (nobody
// valid answered), MLS (it cannot do MLS, or its keys are refused), LIMIT (the group has as many
// members, or as many changes that wait, as it may have), TIMEOUT (the invitation is taken back),
// CLOSED; for the first one also those of slim_app_subscribe(), of the group's channels.
SLIM_API
SLIM_CHECKED
slim_status slim_session_invite(slim_session *session,
                                const char *name,
                                int32_t timeout_ms);

// Invites without waiting: `op` ends when slim_session_invite() would have returned. Invitations
// and removals are carried out one after another.
// Errors: INVALID_NAME, NOT_ALLOWED, CLOSED; the others come from `op`.
SLIM_API
SLIM_CHECKED
slim_status slim_session_invite_start(slim_session *session,
                                      const char *name,
                                      slim_op **op);

// Removes a participant from the group and waits until it and the other members know. `name` may
// have an ID; without one it must fit one participant alone.
// Errors: INVALID_NAME, NOT_FOUND (nobody of that name is in the group), INVALID_ARGUMENT (several
// are, or it is this app itself), NOT_ALLOWED (as slim_session_invite()), UNDELIVERED (it is out,
// but did not confirm it), MLS (the keys could not be changed), LIMIT (too many changes wait),
// TIMEOUT (removing goes on), CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_session_remove(slim_session *session,
                                const char *name,
                                int32_t timeout_ms);

// Removes without waiting: `op` ends when slim_session_remove() would have returned.
// Errors: INVALID_NAME, NOT_ALLOWED, CLOSED; the others come from `op`.
SLIM_API
SLIM_CHECKED
slim_status slim_session_remove_start(slim_session *session,
                                      const char *name,
                                      slim_op **op);

// Goes away from the group for a while and waits until the other members know: they see this side
// offline. What is published meanwhile is not received, unless it is still on its way when this
// side comes back. What is published then is refused: slim_session_publish() queues it and says OK,
// slim_session_flush() or the operation says NOT_ALLOWED. This side stays a member.
// Errors: NOT_ALLOWED (no group, suspended already, or something is being changed), TIMEOUT (it
// goes on), CLOSED.
SLIM_API SLIM_CHECKED slim_status slim_session_suspend(slim_session *session, int32_t timeout_ms);

// Comes back after slim_session_suspend(), and waits until the other members know.
// Errors: NOT_ALLOWED (no group, not suspended, or something is being changed), MLS (this side is
// back, but the keys of the group have changed, and its moderator gives it no new ones), TIMEOUT
// (it goes on), CLOSED.
SLIM_API SLIM_CHECKED slim_status slim_session_rejoin(slim_session *session, int32_t timeout_ms);

// Gives out who takes part, this side first. Free the list with slim_participants_free().
// Errors: TIMEOUT, CLOSED.
SLIM_API
SLIM_CHECKED
slim_status slim_session_participants(slim_session *session,
                                      int32_t timeout_ms,
                                      slim_participants **participants);

// Ends the session and waits until the peer knows. What was published before is waited for first.
// A group ends for all when its moderator does this; another member leaves it.
//
// Calls that wait on the session in other threads return CLOSED. The handle still has to be
// freed.
// Errors: TIMEOUT (closing goes on), UNDELIVERED (closed, but the peer did not confirm it),
// CLOSED (it was closed already).
SLIM_API slim_status slim_session_close(slim_session *session, int32_t timeout_ms);

// Frees the handle; an open session is closed without waiting for the peers. NULL is allowed.
SLIM_API void slim_session_free(slim_session *session);

// Number of participants in the list; 0 for NULL.
SLIM_API size_t slim_participants_count(const slim_participants *participants);

// Full name of one participant, valid until the list is freed; NULL if there is no such index.
// `online`, unless NULL, receives 1 if it can be reached, 0 if it is known to be away.
SLIM_API
const char *slim_participants_at(const slim_participants *participants,
                                 size_t index,
                                 int32_t *online);

// Frees the list. NULL is allowed.
SLIM_API void slim_participants_free(slim_participants *participants);

// The payload, valid until the message is freed; `len`, unless NULL, receives its length. NULL if
// it is empty.
SLIM_API const void *slim_message_data(const slim_message *message, size_t *len);

// Fills `fields` with everything that came with the message.
// Errors: INVALID_ARGUMENT.
SLIM_API slim_status slim_message_view(const slim_message *message, slim_message_fields *fields);

// Frees a message. NULL is allowed.
SLIM_API void slim_message_free(slim_message *message);

// Waits until the operation has ended and returns how, at most `timeout_ms`.
//
// It may be called again, and by several threads: each gets the same answer.
// Errors: TIMEOUT (it goes on), and those of the call that started it.
SLIM_API SLIM_CHECKED slim_status slim_op_wait(slim_op *op, int32_t timeout_ms);

// Asks that `tag` be put on the app's list when the operation ends: see slim_app_next_done(). At
// once if it has ended already.
SLIM_API slim_status slim_op_notify(slim_op *op, uint64_t tag);

// Frees the handle. The operation itself goes on. NULL is allowed.
SLIM_API void slim_op_free(slim_op *op);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SLIM_H */
