//! The blocking Rust API: [`Node`], [`App`], [`Session`], [`Op`].
//!
//! Calls wait at most the time that they are given (`None`: without limit), and may be made from
//! any thread. Handles may be dropped in any order; a closed node, app or session answers
//! [`Error::Closed`](crate::error::Error::Closed).

mod app;
mod node;
mod op;
mod session;

pub use app::App;
pub use node::Node;
pub use op::Op;
pub use session::{Participant, PublishOptions, Session, SessionOptions};

pub use crate::driver::Timeout;
pub use crate::node::{ConnectionInfo, Stats};
pub use crate::router::ConnectionId;
pub use crate::session::{
    Direction, Event, Fields, Item, Kind, Mls, ReceivedMessage as Message, Retry,
};
