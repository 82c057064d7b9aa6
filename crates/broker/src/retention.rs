//! Retention: what a topic need not keep any longer is trimmed.

use crate::Broker;
use posthaste_engine::Command;
use posthaste_model::Timestamp;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(10);

/// Looks at all topics now and then, until the broker stops.
pub(crate) async fn run(broker: Broker) {
    let mut stopping = broker.stopping();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => trim_all(&broker),
            _ = stopping.changed() => return,
        }
    }
}

fn trim_all(broker: &Broker) {
    let now = broker.now();
    for namespace in broker.catalog().namespaces() {
        for topic in namespace.topics.values() {
            let config = &topic.config;
            if config.retention_ms.is_none() && config.retention_bytes.is_none() {
                continue;
            }
            let oldest = config.retention_ms.map(|ms| Timestamp(now.0.saturating_sub_unsigned(ms)));
            for partition in &topic.partitions {
                let Some(log) = broker.shared.logs.find(partition.id.0) else { continue };
                let before = log.retention_start(oldest, config.retention_bytes);
                if before > log.start() {
                    broker.shared.send(partition.shard, Command::Trim { partition: partition.id, before });
                }
            }
        }
    }
}
