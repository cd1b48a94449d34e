//! How a session behaves: its kind and its timers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Error;
use crate::limits;
use crate::wire::{MlsSettings, ParticipantSettings, SessionType, TimerSettings};

/// With whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One peer: the instance that answered first.
    PointToPoint,
    /// Everybody who was invited.
    Group,
}

impl Kind {
    pub(super) fn to_wire(self) -> SessionType {
        match self {
            Kind::PointToPoint => SessionType::PointToPoint,
            Kind::Group => SessionType::Multicast,
        }
    }
}

/// Which way data goes at one member. The others do not wait for acknowledgements of a member that
/// takes no data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// It publishes and receives.
    #[default]
    Both,
    /// It publishes; what the others publish is ignored.
    SendOnly,
    /// It receives; publishing fails.
    ReceiveOnly,
    /// Neither: it only takes part.
    Neither,
}

impl Direction {
    /// Whether it publishes.
    pub fn sends(self) -> bool {
        matches!(self, Direction::Both | Direction::SendOnly)
    }

    /// Whether it takes what others publish.
    pub fn receives(self) -> bool {
        matches!(self, Direction::Both | Direction::ReceiveOnly)
    }

    pub(super) fn from_wire(settings: ParticipantSettings) -> Direction {
        match (settings.sends_data, settings.receives_data) {
            (true, true) => Direction::Both,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::ReceiveOnly,
            (false, false) => Direction::Neither,
        }
    }
}

/// When an unacknowledged message is sent again, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Time between two tries.
    pub interval: Duration,
    /// How often it is sent again.
    pub max_retries: u32,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { interval: limits::RETRY_INTERVAL, max_retries: limits::MAX_RETRIES }
    }
}

impl Retry {
    /// How long it takes until a message is given up: `(R+1) * T`.
    pub fn total(self) -> Duration {
        self.interval.saturating_mul(self.max_retries.saturating_add(1))
    }

    pub(super) fn to_wire(self) -> TimerSettings {
        let timeout = u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX);
        TimerSettings { timeout, max_retries: self.max_retries }
    }

    pub(super) fn from_wire(settings: TimerSettings) -> Retry {
        let interval = Duration::from_millis(u64::from(settings.timeout));
        Retry {
            interval: interval.clamp(limits::PEER_RETRY_INTERVAL, limits::MAX_RETRY_INTERVAL),
            max_retries: settings.max_retries.min(limits::PEER_MAX_RETRIES),
        }
    }
}

/// How a session is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mls {
    /// How many of a hundred received messages have their header compared with the copy that was
    /// encrypted with them. What is sent can always be compared.
    pub header_check: u32,
}

impl Default for Mls {
    /// Every header is compared.
    fn default() -> Mls {
        Mls { header_check: 100 }
    }
}

impl Mls {
    pub(super) fn to_wire(self) -> MlsSettings {
        MlsSettings { header_integrity_validation_percent: self.header_check }
    }

    pub(super) fn from_wire(settings: MlsSettings) -> Mls {
        Mls { header_check: settings.header_integrity_validation_percent.min(100) }
    }
}

/// What the creator of a session chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// With whom.
    pub kind: Kind,
    /// Acknowledged, ordered, retransmitted delivery; `None`: best effort.
    pub reliable: Option<Retry>,
    /// Each message goes to any one instance of the service, instead of all to the first found.
    pub anycast: bool,
    /// Which way data goes at this side.
    pub direction: Direction,
    /// Encrypted from member to member; `None`: not at all.
    pub mls: Option<Mls>,
    /// Pairs that the peers see with the session.
    pub metadata: BTreeMap<String, String>,
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            kind: Kind::PointToPoint,
            reliable: Some(Retry::default()),
            anycast: false,
            direction: Direction::Both,
            mls: None,
            metadata: BTreeMap::new(),
        }
    }
}

impl SessionConfig {
    /// Timers of control messages: those of the session, or the defaults.
    pub(super) fn control_retry(&self) -> Retry {
        self.reliable.unwrap_or_default()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(Mls { header_check: percent @ 101.. }) = self.mls {
            let text = format!("the headers of {percent} of 100 messages cannot be checked");
            return Err(Error::InvalidArgument(text));
        }
        let Some(retry) = self.reliable else {
            return check_metadata(&self.metadata);
        };
        let (min, max) = (limits::MIN_RETRY_INTERVAL, limits::MAX_RETRY_INTERVAL);
        if !(min..=max).contains(&retry.interval) {
            return Err(Error::InvalidArgument(format!(
                "a retry interval of {:?} is not between {min:?} and {max:?}",
                retry.interval
            )));
        }
        check_metadata(&self.metadata)
    }
}

/// Checks how many pairs a user wants to send.
pub(crate) fn check_metadata_len(len: usize) -> Result<(), Error> {
    let limit = limits::METADATA_ENTRIES;
    if len > limit {
        let text = format!("{len} entries of metadata are over the limit of {limit}");
        return Err(Error::Limit(text));
    }
    Ok(())
}

/// Checks the pairs that a user wants to send.
pub(crate) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    check_metadata_len(metadata.len())?;
    for (key, value) in metadata {
        if is_reserved(key) {
            return Err(Error::InvalidArgument(format!(
                "the metadata key {key:?} is reserved for the protocol"
            )));
        }
        let len = key.len().max(value.len());
        if len > limits::METADATA_TEXT {
            let (what, limit) = ("a metadata key or value", limits::METADATA_TEXT);
            return Err(Error::TooLarge { what, len, limit });
        }
    }
    Ok(())
}

/// Keys that mean something to the protocol, to nodes or to tracing; users neither set nor see
/// them (DESIGN decision 18).
pub(crate) fn is_reserved(key: &str) -> bool {
    key.starts_with("slim-")
        || matches!(
            key,
            "PUBLISH_TO"
                | "LEAVING_SESSION"
                | "LEAVE_REPLY_SENT"
                | "DELETE_GROUP"
                | "traceparent"
                | "tracestate"
                | "baggage"
        )
}

/// The pairs of a received message that the user gets to see.
pub(super) fn visible(metadata: BTreeMap<String, String>) -> BTreeMap<String, String> {
    metadata.into_iter().filter(|(key, _)| !is_reserved(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_out_of_range_are_refused() {
        let (min, max) = (limits::MIN_RETRY_INTERVAL, limits::MAX_RETRY_INTERVAL);
        let tick = Duration::from_nanos(1);
        for (interval, good) in [(min - tick, false), (min, true), (max, true), (max + tick, false)]
        {
            let reliable = Some(Retry { interval, max_retries: 1 });
            let config = SessionConfig { reliable, ..SessionConfig::default() };
            assert_eq!(config.check().is_ok(), good, "{interval:?}");
            if let Err(error) = config.check() {
                assert!(error.to_string().contains(&format!("{interval:?}")), "{error}");
            }
        }
    }

    #[test]
    fn timers_of_peers_are_kept_within_bounds() {
        let read = |timeout, max_retries| {
            let retry = Retry::from_wire(TimerSettings { timeout, max_retries });
            (retry.interval.as_millis(), retry.max_retries)
        };
        let (least, most) = (limits::PEER_RETRY_INTERVAL, limits::MAX_RETRY_INTERVAL);
        let (least, most) = (least.as_millis() as u32, most.as_millis() as u32);
        let retries = limits::PEER_MAX_RETRIES;
        assert_eq!(read(least, retries), (least.into(), retries), "at the limit");
        assert_eq!(read(least - 1, retries + 1), (least.into(), retries), "past it");
        assert_eq!(read(most, 0), (most.into(), 0));
        assert_eq!(read(most + 1, 0), (most.into(), 0));
    }

    #[test]
    fn metadata_is_checked_at_its_limits() {
        let pairs = |n: usize| (0..n).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(check_metadata(&pairs(limits::METADATA_ENTRIES)), Ok(()));
        assert!(check_metadata(&pairs(limits::METADATA_ENTRIES + 1)).is_err());
        let long = |n| [("k".to_owned(), "v".repeat(n))].into();
        assert_eq!(check_metadata(&long(limits::METADATA_TEXT)), Ok(()));
        assert!(check_metadata(&long(limits::METADATA_TEXT + 1)).is_err());
        let reserved = [("PUBLISH_TO".to_owned(), String::new())].into();
        assert!(check_metadata(&reserved).unwrap_err().to_string().contains("PUBLISH_TO"));
    }
}
