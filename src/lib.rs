//! libslim.
pub mod clock;
pub mod config;
pub mod entropy;
pub mod error;
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
