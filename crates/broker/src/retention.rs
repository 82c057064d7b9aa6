//! Retention: what a topic need not keep any longer is trimmed.

use crate::Broker;
use posthaste_engine::Command;
use posthaste_model::{PartitionId, Timestamp};
use std::{collections::HashMap, time::Duration};

const EVERY: Duration = Duration::from_secs(60);

/// Looks at all topics now and then, until the broker stops.
pub(crate) async fn run(broker: Broker) {
    let mut stopping = broker.stopping();
    let mut seen = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => seen = trim_all(&broker, &seen),
            _ = stopping.changed() => return,
        }
    }
}

/// Trims only what was there the last time: records may carry old timestamps, and readers get a chance to see
/// those too. Returns where the partitions end now.
fn trim_all(broker: &Broker, seen: &HashMap<PartitionId, u64>) -> HashMap<PartitionId, u64> {
    let now = broker.now();
    let mut ends = HashMap::new();
    for namespace in broker.catalog().namespaces() {
        for topic in namespace.topics.values() {
            let config = &topic.config;
            if config.retention_ms.is_none() && config.retention_bytes.is_none() {
                continue;
            }
            let oldest = config.retention_ms.map(|ms| Timestamp(now.0.saturating_sub_unsigned(ms)));
            for partition in &topic.partitions {
                let Some(log) = broker.shared.logs.find(partition.id.0) else { continue };
                let known = seen.get(&partition.id).copied().unwrap_or(0);
                let before = log.retention_start(oldest, config.retention_bytes).min(known);
                if before > log.start() {
                    broker.shared.send(partition.shard, Command::Trim { partition: partition.id, before });
                }
                ends.insert(partition.id, log.end());
            }
        }
    }
    ends
}
