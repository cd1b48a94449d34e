//! The bytes of SLIM: protobuf messages (`message`), the byte-exact texts that are signed and
//! MACed ([`canonical`]), and the [`Frame`] that routing works on.
//!
//! Nothing here decides anything about sessions or routes.

pub mod canonical;
mod frame;
mod message;

pub use frame::{Frame, FrameError, FrameKind};
pub use message::*;
