//! The messages of `dataplane.proto.v1`, written out by hand for `prost` (spec 09).
//!
//! Field names are the wire's own. Maps are ordered, so that the same message always encodes to
//! the same bytes.

use std::collections::BTreeMap;

use prost::bytes::Bytes;
use prost::{Enumeration, Message as ProstMessage, Oneof};

/// What travels over a link.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Message {
    /// What it is.
    #[prost(oneof = "MessageType", tags = "1, 2, 3, 5, 6")]
    pub message_type: Option<MessageType>,
    /// Key-value pairs, copied by nodes untouched.
    #[prost(btree_map = "string, string", tag = "4")]
    pub metadata: BTreeMap<String, String>,
}

/// The kinds of message.
#[derive(Clone, PartialEq, Oneof)]
pub enum MessageType {
    /// Asks for messages to a name.
    #[prost(message, tag = "1")]
    Subscribe(Subscribe),
    /// Takes a subscription back.
    #[prost(message, tag = "2")]
    Unsubscribe(Unsubscribe),
    /// A session message.
    #[prost(message, tag = "3")]
    Publish(Publish),
    /// The beginning of a link.
    #[prost(message, tag = "5")]
    Link(Link),
    /// Answer to Subscribe and Unsubscribe.
    #[prost(message, tag = "6")]
    SubscriptionAck(SubscriptionAck),
}

/// Asks for messages to `header.destination`.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Subscribe {
    /// Names, token, fanout, ttl, MAC.
    #[prost(message, optional, tag = "1")]
    pub header: Option<SlimHeader>,
    /// Names the request in its ack; 0 asks for no ack.
    #[prost(uint64, tag = "2")]
    pub subscription_id: u64,
}

/// Takes a subscription back.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Unsubscribe {
    /// As in the Subscribe.
    #[prost(message, optional, tag = "1")]
    pub header: Option<SlimHeader>,
    /// The id of the Subscribe that it takes back.
    #[prost(uint64, tag = "2")]
    pub subscription_id: u64,
}

/// A session message.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Publish {
    /// Names, token, fanout, ttl, MAC, signature.
    #[prost(message, optional, tag = "1")]
    pub header: Option<SlimHeader>,
    /// Kind and numbers.
    #[prost(message, optional, tag = "2")]
    pub session: Option<SessionHeader>,
    /// Payload or command.
    #[prost(message, optional, tag = "3")]
    pub msg: Option<Content>,
}

/// The header of everything but Link and SubscriptionAck (spec 01 section 8).
#[derive(Clone, PartialEq, ProstMessage)]
pub struct SlimHeader {
    /// Who sends.
    #[prost(message, optional, tag = "1")]
    pub source: Option<Name>,
    /// To whom.
    #[prost(message, optional, tag = "2")]
    pub destination: Option<Name>,
    /// The sender's identity token.
    #[prost(string, tag = "3")]
    pub identity: String,
    /// 1: one receiver; anything else: all.
    #[prost(uint32, tag = "4")]
    pub fanout: u32,
    /// The sender's version; nobody checks it.
    #[prost(string, tag = "5")]
    pub version: String,
    /// Hops left.
    #[prost(uint32, tag = "6")]
    pub ttl: u32,
    /// Local to upstream's processes; ignored when it comes from a link.
    #[prost(uint64, optional, tag = "7")]
    pub recv_from: Option<u64>,
    /// Local to upstream's processes; ignored when it comes from a link.
    #[prost(uint64, optional, tag = "8")]
    pub forward_to: Option<u64>,
    /// The receiving router's number of the link that the message came over.
    #[prost(uint64, optional, tag = "9")]
    pub incoming_conn: Option<u64>,
    /// Presence marks a failed retransmission.
    #[prost(bool, optional, tag = "10")]
    pub error: Option<bool>,
    /// HMAC of the hop.
    #[prost(bytes = "vec", optional, tag = "11")]
    pub header_mac: Option<Vec<u8>>,
    /// The sender's signature, on control messages.
    #[prost(bytes = "vec", optional, tag = "12")]
    pub e2e_header_sig: Option<Vec<u8>>,
}

/// Kind and numbers of a session message.
#[derive(Clone, Copy, PartialEq, ProstMessage)]
pub struct SessionHeader {
    /// [`SessionType`].
    #[prost(enumeration = "SessionType", tag = "1")]
    pub session_type: i32,
    /// [`SessionMessageType`].
    #[prost(enumeration = "SessionMessageType", tag = "2")]
    pub session_message_type: i32,
    /// The number that the session's creator chose.
    #[prost(uint32, tag = "3")]
    pub session_id: u32,
    /// Sequence number of data, random number of control messages.
    #[prost(uint32, tag = "4")]
    pub message_id: u32,
}

/// A name in both forms.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Name {
    /// Hashes and id.
    #[prost(message, optional, tag = "1")]
    pub name: Option<EncodedName>,
    /// The strings.
    #[prost(message, optional, tag = "2")]
    pub str_name: Option<StringName>,
}

/// A 128-bit id.
#[derive(Clone, Copy, PartialEq, ProstMessage)]
pub struct NameId {
    /// The high half.
    #[prost(uint64, tag = "1")]
    pub id_0: u64,
    /// The low half.
    #[prost(uint64, tag = "2")]
    pub id_1: u64,
}

/// Hashes and id.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct EncodedName {
    /// Hash of the organisation.
    #[prost(uint64, tag = "1")]
    pub component_0: u64,
    /// Hash of the namespace.
    #[prost(uint64, tag = "2")]
    pub component_1: u64,
    /// Hash of the service.
    #[prost(uint64, tag = "3")]
    pub component_2: u64,
    /// The instance.
    #[prost(message, optional, tag = "4")]
    pub name_id: Option<NameId>,
}

/// The strings of a name.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct StringName {
    /// The organisation.
    #[prost(string, tag = "1")]
    pub str_component_0: String,
    /// The namespace.
    #[prost(string, tag = "2")]
    pub str_component_1: String,
    /// The service.
    #[prost(string, tag = "3")]
    pub str_component_2: String,
}

/// Payload or command.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Content {
    /// Which.
    #[prost(oneof = "ContentType", tags = "1, 2")]
    pub content_type: Option<ContentType>,
}

/// Payload or command.
#[derive(Clone, PartialEq, Oneof)]
pub enum ContentType {
    /// Types 1 to 4.
    #[prost(message, tag = "1")]
    AppPayload(ApplicationPayload),
    /// Types 5 and up.
    #[prost(message, tag = "2")]
    CommandPayload(CommandPayload),
}

/// What an application sends.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct ApplicationPayload {
    /// What the bytes are, in the sender's words.
    #[prost(string, tag = "1")]
    pub payload_type: String,
    /// The bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub blob: Bytes,
}

/// A command of the session layer.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct CommandPayload {
    /// Which.
    #[prost(
        oneof = "CommandPayloadType",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16"
    )]
    pub command_payload_type: Option<CommandPayloadType>,
}

/// The commands of the session layer.
#[derive(Clone, PartialEq, Oneof)]
#[allow(missing_docs)]
pub enum CommandPayloadType {
    #[prost(message, tag = "1")]
    DiscoveryRequest(Empty),
    #[prost(message, tag = "2")]
    DiscoveryReply(Empty),
    #[prost(message, tag = "3")]
    JoinRequest(JoinRequestPayload),
    #[prost(message, tag = "4")]
    JoinReply(JoinReplyPayload),
    #[prost(message, tag = "5")]
    LeaveRequest(Empty),
    #[prost(message, tag = "6")]
    LeaveReply(Empty),
    #[prost(message, tag = "7")]
    GroupUpdate(GroupUpdatePayload),
    #[prost(message, tag = "8")]
    GroupWelcome(GroupWelcomePayload),
    #[prost(message, tag = "9")]
    GroupClose(GroupClosePayload),
    #[prost(message, tag = "10")]
    GroupProposal(GroupProposalPayload),
    #[prost(message, tag = "11")]
    GroupAck(Empty),
    #[prost(message, tag = "12")]
    GroupNack(Empty),
    #[prost(message, tag = "13")]
    Heartbeat(HeartbeatPayload),
    #[prost(message, tag = "14")]
    UpdateParticipantState(UpdateParticipantStatePayload),
    #[prost(message, tag = "15")]
    RejoinRequest(RejoinRequestPayload),
    #[prost(message, tag = "16")]
    RejoinReply(RejoinReplyPayload),
}

/// A payload without fields.
#[derive(Clone, Copy, PartialEq, ProstMessage)]
pub struct Empty {}

/// What a member does with data.
#[derive(Clone, Copy, PartialEq, ProstMessage)]
pub struct ParticipantSettings {
    /// It publishes.
    #[prost(bool, tag = "1")]
    pub sends_data: bool,
    /// It takes messages and acknowledges them.
    #[prost(bool, tag = "2")]
    pub receives_data: bool,
}

/// A member of a session.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Participant {
    /// Its full name.
    #[prost(message, optional, tag = "1")]
    pub name: Option<Name>,
    /// What it does with data.
    #[prost(message, optional, tag = "2")]
    pub settings: Option<ParticipantSettings>,
    /// [`ParticipantState`].
    #[prost(enumeration = "ParticipantState", tag = "3")]
    pub status: i32,
}

/// Invites into a session.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct JoinRequestPayload {
    /// Present in reliable sessions.
    #[prost(message, optional, tag = "1")]
    pub timer_settings: Option<TimerSettings>,
    /// The data channel of a group.
    #[prost(message, optional, tag = "2")]
    pub channel: Option<Name>,
    /// The control channel of a group.
    #[prost(message, optional, tag = "3")]
    pub control: Option<Name>,
    /// Present in MLS sessions.
    #[prost(message, optional, tag = "4")]
    pub mls_settings: Option<MlsSettings>,
}

/// Timers of a reliable session.
#[derive(Clone, Copy, PartialEq, ProstMessage)]
pub struct TimerSettings {
    /// Milliseconds between two tries.
    #[prost(uint32, tag = "1")]
    pub timeout: u32,
    /// How often a message is sent again.
    #[prost(uint32, tag = "2")]
    pub max_retries: u32,
}

/// Accepts an invitation.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct JoinReplyPayload {
    /// MLS key package, in MLS sessions.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub key_package: Option<Vec<u8>>,
    /// The new member.
    #[prost(message, optional, tag = "2")]
    pub participant: Option<Participant>,
}

/// An MLS object and its number.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct MlsPayload {
    /// Number of the commit.
    #[prost(uint32, tag = "1")]
    pub commit_id: u32,
    /// An MLSMessage.
    #[prost(bytes = "vec", tag = "2")]
    pub mls_content: Vec<u8>,
}

/// Marks an MLS session.
#[derive(Clone, Copy, PartialEq, ProstMessage)]
pub struct MlsSettings {
    /// How many of 100 messages have their header compared with the MLS copy.
    #[prost(uint32, tag = "1")]
    pub header_integrity_validation_percent: u32,
}

/// Tells the members of a change.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct GroupUpdatePayload {
    /// [`GroupUpdateOp`].
    #[prost(enumeration = "GroupUpdateOp", tag = "1")]
    pub op: i32,
    /// Whom it concerns.
    #[prost(message, optional, tag = "2")]
    pub participant: Option<Participant>,
    /// Everybody.
    #[prost(message, repeated, tag = "3")]
    pub participants: Vec<Participant>,
    /// The commit, in MLS sessions.
    #[prost(message, optional, tag = "4")]
    pub mls: Option<MlsPayload>,
}

/// Tells a new member who is there.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct GroupWelcomePayload {
    /// Everybody.
    #[prost(message, repeated, tag = "1")]
    pub participants: Vec<Participant>,
    /// The welcome, in MLS sessions.
    #[prost(message, optional, tag = "2")]
    pub mls: Option<MlsPayload>,
}

/// Ends a session.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct GroupClosePayload {
    /// Everybody.
    #[prost(message, repeated, tag = "1")]
    pub participants: Vec<Name>,
}

/// Never sent by anybody.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct GroupProposalPayload {
    /// Whose.
    #[prost(message, optional, tag = "1")]
    pub source: Option<Name>,
    /// An MLSMessage.
    #[prost(bytes = "vec", tag = "2")]
    pub mls_proposal: Vec<u8>,
}

/// "I am here."
#[derive(Clone, Copy, PartialEq, ProstMessage)]
pub struct HeartbeatPayload {
    /// The sender's MLS epoch; 2^64-1 without MLS.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
}

/// A member goes away or comes back.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct UpdateParticipantStatePayload {
    /// Who.
    #[prost(message, optional, tag = "1")]
    pub participant: Option<Name>,
    /// [`ParticipantState`].
    #[prost(enumeration = "ParticipantState", tag = "2")]
    pub new_state: i32,
    /// The sender's MLS epoch; 0 without MLS.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}

/// A member that lost track of the MLS group.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct RejoinRequestPayload {
    /// Who.
    #[prost(message, optional, tag = "1")]
    pub participant: Option<Name>,
    /// A fresh MLS key package.
    #[prost(bytes = "vec", tag = "2")]
    pub key_package: Vec<u8>,
}

/// Answer to a rejoin.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct RejoinReplyPayload {
    /// Number of the commit.
    #[prost(uint32, tag = "1")]
    pub commit_id: u32,
    /// The welcome.
    #[prost(bytes = "vec", tag = "2")]
    pub mls_content: Vec<u8>,
}

/// Answer to Subscribe and Unsubscribe.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct SubscriptionAck {
    /// The id of the request.
    #[prost(uint64, tag = "1")]
    pub subscription_id: u64,
    /// Whether it was done.
    #[prost(bool, tag = "2")]
    pub success: bool,
    /// Why not.
    #[prost(string, tag = "3")]
    pub error: String,
}

/// A message about the link itself.
#[derive(Clone, PartialEq, ProstMessage)]
pub struct Link {
    /// The only kind there is.
    #[prost(oneof = "LinkType", tags = "1")]
    pub link_type: Option<LinkType>,
}

/// A message about the link itself.
#[derive(Clone, PartialEq, Oneof)]
pub enum LinkType {
    /// The first message in each direction.
    #[prost(message, tag = "1")]
    LinkNegotiation(LinkNegotiationPayload),
}

/// The first message of a link in each direction (spec 01 section 5.1).
#[derive(Clone, PartialEq, ProstMessage)]
pub struct LinkNegotiationPayload {
    /// Chosen by the dialler, echoed.
    #[prost(string, tag = "1")]
    pub link_id: String,
    /// The sender's version: semver.
    #[prost(string, tag = "2")]
    pub slim_version: String,
    /// The acceptor's message.
    #[prost(bool, tag = "3")]
    pub is_reply: bool,
    /// X25519 public key.
    #[prost(bytes = "vec", tag = "4")]
    pub link_ecdh_public_key: Vec<u8>,
    /// [`LinkConnectionType`], echoed.
    #[prost(enumeration = "LinkConnectionType", tag = "5")]
    pub connection_type: i32,
    /// The sender's node.
    #[prost(string, tag = "6")]
    pub node_id: String,
    /// The sender's deployment.
    #[prost(string, tag = "7")]
    pub deployment_name: String,
    /// ML-KEM key or ciphertext.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub link_kem_payload: Option<Vec<u8>>,
}

/// What `e2e_header_sig` signs (spec 03 section 3.2).
#[derive(Clone, PartialEq, ProstMessage)]
pub struct HeaderIntegrityAad {
    /// Always 1.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// As in the header.
    #[prost(message, optional, tag = "2")]
    pub source: Option<Name>,
    /// As in the header.
    #[prost(message, optional, tag = "3")]
    pub destination: Option<Name>,
    /// As in the header.
    #[prost(string, tag = "4")]
    pub identity: String,
    /// As in the session header.
    #[prost(int32, tag = "5")]
    pub session_type: i32,
    /// As in the session header.
    #[prost(int32, tag = "6")]
    pub session_message_type: i32,
    /// As in the session header.
    #[prost(uint32, tag = "7")]
    pub session_id: u32,
    /// As in the session header.
    #[prost(uint32, tag = "8")]
    pub message_id: u32,
    /// Of an application payload.
    #[prost(string, tag = "9")]
    pub payload_type: String,
}

/// Kinds of session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum SessionType {
    Unspecified = 0,
    PointToPoint = 1,
    Multicast = 2,
}

/// Kinds of session message (spec 03 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum SessionMessageType {
    Unspecified = 0,
    Msg = 1,
    MsgAck = 2,
    RtxRequest = 3,
    RtxReply = 4,
    DiscoveryRequest = 5,
    DiscoveryReply = 6,
    JoinRequest = 7,
    JoinReply = 8,
    LeaveRequest = 9,
    LeaveReply = 10,
    GroupUpdate = 11,
    GroupWelcome = 12,
    GroupClose = 13,
    GroupProposal = 14,
    GroupAck = 15,
    GroupNack = 16,
    Heartbeat = 17,
    UpdateParticipantState = 18,
    RejoinRequest = 19,
    RejoinReply = 20,
}

impl SessionMessageType {
    /// Whether the message is signed twice: everything but the four kinds of data (spec 03
    /// section 3.3).
    pub fn is_control(self) -> bool {
        self as i32 >= SessionMessageType::DiscoveryRequest as i32
    }
}

/// Whether a member can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum ParticipantState {
    Online = 0,
    Offline = 1,
}

/// What a GROUP_UPDATE tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum GroupUpdateOp {
    Add = 0,
    Remove = 1,
    Rejoin = 2,
}

/// What is on the other side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum LinkConnectionType {
    Remote = 0,
    Peer = 1,
    Edge = 2,
}
