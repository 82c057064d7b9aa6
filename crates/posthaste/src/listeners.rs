//! The protocols that this program speaks: the one list of them.

use crate::{configuration::File, entrances::Entry};
use posthaste_broker::{Broker, Codec, Formats};
use posthaste_net::{Listener, Shared};
use std::{future::Future, pin::Pin, sync::Arc};

/// A protocol, where it listens by default, and how it is served.
pub struct Speaker {
    pub name: &'static str,
    pub default_address: &'static str,
    pub serve: fn(Broker, Listener, Shared, &File, &Entry) -> Serving,
}

pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// In the order in which they are announced.
pub const SPEAKERS: [Speaker; 4] = [
    Speaker { name: "kafka", default_address: "127.0.0.1:9092", serve: kafka },
    Speaker { name: "amqp", default_address: "127.0.0.1:5672", serve: amqp },
    Speaker { name: "mqtt", default_address: "127.0.0.1:1883", serve: mqtt },
    Speaker { name: "http", default_address: "127.0.0.1:8080", serve: http },
];

/// # Errors
/// `name` is no protocol; says which there are.
pub fn check_name(name: &str) -> Result<(), String> {
    if SPEAKERS.iter().any(|speaker| speaker.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = SPEAKERS.iter().map(|speaker| speaker.name).collect();
    Err(format!("there is no protocol '{name}'; known are {}", known.join(", ")))
}

/// Every stored format that this program understands.
pub fn formats() -> Formats {
    let codecs: [Arc<dyn Codec>; 3] =
        [posthaste_kafka::codec(), posthaste_amqp::codec(), posthaste_mqtt::codec()];
    Formats::new(codecs)
}

fn kafka(broker: Broker, listener: Listener, shared: Shared, _: &File, _: &Entry) -> Serving {
    Box::pin(posthaste_net::serve(listener, Arc::new(posthaste_kafka::protocol(broker)), shared))
}

fn amqp(broker: Broker, listener: Listener, shared: Shared, _: &File, _: &Entry) -> Serving {
    Box::pin(posthaste_net::serve(listener, Arc::new(posthaste_amqp::protocol(broker)), shared))
}

fn mqtt(broker: Broker, listener: Listener, shared: Shared, file: &File, _: &Entry) -> Serving {
    let shared_client_ids = file.mqtt.shared_client_ids;
    let settings =
        posthaste_mqtt::Settings { shared_client_ids, ..posthaste_mqtt::Settings::new(broker.limits()) };
    let protocol = Arc::new(posthaste_mqtt::protocol_with(broker, settings));
    Box::pin(posthaste_net::serve(listener, protocol, shared))
}

fn http(broker: Broker, listener: Listener, shared: Shared, _: &File, entry: &Entry) -> Serving {
    Box::pin(posthaste_http::serve_behind(listener, broker, shared, entry.forwarders.clone()))
}
