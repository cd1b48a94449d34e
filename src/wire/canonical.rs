//! The byte-exact texts that are signed or MACed. Both ends build them from the parsed message, so
//! every byte counts.

use std::collections::BTreeMap;

use prost::Message as _;

use super::{Content, ContentType, HeaderIntegrityAad, Name, Publish, SessionHeader, SlimHeader};

/// Metadata that the payload signature leaves out (spec 04 section 7.3).
const UNSIGNED_METADATA: [&str; 5] =
    ["traceparent", "tracestate", "baggage", "slim-payload-sig", "slim-peer-subject"];

/// What `e2e_header_sig` signs, and the authenticated data of an encrypted payload (spec 03
/// section 3.2).
pub fn header_aad(header: &SlimHeader, session: &SessionHeader, payload_type: &str) -> Vec<u8> {
    let aad = HeaderIntegrityAad {
        version: 1,
        source: header.source.clone(),
        destination: header.destination.clone(),
        identity: header.identity.clone(),
        session_type: session.session_type,
        session_message_type: session.session_message_type,
        session_id: session.session_id,
        message_id: session.message_id,
        payload_type: payload_type.to_owned(),
    };
    aad.encode_to_vec()
}

/// [`header_aad`] of a whole message. `None` without a header or session header.
pub fn publish_aad(publish: &Publish) -> Option<Vec<u8>> {
    let payload_type = match publish.msg.as_ref().and_then(|msg| msg.content_type.as_ref()) {
        Some(ContentType::AppPayload(payload)) => payload.payload_type.as_str(),
        _ => "",
    };
    Some(header_aad(publish.header.as_ref()?, publish.session.as_ref()?, payload_type))
}

/// What the payload signature signs (spec 03 section 3.3).
pub fn payload_signature_input(
    aad: &[u8],
    content: Option<&Content>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let content = content.map(Content::encode_to_vec).unwrap_or_default();
    let mut text = b"slim-payload-v1".to_vec();
    let mut part = |bytes: &[u8]| {
        text.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        text.extend_from_slice(bytes);
    };
    part(aad);
    part(&content);
    for (key, value) in metadata {
        if !UNSIGNED_METADATA.contains(&key.as_str()) {
            part(key.as_bytes());
            part(value.as_bytes());
        }
    }
    text
}

/// What the MAC of a hop covers (spec 01 section 5.5), and the MAC; read from a message or from its
/// bytes.
#[derive(Clone, Debug)]
pub struct HeaderFields<'a> {
    /// Who sends.
    pub source: Option<NameFields<'a>>,
    /// To whom.
    pub destination: Option<NameFields<'a>>,
    /// The sender's identity token.
    pub identity: &'a [u8],
    /// 1: one receiver; anything else: all.
    pub fanout: u32,
    /// Local to upstream's processes.
    pub recv_from: Option<u64>,
    /// Local to upstream's processes.
    pub forward_to: Option<u64>,
    /// Presence marks a failed retransmission.
    pub error: Option<bool>,
    /// Hops left.
    pub ttl: u32,
    /// The MAC itself, which it does not cover.
    pub mac: Option<&'a [u8]>,
}

/// A name in both forms.
#[derive(Clone, Debug)]
pub struct NameFields<'a> {
    /// The hashes, and the two halves of the id.
    pub encoded: Option<([u64; 3], Option<[u64; 2]>)>,
    /// The strings.
    pub strings: Option<[&'a [u8]; 3]>,
}

impl<'a> From<&'a SlimHeader> for HeaderFields<'a> {
    fn from(header: &'a SlimHeader) -> HeaderFields<'a> {
        HeaderFields {
            source: header.source.as_ref().map(NameFields::from),
            destination: header.destination.as_ref().map(NameFields::from),
            identity: header.identity.as_bytes(),
            fanout: header.fanout,
            recv_from: header.recv_from,
            forward_to: header.forward_to,
            error: header.error,
            ttl: header.ttl,
            mac: header.header_mac.as_deref(),
        }
    }
}

impl<'a> From<&'a Name> for NameFields<'a> {
    fn from(name: &'a Name) -> NameFields<'a> {
        let encoded = name.name.as_ref().map(|name| {
            let id = name.name_id.as_ref().map(|id| [id.id_0, id.id_1]);
            ([name.component_0, name.component_1, name.component_2], id)
        });
        let strings = name.str_name.as_ref().map(|strings| {
            [&strings.str_component_0, &strings.str_component_1, &strings.str_component_2]
                .map(|text| text.as_bytes())
        });
        NameFields { encoded, strings }
    }
}

/// The text of a header's MAC, appended to `out`.
pub fn mac_preimage(link_id: &str, header: &HeaderFields<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"SLIM-DP-HDR-v1\0");
    prefixed(link_id.as_bytes(), out);
    name(header.source.as_ref(), out);
    name(header.destination.as_ref(), out);
    prefixed(header.identity, out);
    out.extend_from_slice(&header.fanout.to_le_bytes());
    optional_number(header.recv_from, out);
    optional_number(header.forward_to, out);
    match header.error {
        Some(error) => out.extend_from_slice(&[1, u8::from(error)]),
        None => out.push(0),
    }
    out.extend_from_slice(&header.ttl.to_le_bytes());
}

fn name(name: Option<&NameFields<'_>>, out: &mut Vec<u8>) {
    let Some(name) = name else { return out.push(0) };
    out.push(1);
    match &name.encoded {
        Some((components, id)) => {
            out.push(1);
            for part in components {
                out.extend_from_slice(&part.to_le_bytes());
            }
            match id {
                Some([high, low]) => {
                    out.push(1);
                    out.extend_from_slice(&high.to_le_bytes());
                    out.extend_from_slice(&low.to_le_bytes());
                }
                None => out.push(0),
            }
        }
        None => out.push(0),
    }
    match &name.strings {
        Some(strings) => {
            out.push(1);
            for text in strings {
                prefixed(text, out);
            }
        }
        None => out.push(0),
    }
}

/// Lengths are 32 bits: a message of 4 MiB has no longer part.
fn prefixed(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

fn optional_number(number: Option<u64>, out: &mut Vec<u8>) {
    match number {
        Some(number) => {
            out.push(1);
            out.extend_from_slice(&number.to_le_bytes());
        }
        None => out.push(0),
    }
}
