//! libslim.
pub mod api;
pub mod clock;
pub mod config;
mod driver;
pub mod entropy;
pub mod error;
pub mod ffi;
pub mod grpc;
pub mod http2;
pub mod identity;
pub mod limits;
pub mod link;
pub mod logging;
pub mod name;
pub mod node;
pub mod router;
pub mod session;
pub mod wire;

/// Version of this library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version that we announce to other nodes: the one whose wire format we speak, and ours
/// (DESIGN decision 2).
pub fn protocol_version() -> String {
    format!("3.4.6+libslim.{VERSION}")
}
