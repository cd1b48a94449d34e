//! The key of a link: X25519, HKDF-SHA256, and the HMAC that every hop puts on headers (spec 01
//! sections 5.4, 5.5).

use std::cell::Cell;
use std::fmt;

use aws_lc_rs::{agreement, hmac};

use crate::entropy::Entropy;
use crate::limits;
use crate::wire::canonical::{mac_preimage, HeaderFields};

const INFO: &[u8] = b"SLIM-DP-inter-node-hmac-v1";

/// Our half of a key agreement.
pub struct KeyExchange {
    private: agreement::PrivateKey,
    public: [u8; 32],
}

impl KeyExchange {
    /// A fresh pair.
    pub fn new(entropy: &mut dyn Entropy) -> KeyExchange {
        loop {
            let mut private = [0; 32];
            entropy.fill(&mut private);
            if let Some(exchange) = KeyExchange::from_private(private) {
                return exchange;
            }
        }
    }

    /// The pair that belongs to a private key. X25519 takes any 32 bytes.
    pub fn from_private(private: [u8; 32]) -> Option<KeyExchange> {
        let private = agreement::PrivateKey::from_private_key(&agreement::X25519, &private).ok()?;
        let public = private.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(KeyExchange { private, public })
    }

    /// What the peer gets.
    pub fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// The link's key, from the peer's public key and the link id as received.
    pub fn agree(&self, peer_public: &[u8], link_id: &str) -> Result<LinkKey, KeyError> {
        if peer_public.len() != 32 {
            return Err(KeyError::Length(peer_public.len()));
        }
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, peer_public);
        agreement::agree(&self.private, peer, KeyError::Weak, |secret| {
            if secret.iter().all(|byte| *byte == 0) {
                return Err(KeyError::Weak);
            }
            Ok(LinkKey::derive(secret, link_id))
        })
    }
}

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyExchange")
    }
}

/// The key of a link, for both directions.
pub struct LinkKey {
    key: hmac::Key,
    link_id: String,
    /// Where the text of a MAC is put together.
    scratch: Cell<Vec<u8>>,
}

impl LinkKey {
    /// A given key.
    pub fn new(key: [u8; 32], link_id: &str) -> LinkKey {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        LinkKey { key, link_id: link_id.to_owned(), scratch: Cell::default() }
    }

    /// HKDF with the text of the link id as salt; one block of output is all that is needed.
    fn derive(secret: &[u8], link_id: &str) -> LinkKey {
        let extract = hmac::Key::new(hmac::HMAC_SHA256, link_id.as_bytes());
        let pseudo_random_key = hmac::sign(&extract, secret);
        let expand = hmac::Key::new(hmac::HMAC_SHA256, pseudo_random_key.as_ref());
        let key = hmac::sign(&expand, &[INFO, &[1]].concat());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(key.as_ref());
        LinkKey::new(bytes, link_id)
    }

    /// The MAC of a header as it goes over this link.
    pub fn mac<'a>(&self, header: impl Into<HeaderFields<'a>>) -> [u8; 32] {
        let mut mac = [0; 32];
        self.with_preimage(&header.into(), |text| {
            mac.copy_from_slice(hmac::sign(&self.key, text).as_ref());
        });
        mac
    }

    /// Checks the MAC in a header, in constant time.
    pub fn verify<'a>(&self, header: impl Into<HeaderFields<'a>>) -> Result<(), MacError> {
        let header = header.into();
        match header.mac {
            None | Some([]) => Err(MacError::Missing),
            Some(mac) if mac.len() != 32 => Err(MacError::Length(mac.len())),
            Some(mac) => self.with_preimage(&header, |text| {
                hmac::verify(&self.key, text, mac).map_err(|_| MacError::Wrong)
            }),
        }
    }

    fn with_preimage<T>(&self, header: &HeaderFields<'_>, act: impl FnOnce(&[u8]) -> T) -> T {
        let mut text = self.scratch.take();
        mac_preimage(&self.link_id, header, &mut text);
        let result = act(&text);
        text.clear();
        text.shrink_to(limits::MAC_SCRATCH);
        self.scratch.set(text);
        result
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkKey of {:?}", self.link_id)
    }
}

/// Why no key was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The peer's public key has so many bytes instead of 32.
    Length(usize),
    /// The peer's public key gives away the secret.
    Weak,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Length(len) => {
                write!(f, "public key length is invalid: {len} bytes instead of 32")
            }
            KeyError::Weak => f.write_str("the public key is a weak one"),
        }
    }
}

impl std::error::Error for KeyError {}

/// What is wrong with a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacError {
    /// There is none.
    Missing,
    /// It has so many bytes instead of 32.
    Length(usize),
    /// It does not fit the header.
    Wrong,
}

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MacError::Missing => f.write_str("is missing"),
            MacError::Length(len) => write!(f, "has {len} bytes instead of 32"),
            MacError::Wrong => f.write_str("is wrong"),
        }
    }
}

impl std::error::Error for MacError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SlimHeader;

    #[test]
    fn the_room_for_texts_is_kept_up_to_a_limit() {
        let key = LinkKey::new([1; 32], "link");
        let room_after = |len| {
            key.mac(&SlimHeader { identity: "x".repeat(len), ..SlimHeader::default() });
            let text = key.scratch.take();
            let room = text.capacity();
            key.scratch.set(text);
            room
        };
        let most = limits::MAC_SCRATCH;
        let rest = {
            let mut text = Vec::new();
            mac_preimage("link", &HeaderFields::from(&SlimHeader::default()), &mut text);
            text.len()
        };
        assert!((10..=most).contains(&room_after(10)));
        assert!((2_000..=most).contains(&room_after(2_000)));
        assert_eq!(room_after(most - rest), most);
        assert_eq!(room_after(most - rest + 1), most, "what is longer is given back");
    }
}
