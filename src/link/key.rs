//! The key of a link: X25519, HKDF-SHA256, and the HMAC that every hop puts on headers (spec 01
//! sections 5.4, 5.5).

use std::fmt;

use aws_lc_rs::{agreement, hmac};

use crate::entropy::Entropy;
use crate::wire::canonical::mac_preimage;
use crate::wire::SlimHeader;

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
}

impl LinkKey {
    /// A given key.
    pub fn new(key: [u8; 32], link_id: &str) -> LinkKey {
        LinkKey { key: hmac::Key::new(hmac::HMAC_SHA256, &key), link_id: link_id.to_owned() }
    }

    /// HKDF with the text of the link id as salt; one block of output is all that is needed.
    fn derive(secret: &[u8], link_id: &str) -> LinkKey {
        let extract = hmac::Key::new(hmac::HMAC_SHA256, link_id.as_bytes());
        let pseudo_random_key = hmac::sign(&extract, secret);
        let expand = hmac::Key::new(hmac::HMAC_SHA256, pseudo_random_key.as_ref());
        let key = hmac::sign(&expand, &[INFO, &[1]].concat());
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_ref());
        LinkKey { key, link_id: link_id.to_owned() }
    }

    /// The MAC of a header as it goes over this link.
    pub fn mac(&self, header: &SlimHeader) -> [u8; 32] {
        let mut mac = [0; 32];
        mac.copy_from_slice(hmac::sign(&self.key, &self.preimage(header)).as_ref());
        mac
    }

    /// Checks the MAC in a header, in constant time.
    pub fn verify(&self, header: &SlimHeader) -> Result<(), MacError> {
        match header.header_mac.as_deref() {
            None | Some([]) => Err(MacError::Missing),
            Some(mac) if mac.len() != 32 => Err(MacError::Length(mac.len())),
            Some(mac) => {
                hmac::verify(&self.key, &self.preimage(header), mac).map_err(|_| MacError::Wrong)
            }
        }
    }

    fn preimage(&self, header: &SlimHeader) -> Vec<u8> {
        let mut preimage = Vec::with_capacity(512);
        mac_preimage(&self.link_id, header, &mut preimage);
        preimage
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
