//! Apps.

use std::ffi::{c_char, CString};

use super::node::slim_node;
use super::session::slim_session;
use super::status::{guard, guard_number, slim_status};
use super::{c_string, free, give, handle, place, string, timeout, Handle, Process};
use crate::api::{App, ConnectionId};
use crate::config::{ClientConfig, IdentityConfig};
use crate::error::Result;

/// A named participant on a node, with an identity.
pub struct slim_app {
    pub(super) app: App,
    name: CString,
    process: Process,
}

impl Handle for slim_app {
    fn process(&self) -> &Process {
        &self.process
    }
}

/// Makes an app called `name` ("org/namespace/service") on `node`.
///
/// `identity_json` says how the app proves who it is and how it checks others: an object with
/// "provider" and "verifier".
/// Errors: INVALID_NAME, INVALID_CONFIG, UNSUPPORTED, AUTH, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_app_new(
    node: *mut slim_node,
    name: *const c_char,
    identity_json: *const c_char,
    app: *mut *mut slim_app,
) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe {
        let identity = IdentityConfig::from_json(string(identity_json, "identity_json")?)?;
        new(node, name, &identity, app)
    })
}

/// Makes an app whose identity is a secret of at least 32 bytes, shared by all parties: for tests
/// and closed systems.
/// Errors: INVALID_NAME, AUTH, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_app_new_with_secret(
    node: *mut slim_node,
    name: *const c_char,
    secret: *const c_char,
    app: *mut *mut slim_app,
) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe {
        let identity = IdentityConfig::shared_secret(string(secret, "secret")?);
        new(node, name, &identity, app)
    })
}

unsafe fn new(
    node: *mut slim_node,
    name: *const c_char,
    identity: &IdentityConfig,
    app: *mut *mut slim_app,
) -> Result<()> {
    let place = place(app, "app")?;
    // SAFETY: promised by the caller.
    let (node, name) = unsafe { (handle(node, "node")?, string(name, "name")?) };
    let app = node.node.app(name, identity)?;
    let name = c_string(&app.name().to_string());
    // SAFETY: checked not to be NULL.
    unsafe { give(place, slim_app { app, name, process: Process::this() }) };
    Ok(())
}

/// The app's full name, "org/namespace/service/ID". Valid until the app is freed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_app_name(app: *const slim_app) -> *const c_char {
    // SAFETY: promised by the caller.
    match unsafe { app.as_ref() } {
        Some(app) => app.name.as_ptr(),
        None => c"".as_ptr(),
    }
}

/// Connects the app's node and subscribes to the app's own name over the new connection: the usual
/// beginning. Otherwise as slim_node_connect().
/// Errors: those of slim_node_connect() and slim_app_subscribe().
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_app_connect(
    app: *mut slim_app,
    client: *const c_char,
    timeout_ms: i32,
    connection: *mut u64,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (app, client) = unsafe { (handle(app, "app")?, string(client, "client")?) };
        let id = app.app.connect(&ClientConfig::parse(client)?, timeout(timeout_ms)?)?;
        if !connection.is_null() {
            // SAFETY: promised by the caller.
            unsafe { connection.write(id.0) };
        }
        Ok(())
    })
}

/// Asks for messages to `name` over `connection`. The answer of the node is waited for 10 s at most,
/// whatever `timeout_ms` is.
/// Errors: INVALID_NAME, NOT_FOUND, PROTOCOL, TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_app_subscribe(
    app: *mut slim_app,
    name: *const c_char,
    connection: u64,
    timeout_ms: i32,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (app, name) = unsafe { (handle(app, "app")?, string(name, "name")?) };
        app.app.subscribe(name, ConnectionId(connection), timeout(timeout_ms)?)
    })
}

/// Takes a subscription back. The answer of the node is waited for as with slim_app_subscribe().
/// Errors: INVALID_NAME, NOT_FOUND, PROTOCOL, TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_app_unsubscribe(
    app: *mut slim_app,
    name: *const c_char,
    connection: u64,
    timeout_ms: i32,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (app, name) = unsafe { (handle(app, "app")?, string(name, "name")?) };
        app.app.unsubscribe(name, ConnectionId(connection), timeout(timeout_ms)?)
    })
}

/// Sends what is meant for `name` over `connection`. Needed with several connections, with one to
/// another node ("remote"), and with default_gateway "off": else everything that is not in this
/// process goes over the only one.
/// Errors: INVALID_NAME, NOT_FOUND, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_app_set_route(
    app: *mut slim_app,
    name: *const c_char,
    connection: u64,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (app, name) = unsafe { (handle(app, "app")?, string(name, "name")?) };
        app.app.set_route(name, ConnectionId(connection))
    })
}

/// Takes a route back.
/// Errors: INVALID_NAME, NOT_FOUND, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_app_remove_route(
    app: *mut slim_app,
    name: *const c_char,
    connection: u64,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (app, name) = unsafe { (handle(app, "app")?, string(name, "name")?) };
        app.app.remove_route(name, ConnectionId(connection))
    })
}

/// Which way data goes in sessions that others open to this app from now on: the values of
/// slim_session_options.direction.
/// Errors: INVALID_ARGUMENT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_app_set_direction(app: *mut slim_app, direction: i32) -> slim_status {
    guard(|| {
        let direction = super::direction(direction, "direction")?;
        // SAFETY: promised by the caller.
        unsafe { handle(app, "app")? }.app.set_direction(direction)
    })
}

/// Waits for a session that somebody else opened to this app.
///
/// The session is ready for use and belongs to the caller.
/// Errors: TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_app_accept(
    app: *mut slim_app,
    timeout_ms: i32,
    session: *mut *mut slim_session,
) -> slim_status {
    guard(|| {
        let place = place(session, "session")?;
        // SAFETY: promised by the caller.
        let app = unsafe { handle(app, "app")? };
        let session = app.app.accept(false, timeout(timeout_ms)?)?;
        // SAFETY: checked not to be NULL.
        unsafe { give(place, slim_session::new(session)) };
        Ok(())
    })
}

/// A descriptor that is readable while slim_app_accept() or slim_app_next_done() has something to
/// give, or the app is closed; a negative status on failure.
///
/// Watch it with poll(), epoll, kqueue or an event loop, level- or edge-triggered; after it turns
/// readable, call with a timeout of 0 until SLIM_ERR_TIMEOUT. Never read from it, write to it or
/// close it: it belongs to the app and lives as long as it does.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_app_fd(app: *mut slim_app) -> i32 {
    // SAFETY: promised by the caller.
    guard_number(|| unsafe { handle(app, "app")? }.app.descriptor())
}

/// Takes one ended operation off the app's list: `tag` receives what slim_op_notify() was given.
/// Never waits.
/// Errors: TIMEOUT (none has ended), CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_app_next_done(app: *mut slim_app, tag: *mut u64) -> slim_status {
    guard(|| {
        let place = place(tag, "tag")?;
        // SAFETY: promised by the caller.
        let tag = unsafe { handle(app, "app")? }.app.next_done()?;
        // SAFETY: checked not to be NULL.
        unsafe { place.write(tag) };
        Ok(())
    })
}

/// Closes the app's sessions without waiting for their peers and frees the handle. NULL is
/// allowed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_app_free(app: *mut slim_app) {
    // SAFETY: promised by the caller.
    unsafe { free(app) };
}
