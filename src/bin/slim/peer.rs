//! `slim send` and `slim receive`: one app each.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use clap::Args;
use slim::api::{
    App, Event, Item, Message, Mls, Node, PublishOptions, Retry, Session, SessionOptions, Timeout,
};
use slim::config::{ClientConfig, NodeConfig};
use slim::error::{Error, Result};

use crate::ending::{note, output_failed, print, say, Signals};

/// How long `receive --count` waits for its sessions to end, and any app for its last words to go
/// out after a signal.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Args)]
pub struct Common {
    /// Name of this app: organization/namespace/service
    #[arg(long, env = "SLIM_LOCAL")]
    pub local: String,
    /// Node to connect to: an endpoint like http://127.0.0.1:46357, or a JSON object
    #[arg(long, env = "SLIM_SLIM", default_value = "http://127.0.0.1:46357")]
    slim: String,
    /// Secret that all parties share, at least 32 bytes
    #[arg(long, env = "SLIM_SHARED_SECRET", hide_env_values = true)]
    shared_secret: String,
    /// Milliseconds that connecting, opening and each answer may take
    #[arg(long, default_value_t = 30_000)]
    pub timeout_ms: u64,
}

#[derive(Args)]
pub struct SendArguments {
    #[command(flatten)]
    common: Common,
    /// Name of the app to talk to
    #[arg(long, env = "SLIM_REMOTE")]
    remote: String,
    /// What to send
    #[arg(long, env = "SLIM_MESSAGE", default_value = "hello")]
    message: String,
    /// How often to send it
    #[arg(long, visible_alias = "count", default_value_t = 1)]
    iterations: u32,
    /// Do not wait for acknowledgements, do not send again
    #[arg(long)]
    best_effort: bool,
    /// Send each message to any one instance of the app, found anew each time
    #[arg(long)]
    anycast: bool,
    /// Encrypt the session end to end, with MLS
    #[arg(long, env = "SLIM_ENABLE_MLS")]
    enable_mls: bool,
    /// Do not wait for a reply to each message
    #[arg(long)]
    no_reply: bool,
    /// Make the message so many bytes long
    #[arg(long, default_value_t = 0)]
    size: usize,
    /// A pair that travels with each message (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// A pair that the peer sees with the session (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    session_metadata: Vec<(String, String)>,
    /// What the message is
    #[arg(long, default_value = "")]
    payload_type: String,
    /// Milliseconds between two tries of a message
    #[arg(long, default_value_t = 1000)]
    interval_ms: u64,
    /// How often an unacknowledged message is sent again
    #[arg(long, default_value_t = 10)]
    retries: u32,
}

#[derive(Args)]
pub struct PingArguments {
    #[command(flatten)]
    common: Common,
    /// Name of the app to look for
    name: String,
    /// How often
    #[arg(long, default_value_t = 1)]
    count: u32,
}

#[derive(Args)]
pub struct ReceiveArguments {
    #[command(flatten)]
    common: Common,
    /// End after so many messages
    #[arg(long)]
    count: Option<u64>,
    /// Answer each message
    #[arg(long)]
    reply: bool,
}

pub fn send(arguments: &SendArguments) -> Result<()> {
    run(&arguments.common, 1, |app| send_to(app, arguments))
}

fn send_to(app: &App, arguments: &SendArguments) -> Result<()> {
    let timeout = Some(Duration::from_millis(arguments.common.timeout_ms));
    let interval = Duration::from_millis(arguments.interval_ms);
    let retry = Retry { interval, max_retries: arguments.retries };
    let options = SessionOptions {
        reliable: (!arguments.best_effort).then_some(retry),
        anycast: arguments.anycast,
        mls: arguments.enable_mls.then(Mls::default),
        metadata: arguments.session_metadata.iter().cloned().collect(),
        events: true,
        ..SessionOptions::default()
    };
    let session = app.open(&options, &arguments.remote, timeout)?;
    note!("established {}", session.fields().id);
    let mut payload = arguments.message.clone().into_bytes();
    payload.resize(payload.len().max(arguments.size), b'x');
    let publish = PublishOptions {
        payload_type: arguments.payload_type.clone(),
        metadata: arguments.metadata.iter().cloned().collect(),
    };
    for _ in 0..arguments.iterations {
        if arguments.best_effort {
            session.publish(&payload, &publish, timeout)?;
        } else {
            session.publish_start(&payload, &publish)?.wait(timeout)?;
            note!("delivered");
        }
        if !arguments.no_reply {
            let reply = next_message(&session, timeout)?;
            note!("reply metadata {} type {}", json(&reply.metadata), reply.payload_type);
            print(&reply.payload).map_err(output_failed)?;
        }
    }
    match session.close(timeout) {
        Err(error @ Error::Undelivered(_)) => note!("{error}"),
        other => other?,
    }
    Ok(())
}

pub fn receive(arguments: &ReceiveArguments) -> Result<()> {
    // Without a count it is done when it is told so.
    let status = i32::from(arguments.count.is_some());
    run(&arguments.common, status, |app| receive_from(app, arguments))
}

fn receive_from(app: &Arc<App>, arguments: &ReceiveArguments) -> Result<()> {
    note!("ready {}", app.name());
    let (notes, inbox) = mpsc::channel();
    let local = arguments.reply.then(|| arguments.common.local.clone());
    let accepting = Arc::clone(app);
    std::thread::spawn(move || accept(&accepting, local.as_deref(), &notes));
    let (mut messages, mut sessions) = (0, 0);
    while arguments.count.is_none_or(|count| messages < count) {
        match inbox.recv() {
            Ok(Note::Message) => messages += 1,
            Ok(Note::Begun) => sessions += 1,
            Ok(Note::Ended) => sessions -= 1,
            Ok(Note::Failed(error)) => return Err(error),
            // Whoever read the messages has had enough.
            Ok(Note::OutputFailed(error))
                if error.kind() == ErrorKind::BrokenPipe && arguments.count.is_none() =>
            {
                return Ok(());
            }
            Ok(Note::OutputFailed(error)) => return Err(output_failed(error)),
            Err(_) => return Ok(()),
        }
    }
    // The peers may have something to say still: their goodbye, at least.
    let until = Instant::now() + GRACE;
    while sessions > 0 {
        match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Note::Ended) => sessions -= 1,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Opens a session as often as asked, prints who answered and how long it took.
pub fn ping(arguments: &PingArguments) -> Result<()> {
    run(&arguments.common, 1, |app| ping_to(app, arguments))
}

fn ping_to(app: &App, arguments: &PingArguments) -> Result<()> {
    let timeout = Some(Duration::from_millis(arguments.common.timeout_ms));
    for _ in 0..arguments.count {
        let begun = Instant::now();
        let session = app.open(&SessionOptions::default(), &arguments.name, timeout)?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        say(&format!("{}: session open in {took:.1} ms", arguments.name))?;
        session.close(timeout)?;
    }
    Ok(())
}

/// What the threads of `receive` tell.
enum Note {
    Begun,
    Message,
    Ended,
    Failed(Error),
    OutputFailed(std::io::Error),
}

/// Takes sessions, each served by a thread of its own.
fn accept(app: &App, local: Option<&str>, notes: &mpsc::Sender<Note>) {
    loop {
        let session = match app.accept(true, None) {
            Ok(session) => session,
            Err(error) => return drop(notes.send(Note::Failed(error))),
        };
        let fields = session.fields();
        let (id, from) = (fields.id, &fields.destination);
        note!("session {id} from {from} metadata {}", json(&fields.metadata));
        let (local, notes) = (local.map(str::to_owned), notes.clone());
        if notes.send(Note::Begun).is_err() {
            return;
        }
        std::thread::spawn(move || {
            if let Err(error) = serve(&session, local.as_deref(), &notes) {
                note!("session {id}: {error}");
            }
            drop(notes.send(Note::Ended));
        });
    }
}

/// Prints the messages of one session, and answers them if `local` is given.
fn serve(session: &Session, local: Option<&str>, notes: &mpsc::Sender<Note>) -> Result<()> {
    loop {
        let message = match session.receive(None)? {
            Item::Message(message) => message,
            Item::Event(event) => {
                note!("event {event:?}");
                continue;
            }
        };
        if let Err(error) = print(&message.payload) {
            drop(notes.send(Note::OutputFailed(error)));
            return Ok(());
        }
        if let Some(local) = local {
            let mut answer = message.payload.to_vec();
            answer.extend(format!(" from {local}").as_bytes());
            let options = PublishOptions {
                payload_type: message.payload_type.clone(),
                metadata: message.metadata.clone(),
            };
            session.publish_to(&message, &answer, &options, None)?;
            session.flush(None)?;
        }
        if notes.send(Note::Message).is_err() {
            return Ok(());
        }
    }
}

/// Runs what an app does on a node of its own. A signal ends both, and the program with `status`.
pub fn run(common: &Common, status: i32, work: impl FnOnce(&Arc<App>) -> Result<()>) -> Result<()> {
    let client = ClientConfig::parse(&common.slim)?;
    let signals = Signals::block();
    let node = Arc::new(Node::new(&NodeConfig::default())?);
    let told = signals.end(&node, GRACE, status)?;
    let begin = || {
        let app = node.app_with_secret(&common.local, &common.shared_secret)?;
        app.connect(&client, Some(Duration::from_millis(common.timeout_ms)))?;
        work(&Arc::new(app))
    };
    told.or(begin())
}

fn next_message(session: &Session, timeout: Timeout) -> Result<Message> {
    loop {
        match session.receive(timeout)? {
            Item::Message(message) => return Ok(*message),
            Item::Event(Event::Closed(reason)) => {
                return Err(Error::Closed(format!("session closed: {reason}")));
            }
            Item::Event(event) => note!("event {event:?}"),
        }
    }
}

fn json(pairs: &BTreeMap<String, String>) -> String {
    serde_json::json!(pairs).to_string()
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or(format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}
