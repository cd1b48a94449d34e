//! The header view (DESIGN section 3): it takes what every known sender writes, agrees with the
//! decoder about it, and leaves the rest to it.

#[path = "fuzz/view.rs"]
mod agreement;

use std::path::Path;

use prost::Message as _;
use slim::entropy::{Entropy, SeededEntropy};
use slim::wire::*;

/// Every message that was recorded, with its kind.
fn recorded() -> Vec<(Option<SessionMessageType>, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/session");
    let mut found = Vec::new();
    for file in ["", "message-types"].iter().flat_map(|sub| folder.join(sub).read_dir().unwrap()) {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let hex = match line.split_once("message_hex=") {
                Some((_, hex)) => hex,
                None => match line.split_once("\"hex\": \"") {
                    Some((_, hex)) => hex.split('"').next().unwrap(),
                    None => continue,
                },
            };
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let kind = match Message::decode(&bytes[..]).unwrap().message_type {
                Some(MessageType::Publish(publish)) => {
                    Some(publish.session.unwrap().session_message_type())
                }
                _ => None,
            };
            found.push((kind, bytes));
        }
    }
    assert!(found.len() > 500, "{} recorded messages", found.len());
    found
}

#[test]
fn what_was_recorded_of_data_is_taken_and_the_rest_is_decoded() {
    use SessionMessageType as T;
    let mut taken = 0;
    for (kind, bytes) in recorded() {
        let is_data = matches!(kind, Some(T::Msg | T::MsgAck | T::RtxRequest | T::RtxReply));
        assert_eq!(agreement::check(&bytes), is_data, "{kind:?} {bytes:?}");
        taken += usize::from(is_data);
    }
    assert!(taken > 100);
}

fn text(random: &mut SeededEntropy) -> String {
    let len = random.next_u32() % 12;
    (0..len).map(|_| ['a', 'ß', '你', '\0', '🦀'][random.next_u32() as usize % 5]).collect()
}

fn number(random: &mut SeededEntropy) -> u64 {
    random.next_u64() >> (random.next_u32() % 65).min(63)
}

fn name(random: &mut SeededEntropy) -> Name {
    let maybe = |random: &mut SeededEntropy| !random.next_u32().is_multiple_of(4);
    Name {
        name: Some(EncodedName {
            component_0: number(random),
            component_1: number(random),
            component_2: number(random),
            name_id: maybe(random).then(|| NameId { id_0: number(random), id_1: number(random) }),
        }),
        str_name: maybe(random).then(|| StringName {
            str_component_0: text(random),
            str_component_1: text(random),
            str_component_2: text(random),
        }),
    }
}

fn publish(random: &mut SeededEntropy) -> Message {
    let maybe = |random: &mut SeededEntropy| !random.next_u32().is_multiple_of(2);
    let bytes = |random: &mut SeededEntropy| text(random).into_bytes();
    let header = SlimHeader {
        source: Some(name(random)),
        destination: Some(name(random)),
        identity: text(random),
        fanout: number(random) as u32,
        version: text(random),
        ttl: number(random) as u32,
        recv_from: None,
        forward_to: None,
        incoming_conn: maybe(random).then(|| number(random)),
        error: maybe(random).then(|| maybe(random)),
        header_mac: maybe(random).then(|| bytes(random)),
        e2e_header_sig: maybe(random).then(|| bytes(random)),
    };
    let session = SessionHeader {
        session_type: number(random) as i32,
        session_message_type: number(random) as i32,
        session_id: number(random) as u32,
        message_id: number(random) as u32,
    };
    let payload =
        ApplicationPayload { payload_type: text(random), blob: text(random).into_bytes().into() };
    let content = Content { content_type: maybe(random).then(|| ContentType::AppPayload(payload)) };
    Message {
        message_type: Some(MessageType::Publish(Publish {
            header: Some(header),
            session: Some(session),
            msg: maybe(random).then_some(content),
        })),
        metadata: (0..random.next_u32() % 3).map(|_| (text(random), text(random))).collect(),
    }
}

#[test]
fn any_publish_with_a_payload_is_taken() {
    let mut random = SeededEntropy::new(1);
    for _ in 0..20_000 {
        let bytes = publish(&mut random).encode_to_vec();
        assert!(agreement::check(&bytes), "{bytes:?}");
    }
}

#[test]
fn whatever_is_changed_the_view_never_takes_what_cannot_be_decoded() {
    let mut random = SeededEntropy::new(2);
    let recorded = recorded();
    let mut taken = 0;
    const ROUNDS: usize = 60_000;
    for round in 0..ROUNDS {
        let mut bytes = match round % 2 {
            0 => publish(&mut random).encode_to_vec(),
            _ => recorded[random.next_u32() as usize % recorded.len()].1.clone(),
        };
        for _ in 0..=random.next_u32() % 3 {
            if bytes.is_empty() {
                break;
            }
            let at = random.next_u32() as usize % bytes.len();
            let other = random.next_u32() as usize % bytes.len();
            match random.next_u32() % 6 {
                0 => bytes[at] ^= 1 << (random.next_u32() % 8),
                1 => bytes[at] = random.next_u32() as u8,
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, random.next_u32() as u8),
                4 => bytes.truncate(at),
                _ => {
                    let piece = bytes[at.min(other)..at.max(other)].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        taken += usize::from(agreement::check(&bytes));
    }
    assert!((1_000..ROUNDS).contains(&taken), "{taken} of {ROUNDS} were taken");
}

/// A field: its number and wire type, and its bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

#[test]
fn every_other_shape_is_decoded() {
    let name = field(1, &[8, 1, 16, 2, 24, 3]);
    let names = [field(1, &name), field(2, &name)].concat();
    let session = field(2, &[8, 1]);
    let message = |header: &[u8], rest: &[u8]| field(3, &[&field(1, header), rest].concat());
    let good = message(&names, &session);
    assert!(agreement::check(&good));
    let ways: &[(&str, Vec<u8>)] = &[
        ("nothing", vec![]),
        ("no header", field(3, &session)),
        ("no session", message(&names, &[])),
        ("no source", message(&field(2, &name), &session)),
        ("no destination", message(&field(1, &name), &session)),
        ("a name without hashes", message(&[field(1, &[]), field(2, &name)].concat(), &session)),
        (
            "a header twice",
            field(3, &[field(1, &names), field(1, &names), session.clone()].concat()),
        ),
        ("a field twice", message(&[&names[..], &[32, 1, 32, 1]].concat(), &session)),
        ("descending fields", message(&[&names[..], &[48, 1, 32, 1]].concat(), &session)),
        ("recv_from", message(&[&names[..], &[56, 1]].concat(), &session)),
        ("forward_to", message(&[&names[..], &[64, 1]].concat(), &session)),
        ("an unknown field", message(&[&names[..], &[104, 1]].concat(), &session)),
        ("a field number of two bytes", message(&[&names[..], &[0x80, 1, 1]].concat(), &session)),
        ("a fixed number", message(&[&names[..], &[37, 1, 2, 3, 4]].concat(), &session)),
        (
            "a TTL of 33 bits",
            message(&[&names[..], &[48, 255, 255, 255, 255, 31]].concat(), &session),
        ),
        ("no UTF-8", message(&[names.clone(), field(3, &[255])].concat(), &session)),
        ("a command", message(&names, &[session.clone(), field(3, &field(2, &[]))].concat())),
        ("two kinds", [good.clone(), good.clone()].concat()),
        ("metadata first", [field(4, &[]), good.clone()].concat()),
        ("metadata of another shape", [good.clone(), field(4, &[24, 1])].concat()),
        ("a length beyond the end", good[..good.len() - 1].to_vec()),
        (
            "a number of eleven bytes",
            message(&[&names[..], &[48], &[128; 10], &[1]].concat(), &session),
        ),
        ("a number of 65 bits", message(&[&names[..], &[72], &[255; 9], &[2]].concat(), &session)),
    ];
    for (what, bytes) in ways {
        assert!(!agreement::check(bytes), "{what}");
    }
}
