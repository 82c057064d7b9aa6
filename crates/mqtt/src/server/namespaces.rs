//! The sessions of each namespace: which one a client is in turns out when it has logged in.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use posthaste_broker::Broker;
use posthaste_model::Name;

use super::counters::Counters;
use super::sessions::{CLIENT, Sessions};
use super::settings::Settings;
use super::shares::SHARE;

/// All namespaces that MQTT clients have been in.
pub(crate) struct Namespaces {
    pub broker: Broker,
    pub settings: Settings,
    pub counters: Arc<Counters>,
    known: Mutex<HashMap<Name, Arc<Sessions>>>,
}

impl Namespaces {
    /// Within a tokio runtime, where stored sessions expire from now on.
    pub fn new(broker: Broker, settings: Settings) -> Arc<Namespaces> {
        let (counters, known) = (Arc::default(), Mutex::default());
        let namespaces = Arc::new(Namespaces { broker, settings, counters, known });
        let catalog = namespaces.broker.catalog();
        for namespace in catalog.namespaces() {
            let mut options = namespace.queues.values().map(|queue| &queue.config.options);
            if options.any(|options| options.contains_key(CLIENT) || options.contains_key(SHARE)) {
                namespaces.sessions(&namespace.name);
            }
        }
        namespaces
    }

    /// The sessions of a namespace.
    pub fn sessions(self: &Arc<Namespaces>, namespace: &Name) -> Arc<Sessions> {
        let mut known = self.known.lock();
        if let Some(sessions) = known.get(namespace) {
            return sessions.clone();
        }
        let settings = Settings { namespace: namespace.clone(), ..self.settings.clone() };
        let sessions = Arc::new(Sessions::new(self.broker.clone(), settings, self.counters.clone()));
        known.insert(namespace.clone(), sessions.clone());
        drop(known);
        let (all, run) = (self.clone(), sessions.clone());
        tokio::spawn(async move {
            run.clone().run().await;
            all.forget(&run);
        });
        sessions
    }

    /// Forgets the sessions of a namespace that is deleted. A new one of that name begins with none.
    fn forget(&self, sessions: &Arc<Sessions>) {
        let mut known = self.known.lock();
        let namespace = &sessions.settings.namespace;
        if known.get(namespace).is_some_and(|known| Arc::ptr_eq(known, sessions)) {
            known.remove(namespace);
        }
    }
}
