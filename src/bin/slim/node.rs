//! `slim node`, and `slim --config FILE`: listens and connects until it is told to end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use clap::Args;
use slim::api::Node;
use slim::config::{NodeConfig, NodeFile, ServerConfig, Substitutes};
use slim::error::{Error, Result};

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
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let file = NodeFile::parse(&text, &mut World).map_err(|error| failed(error.to_string()))?;
    if std::env::var_os("SLIM_LOG").is_none() {
        slim::logging::set(file.log_level, slim::logging::Sink::StandardError);
    }
    run_node(file)
}

/// Where the substitutes of a file come from.
struct World;

impl Substitutes for World {
    fn variable(&mut self, name: &str) -> std::result::Result<String, String> {
        std::env::var(name).map_err(|error| error.to_string())
    }

    fn file(&mut self, path: &str) -> std::result::Result<String, String> {
        std::fs::read_to_string(path).map_err(|error| error.to_string())
    }
}

fn run_node(file: NodeFile) -> Result<()> {
    return_freed_memory();
    // Before the node's thread starts, so that the signals come to the one that waits for them.
    let signals = block_signals();
    let node = Arc::new(Node::new(&file.node)?);
    for server in &file.servers {
        let port = node.listen(server)?;
        let address = std::net::SocketAddr::new(server.address.ip(), port);
        eprintln!("listening on {address}");
    }
    let told = Arc::new(AtomicBool::new(false));
    let (flag, ends) = (Arc::clone(&told), Arc::clone(&node));
    let (result, drained) = mpsc::channel();
    let limit = file.drain_timeout;
    std::thread::Builder::new()
        .name("slim-signals".to_owned())
        .spawn(move || end_on_signal(&signals, &flag, ends, limit, result))
        .map_err(|error| Error::Io(error.to_string()))?;
    for client in &file.clients {
        match node.connect(client, None) {
            Ok(_) => eprintln!("connected to {}", client.endpoint.text),
            Err(_) if told.load(Ordering::SeqCst) => break,
            Err(error) => return Err(error),
        }
    }
    node.wait(None)?;
    let by_itself = || Error::Internal("the node has ended by itself".to_owned());
    match told.load(Ordering::SeqCst) {
        true => drained.recv().map_err(|_| by_itself())?,
        false => Err(by_itself()),
    }
}

/// The first signal ends the node in order, within its time; the second ends the program at once.
fn end_on_signal(
    signals: &libc::sigset_t,
    told: &AtomicBool,
    node: Arc<Node>,
    limit: Duration,
    result: mpsc::Sender<Result<()>>,
) {
    if wait_for(signals).is_err() {
        return;
    }
    told.store(true, Ordering::SeqCst);
    eprintln!("stopping, within {limit:?}");
    // Whoever waits for the result is there until the program ends.
    std::thread::spawn(move || drop(result.send(node.drain(limit))));
    if wait_for(signals).is_ok() {
        eprintln!("slim: ended at once by a second signal");
        std::process::exit(1);
    }
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

fn block_signals() -> libc::sigset_t {
    // SAFETY: the set is initialised by sigemptyset before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    }
}

fn wait_for(signals: &libc::sigset_t) -> Result<()> {
    let mut signal = 0;
    // SAFETY: both pointers are valid for the call.
    match unsafe { libc::sigwait(signals, &mut signal) } {
        0 => Ok(()),
        code => Err(Error::Io(std::io::Error::from_raw_os_error(code).to_string())),
    }
}
