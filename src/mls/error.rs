//! What can go wrong in an encrypted group.

use std::fmt;
use std::time::Duration;

use openmls::framing::errors::{MessageDecryptionError, SecretTreeError};
use openmls::prelude::{
    CreateCommitError, KeyPackageVerifyError, ProcessMessageError, ProposalValidationError,
    StageCommitError, ValidationError, WelcomeError,
};
use openmls::treesync::errors::{LeafNodeValidationError, LifetimeError};

use crate::identity;
use crate::limits;

/// Why an operation was refused. The group is as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not the encoding of what was expected.
    Malformed(&'static str),
    /// A member or group of another cipher suite.
    Suite(u16),
    /// A new member's key package is from the future, by so many seconds: its clock or ours is
    /// wrong. Time heals small differences.
    NotYetValid(u64),
    /// A new member's key package ended so many seconds ago.
    Expired(u64),
    /// A message of another group.
    OtherGroup,
    /// A message of an epoch that we have not reached: its commit is missing.
    FutureEpoch(u64),
    /// A message of an epoch whose keys are gone, or a commit that is behind us.
    PastEpoch(u64),
    /// Our own message has come back.
    Own,
    /// A message that was opened before.
    Repeated,
    /// So many messages of this sender are missing that the key cannot be computed.
    OutOfReach,
    /// So many messages of this sender have come since that the key is gone.
    Outdated,
    /// A commit or welcome of this identity, which does not lead the group.
    NotModerator(String),
    /// A commit that does what is not done in SLIM.
    Forbidden(&'static str),
    /// This identity is a member already.
    DuplicateSubject(String),
    /// A key of the new member is in the group already.
    DuplicateKey,
    /// This identity is no member.
    UnknownMember(String),
    /// This identity's token names another key than its leaf has.
    OtherKey(String),
    /// A member wants to become somebody else.
    OtherSubject {
        /// Who the leaf belongs to.
        expected: String,
        /// Whose token it has now.
        found: String,
    },
    /// The welcome is for another key package.
    OtherKeyPackage,
    /// We are no member any more.
    Removed,
    /// A token is bad, or our own identity cannot make one.
    Identity(identity::Error),
    /// A signature, key, tag or hash is wrong; the text says which.
    Invalid(String),
}

impl Error {
    /// When the same may succeed: one of two clocks is ahead, by at most
    /// [`limits::MLS_CLOCK_WAIT`].
    pub fn heals_after(&self) -> Option<Duration> {
        let wait = match self {
            Error::NotYetValid(secs) | Error::Identity(identity::Error::NotYetValid(secs)) => {
                Duration::from_secs(*secs)
            }
            _ => return None,
        };
        (wait <= limits::MLS_CLOCK_WAIT).then_some(wait)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed(what) => write!(f, "not an MLS {what}"),
            Error::Suite(suite) => write!(f, "MLS cipher suite {suite:#06x} is another than ours"),
            Error::NotYetValid(secs) => write!(
                f,
                "the MLS key package is from {secs} seconds in the future: one of the clocks is wrong"
            ),
            Error::Expired(secs) => write!(f, "the MLS key package ended {secs} seconds ago"),
            Error::OtherGroup => f.write_str("an MLS message of another group"),
            Error::FutureEpoch(epoch) => write!(f, "MLS epoch {epoch} is not reached yet"),
            Error::PastEpoch(epoch) => write!(f, "MLS epoch {epoch} is past"),
            Error::Own => f.write_str("our own MLS message"),
            Error::Repeated => f.write_str("an MLS message that was opened before"),
            Error::OutOfReach => f.write_str("an MLS message whose key is out of reach"),
            Error::Outdated => f.write_str("an MLS message whose key is gone"),
            Error::NotModerator(subject) => {
                write!(f, "an MLS commit of {subject:?}, which does not lead the group")
            }
            Error::Forbidden(what) => write!(f, "an MLS commit with {what}"),
            Error::DuplicateSubject(subject) => {
                write!(f, "{subject:?} is in the MLS group already")
            }
            Error::DuplicateKey => f.write_str("a key of the new member is in the MLS group already"),
            Error::UnknownMember(subject) => write!(f, "{subject:?} is not in the MLS group"),
            Error::OtherKey(subject) => {
                write!(f, "the token of {subject:?} names another key than its MLS leaf")
            }
            Error::OtherSubject { expected, found } => {
                write!(f, "the MLS leaf of {expected:?} has a token of {found:?}")
            }
            Error::OtherKeyPackage => f.write_str("an MLS welcome for another key package"),
            Error::Removed => f.write_str("we were removed from the MLS group"),
            Error::Identity(error) => error.fmt(f),
            Error::Invalid(cause) => write!(f, "invalid MLS message: {cause}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Identity(error) => Some(error),
            _ => None,
        }
    }
}

impl From<identity::Error> for Error {
    fn from(error: identity::Error) -> Error {
        Error::Identity(error)
    }
}

/// The errors of OpenMLS that nobody acts on.
pub(super) fn invalid(error: impl fmt::Display) -> Error {
    Error::Invalid(error.to_string())
}

fn lifetime(error: &LifetimeError) -> Error {
    match error {
        LifetimeError::NotValidYet { not_before, now } => {
            Error::NotYetValid(not_before.saturating_sub(*now))
        }
        LifetimeError::Expired { not_after, now } => Error::Expired(now.saturating_sub(*not_after)),
        error => invalid(error),
    }
}

fn leaf(error: &LeafNodeValidationError) -> Error {
    match error {
        LeafNodeValidationError::Lifetime(error) => lifetime(error),
        error => invalid(error),
    }
}

fn proposal(error: &ProposalValidationError) -> Error {
    match error {
        ProposalValidationError::DuplicateSignatureKey
        | ProposalValidationError::DuplicateEncryptionKey
        | ProposalValidationError::DuplicateInitKey => Error::DuplicateKey,
        ProposalValidationError::LeafNodeValidation(error) => leaf(error),
        error => invalid(error),
    }
}

/// Of a key package.
pub(super) fn key_package(error: KeyPackageVerifyError) -> Error {
    match error {
        KeyPackageVerifyError::LifetimeError(error) => lifetime(&error),
        error => invalid(error),
    }
}

/// Of a commit of ours.
pub(super) fn commit(error: CreateCommitError) -> Error {
    match error {
        CreateCommitError::ProposalValidationError(error) => proposal(&error),
        CreateCommitError::LeafNodeValidation(error) => leaf(&error),
        error => invalid(error),
    }
}

/// Of a message.
pub(super) fn message<S: fmt::Display>(error: ProcessMessageError<S>) -> Error {
    match error {
        ProcessMessageError::InvalidCommit(StageCommitError::ProposalValidationError(error)) => {
            proposal(&error)
        }
        ProcessMessageError::InvalidCommit(StageCommitError::LeafNodeValidation(error)) => {
            leaf(&error)
        }
        ProcessMessageError::ValidationError(ValidationError::KeyPackageVerifyError(error)) => {
            key_package(error)
        }
        ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(
            MessageDecryptionError::SecretTreeError(error),
        )) => match error {
            SecretTreeError::SecretReuseError => Error::Repeated,
            SecretTreeError::TooDistantInTheFuture => Error::OutOfReach,
            SecretTreeError::TooDistantInThePast => Error::Outdated,
            error => invalid(error),
        },
        error => invalid(error),
    }
}

/// Of a welcome.
pub(super) fn welcome<S: fmt::Display>(error: WelcomeError<S>) -> Error {
    match error {
        WelcomeError::NoMatchingKeyPackage => Error::OtherKeyPackage,
        WelcomeError::UnsupportedCiphersuite(suite) => Error::Suite(suite.into()),
        error => invalid(error),
    }
}
