//! Reads the messages out of one direction of a link's bytes, and writes them down in the form in
//! which they are compared with recorded traces (DESIGN decision 32).

use prost::Message as _;
use slim::grpc::{Body, Decoder};
use slim::name::component_hash;
use slim::wire::{
    CommandPayloadType, ContentType, LinkType, Message, MessageType, MlsPayload, Name, NameId,
    Participant, SessionMessageType, SessionType, SlimHeader,
};

/// The messages of one direction, taken out of its bytes and put back as often as somebody says.
pub struct Tap {
    bytes: Vec<u8>,
    preface: usize,
    decoder: Decoder,
}

impl Tap {
    /// `dialler`: this direction begins with the connection preface.
    pub fn new(dialler: bool) -> Tap {
        Tap { bytes: Vec::new(), preface: if dialler { 24 } else { 0 }, decoder: Decoder::new() }
    }

    /// The bytes that go on: each message as often as `copies` says, in DATA frames of its own.
    pub fn pass(&mut self, bytes: &[u8], mut copies: impl FnMut(&Message) -> usize) -> Vec<u8> {
        self.bytes.extend_from_slice(bytes);
        let mut out: Vec<u8> = Vec::new();
        if self.bytes.len() < self.preface {
            return out;
        }
        out.extend(self.bytes.drain(..std::mem::take(&mut self.preface)));
        while let [a, b, c, kind, ..] = self.bytes[..] {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.bytes.len() < 9 + len {
                break;
            }
            let frame: Vec<u8> = self.bytes.drain(..9 + len).collect();
            if kind != 0 {
                out.extend(frame);
                continue;
            }
            let (stream, end) = (&frame[5..9], frame[4] & 1);
            let mut data = |payload: &[u8], flags: u8| {
                out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
                out.extend_from_slice(&[0, flags]);
                out.extend_from_slice(stream);
                out.extend_from_slice(payload);
            };
            let each = &mut |body: Body| {
                let bytes = body.of(&frame[9..]);
                let message = Message::decode(bytes).unwrap();
                let mut whole = vec![0];
                whole.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                whole.extend_from_slice(bytes);
                for _ in 0..copies(&message) {
                    whole.chunks(16_384).for_each(|chunk| data(chunk, 0));
                }
            };
            self.decoder.feed(&frame[9..], each).unwrap();
            if end == 1 {
                data(&[], 1);
            }
        }
        out
    }
}

/// What kind of session message it is, and its number.
pub fn kind_and_id(message: &Message) -> Option<(SessionMessageType, u32)> {
    match message.message_type.as_ref()? {
        MessageType::Publish(publish) => {
            let session = publish.session?;
            let kind = SessionMessageType::try_from(session.session_message_type).ok()?;
            Some((kind, session.message_id))
        }
        _ => None,
    }
}

/// A message without what differs from run to run: ids, tokens, keys, signatures.
pub fn masked(message: &Message) -> String {
    let mut keys: Vec<&str> = message.metadata.keys().map(String::as_str).collect();
    keys.sort_unstable();
    match message.message_type.as_ref().expect("a kind") {
        MessageType::Link(link) => {
            let Some(LinkType::LinkNegotiation(payload)) = &link.link_type else { panic!() };
            let (reply, kind) = (payload.is_reply, payload.connection_type);
            format!("LINK reply={reply} type={kind} key={}", payload.link_ecdh_public_key.len())
        }
        MessageType::SubscriptionAck(ack) => format!("SUBSCRIPTION_ACK {}", ack.success),
        MessageType::Subscribe(m) => format!("SUBSCRIBE {}", header(m.header.as_ref())),
        MessageType::Unsubscribe(m) => format!("UNSUBSCRIBE {}", header(m.header.as_ref())),
        MessageType::Publish(publish) => {
            let session = publish.session.unwrap();
            let kind = SessionMessageType::try_from(session.session_message_type).unwrap();
            let session_type = SessionType::try_from(session.session_type).unwrap();
            let data_id = match kind.is_control() {
                true => String::new(),
                // To one member of a group: a random number.
                false if session.message_id >> 31 == 1 => " id=direct".to_owned(),
                false => format!(" id={}", session.message_id),
            };
            let content = publish.msg.as_ref().and_then(|msg| msg.content_type.as_ref());
            format!(
                "{kind:?} {session_type:?}{data_id} {} {keys:?} {}",
                header(publish.header.as_ref()),
                payload(content)
            )
        }
    }
}

fn header(header: Option<&SlimHeader>) -> String {
    let header = header.expect("a header");
    let destination = header.destination.as_ref().unwrap();
    let id = destination.name.as_ref().unwrap().name_id.unwrap_or_default();
    let any = id == NameId { id_0: u64::MAX, id_1: u64::MAX };
    format!(
        "to={} strings={} fanout={} ttl={} token={} mac={} sig={} error={:?}",
        if any { "any" } else { "full" },
        destination.str_name.is_some(),
        header.fanout,
        header.ttl,
        !header.identity.is_empty(),
        header.header_mac.as_ref().map_or(0, Vec::len),
        header.e2e_header_sig.is_some(),
        header.error,
    )
}

fn payload(content: Option<&ContentType>) -> String {
    match content {
        None => "nothing".to_owned(),
        // An MLSMessage with a PrivateMessage.
        Some(ContentType::AppPayload(payload)) if payload.blob.starts_with(&[0, 1, 0, 2]) => {
            format!("{:?} sealed", payload.payload_type)
        }
        Some(ContentType::AppPayload(payload)) => {
            format!("{:?} {:?}", payload.payload_type, payload.blob)
        }
        Some(ContentType::CommandPayload(command)) => {
            match command.command_payload_type.as_ref().expect("a command") {
                CommandPayloadType::JoinRequest(join) => format!(
                    "join timers={:?} channel={} control={} mls={:?}",
                    join.timer_settings,
                    join.channel.is_some(),
                    join.control.is_some(),
                    join.mls_settings
                ),
                CommandPayloadType::JoinReply(join) => format!(
                    "joined key_package={} settings={:?}",
                    join.key_package.as_deref().map_or("", kind_of_mls),
                    join.participant.as_ref().unwrap().settings
                ),
                CommandPayloadType::GroupWelcome(welcome) => {
                    let members = members(&welcome.participants);
                    format!("welcome {members:?} mls={}", mls(welcome.mls.as_ref()))
                }
                CommandPayloadType::GroupUpdate(update) => {
                    let subject = members(update.participant.as_slice());
                    let members = members(&update.participants);
                    let mls = mls(update.mls.as_ref());
                    format!("update op={} {subject:?} in {members:?} mls={mls}", update.op)
                }
                CommandPayloadType::UpdateParticipantState(update) => {
                    format!("state {} epoch={}", update.new_state, update.epoch)
                }
                CommandPayloadType::GroupClose(close) => {
                    format!("close {}", close.participants.len())
                }
                CommandPayloadType::RejoinRequest(request) => {
                    format!("rejoin {}", kind_of_mls(&request.key_package))
                }
                CommandPayloadType::RejoinReply(reply) => {
                    format!("rejoined {} {}", reply.commit_id, kind_of_mls(&reply.mls_content))
                }
                CommandPayloadType::Heartbeat(heartbeat) => {
                    format!("heartbeat {}", heartbeat.epoch)
                }
                other => format!("{other:?}"),
            }
        }
    }
}

/// The number of a commit, and what is with it.
fn mls(payload: Option<&MlsPayload>) -> String {
    let describe =
        |mls: &MlsPayload| format!("{} {}", mls.commit_id, kind_of_mls(&mls.mls_content));
    payload.map_or_else(String::new, describe)
}

fn kind_of_mls(message: &[u8]) -> &'static str {
    match message {
        [0, 1, 0, 1, ..] => "commit",
        [0, 1, 0, 3, ..] => "welcome",
        [0, 1, 0, 5, ..] => "key package",
        _ => "nothing of MLS",
    }
}

/// What every message of ours that names somebody says in full (spec 02, items 6 and 9): an id, the
/// hashes of the strings, our version, and nothing that is one process's own affair.
pub fn check_names(message: &Message) {
    let header = match message.message_type.as_ref().expect("a type") {
        MessageType::Publish(publish) => publish.header.as_ref(),
        MessageType::Subscribe(subscribe) => subscribe.header.as_ref(),
        MessageType::Unsubscribe(unsubscribe) => unsubscribe.header.as_ref(),
        _ => return,
    };
    let header = header.expect("a header");
    assert_eq!((header.recv_from, header.forward_to), (None, None));
    assert_eq!(header.version, slim::protocol_version());
    let names = [&header.source, &header.destination].map(|name| name.as_ref().expect("a name"));
    let content = match &message.message_type {
        Some(MessageType::Publish(publish)) => publish.msg.as_ref(),
        _ => None,
    };
    let command = content.and_then(|content| match content.content_type.as_ref()? {
        ContentType::CommandPayload(command) => command.command_payload_type.as_ref(),
        ContentType::AppPayload(_) => None,
    });
    for name in names.into_iter().chain(command.map(names_in).into_iter().flatten()) {
        let encoded = name.name.as_ref().expect("hashes");
        assert!(encoded.name_id.is_some(), "an implicit id: {name:?}");
        let strings = name.str_name.as_ref().expect("the strings");
        let strings =
            [&strings.str_component_0, &strings.str_component_1, &strings.str_component_2];
        let hashes = [encoded.component_0, encoded.component_1, encoded.component_2];
        assert_eq!(hashes, strings.map(|text| component_hash(text)), "{name:?}");
    }
}

/// The names in a command, with their strings.
fn names_in(command: &CommandPayloadType) -> Vec<&Name> {
    let named = |participant: &'_ Participant| participant.name.is_some();
    let (names, members): (Vec<Option<&Name>>, &[Participant]) = match command {
        CommandPayloadType::JoinRequest(join) => {
            (vec![join.channel.as_ref(), join.control.as_ref()], &[])
        }
        CommandPayloadType::JoinReply(join) => (Vec::new(), join.participant.as_slice()),
        CommandPayloadType::GroupWelcome(welcome) => (Vec::new(), &welcome.participants),
        CommandPayloadType::GroupUpdate(update) => {
            let subject = update.participant.as_ref().and_then(|member| member.name.as_ref());
            (vec![subject], &update.participants)
        }
        CommandPayloadType::GroupClose(close) => {
            (close.participants.iter().map(Some).collect(), &[])
        }
        CommandPayloadType::UpdateParticipantState(update) => {
            (vec![update.participant.as_ref()], &[])
        }
        CommandPayloadType::RejoinRequest(request) => (vec![request.participant.as_ref()], &[]),
        _ => (Vec::new(), &[]),
    };
    assert!(members.iter().all(named), "a member without a name");
    let members = members.iter().filter_map(|member| member.name.as_ref());
    let names: Vec<&Name> = names.into_iter().flatten().chain(members).collect();
    assert!(names.iter().all(|name| name.str_name.is_some()), "without strings: {names:?}");
    names
}

/// How members are described. Their order means nothing.
fn members(participants: &[Participant]) -> Vec<String> {
    let describe = |participant: &Participant| {
        let settings = participant.settings.expect("settings");
        let marks = [(settings.sends_data, 'S'), (settings.receives_data, 'R')];
        let marks: String = marks.iter().filter(|(set, _)| *set).map(|(_, mark)| mark).collect();
        format!("{marks}{}", participant.status)
    };
    let mut members: Vec<String> = participants.iter().map(describe).collect();
    members.sort();
    members
}
