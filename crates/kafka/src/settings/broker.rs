//! The settings of the one broker. They are set in the configuration file and at start; here they are only
//! shown.

use posthaste_broker::Broker;

use super::SETTINGS;
use crate::limits::{FETCH_BYTES_MAX, IDLE_CONNECTION_MAX, OFFSET_METADATA_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::names::NODE_ID;

/// One setting of the broker.
#[derive(Debug, PartialEq, Eq)]
pub struct BrokerSetting {
    pub name: &'static str,
    pub value: String,
    pub kind: BrokerKind,
    /// Set when it was started, and not just so.
    pub configured: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerKind {
    Boolean,
    Double,
    Int,
    List,
    Long,
    Short,
    String,
}

/// Every setting of the broker that says something true, by name.
pub fn settings(broker: &Broker) -> Vec<BrokerSetting> {
    use BrokerKind::{Boolean, Int, List, Long, Short, String};
    let limits = broker.limits();
    let listener =
        broker.peers_address("kafka").map(|address| format!("PLAINTEXT://{address}")).unwrap_or_default();
    let mut settings = Vec::new();
    let mut add = |name, kind, value: std::string::String, configured| {
        settings.push(BrokerSetting { name, value, kind, configured });
    };
    add("advertised.listeners", String, listener.clone(), true);
    add("auto.create.topics.enable", Boolean, "true".into(), false);
    add("broker.id", Int, NODE_ID.to_string(), true);
    let delay = posthaste_broker::FAILED_LOG_IN_DELAY.as_millis().to_string();
    add("connection.failed.authentication.delay.ms", Int, delay, false);
    add("connections.max.idle.ms", Long, IDLE_CONNECTION_MAX.as_millis().to_string(), false);
    add("default.replication.factor", Int, "1".into(), false);
    add("delete.topic.enable", Boolean, "true".into(), false);
    add("fetch.max.bytes", Int, FETCH_BYTES_MAX.to_string(), false);
    add("group.consumer.assignors", List, "".into(), false);
    add("group.coordinator.rebalance.protocols", List, "classic".into(), false);
    add("group.initial.rebalance.delay.ms", Int, "100".into(), false);
    add("group.max.session.timeout.ms", Int, "1800000".into(), false);
    add("group.max.size", Int, limits.group_members_max.to_string(), true);
    add("group.min.session.timeout.ms", Int, "1000".into(), false);
    add("listeners", List, listener, true);
    add("log.retention.hours", Int, "168".into(), false);
    add("log.retention.minutes", Int, "10080".into(), false);
    add("max.connections", Int, limits.connections_max.to_string(), true);
    add("node.id", Int, NODE_ID.to_string(), true);
    add("num.partitions", Int, "1".into(), false);
    add("offset.metadata.max.bytes", Int, OFFSET_METADATA_BYTES_MAX.to_string(), false);
    add("offsets.retention.minutes", Int, i32::MAX.to_string(), false);
    add("offsets.topic.num.partitions", Int, "1".into(), false);
    add("offsets.topic.replication.factor", Short, "1".into(), false);
    add("process.roles", List, "broker,controller".into(), true);
    add("sasl.enabled.mechanisms", List, "PLAIN".into(), false);
    add("socket.request.max.bytes", Int, REQUEST_BYTES_MAX.to_string(), false);
    for setting in SETTINGS {
        if let Some(name) = setting.synonym {
            add(name, BrokerKind::of(&setting.kind), setting.default(limits), false);
        }
    }
    settings.sort_by_key(|setting| setting.name);
    settings
}

impl BrokerKind {
    pub fn of(kind: &super::Kind) -> Self {
        match kind {
            super::Kind::Boolean => Self::Boolean,
            super::Kind::Choice(_) => Self::String,
            super::Kind::Int(_) => Self::Int,
            super::Kind::List => Self::List,
            super::Kind::Long(_) => Self::Long,
            super::Kind::Ratio => Self::Double,
        }
    }
}
