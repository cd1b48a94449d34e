//! Every bound of the library, by name. Sizes are in bytes, times are durations; each is tested at
//! the limit and one past it where it is enforced.

use std::time::Duration;

/// Largest gRPC message accepted from a link (spec 01 section 1.2): one byte more closes the link.
pub const MAX_RECEIVED_MESSAGE: usize = 4 * 1024 * 1024;
/// Largest encoded message that we send; above it a publish is refused locally, and a node drops a
/// message that would not fit the next hop (DESIGN decision 17).
pub const MAX_SENT_MESSAGE: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Pairs of metadata and members of a group in one message; one with more is not decoded.
pub const REPEATED_PARTS: usize = 65_536;
/// HTTP/2 stream window that we announce (and, for servers, the connection window).
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 connection window that we announce.
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Largest HTTP/2 header list accepted, counted as RFC 9113 section 6.5.2 does.
pub const MAX_HEADER_LIST: usize = 16 * 1024;
/// HTTP/2 is fed at most this much at a time, and drained after each.
pub const HTTP2_FEED: usize = 16 * 1024;
/// How long a link may take to negotiate (spec 01 section 5.1).
pub const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(5);
/// An accepted connection that sends no request for this long is closed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A dialled connection that gets no response head for this long is closed and dialled again.
pub const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of frames made ready for one socket at a time; the rest waits in the stream's queue,
/// where it can still share frames.
pub const SOCKET_BUFFER: usize = 256 * 1024;

/// Messages that a sender keeps for retransmission, and the reliable window: how many may be
/// unacknowledged (spec 03 section 9).
pub const SENDER_WINDOW: usize = 512;
/// Payload bytes that one session may have handed over and not yet seen sent (best effort) or
/// acknowledged (reliable). A single larger message still goes when nothing else waits.
pub const SESSION_BYTES: usize = 8 * 1024 * 1024;
/// Payload bytes of undelivered messages that a session keeps, should they be asked for after all.
pub const UNDELIVERED_BYTES: usize = 1024 * 1024;
/// Messages that a best-effort session may have handed over and not yet seen sent.
pub const BEST_EFFORT_MESSAGES: usize = 4096;
/// Numbers of a best-effort sender that are remembered, to see what comes twice.
pub const BEST_EFFORT_NUMBERS: u32 = 4096;
/// Bytes after a gap that a receiver keeps: what a sender may have under way.
pub const RECEIVER_BYTES: usize = SESSION_BYTES;
/// Bytes after gaps that a session keeps, of all senders together.
pub const GAP_BYTES: usize = 4 * RECEIVER_BYTES;
/// Messages after a gap that a receiver keeps, and the widest gap that it asks to be filled.
pub const RECEIVER_WINDOW: u32 = 512;
/// So many messages that one member has not acknowledged any of, and the keys of the group are renewed
/// before the next would be out of its reach.
pub const MLS_UNHEARD_MESSAGES: u32 = MLS_SKIPPED_MESSAGES / 4 * 3;
/// Epochs before the present one whose messages an encrypted group can still open.
pub const MLS_PAST_EPOCHS: usize = 3;
/// How far messages of one sender may overtake another, or be lost, for each to be opened still.
pub const MLS_SKIPPED_MESSAGES: u32 = 1024;
/// Messages of epochs to come that an encrypted session keeps: their keys are on the way.
pub const MLS_EARLY_MESSAGES: usize = 512;
/// And their bytes.
pub const MLS_EARLY_BYTES: usize = 1024 * 1024;
/// They are kept for so long.
pub const MLS_EARLY_TIME: Duration = Duration::from_secs(10);
/// Commits that a member keeps when one before them is missing.
pub const MLS_EARLY_COMMITS: usize = 16;
/// Commits that the moderator keeps for a member which cannot be reached. Whoever misses more has to
/// get new keys.
pub const MLS_MISSED_COMMITS: usize = 16;
/// A member that is behind waits for so long for the missing commit, then it asks for new keys.
pub const MLS_COMMIT_WAIT: Duration = Duration::from_secs(3);
/// A member's clock may be ahead by so much that a commit which lets it in is waited with.
pub const MLS_CLOCK_WAIT: Duration = Duration::from_secs(180);
/// Between two times that a member asks for new keys.
pub const MLS_REJOIN_PAUSE: Duration = Duration::from_secs(30);
/// A moderator gives one member new keys no more often than this.
pub const MLS_REJOIN_GAP: Duration = Duration::from_secs(1);
/// Requests of one member for new keys that its moderator remembers.
pub const MLS_REJOINS: usize = 16;
/// How often [`MLS_COMMIT_WAIT`] doubles at most, where data of keys to come proves to be false: to
/// 25 minutes.
pub const MLS_DOUBTS: u32 = 9;
/// A place in an encrypted group gets a new token after this; or after two thirds of its token's
/// life, if that is less.
pub const MLS_REFRESH: Duration = Duration::from_secs(50 * 60);
/// Time between two heartbeats, and between two looks at who was silent.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// Silent looks after which a peer counts as offline.
pub const MISSED_HEARTBEATS: u32 = 3;
/// Default time between two tries of a message.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Default number of times that a message is sent again.
pub const MAX_RETRIES: u32 = 10;
/// Longest time between two tries that a session may ask for.
pub const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(3600);
/// Shortest time between two tries that a session may ask for.
pub const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// Shortest time between two tries that a peer may have us keep.
pub const PEER_RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// How often a peer may have us send a message again.
pub const PEER_MAX_RETRIES: u32 = 1000;
/// A session that is closing is cut after this.
pub const CLOSE_GRACE: Duration = Duration::from_secs(60);
/// Sessions of one app.
pub const SESSIONS: usize = 65_536;
/// Control messages of one sender that a session remembers, to see repetitions.
pub const SEEN_CONTROL_MESSAGES: usize = 1000;
/// Senders whose control messages a session remembers.
pub const SEEN_CONTROL_SENDERS: usize = 100;
/// Discovery requests that an app remembers having answered.
pub const DISCOVERY_MEMO: usize = 128;
/// For how long it remembers them.
pub const DISCOVERY_MEMO_TIME: Duration = Duration::from_secs(15);
/// A repeated discovery request is answered again at the earliest after this.
pub const DISCOVERY_REPEAT: Duration = Duration::from_millis(250);
/// Ended sessions whose last reply is kept, in case it was lost.
pub const ENDED_SESSIONS: usize = 128;
/// For how long it is kept.
pub const ENDED_SESSION_TIME: Duration = Duration::from_secs(30);
/// Fanout of messages to everybody.
pub const FANOUT_ALL: u32 = 256;
/// Sessions that a session with any instance has at once, one for each message.
pub const ANYCAST_FLOWS: usize = 64;
/// Such a session is closed when nothing has happened in it for this long.
pub const ANYCAST_IDLE: Duration = Duration::from_secs(30);
/// A best-effort message may take so long to arrive before its session is closed for others.
pub const ANYCAST_PAUSE: Duration = Duration::from_secs(1);
/// Members of a group besides this side; it invites no more, and accepts no news of more.
pub const MEMBERS: usize = 1024;
/// Changes of a group that are kept for a member which cannot be reached.
pub const MISSED_UPDATES: usize = 1024;
/// Invitations and removals of a group that wait for those before them; more are refused.
pub const WAITING_CHANGES: usize = 1024;
/// Removed members that did not confirm it and are remembered, to be told again.
pub const UNCONFIRMED_REMOVALS: usize = 1024;
/// Hops that a message may make.
pub const TTL: u32 = 8;
/// Time between two tries of a subscription.
pub const SUBSCRIPTION_RETRY: Duration = Duration::from_secs(5);
/// Tries of a subscription after the first.
pub const SUBSCRIPTION_RETRIES: u32 = 3;
/// An app waits this long for a subscription to be acknowledged; trying goes on behind it.
pub const SUBSCRIPTION_WAIT: Duration = Duration::from_secs(10);
/// Entries of metadata with one message.
pub const METADATA_ENTRIES: usize = 256;
/// Largest key or value of metadata, and largest payload type, in bytes.
pub const METADATA_TEXT: usize = 64 * 1024;
/// Entries of metadata with one message of a peer: those of its user and the protocol's own.
pub const PEER_METADATA_ENTRIES: usize = METADATA_ENTRIES + 16;
/// Longest token of a peer, in bytes. Those of shared secrets take some 250, signed ones a few
/// thousand.
pub const TOKEN_LEN: usize = 16 * 1024;
/// Longest name, all three parts together, in bytes.
pub const NAME_LEN: usize = 4096;
/// Tokens of others that a verifier remembers to be good.
pub const VERIFIED_TOKENS: usize = 1024;
/// What a message has besides payload, type and metadata: names, token, numbers, signatures.
pub const MESSAGE_OVERHEAD: usize = 32 * 1024;
/// Subscriptions of one connection: each name under each number.
pub const SUBSCRIPTIONS: usize = 65_536;
/// Bytes of acknowledgements of subscriptions that may wait for one link; those beyond are dropped,
/// and who misses one asks again.
pub const WAITING_ACKS: usize = 64 * 1024;
/// Bytes read from one socket in one turn of the loop; then the others get theirs.
pub const READ_BUDGET: usize = 64 * 1024;
/// Connections accepted from one listener in one turn of the loop.
pub const ACCEPT_BUDGET: usize = 64;
/// So long after a link has made way for another somebody may not have subscribed over that one yet.
pub const HANDOVER: Duration = Duration::from_secs(1);
/// How long a closed socket may take to write its last bytes and see the peer's end.
pub const LINGER: Duration = Duration::from_secs(2);

/// So many of something at once, and so many more with each second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u64,
    /// With each second.
    pub per_second: u64,
}

/// Streams that a client may have open. We take one; the others are refused one by one, which
/// spares the first what a smaller number would do to it: nghttp2 ends the connection.
pub const CONCURRENT_STREAMS: u32 = 16;
/// Streams that are refused before the connection is ended.
pub const REFUSED_STREAMS: u32 = 100;
/// PING and SETTINGS acknowledgements that may wait to be sent.
pub const OUTBOUND_ACKS: usize = 1000;
/// HTTP/2 frames other than DATA that may wait to be sent: acknowledgements and a few more.
pub const WAITING_FRAMES: usize = OUTBOUND_ACKS + 100;
/// Entries of one SETTINGS frame.
pub const SETTINGS_ENTRIES: usize = 32;
/// CONTINUATION frames of one header block.
pub const CONTINUATIONS: usize = 8;
/// RST_STREAM frames of the peer.
pub const STREAM_RESETS: Rate = Rate { burst: 100, per_second: 10 };
/// HTTP/2 frames that are legal but suspicious.
pub const GLITCHES: Rate = Rate { burst: 1000, per_second: 33 };
/// Bytes of control frames that are made ready while receiving; a frame may exceed it.
pub const READY_CONTROL: usize = 16 * 1024;
/// A drained buffer of control frames keeps at most this.
pub const KEPT_CONTROL: usize = 1024;
/// Accepting that failed for lack of descriptors is tried again after this.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// A link to an app that takes nothing for this long while data waits is cut; for a link between
/// nodes, what is in transit is dropped until it moves again.
pub const STUCK_RECEIVER_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages in the inbox of a session before no more are taken.
pub const INBOX_MESSAGES: usize = 8192;
/// Payload bytes in the inbox of a session before no more are taken. The message that passes the
/// limit is still taken.
pub const INBOX_BYTES: usize = 16 * 1024 * 1024;
/// A warning is written again at the earliest after this; those between are counted.
pub const REPEATED_WARNING: Duration = Duration::from_secs(10);
/// Different warnings that are remembered for that.
pub const REMEMBERED_WARNINGS: usize = 64;
/// Bytes that may wait for one link before messages in transit to it are dropped. Windows keep it
/// far lower, unless senders come back on new links again and again.
pub const TRANSIT_BACKLOG: usize = 32 * 1024 * 1024;
/// Bytes of acknowledgements, repetitions and heartbeats that may wait for a link before more of them
/// are dropped: they come again by themselves.
pub const REPEAT_BACKLOG: usize = 2 * 1024 * 1024;
/// A link that was replaced by a new one, as its peer asked for, may take so long to end.
pub const RETIRED_LINK: Duration = Duration::from_secs(60);
/// A link that was up for less than this is dialled again under the backoff, not at once.
pub const STABLE_LINK: Duration = Duration::from_millis(100);
/// One of several addresses of a host name may take so long to connect.
pub const ADDRESS_ATTEMPT: Duration = Duration::from_secs(5);
/// Sessions that wait to be accepted by an app; more are refused.
pub const INVITATIONS: usize = 1024;
/// Bytes of a node's file, each of its aliases counted as what it stands for.
pub const CONFIG_BYTES: usize = 1024 * 1024;
/// How deep its lists and mappings may be nested.
pub const CONFIG_DEPTH: usize = 64;
/// How far ahead of what was delivered a sender may be to be followed; further is not believed.
pub const RECEIVER_JUMP: u32 = 1 << 20;
/// A welcome is waited for no longer than this, whatever timers the moderator has.
pub const WELCOME_WAIT: Duration = Duration::from_secs(300);
/// Bytes that a link keeps between two messages for the text of a MAC.
pub const MAC_SCRATCH: usize = 4 * 1024;
/// Lists of events keep room for this many: a burst of tiny frames must not cost an idle link its
/// memory.
pub const KEPT_EVENTS: usize = 16;
/// Bytes of a struct of options from a caller that was compiled against another release: more is
/// no struct of ours.
pub const OPTIONS_SIZE: usize = 4096;
