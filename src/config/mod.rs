//! Configuration: JSON text to typed values (spec 01 section 4, DESIGN decision 14).
//!
//! It is strict: an unknown key is an error that names it and the nearest known one; a value that
//! is not accepted is named; a key whose feature is not there yet is refused by name. Files and
//! the environment are not read here.

mod client;
#[cfg(feature = "cli")]
mod file;
mod identity;
mod node;
mod object;
mod server;

use std::fmt;

pub use client::{Backoff, ClientConfig, ConnectionType, Endpoint, Keepalive};
#[cfg(feature = "cli")]
pub use file::{NodeFile, Substitutes};
pub use identity::{IdentityConfig, ProviderConfig, VerifierConfig};
pub use node::NodeConfig;
pub use server::{ServerConfig, ServerKeepalive};

/// What is wrong with a configuration. Paths are written like `tls.insecure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The text is not JSON.
    Syntax(String),
    /// A file cannot be read as a whole: the cause in words.
    File(String),
    /// A key that means nothing here, and the one that may have been meant.
    UnknownKey(String, Option<&'static str>),
    /// A value that is not accepted.
    Value {
        /// Where.
        path: String,
        /// Which value.
        value: String,
        /// Why.
        problem: &'static str,
    },
    /// A key that must be there.
    Missing(String),
    /// A key or value whose feature is not there yet.
    Unsupported {
        /// Where.
        path: String,
        /// Which feature.
        feature: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Syntax(cause) => write!(f, "not a JSON configuration: {cause}"),
            Error::File(cause) => f.write_str(cause),
            Error::UnknownKey(path, None) => write!(f, "unknown key {path:?}"),
            Error::UnknownKey(path, Some(near)) => {
                write!(f, "unknown key {path:?}, did you mean {near:?}?")
            }
            Error::Value { path, value, problem } => {
                write!(f, "{path:?} has the value {value}: {problem}")
            }
            Error::Missing(path) => write!(f, "the key {path:?} is missing"),
            Error::Unsupported { path, feature } => {
                write!(f, "{path:?}: {feature} is not supported yet")
            }
        }
    }
}

impl std::error::Error for Error {}
