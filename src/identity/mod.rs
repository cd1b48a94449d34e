//! Who an app is, and who others are (spec 04).
//!
//! A [`Provider`] proves an app's own identity: it issues tokens and signs. A [`Verifier`] checks
//! the tokens of others. Shared secrets are here; self-signed JWT and SPIRE are further
//! implementations of the same two traits. Nodes never look at identities.

mod control;
mod secret;
mod signature;
#[doc(hidden)]
pub mod test_identity;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use control::{check_source, sign_control, verify_control, Binding, Verified};
pub use control::{PAYLOAD_SIGNATURE_KEY, PEER_SUBJECT_KEY};
pub use secret::{SharedSecret, SharedSecretVerifier, MIN_SECRET_BYTES};
pub use signature::{verify_signature, SigningKey};

use crate::clock::Now;
use crate::entropy::Entropy;

/// Proves an app's own identity. It is asked on the node's thread, where it must neither wait nor panic.
pub trait Provider: Send {
    /// The identity string, from which the app's id is derived.
    fn subject(&self) -> &str;

    /// The public half of the key that signs.
    fn public_key(&self) -> &[u8];

    /// A token that is valid now. The same one may be given out for up to a minute.
    fn token(&mut self, now: Now, entropy: &mut dyn Entropy) -> Result<Arc<str>, Error>;

    /// Signs with the key that the token names.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
}

/// Checks the identities of others. It is asked on the node's thread, where it must neither wait nor panic.
pub trait Verifier: Send {
    /// Checks a token and reads what it says.
    fn verify(&mut self, token: &str, now: Now) -> Result<Claims, Error>;

    /// Like [`Verifier::verify`], but the token may have expired: its holder showed it to others in
    /// time. Without an implementation of its own, it may not.
    fn verify_once_valid(&mut self, token: &str, now: Now) -> Result<Claims, Error> {
        self.verify(token, now)
    }

    /// Checks a signature by the holder of a token.
    fn verify_signature(
        &self,
        claims: &Claims,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        verify_signature(&claims.public_key, message, signature)
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The identity string.
    pub subject: String,
    /// Who vouches for it, where the token says so.
    pub issuer: Option<String>,
    /// The key that signs.
    pub public_key: Vec<u8>,
    /// Until when the token is valid, since the UNIX epoch.
    pub expires: Duration,
}

/// What is wrong with an identity. Texts never contain secrets or tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The secret has so few bytes.
    SecretTooShort(usize),
    /// An identity string that cannot be part of a token.
    BadId(String),
    /// Not the shape of a token.
    Malformed(&'static str),
    /// The token is from the future, by so many seconds.
    NotYetValid(u64),
    /// The token is so many seconds old.
    Expired(u64),
    /// The token was made with another secret.
    WrongSecret,
    /// A part is not the base64 that belongs there.
    Base64(&'static str),
    /// The claims are not JSON.
    Json(String),
    /// The claims name no key.
    NoPublicKey,
    /// A key of so many bytes.
    KeyLength(usize),
    /// A signature that must be there is not.
    NotSigned(&'static str),
    /// A signature does not fit.
    BadSignature(&'static str),
    /// The payload is not signed (what versions before 3.4 do).
    PayloadNotSigned,
    /// The sender's id is not the one of its identity.
    SourceMismatch {
        /// The id in the name.
        id: String,
        /// The identity.
        subject: String,
    },
    /// The crypto library refused.
    Crypto(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::SecretTooShort(len) => write!(
                f,
                "hmac key is too short: the shared secret has {len} bytes, at least \
                 {MIN_SECRET_BYTES} are needed"
            ),
            Error::BadId(id) => {
                write!(f, "token malformed: {id:?} cannot be an identity (empty, ':' or space)")
            }
            Error::Malformed(what) => write!(f, "token malformed: {what}"),
            Error::NotYetValid(secs) => {
                write!(f, "token invalid: it is from {secs} seconds in the future")
            }
            Error::Expired(secs) => write!(f, "token invalid: it is {secs} seconds old"),
            Error::WrongSecret => f.write_str("token invalid: it was made with another secret"),
            Error::Base64(what) => write!(f, "base64 decode error in the {what}"),
            Error::Json(cause) => write!(f, "JSON serialization error: {cause}"),
            Error::NoPublicKey => f.write_str("public key not found in identity claims"),
            Error::KeyLength(len) => write!(f, "a public key of {len} bytes is of no known kind"),
            Error::NotSigned(what) => write!(f, "the {what} is not signed"),
            Error::BadSignature(what) => write!(f, "the signature of the {what} is wrong"),
            Error::PayloadNotSigned => f.write_str("the payload is not signed"),
            Error::SourceMismatch { id, subject } => {
                write!(f, "the source id {id} is not the one of {subject:?}")
            }
            Error::Crypto(what) => write!(f, "{what} failed"),
        }
    }
}

impl std::error::Error for Error {}
