//! The `slim` program: a node, and small apps to try one with.
//!
//! Messages go to standard output, one a line; everything else to standard error. Exit status: 0
//! done, 1 failed, 2 wrong use. A node, and a receiver without a count, are done when a signal ends
//! them; what a signal interrupts otherwise has failed.

mod bench;
mod ending;
mod group;
mod node;
mod peer;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use ending::{note, say};

#[derive(Parser)]
#[command(name = "slim", about = "SLIM: a node, and apps to try it with")]
#[command(disable_version_flag = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Run a node from the published node's YAML file, like `slim node --config` [env: CONFIG=]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the versions of the program and of the protocol
    #[arg(short = 'v', long, short_alias = 'V', exclusive = true)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node until SIGINT or SIGTERM
    Node(node::Arguments),
    /// Open a session, send messages, print the replies
    Send(peer::SendArguments),
    /// Wait for sessions, print what they bring
    Receive(peer::ReceiveArguments),
    /// Take part in a group: as its moderator, or invited
    Group(group::Arguments),
    /// Open a session to an app and say how long it took
    Ping(peer::PingArguments),
    /// Measure rates and latencies
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Not by clap: empty, it would be wrong use of every command.
    let variable = || std::env::var_os("CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let result = match (arguments.command, arguments.config.or_else(variable)) {
        _ if arguments.version => {
            let (version, protocol) = (env!("CARGO_PKG_VERSION"), slim::protocol_version());
            say(&format!("Version:\t{version}\nProtocol:\t{protocol}"))
        }
        (Some(Command::Node(arguments)), _) => node::run(&arguments),
        (Some(Command::Send(arguments)), _) => peer::send(&arguments),
        (Some(Command::Receive(arguments)), _) => peer::receive(&arguments),
        (Some(Command::Group(arguments)), _) => group::group(&arguments),
        (Some(Command::Ping(arguments)), _) => peer::ping(&arguments),
        (Some(Command::Bench(command)), _) => bench::run(&command),
        (None, Some(path)) => node::run_file(&path),
        (None, None) => {
            let missing = clap::error::ErrorKind::MissingSubcommand;
            Arguments::command().error(missing, "a command or --config FILE is needed").exit()
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note!("slim: {error}");
            ExitCode::FAILURE
        }
    }
}
