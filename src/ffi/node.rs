//! Nodes.

use std::ffi::c_char;

use super::status::{guard, guard_quiet, slim_status};
use super::{handle, optional_string, place, string, timeout};
use crate::api::{ConnectionId, Node};
use crate::config::{ClientConfig, NodeConfig, ServerConfig};

/// A SLIM data plane in this process, with its own I/O thread.
///
/// It may connect to other nodes, listen for them, or both, and it carries the apps made on it.
pub struct slim_node(pub(super) Node);

/// Makes a node and starts its thread.
///
/// `config_json` is an object ("node_id", "domain_name", "default_gateway"), or NULL for the
/// defaults.
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
        let node = Box::new(slim_node(Node::new(&config)?));
        // SAFETY: checked not to be NULL.
        unsafe { place.write(Box::into_raw(node)) };
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
        let bound = node.0.listen(&ServerConfig::parse(server)?)?;
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
        let id = node.0.connect(&ClientConfig::parse(client)?, timeout(timeout_ms)?)?;
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
    guard(|| unsafe { handle(node, "node")? }.0.disconnect(ConnectionId(connection)))
}

/// Asks the node to stop: no new connections, open ones drained and closed. Returns at once;
/// calling it again is harmless.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_node_stop(node: *mut slim_node) {
    guard_quiet((), || {
        // SAFETY: promised by the caller.
        if let Some(node) = unsafe { node.as_ref() } {
            node.0.stop();
        }
    });
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
    guard(|| unsafe { handle(node, "node")? }.0.wait(timeout(timeout_ms)?))
}

/// Stops the node, waits for its thread and frees the handle. NULL is allowed.
///
/// Apps and sessions made on it answer SLIM_ERR_CLOSED from then on and still have to be freed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_node_free(node: *mut slim_node) {
    if !node.is_null() {
        // SAFETY: promised by the caller: it came from slim_node_new and is freed once.
        guard_quiet((), || drop(unsafe { Box::from_raw(node) }));
    }
}
