//! libslim.
pub mod clock;
pub mod config;
pub mod entropy;
pub mod grpc;
pub mod http2;
pub mod identity;
pub mod limits;
pub mod link;
pub mod log;
pub mod name;
pub mod wire;
