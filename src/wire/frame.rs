//! One message on its way through a node: its bytes, and the few fields that routing needs.
//!
//! Routing and links only use what this type offers. Behind it is a view on the bytes as they came,
//! or a decoded [`Message`]; nobody else knows which.

use std::fmt;

use prost::Message as _;

use super::canonical::HeaderFields;
use super::repeats;
use super::view::View;
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

/// What a frame's bytes mean, without the bytes.
#[derive(Clone, Debug)]
pub struct Parsed(Shape);

#[derive(Clone, Debug)]
enum Shape {
    /// Forwarded as it came, but for a few fields.
    View(View),
    /// Everything that has another shape, or was made here.
    Message(Box<Message>),
}

impl Parsed {
    /// The frame, with the bytes that this was read from.
    pub fn on(self, bytes: &[u8]) -> Frame<'_> {
        Frame { shape: self.0, bytes }
    }
}

/// One message on its way through a node.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    shape: Shape,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a frame from the bytes of one gRPC message. An error means that the link must be
    /// closed (spec 01 section 1.2).
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        if let Some(view) = View::read(bytes) {
            return Ok(Frame { shape: Shape::View(view), bytes });
        }
        if repeats::are_too_many(bytes) {
            // It is ignored like an empty one: the link may serve others, too.
            log::warn!("a message of {} bytes with too many parts was dropped", bytes.len());
            return Ok(Frame::new(Box::default()));
        }
        let message = Message::decode(bytes).map_err(|e| FrameError::Protobuf(e.to_string()))?;
        Ok(Frame::new(Box::new(message)))
    }

    /// A frame made here.
    pub fn new(message: Box<Message>) -> Frame<'a> {
        Frame { shape: Shape::Message(message), bytes: &[] }
    }

    /// What remains when its bytes are put aside.
    pub fn into_parsed(self) -> Parsed {
        Parsed(self.shape)
    }

    /// Whether it is forwarded without being decoded. Only tests need to know.
    pub fn is_view(&self) -> bool {
        matches!(self.shape, Shape::View(_))
    }

    /// What it is for.
    pub fn kind(&self) -> FrameKind {
        match &self.shape {
            Shape::View(_) => FrameKind::Publish,
            Shape::Message(message) => match &message.message_type {
                Some(MessageType::Publish(_)) => FrameKind::Publish,
                Some(MessageType::Subscribe(_)) => FrameKind::Subscribe,
                Some(MessageType::Unsubscribe(_)) => FrameKind::Unsubscribe,
                Some(MessageType::SubscriptionAck(_)) => FrameKind::SubscriptionAck,
                Some(MessageType::Link(_)) => FrameKind::Link,
                None => FrameKind::Empty,
            },
        }
    }

    /// Checks what every node checks before routing (spec 02 section 2.2). A frame that fails is
    /// dropped, the link goes on.
    pub fn validate(&self) -> Result<(), FrameError> {
        let Shape::Message(message) = &self.shape else { return Ok(()) };
        match self.kind() {
            FrameKind::Empty => return Err(FrameError::Invalid("message type not found")),
            FrameKind::SubscriptionAck => return Ok(()),
            FrameKind::Link => {
                let set = self.negotiation().is_some();
                return set.then_some(()).ok_or(FrameError::Invalid("link type is not set"));
            }
            FrameKind::Publish | FrameKind::Subscribe | FrameKind::Unsubscribe => {}
        }
        let header = header(message).ok_or(FrameError::Invalid("SLIM header not found"))?;
        let source = header.source.as_ref().ok_or(FrameError::Invalid("source not found"))?;
        if source.name.is_none() {
            return Err(FrameError::Invalid("source encoded name not found"));
        }
        let destination =
            header.destination.as_ref().ok_or(FrameError::Invalid("destination not found"))?;
        if destination.name.is_none() {
            return Err(FrameError::Invalid("destination encoded name not found"));
        }
        if let Some(MessageType::Publish(publish)) = &message.message_type {
            if publish.session.is_none() {
                return Err(FrameError::Invalid("session header not found"));
            }
        }
        Ok(())
    }

    /// Where it goes. `None` before [`Frame::validate`] has passed, or for acks and negotiation.
    pub fn destination(&self) -> Option<EncodedName> {
        match &self.shape {
            Shape::View(view) => Some(view.destination()),
            Shape::Message(message) => {
                let name = header(message)?.destination.as_ref()?;
                Some(EncodedName::from_wire(name.name.as_ref()?))
            }
        }
    }

    /// 1 for one receiver, anything else for all; 0 where there is no header.
    pub fn fanout(&self) -> u32 {
        match &self.shape {
            Shape::View(view) => view.fanout(),
            Shape::Message(message) => header(message).map_or(0, |header| header.fanout),
        }
    }

    /// The number that an ack to this request carries; 0 for none.
    pub fn subscription_id(&self) -> u64 {
        match self.message_type() {
            Some(MessageType::Subscribe(s)) => s.subscription_id,
            Some(MessageType::Unsubscribe(s)) => s.subscription_id,
            _ => 0,
        }
    }

    /// The ack in this frame.
    pub fn subscription_ack(&self) -> Option<&SubscriptionAck> {
        match self.message_type() {
            Some(MessageType::SubscriptionAck(ack)) => Some(ack),
            _ => None,
        }
    }

    /// The negotiation in this frame.
    pub fn negotiation(&self) -> Option<&LinkNegotiationPayload> {
        match self.message_type() {
            Some(MessageType::Link(link)) => match &link.link_type {
                Some(LinkType::LinkNegotiation(payload)) => Some(payload),
                None => None,
            },
            _ => None,
        }
    }

    /// What was decoded: everything but the usual kind of Publish.
    fn message_type(&self) -> Option<&MessageType> {
        match &self.shape {
            Shape::View(_) => None,
            Shape::Message(message) => message.message_type.as_ref(),
        }
    }

    /// Counts one hop. `false`: the frame has used up its hops and is dropped (spec 02 section
    /// 5.1).
    pub fn count_hop(&mut self) -> bool {
        let ttl = match &mut self.shape {
            Shape::View(view) => &mut view.ttl,
            Shape::Message(message) => match header_mut(message) {
                Some(header) => &mut header.ttl,
                None => return false,
            },
        };
        *ttl = ttl.saturating_sub(1);
        *ttl > 0
    }

    /// Checks the MAC of the hop that it came over.
    pub fn verify(&self, key: &LinkKey) -> Result<(), MacError> {
        match self.header_fields() {
            Some(header) => key.verify(header),
            None => Err(MacError::Missing),
        }
    }

    /// Whether a MAC is there at all (an empty one counts as none).
    pub fn has_mac(&self) -> bool {
        self.header_fields().and_then(|h| h.mac).is_some_and(|mac| !mac.is_empty())
    }

    fn header_fields(&self) -> Option<HeaderFields<'_>> {
        match &self.shape {
            Shape::View(view) => Some(view.header(self.bytes)),
            Shape::Message(message) => header(message).map(HeaderFields::from),
        }
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
        let message = match &mut self.shape {
            Shape::View(view) => return view.encode(self.bytes, incoming, key, limit, out),
            Shape::Message(message) => message,
        };
        if let Some(header) = header_mut(message) {
            header.recv_from = None;
            header.forward_to = None;
            header.incoming_conn = incoming;
            header.header_mac = None;
            if let Some(key) = key {
                header.header_mac = Some(key.mac(&*header).to_vec());
            }
        }
        let len = message.encoded_len();
        if len > limit {
            return Err(FrameError::TooLong { len, limit });
        }
        out.reserve(len);
        message.encode_raw(out);
        Ok(())
    }

    /// The whole message, for delivery to a local app. The hop's MAC means nothing there.
    pub fn into_message(self) -> Result<Message, FrameError> {
        let mut message = match self.shape {
            Shape::Message(message) => *message,
            Shape::View(_) if repeats::are_too_many(self.bytes) => {
                return Err(FrameError::Invalid("too many parts"));
            }
            Shape::View(view) => {
                let mut message = Message::decode(self.bytes)
                    .map_err(|error| FrameError::Protobuf(error.to_string()))?;
                if let Some(header) = header_mut(&mut message) {
                    header.ttl = view.ttl;
                }
                message
            }
        };
        if let Some(header) = header_mut(&mut message) {
            header.header_mac = None;
        }
        Ok(message)
    }
}

fn header(message: &Message) -> Option<&SlimHeader> {
    match message.message_type.as_ref()? {
        MessageType::Publish(m) => m.header.as_ref(),
        MessageType::Subscribe(m) => m.header.as_ref(),
        MessageType::Unsubscribe(m) => m.header.as_ref(),
        MessageType::Link(_) | MessageType::SubscriptionAck(_) => None,
    }
}

fn header_mut(message: &mut Message) -> Option<&mut SlimHeader> {
    match message.message_type.as_mut()? {
        MessageType::Publish(m) => m.header.as_mut(),
        MessageType::Subscribe(m) => m.header.as_mut(),
        MessageType::Unsubscribe(m) => m.header.as_mut(),
        MessageType::Link(_) | MessageType::SubscriptionAck(_) => None,
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
