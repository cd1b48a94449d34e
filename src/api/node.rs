//! A node in this process.

use std::sync::Arc;

use super::{App, ConnectionId, Timeout};
use crate::config::{ClientConfig, IdentityConfig, NodeConfig, ServerConfig};
use crate::driver::{Command, NodeHandle, Reply};
use crate::entropy::{Entropy, SystemEntropy};
use crate::error::{Error, Result};
use crate::identity::{Binding, Provider, Verifier};
use crate::link::Identity;
use crate::logging;
use crate::name::Name;
use crate::node::{self, ConnectionInfo, Stats};

/// A SLIM data plane in this process, with a thread of its own. It may listen, connect to other
/// nodes, or both, and it carries the apps made on it. Dropping it stops it.
pub struct Node {
    handle: NodeHandle,
}

impl Node {
    /// Makes a node and starts its thread.
    ///
    /// `SLIM_IDENTITY_BINDING` and `SLIM_LOG` are read from the environment.
    pub fn new(config: &NodeConfig) -> Result<Node> {
        logging::init_from_env();
        let mut entropy = SystemEntropy;
        let node_id = config.node_id.clone();
        let node_id = node_id.unwrap_or_else(|| format!("node-{}", entropy.uuid_v4()));
        let identity = Identity {
            version: crate::protocol_version(),
            node_id,
            deployment_name: config.domain_name.clone(),
        };
        let binding = std::env::var("SLIM_IDENTITY_BINDING").ok();
        let binding = Binding::parse(binding.as_deref());
        let options = node::NodeOptions {
            identity,
            gateway: config.gateway,
            binding,
            stuck_receiver_timeout: config.stuck_receiver_timeout,
            virtual_time: false,
        };
        let handle = NodeHandle::start(node::Node::new(options, Box::new(entropy)))?;
        Ok(Node { handle })
    }

    /// Opens a listening socket and serves it; returns its port, which tells what `:0` became.
    pub fn listen(&self, config: &ServerConfig) -> Result<u16> {
        let config = Box::new(config.clone());
        match self.call(|answer| Command::Listen(config, answer), None)? {
            Reply::Port(port) => Ok(port),
            _ => Err(unexpected()),
        }
    }

    /// Connects to another node and waits until the link is usable. Attempts are repeated under
    /// the configured backoff while the time lasts; a refusal by policy or authentication is final
    /// at once. A link that is lost later is made again under the same number.
    pub fn connect(&self, config: &ClientConfig, timeout: Timeout) -> Result<ConnectionId> {
        connect(&self.handle.shared, config, timeout)
    }

    /// Closes a connection and forgets the subscriptions and routes over it.
    pub fn disconnect(&self, connection: ConnectionId) -> Result<()> {
        self.call(|answer| Command::Disconnect(connection, answer), None).map(drop)
    }

    /// Makes an app called `name` (`org/namespace/service`; an id in it is ignored, the app's own
    /// is derived from its identity).
    pub fn app(&self, name: &str, identity: &IdentityConfig) -> Result<App> {
        App::new(&self.handle.shared, &Name::parse(name)?, identity)
    }

    /// Makes an app that proves who it is, and checks who others are, in a way of its own.
    pub fn app_with_identity(
        &self,
        name: &str,
        provider: Box<dyn Provider>,
        verifier: Box<dyn Verifier>,
    ) -> Result<App> {
        App::with_identity(&self.handle.shared, &Name::parse(name)?, provider, verifier)
    }

    /// Makes an app whose identity is a secret that all parties share.
    pub fn app_with_secret(&self, name: &str, secret: &str) -> Result<App> {
        self.app(name, &IdentityConfig::shared_secret(secret))
    }

    /// Asks the node to stop: no new connections, open ones drained for at most
    /// [`limits::LINGER`](crate::limits::LINGER) and closed. Returns at once; calling it again is
    /// harmless.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// The same, waiting until it is done: no new connections, what is queued for others goes out,
    /// then their streams are ended in good order.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if there were peers that had not taken everything within `limit`, which is
    /// then lost. The node has stopped all the same.
    pub fn drain(&self, limit: std::time::Duration) -> Result<()> {
        // More than a year is as good as for ever, and clocks can count it.
        let limit = limit.min(std::time::Duration::from_secs(366 * 24 * 3600));
        self.call(|answer| Command::Stop(limit, Some(answer)), None).map(drop)
    }

    /// What the node has and has done.
    pub fn stats(&self) -> Result<(Stats, Vec<ConnectionInfo>)> {
        match self.call(Command::Stats, None)? {
            Reply::Stats(stats, connections) => Ok((stats, connections)),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the node has stopped.
    pub fn wait(&self, timeout: Timeout) -> Result<()> {
        self.handle.shared.wait_stopped(timeout)
    }

    fn call(
        &self,
        command: impl FnOnce(crate::driver::Answer) -> Command,
        timeout: Timeout,
    ) -> Result<Reply> {
        self.handle.shared.call(command, timeout, "waiting for the node")
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Node")
    }
}

pub(super) fn connect(
    shared: &Arc<crate::driver::Shared>,
    config: &ClientConfig,
    timeout: Timeout,
) -> Result<ConnectionId> {
    let deadline = timeout.and_then(|limit| std::time::Instant::now().checked_add(limit));
    let config = Box::new(config.clone());
    // The core keeps the time, so that it can also say why there is no connection yet.
    let command = |answer| Command::Connect(config, deadline, answer);
    match shared.call(command, None, "connecting")? {
        Reply::Connection(id) => Ok(id),
        _ => Err(unexpected()),
    }
}

pub(super) fn unexpected() -> Error {
    Error::Internal("an answer of the wrong kind".to_owned())
}
