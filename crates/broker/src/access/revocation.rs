//! Tells open connections that their rights have changed, so that none of them outlives a change of its user.
//!
//! A connection registers once it has logged in. After a change of users, the broker tells each connection
//! that the change concerns. Its adapter then ends it ([`Client::standing`]), or judges again what it has
//! open.

use crate::{
    Broker, Error,
    access::{authentication::Principal, rights::Rights, usage::Seat},
    broker::Shared,
    client::Client,
};
use parking_lot::Mutex;
use posthaste_model::Timestamp;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::sync::Notify;

/// How often is looked whether a token has expired.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The registered connections.
#[derive(Default)]
pub(crate) struct Revocations {
    table: Mutex<Table>,
    /// The first client with a token is there.
    expiring: Notify,
    watching: OnceLock<()>,
}

#[derive(Default)]
struct Table {
    next: u64,
    watches: HashMap<u64, Watch>,
    /// Those whose clients have shown tokens.
    expiring: HashSet<u64>,
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
    #[error("the access key of user '{0}' was deleted; log in with another one")]
    AccessKey(String),
    #[error("clients without credentials are not let in any more; log in as a user")]
    Anonymous,
    #[error("the certificate is user '{0}''s no more; log in with another one")]
    Certificate(String),
    #[error("user '{0}' was deleted")]
    Deleted(String),
    #[error("the token of user '{0}' has expired; log in with a new one")]
    Expired(String),
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
        let mut table = shared.revocations.table.lock();
        let number = table.next;
        table.next += 1;
        let told = self.rights();
        let principal = self.principal().clone();
        if principal.expires().is_some() {
            table.expiring.insert(number);
            shared.revocations.expiring.notify_one();
        }
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
    /// Its user is gone, or what the client has shown is good no more.
    pub fn standing(&self) -> Result<(), Revoked> {
        let shared = &self.broker().shared;
        self.principal().standing(&shared.catalog_now(), shared.now())
    }

    /// Lets the client stay until a further token expires; whether it is one of the same user with the same
    /// groups. Any other is for another log-in.
    pub fn renew(&self, further: &Principal) -> bool {
        self.principal().renew(further)
    }
}

impl Revocations {
    /// Registered connections, for a look at what the broker holds.
    pub fn len(&self) -> usize {
        self.table.lock().watches.len()
    }

    /// Whether there are any clients with tokens. One is told until it has gone.
    fn tell_expired(&self, now: Timestamp) -> bool {
        let table = self.table.lock();
        let expired: Vec<_> = table
            .expiring
            .iter()
            .filter_map(|number| table.watches.get(number))
            .filter(|watch| watch.principal.expires().is_some_and(|expires| expires <= now))
            .map(|watch| watch.changed.clone())
            .collect();
        let any = !table.expiring.is_empty();
        drop(table);
        for tell in expired {
            tell();
        }
        any
    }

    /// Tells the connections whose rights rest on something else than when they were told last.
    fn tell(&self, shared: &Shared) {
        let mut changed = Vec::new();
        let catalog = shared.catalog();
        for watch in self.table.lock().watches.values_mut() {
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

/// Sees to it that clients are told when their tokens have expired.
pub(crate) fn watch_tokens(broker: &Broker) {
    let shared = &broker.shared;
    shared.revocations.watching.get_or_init(|| drop(shared.runtime().spawn(tell_until_stop(broker.clone()))));
}

/// Tells clients whose tokens have expired, until the broker stops.
async fn tell_until_stop(broker: Broker) {
    let mut stopping = broker.stopping();
    loop {
        let revocations = &broker.shared.revocations;
        let any = revocations.tell_expired(broker.shared.now());
        let wait = async {
            if any {
                tokio::time::sleep(LOOK_EVERY).await;
            } else {
                revocations.expiring.notified().await;
            }
        };
        tokio::select! {
            () = wait => {}
            _ = stopping.changed() => return,
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
            let mut table = shared.revocations.table.lock();
            table.watches.remove(&self.number);
            table.expiring.remove(&self.number);
        }
    }
}
