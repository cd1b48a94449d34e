//! The first message in each direction (spec 01 section 5): who is there, what for, and the key.

use std::fmt;

use super::key::{KeyError, KeyExchange};
use super::{Event, Link, State};
use crate::entropy::Entropy;
use crate::wire::{
    Frame, Link as WireLink, LinkConnectionType, LinkNegotiationPayload, LinkType, Message,
    MessageType,
};

/// Length of the ML-KEM-768 key that a client which insists on PQC sends.
const KEM_REQUEST_LEN: usize = 1184;

/// How a node introduces itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// A semver string; nobody compares it.
    pub version: String,
    /// Name of the node.
    pub node_id: String,
    /// Deployment of the node; may be empty.
    pub deployment_name: String,
}

/// Why a negotiation failed. The peer is never told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NegotiationError {
    /// The first message is something else.
    NotNegotiation,
    /// A request where a reply belongs, or the other way round.
    WrongRole,
    /// Not a semver string.
    Version(String),
    /// An empty link id in a request, or another one in a reply.
    LinkId(String),
    /// Strict, and no key could be agreed.
    Key(KeyError),
}

impl fmt::Display for NegotiationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NegotiationError::NotNegotiation => {
                f.write_str("the first message is not a link negotiation")
            }
            NegotiationError::WrongRole => {
                f.write_str("a negotiation request where a reply belongs, or the reverse")
            }
            NegotiationError::Version(text) => write!(f, "unparsable SLIM version {text:?}"),
            NegotiationError::LinkId(text) => write!(f, "link id {text:?} is not acceptable"),
            NegotiationError::Key(cause) => write!(f, "no link key: {cause}"),
        }
    }
}

impl std::error::Error for NegotiationError {}

impl Link {
    /// Dialler: the response head is there, so the request may go.
    pub(super) fn start_negotiation(&mut self, now: crate::clock::Now) {
        let (Some(dial), State::AwaitResponse { .. }) = (&self.dial, &self.state) else {
            return self.cancel("a second response head");
        };
        let State::AwaitResponse { exchange, .. } =
            std::mem::replace(&mut self.state, State::Closed)
        else {
            return;
        };
        let payload = LinkNegotiationPayload {
            link_id: dial.link_id.clone(),
            slim_version: self.config.identity.version.clone(),
            is_reply: false,
            link_ecdh_public_key: exchange.public_key().to_vec(),
            connection_type: dial.connection_type as i32,
            node_id: self.config.identity.node_id.clone(),
            deployment_name: self.config.identity.deployment_name.clone(),
            link_kem_payload: None,
        };
        let until = now.mono + self.config.negotiation_timeout;
        self.state = State::AwaitReply { until, exchange };
        self.send_negotiation(payload);
    }

    /// Acceptor: checks the request and answers.
    pub(super) fn on_negotiation_request(&mut self, frame: &Frame<'_>, entropy: &mut dyn Entropy) {
        let payload = match check(frame, false) {
            Ok(payload) => payload,
            Err(error) => return self.refuse(0, "", &format!("link negotiation failed: {error}")),
        };
        if payload.link_id.is_empty() {
            let error = NegotiationError::LinkId(String::new());
            return self.refuse(0, "", &format!("link negotiation failed: {error}"));
        }
        if payload.link_kem_payload.as_ref().is_some_and(|kem| kem.len() == KEM_REQUEST_LEN) {
            log::warn!(
                "node {:?} asks for post-quantum link keys (enforce_pqc), which are not \
                 supported yet: it will refuse this link",
                payload.node_id
            );
        }
        let exchange = KeyExchange::new(entropy);
        match exchange.agree(&payload.link_ecdh_public_key, &payload.link_id) {
            Ok(key) => self.key = Some(key),
            Err(cause) if self.config.require_header_mac => {
                let error = NegotiationError::Key(cause);
                return self.refuse(0, "", &format!("link negotiation failed: {error}"));
            }
            Err(_) => self.key = None,
        }
        let connection_type = LinkConnectionType::try_from(payload.connection_type)
            .unwrap_or(LinkConnectionType::Remote);
        let public_key = self.key.as_ref().map(|_| exchange.public_key().to_vec());
        let reply = LinkNegotiationPayload {
            link_id: payload.link_id.clone(),
            slim_version: self.config.identity.version.clone(),
            is_reply: true,
            link_ecdh_public_key: public_key.unwrap_or_default(),
            connection_type: connection_type as i32,
            node_id: self.config.identity.node_id.clone(),
            deployment_name: self.config.identity.deployment_name.clone(),
            link_kem_payload: None,
        };
        let (node_id, version) = (payload.node_id.clone(), payload.slim_version.clone());
        self.send_negotiation(reply);
        if connection_type == LinkConnectionType::Peer {
            // DESIGN decision 24: answered, then ended for good.
            return self.refuse(7, "peers are not supported", "peers are not supported");
        }
        self.up(connection_type, node_id, &version);
    }

    /// Dialler: checks the reply.
    pub(super) fn on_negotiation_reply(&mut self, frame: &Frame<'_>) {
        let State::AwaitReply { exchange, .. } = std::mem::replace(&mut self.state, State::Closed)
        else {
            return;
        };
        // Back to a live state, so that a refusal is announced.
        let expected = self.dial.as_ref().map(|dial| dial.link_id.clone()).unwrap_or_default();
        let result = check(frame, true).and_then(|payload| {
            if payload.link_id != expected {
                return Err(NegotiationError::LinkId(payload.link_id.clone()));
            }
            match exchange.agree(&payload.link_ecdh_public_key, &expected) {
                Ok(key) => Ok((payload, Some(key))),
                Err(cause) if self.config.require_header_mac => Err(NegotiationError::Key(cause)),
                Err(_) if payload.link_ecdh_public_key.len() != 32 => Ok((payload, None)),
                Err(cause) => Err(NegotiationError::Key(cause)),
            }
        });
        match result {
            Ok((payload, key)) => {
                self.key = key;
                let connection_type = LinkConnectionType::try_from(payload.connection_type)
                    .unwrap_or(LinkConnectionType::Remote);
                self.up(connection_type, payload.node_id.clone(), &payload.slim_version);
            }
            Err(error) => {
                self.state = State::Up;
                self.cancel(&format!("link negotiation failed: {error}"));
            }
        }
    }

    fn up(&mut self, connection_type: LinkConnectionType, node_id: String, version: &str) {
        self.ours = crate::is_ours(version);
        self.signs = connection_type != LinkConnectionType::Peer;
        self.connection_type = connection_type;
        self.state = State::Up;
        self.events.push_back(Event::Up { connection_type, node_id });
    }

    fn send_negotiation(&mut self, payload: LinkNegotiationPayload) {
        let link = WireLink { link_type: Some(LinkType::LinkNegotiation(payload)) };
        let message_type = Some(MessageType::Link(link));
        self.send_message(Message { message_type, ..Message::default() });
    }
}

/// The checks that both sides make, in the order of spec 01 section 5.2.
fn check<'a>(
    frame: &'a Frame<'_>,
    reply: bool,
) -> Result<&'a LinkNegotiationPayload, NegotiationError> {
    let payload = frame.negotiation().ok_or(NegotiationError::NotNegotiation)?;
    if payload.is_reply != reply {
        return Err(NegotiationError::WrongRole);
    }
    if !is_semver(&payload.slim_version) {
        return Err(NegotiationError::Version(payload.slim_version.clone()));
    }
    Ok(payload)
}

/// Whether `text` is a version as SemVer 2.0.0 writes it.
fn is_semver(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0')) && part.parse::<u64>().is_ok()
    };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let parts: Vec<&str> = core.split('.').collect();
    let pre_ok = pre.is_none_or(|pre| {
        pre.split('.').all(|part| {
            let numeric = part.bytes().all(|b| b.is_ascii_digit());
            word(part) && (!numeric || number(part))
        })
    });
    let build_ok = build.is_none_or(|build| build.split('.').all(word));
    parts.len() == 3 && parts.into_iter().all(number) && pre_ok && build_ok
}

#[cfg(test)]
mod tests {
    use super::is_semver;

    #[test]
    fn versions_as_semver_has_them() {
        for good in ["3.4.6", "99.0.0", "0.0.1", "1.0.0-rc1+x", "3.4.6+libslim.0.1.0", "1.0.0-a.1"]
        {
            assert!(is_semver(good), "{good}");
        }
        for bad in ["", "abc", "3.4", "v3.4.6", "1.02.3", "1.2.3-", "1.2.3+", "1.2.3-01", "1.2.3.4"]
        {
            assert!(!is_semver(bad), "{bad}");
        }
    }
}
