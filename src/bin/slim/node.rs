//! `slim node`: listens until it is told to end.

use clap::Args;
use slim::api::Node;
use slim::config::{NodeConfig, ServerConfig};
use slim::error::{Error, Result};

#[derive(Args)]
pub struct Arguments {
    /// Address to listen on (repeatable); port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:46357")]
    listen: Vec<String>,
    /// Name of the node; by default a random one
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    return_freed_memory();
    // Before the node's thread starts, so that the signals come to this one.
    let signals = block_signals();
    let config = NodeConfig { node_id: arguments.node_id.clone(), ..NodeConfig::default() };
    let node = Node::new(&config)?;
    for endpoint in &arguments.listen {
        let server = ServerConfig::parse(endpoint)?;
        let port = node.listen(&server)?;
        let address = std::net::SocketAddr::new(server.address.ip(), port);
        eprintln!("listening on {address}");
    }
    wait_for(&signals)?;
    node.stop();
    node.wait(None)
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
