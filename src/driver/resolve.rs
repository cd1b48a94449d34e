//! Host names: looked up on a short-lived thread, because the system's resolver blocks (DESIGN
//! decision 29). Literal addresses never come here.

use std::net::{SocketAddr, ToSocketAddrs};

/// Looks a name up and hands the addresses, or the reason why there are none, to `answer`.
pub(super) fn resolve(
    host: String,
    port: u16,
    answer: impl FnOnce(Result<Vec<SocketAddr>, String>) + Send + 'static,
) -> std::io::Result<()> {
    let work = move || {
        super::event_loop::block_signals();
        answer(match (host.as_str(), port).to_socket_addrs() {
            Ok(found) => {
                let found: Vec<SocketAddr> = found.collect();
                match found.is_empty() {
                    true => Err(format!("host {host:?} has no address")),
                    false => Ok(found),
                }
            }
            Err(error) => Err(format!("host {host:?} is not known: {error}")),
        });
    };
    std::thread::Builder::new().name("slim-dns".to_owned()).spawn(work).map(drop)
}
