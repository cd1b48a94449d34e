//! The bytes of SLIM: protobuf messages (`message`), the byte-exact texts that are signed and
//! MACed ([`canonical`]), the [`Frame`] that routing works on, and the view on raw bytes behind it
//! (`view`), and what is counted before a message is decoded (`repeats`).
//!
//! Nothing here decides anything about sessions or routes.

pub mod canonical;
mod frame;
mod message;
mod repeats;
mod view;

pub use frame::{Frame, FrameError, FrameKind, Parsed};
pub use message::*;
