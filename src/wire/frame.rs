//! One message on its way through a node: its bytes, and the few fields that routing needs.
//!
//! Routing and links only use what this type offers, so that what stands behind it can change: now
//! it is a decoded [`Message`]; a view on the raw bytes fits the same interface.

use std::fmt;

use prost::Message as _;

use super::{LinkNegotiationPayload, LinkType, Message, MessageType, SlimHeader, SubscriptionAck};
use crate::link::key::{LinkKey, MacError};
use crate::name::EncodedName;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A session message.
    Publish,
    /// Asks for messages to a name.
    Subscribe,
    /// Takes a subscription back.
    Unsubscribe,
    /// Answers one of the two above.
    SubscriptionAck,
    /// Negotiation of the link.
    Link,
    /// No kind is set: such a message is ignored (DESIGN decision 16).
    Empty,
}

/// One message on its way through a node.
#[derive(Clone, Debug)]
pub struct Frame {
    message: Message,
    kind: FrameKind,
}

impl Frame {
    /// Reads a frame from the bytes of one gRPC message. An error means that the link must be
    /// closed (spec 01 section 1.2).
    pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
        let message = Message::decode(bytes).map_err(|e| FrameError::Protobuf(e.to_string()))?;
        Ok(Frame::new(message))
    }

    /// A frame made here.
    pub fn new(message: Message) -> Frame {
        let kind = match &message.message_type {
            Some(MessageType::Publish(_)) => FrameKind::Publish,
            Some(MessageType::Subscribe(_)) => FrameKind::Subscribe,
            Some(MessageType::Unsubscribe(_)) => FrameKind::Unsubscribe,
            Some(MessageType::SubscriptionAck(_)) => FrameKind::SubscriptionAck,
            Some(MessageType::Link(_)) => FrameKind::Link,
            None => FrameKind::Empty,
        };
        Frame { message, kind }
    }

    /// What it is for.
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Checks what every node checks before routing (spec 02 section 2.2). A frame that fails is
    /// dropped, the link goes on.
    pub fn validate(&self) -> Result<(), FrameError> {
        match self.kind {
            FrameKind::Empty => return Err(FrameError::Invalid("message type not found")),
            FrameKind::SubscriptionAck => return Ok(()),
            FrameKind::Link => {
                let set = self.negotiation().is_some();
                return set.then_some(()).ok_or(FrameError::Invalid("link type is not set"));
            }
            FrameKind::Publish | FrameKind::Subscribe | FrameKind::Unsubscribe => {}
        }
        let header = self.header().ok_or(FrameError::Invalid("SLIM header not found"))?;
        let source = header.source.as_ref().ok_or(FrameError::Invalid("source not found"))?;
        if source.name.is_none() {
            return Err(FrameError::Invalid("source encoded name not found"));
        }
        let destination =
            header.destination.as_ref().ok_or(FrameError::Invalid("destination not found"))?;
        if destination.name.is_none() {
            return Err(FrameError::Invalid("destination encoded name not found"));
        }
        if let Some(MessageType::Publish(publish)) = &self.message.message_type {
            if publish.session.is_none() {
                return Err(FrameError::Invalid("session header not found"));
            }
        }
        Ok(())
    }

    /// Where it goes. `None` before [`Frame::validate`] has passed, or for acks and negotiation.
    pub fn destination(&self) -> Option<EncodedName> {
        let name = self.header()?.destination.as_ref()?;
        Some(EncodedName::from_wire(name.name.as_ref()?))
    }

    /// 1 for one receiver, anything else for all; 0 where there is no header.
    pub fn fanout(&self) -> u32 {
        self.header().map_or(0, |header| header.fanout)
    }

    /// The number that an ack to this request carries; 0 for none.
    pub fn subscription_id(&self) -> u64 {
        match &self.message.message_type {
            Some(MessageType::Subscribe(s)) => s.subscription_id,
            Some(MessageType::Unsubscribe(s)) => s.subscription_id,
            _ => 0,
        }
    }

    /// The ack in this frame.
    pub fn subscription_ack(&self) -> Option<&SubscriptionAck> {
        match &self.message.message_type {
            Some(MessageType::SubscriptionAck(ack)) => Some(ack),
            _ => None,
        }
    }

    /// The negotiation in this frame.
    pub fn negotiation(&self) -> Option<&LinkNegotiationPayload> {
        match &self.message.message_type {
            Some(MessageType::Link(link)) => match &link.link_type {
                Some(LinkType::LinkNegotiation(payload)) => Some(payload),
                None => None,
            },
            _ => None,
        }
    }

    /// Counts one hop. `false`: the frame has used up its hops and is dropped (spec 02 section
    /// 5.1).
    pub fn count_hop(&mut self) -> bool {
        let Some(header) = self.header_mut() else {
            return false;
        };
        header.ttl = header.ttl.saturating_sub(1);
        header.ttl > 0
    }

    /// Checks the MAC of the hop that it came over.
    pub fn verify(&self, key: &LinkKey) -> Result<(), MacError> {
        match self.header() {
            Some(header) => key.verify(header),
            None => Err(MacError::Missing),
        }
    }

    /// Whether a MAC is there at all (an empty one counts as none).
    pub fn has_mac(&self) -> bool {
        self.header().and_then(|h| h.header_mac.as_ref()).is_some_and(|mac| !mac.is_empty())
    }

    /// Appends the frame as it leaves over a link: the fields that never travel cleared, our
    /// number of the connection that it came over set, signed with `key`. Nothing is appended
    /// when the encoded frame would be longer than `limit` bytes.
    pub fn encode(
        &mut self,
        incoming: Option<u64>,
        key: Option<&LinkKey>,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        if let Some(header) = self.header_mut() {
            header.recv_from = None;
            header.forward_to = None;
            header.incoming_conn = incoming;
            header.header_mac = None;
            if let Some(key) = key {
                header.header_mac = Some(key.mac(header).to_vec());
            }
        }
        let len = self.message.encoded_len();
        if len > limit {
            return Err(FrameError::TooLong { len, limit });
        }
        out.reserve(len);
        self.message.encode_raw(out);
        Ok(())
    }

    /// The whole message, for delivery to a local app. The hop's MAC means nothing there.
    pub fn into_message(mut self) -> Message {
        if let Some(header) = self.header_mut() {
            header.header_mac = None;
        }
        self.message
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The destination with its strings: subscriptions need them.
    pub fn destination_name(&self) -> Option<crate::name::Name> {
        crate::name::Name::from_wire(self.header()?.destination.as_ref()?)
    }

    fn header(&self) -> Option<&SlimHeader> {
        match self.message.message_type.as_ref()? {
            MessageType::Publish(m) => m.header.as_ref(),
            MessageType::Subscribe(m) => m.header.as_ref(),
            MessageType::Unsubscribe(m) => m.header.as_ref(),
            MessageType::Link(_) | MessageType::SubscriptionAck(_) => None,
        }
    }

    fn header_mut(&mut self) -> Option<&mut SlimHeader> {
        match self.message.message_type.as_mut()? {
            MessageType::Publish(m) => m.header.as_mut(),
            MessageType::Subscribe(m) => m.header.as_mut(),
            MessageType::Unsubscribe(m) => m.header.as_mut(),
            MessageType::Link(_) | MessageType::SubscriptionAck(_) => None,
        }
    }
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Not a protobuf message of this schema: the link must be closed.
    Protobuf(String),
    /// A part is missing: the frame is dropped.
    Invalid(&'static str),
    /// Longer than the next hop takes: the frame is dropped.
    TooLong {
        /// Its encoded length in bytes.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Protobuf(cause) => write!(f, "not a SLIM message: {cause}"),
            FrameError::Invalid(what) => write!(f, "malformed message: {what}"),
            FrameError::TooLong { len, limit } => {
                write!(f, "message of {len} bytes is over the limit of {limit} bytes")
            }
        }
    }
}

impl std::error::Error for FrameError {}
