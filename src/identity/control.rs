//! Control messages are signed twice: their header, and their payload with the metadata (spec 03
//! section 3.3).

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use super::{Claims, Error, Provider, Verifier};
use crate::clock::Now;
use crate::name::{app_id, NameId};
use crate::wire::canonical::{payload_signature_input, publish_aad};
use crate::wire::{Message, MessageType, Publish};

/// Metadata key of the second signature.
pub const PAYLOAD_SIGNATURE_KEY: &str = "slim-payload-sig";
/// Metadata key of what decryption proved; never trusted when it comes from the network.
pub const PEER_SUBJECT_KEY: &str = "slim-peer-subject";

/// What happens when a message does not fit its sender's identity (DESIGN decision 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: it is not looked at.
    Off,
    /// It is logged.
    Warn,
    /// It is refused, but payloads may be unsigned (older versions never sign them).
    #[default]
    Default,
    /// It is refused.
    Enforce,
}

impl Binding {
    /// Reads the value of `SLIM_IDENTITY_BINDING`.
    pub fn parse(text: Option<&str>) -> Binding {
        match text.unwrap_or("").trim().to_ascii_lowercase().as_str() {
            "off" => Binding::Off,
            "warn" => Binding::Warn,
            "enforce" => Binding::Enforce,
            _ => Binding::Default,
        }
    }
}

/// A control message whose signatures are right.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Who sent it.
    pub claims: Claims,
    /// Whether the second signature was there.
    pub payload_signed: bool,
}

/// Signs a message that has its token already.
pub fn sign_control(message: &mut Message, provider: &dyn Provider) -> Result<(), Error> {
    let Some(MessageType::Publish(publish)) = &mut message.message_type else {
        return Ok(());
    };
    let aad = publish_aad(publish).ok_or(Error::Malformed("a message without header"))?;
    let input = payload_signature_input(&aad, publish.msg.as_ref(), &message.metadata);
    let signature = STANDARD.encode(provider.sign(&input)?);
    message.metadata.insert(PAYLOAD_SIGNATURE_KEY.to_owned(), signature);
    if let Some(header) = &mut publish.header {
        header.e2e_header_sig = Some(provider.sign(&aad)?);
    }
    Ok(())
}

/// Checks the token and both signatures; the header's must be there, the payload's need not.
pub fn verify_control(
    message: &Message,
    verifier: &mut dyn Verifier,
    now: Now,
) -> Result<Verified, Error> {
    let (publish, aad) = parts(message)?;
    let header = publish.header.as_ref().ok_or(Error::NotSigned("header"))?;
    let claims = verifier.verify(&header.identity, now)?;
    let signature = header.e2e_header_sig.as_deref().ok_or(Error::NotSigned("header"))?;
    verifier.verify_signature(&claims, &aad, signature).map_err(|error| of(error, "header"))?;
    let payload_signature = message.metadata.get(PAYLOAD_SIGNATURE_KEY);
    if let Some(text) = payload_signature {
        let signature = STANDARD.decode(text).map_err(|_| Error::Base64("payload signature"))?;
        let input = payload_signature_input(&aad, publish.msg.as_ref(), &message.metadata);
        verifier
            .verify_signature(&claims, &input, &signature)
            .map_err(|error| of(error, "payload"))?;
    }
    Ok(Verified { claims, payload_signed: payload_signature.is_some() })
}

/// Checks that the sender's name has the id of its identity.
pub fn check_source(message: &Message, claims: &Claims) -> Result<(), Error> {
    let (publish, _) = parts(message)?;
    let source = publish.header.as_ref().and_then(|header| header.source.as_ref());
    let encoded = source.and_then(|source| source.name.as_ref());
    let id = encoded.and_then(|name| name.name_id.as_ref()).map_or(NameId::NULL, NameId::from_wire);
    if id == app_id(&claims.subject) {
        return Ok(());
    }
    Err(Error::SourceMismatch { id: id.to_string(), subject: claims.subject.clone() })
}

fn parts(message: &Message) -> Result<(&Publish, Vec<u8>), Error> {
    let Some(MessageType::Publish(publish)) = &message.message_type else {
        return Err(Error::Malformed("not a session message"));
    };
    let aad = publish_aad(publish).ok_or(Error::Malformed("a message without header"))?;
    Ok((publish, aad))
}

fn of(error: Error, what: &'static str) -> Error {
    match error {
        Error::BadSignature(_) => Error::BadSignature(what),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_as_the_environment_says_it() {
        for (text, binding) in [
            (None, Binding::Default),
            (Some(""), Binding::Default),
            (Some("nonsense"), Binding::Default),
            (Some(" Enforce "), Binding::Enforce),
            (Some("WARN"), Binding::Warn),
            (Some("off"), Binding::Off),
        ] {
            assert_eq!(Binding::parse(text), binding, "{text:?}");
        }
    }
}
