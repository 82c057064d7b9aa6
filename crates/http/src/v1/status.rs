//! `/v1/status`: the broker in one page.

use crate::call::{Answer, Call, Reply};
use posthaste_broker::right::{self, Right};
use serde::Serialize;
use std::collections::BTreeMap;

/// Whose addresses are shown, where they listen.
const PROTOCOLS: [&str; 4] = ["kafka", "amqp", "mqtt", "http"];

#[derive(Serialize)]
struct Status {
    version: &'static str,
    cluster_id: String,
    /// Counts the starts on this data directory.
    epoch: u32,
    uptime_seconds: u64,
    /// What clients are told to connect to.
    listeners: BTreeMap<&'static str, String>,
    connections: usize,
    user: String,
    objects: Objects,
    messages: Messages,
    journal: Option<Journal>,
    /// Publishers are refused because the disk is full.
    no_space: bool,
    /// Publishers are held back because the engine has enough to do.
    overloaded: bool,
    damage: Damage,
    /// What is damaged, as far as the caller may see whose it is; the first thousand stretches.
    damaged: Vec<posthaste_broker::Damage>,
}

#[derive(Serialize)]
struct Objects {
    namespaces: usize,
    topics: usize,
    partitions: usize,
    queues: usize,
    exchanges: usize,
    bindings: usize,
    users: usize,
}

/// Since the start.
#[derive(Serialize)]
struct Messages {
    published: u64,
    delivered: u64,
    dead_lettered: u64,
    dropped: u64,
    unroutable: u64,
}

/// Since the start.
#[derive(Serialize)]
struct Journal {
    commits: u64,
    syncs: u64,
    records: u64,
    bytes: u64,
    checkpoints: u64,
}

/// Found since the start, which looks at everything that recovery needs.
#[derive(Serialize)]
struct Damage {
    /// Stretches of files, and gaps in topics and queues.
    stretches: u64,
    /// Messages that are missing because of it, at most.
    lost_messages: u64,
    /// Deliveries that were left out because of it.
    unreadable_messages: u64,
}

pub async fn show(call: &Call) -> Answer {
    let broker = call.broker();
    let metrics = broker.metrics();
    let (stretches, lost_messages) = broker.damage_counts();
    let listeners = PROTOCOLS.iter().filter_map(|p| broker.peers_address(p).map(|address| (*p, address)));
    Reply::json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        cluster_id: broker.cluster_id().to_owned(),
        epoch: broker.epoch(),
        uptime_seconds: call.server.started.elapsed().as_secs(),
        listeners: listeners.collect(),
        connections: broker.connections(),
        user: call.client.principal().name().to_owned(),
        objects: objects(call),
        messages: Messages {
            published: metrics.published.value(),
            delivered: metrics.delivered.value(),
            dead_lettered: metrics.dead_lettered.value(),
            dropped: metrics.dropped.value(),
            unroutable: metrics.unroutable.value(),
        },
        journal: broker.commit_stats().map(|stats| Journal {
            commits: stats.frames,
            syncs: stats.syncs,
            records: stats.records,
            bytes: stats.bytes,
            checkpoints: metrics.checkpoints.value(),
        }),
        no_space: broker.no_space(),
        overloaded: broker.overloaded(),
        damage: Damage { stretches, lost_messages, unreadable_messages: metrics.unreadable.value() },
        damaged: broker.damage().into_iter().filter(|damage| sees(call, damage)).collect(),
    })
}

fn sees(call: &Call, damage: &posthaste_broker::Damage) -> bool {
    let Some(object) = &damage.object else { return true };
    let client = call.client.in_namespace(object.namespace.clone());
    client.may_any(right::See::ACTIONS, object.resource, &object.name).is_ok()
}

fn objects(call: &Call) -> Objects {
    let catalog = call.broker().catalog();
    let mut objects = Objects {
        namespaces: 0,
        topics: 0,
        partitions: 0,
        queues: 0,
        exchanges: 0,
        bindings: 0,
        users: catalog.users().count(),
    };
    for namespace in catalog.namespaces() {
        objects.namespaces += 1;
        objects.topics += namespace.topics.len();
        objects.partitions += namespace.topics.values().map(|t| t.partitions.len()).sum::<usize>();
        objects.queues += namespace.queues.len();
        objects.exchanges += namespace.exchanges.len();
        objects.bindings += namespace.bindings_len();
    }
    objects
}
