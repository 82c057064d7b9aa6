//! The listener's protocol.

use std::sync::Arc;

use posthaste_broker::Broker;
use posthaste_net::{Mailbox, Peer, Protocol};

use super::connection::{Connection, Event};
use super::counters::Counters;
use super::namespaces::Namespaces;
use super::settings::Settings;

/// MQTT 3.1, 3.1.1 and 5 on a broker.
pub struct Mqtt {
    namespaces: Arc<Namespaces>,
}

/// The protocol with its default settings. Within a tokio runtime, where stored sessions expire from now on.
pub fn protocol(broker: Broker) -> Mqtt {
    let settings = Settings::new(broker.limits());
    protocol_with(broker, settings)
}

/// Like [`protocol`], with other settings.
pub fn protocol_with(broker: Broker, settings: Settings) -> Mqtt {
    Mqtt { namespaces: Namespaces::new(broker, settings) }
}

impl Mqtt {
    /// What it has done since the start.
    pub fn counters(&self) -> &Counters {
        &self.namespaces.counters
    }
}

impl Protocol for Mqtt {
    type Session = Connection;

    const NAME: &'static str = "mqtt";

    fn open(&self, peer: Peer, mailbox: Mailbox<Event>) -> Connection {
        Connection::new(self.namespaces.clone(), &peer, mailbox)
    }
}
