//! Host names: looked up on a short-lived thread, because the system's resolver blocks (DESIGN
//! decision 29). Literal addresses never come here.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// What finds the addresses of a host. It may block.
pub(super) type Resolver = Arc<dyn Fn(&str, u16) -> std::io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's.
pub(super) fn system() -> Resolver {
    Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// Looks a name up and hands the addresses, or the reason why there are none, to `answer`. The
/// thread that does it inherits the blocked signals of the loop's, which calls this.
pub(super) fn resolve(
    resolver: &Resolver,
    host: String,
    port: u16,
    answer: impl FnOnce(Result<Vec<SocketAddr>, String>) + Send + 'static,
) -> std::io::Result<()> {
    let resolver = Arc::clone(resolver);
    let work = move || {
        answer(match resolver(&host, port) {
            Ok(found) if found.is_empty() => Err(format!("host {host:?} has no address")),
            Ok(found) => Ok(found),
            Err(error) => Err(format!("host {host:?} is not known: {error}")),
        });
    };
    std::thread::Builder::new().name("slim-dns".to_owned()).spawn(work).map(drop)
}
