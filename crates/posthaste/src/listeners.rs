//! The protocols that this program speaks: the one list of them.

use posthaste_broker::{Broker, Codec, Formats};
use posthaste_net::{Listener, Shared};
use std::{future::Future, pin::Pin, sync::Arc};

/// A protocol, where it listens by default, and how it is served.
pub struct Speaker {
    pub name: &'static str,
    pub default_address: &'static str,
    pub serve: fn(Broker, Listener, Shared) -> Serving,
}

pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// In the order in which they are announced.
pub const SPEAKERS: [Speaker; 4] = [
    Speaker { name: "kafka", default_address: "127.0.0.1:9092", serve: kafka },
    Speaker { name: "amqp", default_address: "127.0.0.1:5672", serve: amqp },
    Speaker { name: "mqtt", default_address: "127.0.0.1:1883", serve: mqtt },
    Speaker { name: "http", default_address: "127.0.0.1:8080", serve: http },
];

/// Every stored format that this program understands.
pub fn formats() -> Formats {
    let codecs: [Arc<dyn Codec>; 3] =
        [posthaste_kafka::codec(), posthaste_amqp::codec(), posthaste_mqtt::codec()];
    Formats::new(codecs)
}

fn kafka(broker: Broker, listener: Listener, shared: Shared) -> Serving {
    Box::pin(posthaste_net::serve(listener, Arc::new(posthaste_kafka::protocol(broker)), shared))
}

fn amqp(broker: Broker, listener: Listener, shared: Shared) -> Serving {
    Box::pin(posthaste_net::serve(listener, Arc::new(posthaste_amqp::protocol(broker)), shared))
}

fn mqtt(broker: Broker, listener: Listener, shared: Shared) -> Serving {
    Box::pin(posthaste_net::serve(listener, Arc::new(posthaste_mqtt::protocol(broker)), shared))
}

fn http(broker: Broker, listener: Listener, shared: Shared) -> Serving {
    Box::pin(posthaste_http::serve(listener, broker, shared))
}
