//! The `slim` program: a node, and small apps to try one with.
//!
//! Messages go to standard output, one a line; everything else to standard error. Exit status: 0
//! done, 1 failed, 2 wrong use.

mod bench;
mod node;
mod peer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "slim", version, about = "SLIM: a node, and apps to try it with")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node until SIGINT or SIGTERM
    Node(node::Arguments),
    /// Open a session, send messages, print the replies
    Send(peer::SendArguments),
    /// Wait for sessions, print what they bring
    Receive(peer::ReceiveArguments),
    /// Open a session to an app and say how long it took
    Ping(peer::PingArguments),
    /// Measure rates and latencies
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Node(arguments) => node::run(&arguments),
        Command::Send(arguments) => peer::send(&arguments),
        Command::Receive(arguments) => peer::receive(&arguments),
        Command::Ping(arguments) => peer::ping(&arguments),
        Command::Bench(command) => bench::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slim: {error}");
            ExitCode::FAILURE
        }
    }
}
