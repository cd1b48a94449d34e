//! Nodes.

use std::ffi::c_char;

use super::status::{guard, slim_status};
use super::{free, give, handle, optional_string, place, string, timeout, Handle, Process};
use crate::api::{ConnectionId, ConnectionInfo, Node, Stats};
use crate::config::{ClientConfig, NodeConfig, ServerConfig};
use crate::error::Error;

/// A SLIM data plane in this process, with its own I/O thread.
///
/// It may connect to other nodes, listen for them, or both, and it carries the apps made on it.
pub struct slim_node {
    pub(super) node: Node,
    process: Process,
}

impl Handle for slim_node {
    fn process(&self) -> &Process {
        &self.process
    }
}

/// Makes a node and starts its thread.
///
/// `config_json` is an object ("node_id", "domain_name", "default_gateway",
/// "stuck_receiver_timeout"), or NULL for the defaults.
/// Errors: INVALID_CONFIG, UNSUPPORTED, IO.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_node_new(
    config_json: *const c_char,
    node: *mut *mut slim_node,
) -> slim_status {
    guard(|| {
        let place = place(node, "node")?;
        // SAFETY: promised by the caller.
        let config = match unsafe { optional_string(config_json, "config_json")? } {
            Some(text) => NodeConfig::from_json(text)?,
            None => NodeConfig::default(),
        };
        let node = slim_node { node: Node::new(&config)?, process: Process::this() };
        // SAFETY: checked not to be NULL.
        unsafe { give(place, node) };
        Ok(())
    })
}

/// Opens a listening socket and serves it.
///
/// `server` is one server object in JSON ("endpoint", "tls"), or just an address like
/// "127.0.0.1:46357". The socket is bound when the call returns; `port`, unless NULL, receives its
/// port, which tells what ":0" became.
/// Errors: INVALID_CONFIG, UNSUPPORTED, IO, EXISTS, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_node_listen(
    node: *mut slim_node,
    server: *const c_char,
    port: *mut u16,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (node, server) = unsafe { (handle(node, "node")?, string(server, "server")?) };
        let bound = node.node.listen(&ServerConfig::parse(server)?)?;
        if !port.is_null() {
            // SAFETY: promised by the caller.
            unsafe { port.write(bound) };
        }
        Ok(())
    })
}

/// Connects to another node and waits until the link is usable, at most `timeout_ms`.
///
/// `client` is one client object in JSON ("endpoint", "tls", "backoff", ...), or just an endpoint
/// like "http://127.0.0.1:46357". `connection`, unless NULL, receives the number that
/// subscriptions and routes refer to. A link that is lost later is made again under the same
/// number.
/// Errors: INVALID_CONFIG, UNSUPPORTED, CONNECT, AUTH, TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_node_connect(
    node: *mut slim_node,
    client: *const c_char,
    timeout_ms: i32,
    connection: *mut u64,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (node, client) = unsafe { (handle(node, "node")?, string(client, "client")?) };
        let id = node.node.connect(&ClientConfig::parse(client)?, timeout(timeout_ms)?)?;
        if !connection.is_null() {
            // SAFETY: promised by the caller.
            unsafe { connection.write(id.0) };
        }
        Ok(())
    })
}

/// Closes a connection and forgets the subscriptions and routes over it.
/// Errors: NOT_FOUND, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_node_disconnect(
    node: *mut slim_node,
    connection: u64,
) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe { handle(node, "node")? }.node.disconnect(ConnectionId(connection)))
}

/// Asks the node to stop: no new connections, open ones drained and closed. What peers have not
/// taken within 2 s is lost.
///
/// Returns at once. It may be called from any thread and from a signal handler. Calling it again
/// is harmless.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_node_stop(node: *mut slim_node) {
    // Nothing here allocates, locks or panics.
    // SAFETY: promised by the caller.
    if let Some(node) = unsafe { node.as_ref() }.filter(|node| node.process.is_this()) {
        node.node.stop();
    }
}

/// Waits until the node has stopped, at most `timeout_ms`.
///
/// A server's main thread spends its life here.
/// Errors: TIMEOUT.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_node_wait(node: *mut slim_node, timeout_ms: i32) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe { handle(node, "node")? }.node.wait(timeout(timeout_ms)?))
}

/// Writes the node's counters and connections as a JSON object into `buffer`. Of messages it counts
/// those that could not be forwarded ("dropped"), those that came in encrypted sessions in clear
/// or could not be opened ("unreadable"; what is sent again counts again), and those that sessions
/// of its apps lost ("lost": best-effort ones for which the inbox had no room or for which this node
/// knew nobody, reliable ones that their receiver gave up).
///
/// Like snprintf(): at most `capacity` bytes, always NUL-terminated when `capacity` is not 0, and
/// `needed`, unless NULL, receives the length without the NUL, which may be more than fitted.
/// Errors: CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_node_stats(
    node: *const slim_node,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let node = unsafe { handle(node, "node")? };
        if buffer.is_null() && capacity > 0 {
            return Err(Error::InvalidArgument(format!("buffer is NULL, capacity is {capacity}")));
        }
        let text = stats_json(node.node.stats()?);
        if capacity > 0 {
            let mut fits = text.len().min(capacity - 1);
            while !text.is_char_boundary(fits) {
                fits -= 1;
            }
            // SAFETY: promised by the caller: there is room for `capacity` bytes.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), fits);
                buffer.add(fits).write(0);
            }
        }
        if !needed.is_null() {
            // SAFETY: promised by the caller.
            unsafe { needed.write(text.len()) };
        }
        Ok(())
    })
}

fn stats_json((stats, connections): (Stats, Vec<ConnectionInfo>)) -> String {
    let connections: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            serde_json::json!({
                "id": connection.id.0,
                "kind": connection.kind.map(|kind| format!("{kind:?}").to_lowercase()),
                "up": connection.up,
                "endpoint": connection.endpoint,
            })
        })
        .collect();
    serde_json::json!({
        "connections": connections,
        "names": stats.names,
        "subscriptions": stats.subscriptions,
        "unacknowledged": stats.unacknowledged,
        "sessions": stats.sessions,
        "backlog_bytes": stats.backlog,
        "held_bytes": stats.held,
        "dropped": stats.dropped,
        "unreadable": stats.unreadable,
        "lost": stats.lost,
    })
    .to_string()
}

/// Stops the node, waits for its thread and frees the handle. NULL is allowed.
///
/// Apps and sessions made on it answer SLIM_ERR_CLOSED from then on and still have to be freed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_node_free(node: *mut slim_node) {
    // SAFETY: promised by the caller.
    unsafe { free(node) };
}
