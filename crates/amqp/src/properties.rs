//! What the peers say of themselves when a connection begins.

use crate::{
    options::Options,
    wire::{FieldTable, FieldValue, ShortString},
};

/// Extensions that work here, under RabbitMQ's names.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// What a client is able to receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// `connection.close` when it could not log in, instead of a closed socket.
    pub authentication_failure_close: bool,
    /// `connection.blocked` and `connection.unblocked`.
    pub connection_blocked: bool,
    /// `basic.cancel` from the server.
    pub consumer_cancel_notify: bool,
}

impl Capabilities {
    pub fn of(client_properties: &FieldTable) -> Capabilities {
        let capabilities = client_properties.get("capabilities").and_then(FieldValue::as_table);
        let has =
            |name: &str| capabilities.and_then(|c| c.get(name)).and_then(FieldValue::as_bool) == Some(true);
        Capabilities {
            authentication_failure_close: has("authentication_failure_close"),
            connection_blocked: has("connection.blocked"),
            consumer_cancel_notify: has("consumer_cancel_notify"),
        }
    }
}

/// The `server-properties` of connection.start.
pub(crate) fn server(options: &Options, cluster_id: &str) -> FieldTable {
    let capabilities: FieldTable =
        CAPABILITIES.iter().map(|name| (ShortString::from_static(name), FieldValue::from(true))).collect();
    let fields: [(&'static str, FieldValue); 7] = [
        ("capabilities", capabilities.into()),
        ("cluster_name", format!("posthaste@{cluster_id}").into()),
        ("copyright", "Licensed under the Apache License 2.0".into()),
        ("information", "Posthaste, speaking AMQP 0-9-1 as RabbitMQ does".into()),
        ("platform", concat!("Posthaste ", env!("CARGO_PKG_VERSION")).into()),
        ("product", options.product.clone().into()),
        ("version", options.version.clone().into()),
    ];
    fields.into_iter().map(|(name, value)| (ShortString::from_static(name), value)).collect()
}

/// How a client calls itself, for the log: its connection's name, or its product and version.
pub(crate) fn client_name(client_properties: &FieldTable) -> String {
    let text = |name: &str| client_properties.get(name).and_then(FieldValue::as_str);
    let name = match (text("connection_name"), text("product")) {
        (Some(name), _) => name.to_owned(),
        (None, Some(product)) => format!("{product} {}", text("version").unwrap_or_default()),
        (None, None) => String::new(),
    };
    name.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_asked_only_for_what_they_can() {
        let mut capabilities = FieldTable::new();
        capabilities.push(ShortString::from_static("connection.blocked"), true);
        capabilities.push(ShortString::from_static("consumer_cancel_notify"), false);
        let mut properties = FieldTable::new();
        properties.push(ShortString::from_static("capabilities"), capabilities);
        let expect = Capabilities { connection_blocked: true, ..Capabilities::default() };
        assert_eq!(Capabilities::of(&properties), expect);
        assert_eq!(Capabilities::of(&FieldTable::new()), Capabilities::default());
    }

    #[test]
    fn the_server_looks_like_rabbitmq() {
        let properties = server(&Options::default(), "id");
        for name in ["product", "version", "platform", "copyright", "information", "cluster_name"] {
            assert!(properties.get(name).and_then(FieldValue::as_str).is_some(), "{name}");
        }
        assert_eq!(properties.get("product").and_then(FieldValue::as_str), Some("RabbitMQ"));
        assert_eq!(
            properties.get("capabilities").and_then(FieldValue::as_table).map(FieldTable::len),
            Some(9)
        );
    }
}
