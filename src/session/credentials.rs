//! Who an app is and how it checks others, for the app and its encrypted sessions.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Context;
use crate::identity::{Binding, Provider, Verifier};
use crate::mls;

/// An app's identity. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Credentials(Arc<Mutex<Parts>>);

/// What an identity consists of.
pub(crate) struct Parts {
    pub(super) provider: Box<dyn Provider>,
    pub(super) verifier: Box<dyn Verifier>,
    pub(super) binding: Binding,
    /// The clock is not the system's.
    pub(super) virtual_time: bool,
}

impl Credentials {
    /// Those of an app.
    pub(super) fn new(
        provider: Box<dyn Provider>,
        verifier: Box<dyn Verifier>,
        binding: Binding,
    ) -> Credentials {
        let virtual_time = false;
        Credentials(Arc::new(Mutex::new(Parts { provider, verifier, binding, virtual_time })))
    }

    /// To use them. Nobody else does: an app and its sessions act one after another.
    pub(super) fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity string.
    pub(super) fn subject(&self) -> String {
        self.lock().provider.subject().to_owned()
    }
}

impl Parts {
    /// What an encrypted group needs of them.
    pub(super) fn mls<'a>(&'a mut self, cx: &'a mut Context<'_>) -> mls::Context<'a> {
        mls::Context {
            now: cx.now,
            virtual_time: self.virtual_time,
            entropy: &mut *cx.entropy,
            provider: &mut *self.provider,
            verifier: &mut *self.verifier,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}
