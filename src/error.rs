//! What can go wrong for a user of this library, one variant per kind.
//!
//! The kinds are those of `slim_status` in the C interface. Each text names the value that is at
//! fault. The user's own mistakes, the peer's and the environment's are different kinds.

use std::fmt;

use crate::name::NameError;
use crate::{config, identity, mls};

/// Result of the Rust API.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the Rust API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// An argument is out of range.
    InvalidArgument(String),
    /// A name cannot be read.
    InvalidName(NameError),
    /// A configuration is not accepted.
    InvalidConfig(String),
    /// The caller's time ran out while waiting for this.
    Timeout(String),
    /// The handle, its session or its node has been closed.
    Closed(String),
    /// No such connection, subscription or participant.
    NotFound(String),
    /// It is there already.
    Exists(String),
    /// Not possible for this kind of session, in its state, or for this side.
    NotAllowed(String),
    /// Over a size limit.
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A queue or table is full.
    Limit(String),
    /// An endpoint cannot be reached.
    Connect(String),
    /// An identity was refused.
    Auth(String),
    /// The peer sent what the protocol does not allow.
    Protocol(String),
    /// An encrypted session: its group could not be set up or changed, or this side is not in it.
    Mls(String),
    /// Nobody (valid) answered under a name.
    NoRoute(String),
    /// A message was not acknowledged; it may have arrived all the same.
    Undelivered(String),
    /// The operating system refused something.
    Io(String),
    /// This version does not do that.
    Unsupported(String),
    /// A handle was made before `fork` and is used in the child.
    Forked,
    /// A bug in this library was caught; the node is dead.
    Internal(String),
}

impl Error {
    /// A [`Error::Closed`] for one of the things that close.
    pub(crate) fn closed(what: &str) -> Error {
        Error::Closed(format!("{what} closed"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidName(cause) => cause.fmt(f),
            Error::TooLarge { what, len, limit } => {
                write!(f, "{what} of {len} bytes is over the limit of {limit} bytes")
            }
            Error::Timeout(what) => write!(f, "timed out {what}"),
            Error::Forked => f.write_str("the handle was made before fork()"),
            Error::InvalidArgument(text)
            | Error::InvalidConfig(text)
            | Error::Closed(text)
            | Error::NotFound(text)
            | Error::Exists(text)
            | Error::NotAllowed(text)
            | Error::Limit(text)
            | Error::Connect(text)
            | Error::Auth(text)
            | Error::Protocol(text)
            | Error::Mls(text)
            | Error::NoRoute(text)
            | Error::Undelivered(text)
            | Error::Io(text)
            | Error::Unsupported(text)
            | Error::Internal(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<NameError> for Error {
    fn from(error: NameError) -> Error {
        Error::InvalidName(error)
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Error {
        match error {
            config::Error::Unsupported { .. } => Error::Unsupported(error.to_string()),
            other => Error::InvalidConfig(other.to_string()),
        }
    }
}

impl From<identity::Error> for Error {
    fn from(error: identity::Error) -> Error {
        Error::Auth(error.to_string())
    }
}

impl From<mls::Error> for Error {
    fn from(error: mls::Error) -> Error {
        Error::Mls(error.to_string())
    }
}
