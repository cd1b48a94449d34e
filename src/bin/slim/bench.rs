//! `slim bench sub` and `slim bench pub`, and both with `channel` before: how many messages go
//! through, and how long they take.
//!
//! The flags are those of the published `slimctl bench` that make sense here. The rates of the
//! subscribers count, each from its first message to its last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use slim::api::{App, Item, Kind, Mls, Node, PublishOptions, Retry, Session, SessionOptions};
use slim::config::{ClientConfig, NodeConfig};
use slim::error::{Error, Result};
use slim::limits;

use crate::ending::{note, say, Signals};

/// A subscriber ends after this long without a message.
const SILENCE: Duration = Duration::from_secs(30);
const OPEN: Duration = Duration::from_secs(35);
const REPLY: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
pub enum Command {
    /// Receive messages, report the rate
    Sub(SubArguments),
    /// Send messages to the subscribers
    Pub(PubArguments),
    /// The same with one group of all subscribers, and one publisher
    #[command(subcommand)]
    Channel(Channel),
}

#[derive(Subcommand)]
pub enum Channel {
    /// Receive every message of the group, report the rate
    Sub(SubArguments),
    /// Make the group, invite the subscribers, send messages to all of them
    Pub(PubArguments),
}

#[derive(Args)]
struct Common {
    /// Node to connect to
    #[arg(long, default_value = "http://127.0.0.1:46357")]
    server: String,
    /// Secret that both sides share
    #[arg(long, default_value = "my_shared_secret_for_testing_purposes_only")]
    secret: String,
    /// First parts of the apps' names
    #[arg(long, default_value = "bench/test")]
    prefix: String,
    /// Messages, split evenly over the apps; in a group each subscriber gets all
    #[arg(short = 'n', long, default_value_t = 100_000)]
    msgs: u64,
    /// Bytes of each message
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Apps, each with one session; with a group its subscribers [default: 1, with a group 2]
    #[arg(long)]
    count: Option<u64>,
    /// Number of the first app
    #[arg(long, default_value_t = 0)]
    start_index: u64,
}

#[derive(Args)]
pub struct SubArguments {
    #[command(flatten)]
    common: Common,
    /// Answer each message with the same bytes
    #[arg(long)]
    reply: bool,
}

#[derive(Args)]
pub struct PubArguments {
    #[command(flatten)]
    common: Common,
    /// Wait for the answers to each message, and report the times
    #[arg(long)]
    request: bool,
    /// Acknowledged delivery: wait for the acknowledgement of each message
    #[arg(long)]
    reliable: bool,
    /// Encrypt the session end to end, with MLS
    #[arg(long, env = "SLIM_ENABLE_MLS")]
    enable_mls: bool,
}

/// What one app did.
struct Done {
    name: String,
    messages: u64,
    begun: Instant,
    ended: Instant,
    latencies: Vec<Duration>,
}

impl Common {
    /// The apps that do the same, of `count` if nothing else was said: a number, and a name.
    fn apps(&self, role: &str, count: u64) -> Vec<(u64, String)> {
        let numbers = (self.start_index..).zip(0..self.count.unwrap_or(count));
        numbers.map(|(index, _)| (index, format!("{}/{role}-{index}", self.prefix))).collect()
    }
}

/// How many subscribers a group has if nothing else was said.
const GROUP: u64 = 2;

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Sub(arguments) => {
            let (common, reply) = (&arguments.common, arguments.reply);
            let work = |app: &App, _, share| subscribe(app, share, reply);
            report("Sub", common, &all(common, &common.apps("sub", 1), work)?)
        }
        Command::Pub(arguments) => {
            let common = &arguments.common;
            let work = |app: &App, index, share| publish(app, arguments, index, share);
            report("Pub", common, &all(common, &common.apps("pub", 1), work)?)
        }
        Command::Channel(Channel::Sub(arguments)) => {
            let (common, reply) = (&arguments.common, arguments.reply);
            let work = |app: &App, _, _| subscribe(app, common.msgs, reply);
            report("Sub", common, &all(common, &common.apps("channel-sub", GROUP), work)?)
        }
        Command::Channel(Channel::Pub(arguments)) => {
            let common = &arguments.common;
            let apps = [(0, format!("{}/channel-pub", common.prefix))];
            let work = |app: &App, _, _| publish_to_all(app, arguments);
            report("Pub", common, &all(common, &apps, work)?)
        }
    }
}

/// Runs every app on a thread of its own, on one connection.
fn all(
    common: &Common,
    apps: &[(u64, String)],
    work: impl Fn(&App, u64, u64) -> Result<Done> + Sync,
) -> Result<Vec<Done>> {
    let server = ClientConfig::parse(&common.server)?;
    let signals = Signals::block();
    let node = Arc::new(Node::new(&NodeConfig::default())?);
    let told = signals.end(&node, limits::LINGER, 1)?;
    told.or(each(&node, &server, common, apps, &work))
}

fn each(
    node: &Node,
    server: &ClientConfig,
    common: &Common,
    apps: &[(u64, String)],
    work: &(impl Fn(&App, u64, u64) -> Result<Done> + Sync),
) -> Result<Vec<Done>> {
    let connection = node.connect(server, Some(OPEN))?;
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (at, (index, name)) in (0..).zip(apps) {
            let count = apps.len() as u64;
            let share = common.msgs / count + u64::from(at < common.msgs % count);
            running.push(scope.spawn(move || {
                let app = node.app_with_secret(name, &common.secret)?;
                app.subscribe(name, connection, Some(OPEN))?;
                note!("ready {name}");
                work(&app, *index, share)
            }));
        }
        let panicked = |_| Err(Error::Internal("a worker panicked".to_owned()));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}

fn subscribe(app: &App, share: u64, reply: bool) -> Result<Done> {
    let session = app.accept(false, None)?;
    let (mut messages, mut begun) = (0, Instant::now());
    let mut ended = begun;
    while messages < share {
        match session.receive(Some(SILENCE)) {
            Ok(Item::Message(message)) => {
                ended = Instant::now();
                if messages == 0 {
                    begun = ended;
                }
                messages += 1;
                if reply {
                    let options = PublishOptions::default();
                    session.publish_to(&message, &message.payload, &options, None)?;
                }
            }
            Ok(Item::Event(_)) => {}
            Err(Error::Timeout(_) | Error::Closed(_)) => break,
            Err(error) => return Err(error),
        }
    }
    // The publisher closes the session; its last replies are still on their way.
    while session.receive(Some(REPLY)).is_ok() {}
    Ok(Done { name: app.name().service(), messages, begun, ended, latencies: Vec::new() })
}

fn publish(app: &App, arguments: &PubArguments, index: u64, share: u64) -> Result<Done> {
    let name = format!("{}/sub-{index}", arguments.common.prefix);
    let session = app.open(&session_options(arguments, Kind::PointToPoint), &name, Some(OPEN))?;
    send(app, &session, arguments, share, 1)
}

fn publish_to_all(app: &App, arguments: &PubArguments) -> Result<Done> {
    let common = &arguments.common;
    let group = format!("{}/channel", common.prefix);
    let session = app.open(&session_options(arguments, Kind::Group), &group, Some(OPEN))?;
    let subscribers = common.apps("channel-sub", GROUP);
    for (_, name) in &subscribers {
        session.invite(name, Some(OPEN))?;
        note!("invited {name}");
    }
    send(app, &session, arguments, common.msgs, subscribers.len())
}

fn session_options(arguments: &PubArguments, kind: Kind) -> SessionOptions {
    let retry = Retry { interval: Duration::from_millis(500), max_retries: 60 };
    let reliable = arguments.reliable.then_some(retry);
    let mls = arguments.enable_mls.then(Mls::default);
    SessionOptions { kind, reliable, mls, ..SessionOptions::default() }
}

/// Sends the messages, each to so many subscribers.
fn send(
    app: &App,
    session: &Session,
    arguments: &PubArguments,
    share: u64,
    subscribers: usize,
) -> Result<Done> {
    let (payload, options) = (vec![0; arguments.common.size], PublishOptions::default());
    let mut latencies = Vec::new();
    let begun = Instant::now();
    for _ in 0..share {
        let sent = Instant::now();
        if arguments.reliable {
            session.publish_start(&payload, &options)?.wait(None)?;
        } else {
            session.publish(&payload, &options, None)?;
        }
        if arguments.request {
            for _ in 0..subscribers {
                session.receive(Some(REPLY))?;
                latencies.push(sent.elapsed());
            }
        }
    }
    let ended = Instant::now();
    if let Err(error) = session.close(Some(OPEN)) {
        note!("closing: {error}");
    }
    Ok(Done { name: app.name().service(), messages: share, begun, ended, latencies })
}

fn report(role: &str, common: &Common, done: &[Done]) -> Result<()> {
    let rate = |messages: u64, time: Duration| messages as f64 / time.as_secs_f64().max(1e-9);
    for one in done {
        let rate = rate(one.messages, one.ended - one.begun);
        say(&format!("{}: {rate:.0} msgs/sec ({} msgs)", one.name, one.messages))?;
    }
    let messages: u64 = done.iter().map(|one| one.messages).sum();
    let begun = done.iter().map(|one| one.begun).min();
    let ended = done.iter().map(|one| one.ended).max();
    let (Some(begun), Some(ended)) = (begun, ended) else { return Ok(()) };
    let rate = rate(messages, ended - begun);
    let kib = rate * common.size as f64 / 1024.0;
    say(&format!("{role} stats: {rate:.0} msgs/sec ~ {kib:.0} KiB/sec ({messages} msgs)"))?;
    let mut latencies: Vec<Duration> =
        done.iter().flat_map(|one| one.latencies.iter().copied()).collect();
    latencies.sort();
    if let Some(last) = latencies.len().checked_sub(1) {
        let at = |percent: usize| latencies[last * percent / 100].as_secs_f64() * 1e6;
        say(&format!(
            "Latency: min {:.0} us, p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, max {:.0} us",
            at(0),
            at(50),
            at(90),
            at(99),
            at(100)
        ))?;
    }
    Ok(())
}
