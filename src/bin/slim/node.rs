//! `slim node`, and `slim --config FILE`: listens and connects until it is told to end.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use slim::api::Node;
use slim::config::{NodeConfig, NodeFile, ServerConfig, Substitutes};
use slim::error::{Error, Result};
use slim::limits;

use crate::ending::{note, Signals};

#[derive(Args)]
pub struct Arguments {
    /// Address to listen on (repeatable); port 0 takes a free one [default: 127.0.0.1:46357]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    listen: Vec<String>,
    /// Name of the node; by default a random one
    #[arg(long, value_name = "ID", conflicts_with = "config")]
    node_id: Option<String>,
    /// The published node's YAML file (docs/node-config.md)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.config {
        return run_file(path);
    }
    let default = [String::from("127.0.0.1:46357")];
    let listen = if arguments.listen.is_empty() { &default[..] } else { &arguments.listen };
    let servers: std::result::Result<Vec<_>, _> =
        listen.iter().map(|endpoint| ServerConfig::parse(endpoint)).collect();
    run_node(NodeFile {
        log_level: log::LevelFilter::Off,
        drain_timeout: Duration::from_secs(10),
        node: NodeConfig { node_id: arguments.node_id.clone(), ..NodeConfig::default() },
        servers: servers?,
        clients: Vec::new(),
    })
}

/// Runs the node that a file describes.
pub fn run_file(path: &Path) -> Result<()> {
    let failed = |cause: String| {
        let path = path.display();
        Error::InvalidArgument(format!("failed to load configuration from {path}: {cause}"))
    };
    let text = read(path).map_err(failed)?;
    let file = NodeFile::parse(&text, &mut World).map_err(|error| failed(error.to_string()))?;
    slim::logging::init_from_env_or(file.log_level);
    run_node(file)
}

/// Where the substitutes of a file come from.
struct World;

impl Substitutes for World {
    fn variable(&mut self, name: &str) -> std::result::Result<String, String> {
        std::env::var(name).map_err(|error| error.to_string())
    }

    fn file(&mut self, path: &str) -> std::result::Result<String, String> {
        read(Path::new(path))
    }
}

/// What a file holds: no more than a configuration may have, and devices never end.
fn read(path: &Path) -> std::result::Result<String, String> {
    let (mut text, limit) = (String::new(), limits::CONFIG_BYTES);
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(limit as u64 + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    match text.len() > limit {
        true => Err(format!("it is larger than {limit} bytes")),
        false => Ok(text),
    }
}

fn run_node(file: NodeFile) -> Result<()> {
    return_freed_memory();
    // Before the node's thread starts, so that the signals come to the one that waits for them.
    let signals = Signals::block();
    let node = Arc::new(Node::new(&file.node)?);
    let told = signals.end(&node, file.drain_timeout, 0)?;
    told.or(serve(&node, &file))
}

fn serve(node: &Node, file: &NodeFile) -> Result<()> {
    for server in &file.servers {
        let port = node.listen(server)?;
        let address = std::net::SocketAddr::new(server.address.ip(), port);
        note!("listening on {address}");
    }
    for client in &file.clients {
        node.connect(client, None)?;
        note!("connected to {}", client.endpoint.text);
    }
    node.wait(None)?;
    Err(Error::Internal("the node has ended by itself".to_owned()))
}

/// The C library would keep up to 8 MiB for good after one message of 4 MiB was held: the size from
/// which memory is a mapping of its own grows with what is freed, unless it is set.
fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: a call with two numbers; nothing was allocated by another thread yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 512 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 * 1024);
    }
}
