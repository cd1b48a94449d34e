//! SLIM (Secure Low-latency Interactive Messaging) as a small synchronous library.
//!
//! # A first program
//!
//! ```no_run
//! use slim::api::{Node, PublishOptions, SessionOptions};
//! use slim::config::{ClientConfig, NodeConfig};
//! use std::time::Duration;
//!
//! # fn main() -> slim::error::Result<()> {
//! let wait = Some(Duration::from_secs(10));
//! let node = Node::new(&NodeConfig::default())?;
//! let app = node.app_with_secret("org/demo/bob", "a secret that all apps share, 32 bytes...")?;
//! app.connect(&ClientConfig::parse("http://127.0.0.1:46357")?, wait)?;
//! let session = app.open(&SessionOptions::default(), "org/demo/alice", wait)?;
//! session.publish(b"hello", &PublishOptions::default(), wait)?;
//! println!("{:?}", session.receive(wait)?);
//! session.close(wait)
//! # }
//! ```
//!
//! Users need [`api`], [`config`], [`error`] and [`logging`]; C programs get the same through
//! `include/slim.h` ([`ffi`]). Everything else is public for tests and tools and may change.
//!
//! # The pieces
//!
//! ```text
//!  C / Go / Python           ffi/        thin: pointers, statuses, panics stop here
//!  Rust programs             api/        Node, App, Session, Op: blocking calls with timeouts
//!         | commands                            ^ inboxes, answers
//!         v                                     |
//!  ------------------------- driver/     ONE thread per node: poll, read, feed, flush ---------
//!         | handle_*(input, now)                ^ poll_output(), poll_timeout(), output bytes
//!         v                                     |
//!  core: node/  =  link/ (http2, grpc, negotiation, header MAC)  ->  router/  ->  session/
//!                                                            session/ stands on identity/, mls/
//! ```
//!
//! **The core is sans-I/O.** Everything under [`wire`], [`http2`], [`grpc`], [`link`], [`router`],
//! [`identity`], `mls`, [`session`] and [`node`] has no sockets, threads, clocks, environment or
//! files. Time comes in as [`clock::Now`], randomness from an injected [`entropy::Entropy`]. So
//! whole networks run in a test, in virtual time, from a seed. Known leaks: nghttp2 measures its
//! rate limits with a clock of its own, OpenMLS looks at the system's clock when it checks key
//! packages, and aws-lc draws its own randomness for ECDSA signatures; a seed replays a history,
//! not the signature bytes.
//!
//! Every machine has the same verbs: `handle_*(input, now)`, `handle_timeout(now)`,
//! `poll_timeout()`, `poll_output()`. Nothing calls back.
//!
//! | to find | look in |
//! |---|---|
//! | the strings, hashes and ids of names | [`name`] |
//! | protobuf messages; what is signed and MACed, byte for byte | [`wire`] (`message`, `canonical`) |
//! | a message while it is routed | `wire/frame.rs` |
//! | HTTP/2 over nghttp2, the windows, limits on floods | [`http2`] |
//! | length-prefixed messages, heads, statuses | [`grpc`] |
//! | who may speak first, keys, MACs, pings, the end of a link | [`link`] |
//! | who gets a message, default gateway | [`router`] (`table`) |
//! | tokens, keys, signatures, identity binding | [`identity`] |
//! | encrypted groups: members, epochs, sealing and opening | `mls/mod.rs` |
//! | MLS's cryptography and private keys; HPKE | `mls/provider.rs`, `storage.rs`, `hpke.rs` |
//! | an app: discovery, invitations, verification, signing | `session/app.rs` |
//! | opening, inviting, welcoming, closing | `session/moderator.rs` |
//! | being invited, being closed | `session/participant.rs` |
//! | control messages that are sent again until answered | `session/request.rs` |
//! | numbers, acks, retransmission, windows | `session/sender.rs`, `session/receiver.rs` |
//! | heartbeats, offline and online | `session/liveness.rs` |
//! | dialling, backoff, reconnection | `node/connection.rs` |
//! | subscriptions, acks, replay | `node/subscription.rs` |
//! | frames to links and local apps | `node/delivery.rs` |
//! | the loop, sockets, name look-up | `driver/event_loop.rs`, `socket.rs`, `resolve.rs` |
//! | queues and answers to threads | `driver/inbox.rs`, `command.rs` |
//! | every bound | [`limits`] |
//!
//! A node is the one object: it may listen, connect, and carry local apps, all at once. `slim node`
//! is a node with listeners and no apps; a program with one app and one connection is the same
//! object. An app is a local connection of its node's router.
//!
//! # The way of a message out
//!
//! `Session::publish` (`api/session.rs`) checks limits, waits for room (`driver/command.rs`, one
//! counter per session, refilled by [`node::Output::Credit`]), and sends a command. The loop hands
//! it to [`node::Node::publish`]; the session's sender gives it a number and decides to whom it
//! goes; `session/app.rs` puts header, token and, on control messages, both signatures around it;
//! `node/delivery.rs` asks the router for the targets; each link encodes the frame with its own MAC
//! straight into its outbound queue. One flush per turn of the loop writes what every link has:
//! many messages share a DATA frame, none waits when it is alone.
//!
//! # The way of a message in
//!
//! The loop reads a socket, at most 64 KiB a turn, and feeds the link. HTTP/2 finds DATA, gRPC
//! finds messages, each becomes a [`wire::Frame`]. The link checks its MAC. The node validates it,
//! counts the hop, and routes it: to other links, which encode it anew with their MAC, or to local
//! apps. An app verifies control messages (token, signatures, binding, repetition) and hands the
//! message to its session, whose receiver puts data in order, acknowledges it, and asks for what is
//! missing. What is for the application comes out as [`node::Output::Item`], and the loop puts it
//! into the session's inbox, where `Session::receive` waits.
//!
//! # The run loop
//!
//! `driver/event_loop.rs`: wait for sockets, calls or the core's next timer; take calls; read
//! what is readable (each socket has a budget per turn, then the others get theirs); fire timers;
//! carry out what the core wants; flush what is dirty. Signals are blocked in this thread. Host
//! names are looked up on a thread of their own, `slim-dns`.
//!
//! # How to test in virtual time
//!
//! `tests/world/mod.rs` is a network in one thread: processes with node cores, links as byte queues
//! split at random places, one clock that jumps to the next event, one seed. `World::cut`, `kill`
//! and `restart` are its faults. A test reads like a story:
//!
//! ```text
//! let Two { mut world, alice, bob, .. } = two(seed, reliable(500, 3));
//! world.kill(bob.0);
//! let op = world.publish(alice.0, alice.1, "are you there?");
//! assert!(matches!(world.finish(alice.0, op), Err(Error::Undelivered(_))));
//! ```
//!
//! # What comes next, and where its place is
//!
//! TLS: between `driver/socket.rs` and the link. JWT: one more
//! [`identity::Provider`] and [`identity::Verifier`]. The publish buffer goes behind
//! `Command::Publish`, the flow cache behind [`wire::Frame::verify`] and [`wire::Frame::encode`].

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
#[doc(hidden)]
pub mod mls;
pub mod name;
pub mod node;
pub mod router;
pub mod session;
pub mod wire;

/// Version of this library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version that we announce to other nodes: the one whose wire format we speak, and ours.
pub fn protocol_version() -> String {
    format!("3.4.6+libslim.{VERSION}")
}

/// Whether somebody who announces this version is of this library.
pub(crate) fn is_ours(version: &str) -> bool {
    version.contains("+libslim")
}
