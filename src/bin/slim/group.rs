//! `slim group`: one member of a group, its moderator or invited.
//!
//! What is typed is published, but for a few words: `invite NAME`, `remove NAME`, `suspend`,
//! `rejoin`, `participants`, `leave`, and `exit` or `quit`.

use std::io::BufRead;
use std::sync::{mpsc, Arc};
use std::time::Duration;

use clap::Args;
use slim::api::{
    App, Event, Item, Kind, Mls, PublishOptions, Retry, Session, SessionOptions, Timeout,
};
use slim::error::{Error, Result};

use crate::ending::{note, output_failed, print};
use crate::peer::{run, Common};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Name of the group; with it and --invites this app is the moderator, else it waits to be invited
    #[arg(long, env = "SLIM_REMOTE", requires = "invites")]
    remote: Option<String>,
    /// Name of an app to invite (repeatable)
    #[arg(long, env = "SLIM_INVITES", value_delimiter = ' ', requires = "remote")]
    invites: Vec<String>,
    /// Publish this once everybody was invited
    #[arg(long, env = "SLIM_MESSAGE")]
    message: Option<String>,
    /// How often to publish it
    #[arg(long, default_value_t = 1)]
    iterations: u32,
    /// Answer each message, to its sender alone
    #[arg(long)]
    reply: bool,
    /// Invited: once out of the group, wait for the next invitation
    #[arg(long, conflicts_with = "remote")]
    stay: bool,
    /// End after so many messages
    #[arg(long)]
    count: Option<u64>,
    /// Encrypt the group end to end, with MLS
    #[arg(long, env = "SLIM_ENABLE_MLS")]
    enable_mls: bool,
    /// Do not wait for acknowledgements, do not send again
    #[arg(long)]
    best_effort: bool,
    /// Milliseconds between two tries of a message
    #[arg(long, default_value_t = 1000)]
    interval_ms: u64,
    /// How often an unacknowledged message is sent again
    #[arg(long, default_value_t = 10)]
    retries: u32,
}

/// Something to do, from one of the threads.
enum Note {
    Line(String),
    Item(Item),
    Over(Error),
}

pub fn group(arguments: &Arguments) -> Result<()> {
    let status = i32::from(arguments.count.is_some() || arguments.message.is_some());
    run(&arguments.common, status, |app| take_part(app, arguments))
}

fn take_part(app: &App, arguments: &Arguments) -> Result<()> {
    let timeout = Some(Duration::from_millis(arguments.common.timeout_ms));
    note!("ready {}", app.name());
    let (notes, inbox) = mpsc::channel();
    read_lines(notes.clone());
    loop {
        let session = match &arguments.remote {
            Some(group) => open(app, group, arguments, timeout)?,
            None => app.accept(true, None)?,
        };
        let stays = converse(session, arguments, &notes, &inbox, timeout)?;
        if !(stays && arguments.stay) {
            return Ok(());
        }
    }
}

/// One session, from its beginning to its end. `false`: `exit` was typed.
fn converse(
    session: Session,
    arguments: &Arguments,
    notes: &mpsc::Sender<Note>,
    inbox: &mpsc::Receiver<Note>,
    timeout: Timeout,
) -> Result<bool> {
    let session = Arc::new(session);
    let fields = session.fields();
    note!("session {} in {}, moderator: {}", fields.id, fields.destination, fields.initiator);
    let mut failed = None;
    for name in &arguments.invites {
        match session.invite(name, timeout) {
            Ok(()) => note!("invited {name}"),
            Err(error) => {
                note!("{name} was not invited: {error}");
                failed.get_or_insert(error);
            }
        }
    }
    watch(&session, notes.clone());
    for _ in 0..arguments.iterations {
        if let Some(message) = &arguments.message {
            publish(&session, message, timeout)?;
        }
    }
    let end = serve(&session, arguments, inbox, timeout)?;
    if end != End::Over {
        match session.close(timeout) {
            Err(error @ Error::Undelivered(_)) => note!("{error}"),
            Err(Error::Closed(_)) => {}
            other => other?,
        }
    }
    if end == End::Left {
        // Its last word.
        while !matches!(inbox.recv(), Ok(Note::Over(_)) | Err(_)) {}
        note!("session closed by this side");
    }
    failed.map_or(Ok(end != End::Exit), Err)
}

/// How taking part comes to its end.
#[derive(PartialEq)]
enum End {
    /// It goes on.
    NotYet,
    /// The others ended it.
    Over,
    Left,
    Exit,
}

fn open(app: &App, group: &str, arguments: &Arguments, timeout: Timeout) -> Result<Session> {
    let interval = Duration::from_millis(arguments.interval_ms);
    let retry = Retry { interval, max_retries: arguments.retries };
    let options = SessionOptions {
        kind: Kind::Group,
        reliable: (!arguments.best_effort).then_some(retry),
        mls: arguments.enable_mls.then(Mls::default),
        events: true,
        ..SessionOptions::default()
    };
    app.open(&options, group, timeout)
}

/// Does what the others say and what is typed, until one of them ends it.
fn serve(
    session: &Session,
    arguments: &Arguments,
    inbox: &mpsc::Receiver<Note>,
    timeout: Timeout,
) -> Result<End> {
    let mut messages = 0;
    while arguments.count.is_none_or(|count| messages < count) {
        match inbox.recv() {
            Ok(Note::Item(Item::Message(message))) => {
                messages += 1;
                let mut line = format!("{} > ", message.source.service()).into_bytes();
                line.extend_from_slice(&message.payload);
                print(&line).map_err(output_failed)?;
                if arguments.reply && !message.is_reply {
                    let mut answer = message.payload.to_vec();
                    answer.extend(format!(" from {}", arguments.common.local).as_bytes());
                    session.publish_to(&message, &answer, &PublishOptions::default(), timeout)?;
                }
            }
            Ok(Note::Item(Item::Event(event))) => note!("event {event:?}"),
            Ok(Note::Line(line)) => match obey(session, &line, timeout) {
                Ok(End::NotYet) => {}
                Ok(end) => return Ok(end),
                Err(error) => note!("{error}"),
            },
            Ok(Note::Over(error)) => {
                note!("{error}");
                return Ok(End::Over);
            }
            Err(_) => return Ok(End::Over),
        }
    }
    Ok(End::Exit)
}

/// Does what was typed.
fn obey(session: &Session, line: &str, timeout: Timeout) -> Result<End> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] => {}
        ["exit" | "quit"] => return Ok(End::Exit),
        ["leave"] => return Ok(End::Left),
        ["invite", name] => {
            session.invite(name, timeout)?;
            note!("invited {name}");
        }
        ["remove", name] => {
            session.remove(name, timeout)?;
            note!("removed {name}");
        }
        ["suspend"] => {
            session.suspend(timeout)?;
            note!("suspended");
        }
        ["rejoin"] => {
            session.rejoin(timeout)?;
            note!("back");
        }
        ["participants"] => {
            let participants = session.participants(timeout)?;
            note!("{} participants", participants.len());
            for participant in participants {
                let state = if participant.online { "online" } else { "offline" };
                note!("{} {state}", participant.name);
            }
        }
        _ => publish(session, line, timeout)?,
    }
    Ok(End::NotYet)
}

fn publish(session: &Session, text: &str, timeout: Timeout) -> Result<()> {
    session.publish_start(text.as_bytes(), &PublishOptions::default())?.wait(timeout)?;
    note!("delivered");
    Ok(())
}

/// Hands on what the session brings.
fn watch(session: &Arc<Session>, notes: mpsc::Sender<Note>) {
    let session = Arc::clone(session);
    std::thread::spawn(move || loop {
        let (note, over) = match session.receive(None) {
            Ok(Item::Event(Event::Closed(reason))) => (Note::Over(Error::Closed(reason)), true),
            Ok(item) => (Note::Item(item), false),
            Err(error) => (Note::Over(error), true),
        };
        if notes.send(note).is_err() || over {
            return;
        }
    });
}

/// Hands on what is typed, to the end of the input.
fn read_lines(notes: mpsc::Sender<Note>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if notes.send(Note::Line(line)).is_err() {
                return;
            }
        }
    });
}
