//! Tells open connections that their rights have changed, so that none of them outlives a change of its user.
//!
//! A connection registers once it has logged in. After a change of users, the broker tells each connection
//! that the change concerns. Its adapter then ends it ([`Client::standing`]), or judges again what it has
//! open.

use crate::{Error, access::Rights, authentication::Principal, broker::Shared, client::Client, usage::Seat};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

/// The registered connections.
#[derive(Default)]
pub(crate) struct Revocations(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    watches: HashMap<u64, Watch>,
}

struct Watch {
    principal: Principal,
    told: Rights,
    changed: Arc<dyn Fn() + Send + Sync>,
}

/// A registration, which ends when this is dropped. The connection counts as one until then.
pub struct RightsWatch {
    _seat: Seat,
    shared: Weak<Shared>,
    number: u64,
}

/// A client may not stay connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Revoked {
    #[error("clients without credentials are not let in any more; log in as a user")]
    Anonymous,
    #[error("the certificate is user '{0}''s no more; log in with another one")]
    Certificate(String),
    #[error("user '{0}' was deleted")]
    Deleted(String),
    #[error("the password of user '{0}' was changed; log in again")]
    Password(String),
}

impl Client {
    /// Calls `changed` after every change of what this client's rights rest on, until the result is dropped;
    /// at once if the client may not stay connected by now. `changed` must not block.
    ///
    /// # Errors
    /// The user or the namespace has as many connections as it may.
    pub fn watch_rights(&self, changed: impl Fn() + Send + Sync + 'static) -> Result<RightsWatch, Error> {
        let seat = Seat::take(self)?;
        let changed: Arc<dyn Fn() + Send + Sync> = Arc::new(changed);
        let shared = &self.broker().shared;
        let mut table = shared.revocations.0.lock();
        let number = table.next;
        table.next += 1;
        let told = self.rights();
        let principal = self.principal().clone();
        table.watches.insert(number, Watch { principal, told, changed: changed.clone() });
        drop(table);
        if self.standing().is_err() {
            changed();
        }
        Ok(RightsWatch { _seat: seat, shared: Arc::downgrade(shared), number })
    }

    /// Whether the client may stay connected.
    ///
    /// # Errors
    /// Its user is gone, or has another password than the client has shown.
    pub fn standing(&self) -> Result<(), Revoked> {
        self.principal().standing(&self.broker().shared.catalog_now())
    }
}

impl Revocations {
    /// Registered connections, for a look at what the broker holds.
    pub fn len(&self) -> usize {
        self.0.lock().watches.len()
    }

    /// Tells the connections whose rights rest on something else than when they were told last.
    fn tell(&self, shared: &Shared) {
        let mut changed = Vec::new();
        let catalog = shared.catalog();
        for watch in self.0.lock().watches.values_mut() {
            let now = Rights::of(&watch.principal, &catalog);
            if now != watch.told {
                watch.told = now;
                changed.push(watch.changed.clone());
            }
        }
        for tell in changed {
            tell();
        }
    }
}

impl Shared {
    /// After a change of users was published.
    pub(crate) fn users_changed(self: &Arc<Shared>) {
        let shared = self.clone();
        // As many connections as there are may have to be told: too many for an engine thread.
        self.runtime().spawn(async move { shared.revocations.tell(&shared) });
    }
}

impl Drop for RightsWatch {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.revocations.0.lock().watches.remove(&self.number);
        }
    }
}
