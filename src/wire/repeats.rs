//! What repeats in a message: the pairs of metadata and the members of a group. Each of them takes two
//! bytes on the wire and a hundred in memory, so they are counted before a large message is decoded.

use prost::encoding::{decode_key, decode_varint, skip_field, DecodeContext, WireType};

use crate::limits;

/// The repeated fields of the schema, by the numbers of the fields around them: metadata, and the
/// members in GROUP_UPDATE, GROUP_WELCOME and GROUP_CLOSE.
const REPEATED: [&[u32]; 4] = [&[4], &[3, 3, 2, 7, 3], &[3, 3, 2, 8, 1], &[3, 3, 2, 9, 1]];

/// Whether a message has more than [`limits::REPEATED_PARTS`]. It is not decoded then.
pub(super) fn are_too_many(bytes: &[u8]) -> bool {
    bytes.len() > 2 * limits::REPEATED_PARTS
        && REPEATED.iter().map(|path| count(bytes, path)).sum::<usize>() > limits::REPEATED_PARTS
}

fn count(mut bytes: &[u8], path: &[u32]) -> usize {
    let [field, inner @ ..] = path else { return 1 };
    let mut found = 0;
    // What is malformed ends the count; decoding refuses it.
    while let Ok((tag, wire_type)) = decode_key(&mut bytes) {
        if tag != *field || wire_type != WireType::LengthDelimited {
            match skip_field(wire_type, tag, &mut bytes, DecodeContext::default()) {
                Ok(()) => continue,
                Err(_) => break,
            }
        }
        let len = decode_varint(&mut bytes).ok().and_then(|len| usize::try_from(len).ok());
        let Some((part, rest)) = len.and_then(|len| bytes.split_at_checked(len)) else { break };
        found += count(part, inner);
        bytes = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::wire::{
        CommandPayload, CommandPayloadType as Command, Content, ContentType, Frame, FrameKind,
        GroupClosePayload, GroupUpdatePayload, GroupWelcomePayload, Message, MessageType, Publish,
    };

    fn publish(command: Command) -> Message {
        let command = CommandPayload { command_payload_type: Some(command) };
        let msg = Some(Content { content_type: Some(ContentType::CommandPayload(command)) });
        let publish = Publish { msg, ..Publish::default() };
        Message { message_type: Some(MessageType::Publish(publish)), ..Message::default() }
    }

    fn kind(message: &Message) -> FrameKind {
        Frame::decode(&message.encode_to_vec()).unwrap().kind()
    }

    #[test]
    fn so_many_members_are_decoded_and_one_more_is_not() {
        let update = |n| GroupUpdatePayload {
            participants: vec![Default::default(); n],
            ..Default::default()
        };
        let welcome =
            |n| GroupWelcomePayload { participants: vec![Default::default(); n], mls: None };
        let close = |n| GroupClosePayload { participants: vec![Default::default(); n] };
        let most = limits::REPEATED_PARTS;
        for (n, expected) in [(most, FrameKind::Publish), (most + 1, FrameKind::Empty)] {
            assert_eq!(kind(&publish(Command::GroupUpdate(update(n)))), expected, "{n}");
            assert_eq!(kind(&publish(Command::GroupWelcome(welcome(n)))), expected, "{n}");
            assert_eq!(kind(&publish(Command::GroupClose(close(n)))), expected, "{n}");
        }
        // In two halves, which the decoder puts together; with a pair of metadata they are too many.
        let half = publish(Command::GroupClose(close(most / 2))).encode_to_vec();
        let mut both = [&half[..], &half].concat();
        assert_eq!(Frame::decode(&both).unwrap().kind(), FrameKind::Publish);
        both.extend([4 << 3 | 2, 0]);
        assert_eq!(Frame::decode(&both).unwrap().kind(), FrameKind::Empty);
    }

    #[test]
    fn so_many_pairs_are_given_to_an_app_and_one_more_is_not() {
        let most = limits::REPEATED_PARTS;
        for (n, good) in [(most, true), (most + 1, false)] {
            let mut message = view();
            message.metadata = (0..n).map(|n| (n.to_string(), String::new())).collect();
            let bytes = message.encode_to_vec();
            let frame = Frame::decode(&bytes).unwrap();
            assert!(frame.is_view(), "nodes forward it");
            assert_eq!(frame.into_message().is_ok(), good, "{n}");
        }
    }

    /// A message that is forwarded as it came.
    fn view() -> Message {
        let name = crate::name::Name::parse("o/n/s").unwrap().to_wire();
        let (source, destination) = (Some(name.clone()), Some(name));
        let header = crate::wire::SlimHeader { source, destination, ..Default::default() };
        let session = Some(Default::default());
        let publish = Publish { header: Some(header), session, msg: None };
        Message { message_type: Some(MessageType::Publish(publish)), ..Message::default() }
    }

    #[test]
    fn payloads_are_not_looked_into() {
        // Bytes that would be four hundred thousand members.
        let blob = [1 << 3 | 2, 0].repeat(400_000);
        let payload =
            crate::wire::ApplicationPayload { payload_type: String::new(), blob: blob.into() };
        let mut message = view();
        if let Some(MessageType::Publish(publish)) = &mut message.message_type {
            publish.msg = Some(Content { content_type: Some(ContentType::AppPayload(payload)) });
        }
        assert!(!are_too_many(&message.encode_to_vec()));
        // What is cut off is refused by the decoder.
        let bytes = publish(Command::GroupClose(GroupClosePayload {
            participants: vec![Default::default(); limits::REPEATED_PARTS + 1],
        }))
        .encode_to_vec();
        for len in (bytes.len() - 1000..bytes.len()).step_by(77) {
            assert!(Frame::decode(&bytes[..len]).is_err(), "{len}");
        }
    }
}
