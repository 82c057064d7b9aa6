//! What is known of sessions after a restart: their queues, with their options and bindings.

use std::collections::HashMap;
use std::sync::Arc;

use posthaste_broker::Client;
use posthaste_engine::catalog::{BUS, Queue, Target};
use posthaste_model::{Name, Timestamp};

use super::sessions::{
    CLIENT, EXPIRES_AT, EXPIRY, NEVER, OWNER, Occupancy, PendingWill, Sessions, WILL, WILL_AT, timestamp,
};
use super::shares::SHARE;
use super::stored_will;
use super::subscriptions::{Subscription, Subscriptions};

impl Sessions {
    /// Finds out what was stored before the broker started.
    pub(super) async fn load(&self, client: &Client) {
        let catalog = self.broker.catalog();
        let Some(namespace) = catalog.namespace(&self.settings.namespace) else { return };
        let now = self.broker.now();
        let sessions = namespace.queues.values().filter(|queue| queue.config.options.contains_key(CLIENT));
        let mut known: HashMap<Name, Occupancy> =
            sessions.map(|queue| (queue.name.clone(), self.occupancy_of(queue, now))).collect();
        let mut members = Vec::new();
        self.each_subscription(|name, subscription| {
            let Some(occupancy) = known.get_mut(name) else { return };
            members.extend(subscription.share.clone().map(|share| (share, name.clone())));
            occupancy.subscriptions.get_or_insert_default().insert(subscription);
        });
        for (share, member) in members {
            self.shares.remember(&share, &member).await;
        }
        let shared = namespace.queues.values().filter(|queue| queue.config.options.contains_key(SHARE));
        let shared: Vec<Name> = shared.map(|queue| queue.name.clone()).collect();
        self.shares.delete_orphans(client, &shared).await;
        let slot = |occupancy| Arc::new(tokio::sync::Mutex::new(occupancy));
        self.slots.lock().extend(known.into_iter().map(|(name, occupancy)| (name, slot(occupancy))));
    }

    /// A stored session whose client has not come back; its timers run from now on.
    fn occupancy_of(&self, queue: &Queue, now: Timestamp) -> Occupancy {
        let options = &queue.config.options;
        let expiry = options.get(EXPIRY).and_then(|text| text.parse().ok()).unwrap_or(NEVER);
        // Whose client was connected to the end has all of its time before it.
        let from_now = || (expiry != NEVER).then(|| now.plus_ms(u64::from(expiry) * 1000));
        if let Some(at) = timestamp(options, EXPIRES_AT).or_else(from_now) {
            self.wake_at(at, &queue.name);
        }
        let mut occupancy =
            Occupancy { subscriptions: Some(Subscriptions::default()), ..Occupancy::default() };
        let will = options.get(WILL).and_then(|text| stored_will::decode(text));
        if let (Some(will), Some(at)) = (will, timestamp(options, WILL_AT)) {
            self.wake_at(at, &queue.name);
            // It is published as its client would, if that still may.
            let client = self.client_of_owner(options.get(OWNER));
            occupancy.will = client.map(|client| PendingWill { will, at, client });
        }
        occupancy
    }

    /// Goes through the subscriptions of all queues.
    pub(super) fn each_subscription(&self, mut found: impl FnMut(&Name, Subscription)) {
        let catalog = self.broker.catalog();
        let Some(namespace) = catalog.namespace(&self.settings.namespace) else { return };
        let Some(bus) = namespace.exchanges.get(BUS) else { return };
        for binding in bus.bindings() {
            if let Target::Queue(name) = &binding.target
                && let Some(subscription) = Subscription::from_binding(&binding.key, &binding.arguments)
            {
                found(name, subscription);
            }
        }
    }
}
