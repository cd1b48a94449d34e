//! An app: a name on a node, with an identity.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::node::{connect, unexpected};
use super::session::{Session, SessionOptions};
use super::{ConnectionId, Direction, Op, Timeout};
use crate::config::{ClientConfig, IdentityConfig, ProviderConfig, VerifierConfig};
use crate::driver::{deadline_after, Answer, AppShared, Command, OpSlot, Reply, Shared};
use crate::entropy::SystemEntropy;
use crate::error::{Error, Result};
use crate::identity::{Provider, SharedSecret, SharedSecretVerifier, Verifier};
use crate::limits;
use crate::name::Name;

/// A named participant on a node. Dropping it closes its sessions without waiting for their peers.
pub struct App {
    node: Arc<Shared>,
    app: Arc<AppShared>,
}

impl App {
    pub(super) fn new(node: &Arc<Shared>, name: &Name, identity: &IdentityConfig) -> Result<App> {
        let ProviderConfig::SharedSecret { id, secret } = &identity.provider;
        let id = id.clone().unwrap_or_else(|| name.service());
        let provider = SharedSecret::new(&id, secret, &mut SystemEntropy)?;
        let VerifierConfig::SharedSecret { secret } = &identity.verifier;
        let verifier = SharedSecretVerifier::new(secret)?;
        App::with_identity(node, name, Box::new(provider), Box::new(verifier))
    }

    pub(super) fn with_identity(
        node: &Arc<Shared>,
        name: &Name,
        provider: Box<dyn Provider>,
        verifier: Box<dyn Verifier>,
    ) -> Result<App> {
        check_name(name)?;
        let command = |answer| Command::NewApp(name.clone(), provider, verifier, answer);
        match node.call(command, None, "making an app")? {
            Reply::App(app) => Ok(App { node: Arc::clone(node), app }),
            _ => Err(unexpected()),
        }
    }

    /// The app's full name, with the id that is derived from its identity.
    pub fn name(&self) -> &Name {
        &self.app.name
    }

    /// Connects the app's node and subscribes to the app's own name over the new connection: the
    /// usual beginning.
    pub fn connect(&self, config: &ClientConfig, timeout: Timeout) -> Result<ConnectionId> {
        let deadline = deadline_after(timeout);
        let connection = connect(&self.node, config, timeout)?;
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if let Err(error) = self.subscribe(&self.app.name.service(), connection, left) {
            // Nobody would know of it.
            let command = |answer| Command::Disconnect(connection, answer);
            let _ = self.node.call(command, None, "disconnecting");
            return Err(error);
        }
        Ok(connection)
    }

    /// Asks for messages to `name` over a connection. An app is reached over a connection by the
    /// names that it subscribed there; its own name is not subscribed by itself.
    pub fn subscribe(&self, name: &str, connection: ConnectionId, timeout: Timeout) -> Result<()> {
        let (name, app) = (parse_name(name)?, self.app.id);
        let what = format!("waiting for the subscription of {name}");
        let command = |answer| Command::Subscribe(app, name, connection, answer);
        self.node.call(command, timeout, &what).map(drop)
    }

    /// Takes a subscription back.
    pub fn unsubscribe(
        &self,
        name: &str,
        connection: ConnectionId,
        timeout: Timeout,
    ) -> Result<()> {
        let (name, app) = (parse_name(name)?, self.app.id);
        let what = format!("waiting for the unsubscription of {name}");
        let command = |answer| Command::Unsubscribe(app, name, connection, answer);
        self.node.call(command, timeout, &what).map(drop)
    }

    /// Sends what is meant for `name` over this connection. Needed only with several connections:
    /// with one, everything that is not here goes there.
    pub fn set_route(&self, name: &str, connection: ConnectionId) -> Result<()> {
        let name = parse_name(name)?;
        let command = |answer| Command::SetRoute(name, connection, answer);
        self.node.call(command, None, "setting a route").map(drop)
    }

    /// Takes a route back.
    pub fn remove_route(&self, name: &str, connection: ConnectionId) -> Result<()> {
        let name = parse_name(name)?;
        let command = |answer| Command::RemoveRoute(name, connection, answer);
        self.node.call(command, None, "removing a route").map(drop)
    }

    /// Waits for a session that somebody else opened to this app. With `events`, its
    /// [`Item::Event`](super::Item::Event)s come out of its inbox, too.
    pub fn accept(&self, events: bool, timeout: Timeout) -> Result<Session> {
        let shared = self.app.invitations.pop(timeout, "waiting for a session")?;
        if events {
            self.node.send(Command::SetEvents(shared.key, true))?;
        }
        Ok(Session::new(&self.node, &self.app, shared))
    }

    /// A descriptor that is readable while [`App::accept`] or [`App::next_done`] has something to
    /// give, or the app is closed. It belongs to the app and lives as long: never read it or close
    /// it. Take until [`Error::Timeout`].
    pub fn descriptor(&self) -> Result<RawFd> {
        self.app.invitations.descriptor()
    }

    /// The tag of an operation that has ended, where [`Op::notify`] asked for it. Never waits.
    pub fn next_done(&self) -> Result<u64> {
        self.app.done.pop(Some(Duration::ZERO), "no operation has ended")
    }

    /// Which way data goes in sessions that others open to this app from now on.
    pub fn set_direction(&self, direction: Direction) -> Result<()> {
        self.node.send(Command::SetDirection(self.app.id, direction))
    }

    /// Opens a session to `destination` and waits until the peer has joined; one with a group, whose
    /// name `destination` is, begins empty. If the time runs out first, the attempt is given up.
    pub fn open(
        &self,
        options: &SessionOptions,
        destination: &str,
        timeout: Timeout,
    ) -> Result<Session> {
        let (session, op) = self.open_start(options, destination)?;
        match op.wait(timeout) {
            Ok(()) => Ok(session),
            Err(Error::Timeout(_)) => {
                Err(Error::Timeout(format!("waiting for {destination} to join the session")))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a session without waiting: the operation ends when [`App::open`] would have returned.
    /// What is published before is kept until the peer has joined.
    pub fn open_start(&self, options: &SessionOptions, destination: &str) -> Result<(Session, Op)> {
        let (name, app) = (parse_name(destination)?, self.app.id);
        let config = Box::new(options.config()?);
        let events = options.events;
        let slot = OpSlot::new();
        let opened = Answer(Arc::clone(&slot));
        let command = |created| Command::Open(app, config, name, events, created, opened);
        match self.node.call(command, None, "opening a session")? {
            Reply::Session(shared) => {
                let op = Op::new(slot, &self.app, "waiting for the session to open");
                Ok((Session::new(&self.node, &self.app, shared), op))
            }
            _ => Err(unexpected()),
        }
    }
}

/// Reads a name that is not too long to be sent.
pub(super) fn parse_name(name: &str) -> Result<Name> {
    let name = Name::parse(name)?;
    check_name(&name)?;
    Ok(name)
}

impl Drop for App {
    fn drop(&mut self) {
        // A node that is closed has closed its apps.
        let _ = self.node.send(Command::RemoveApp(self.app.id));
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "App {}", self.app.name)
    }
}

fn check_name(name: &Name) -> Result<()> {
    let len = name.service().len();
    match len <= limits::NAME_LEN {
        true => Ok(()),
        false => Err(Error::TooLarge { what: "a name", len, limit: limits::NAME_LEN }),
    }
}
