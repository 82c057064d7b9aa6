//! `/metrics`: what the broker has counted, in Prometheus text format 0.0.4.

use crate::call::Call;
use posthaste_broker::right;
use posthaste_engine::catalog::{Queue, Topic};
use std::{fmt::Write, sync::Arc};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Queues and partitions with series of their own, each. The totals count all.
const QUEUES_MAX: usize = 1_000;
const PARTITIONS_MAX: usize = 1_000;

/// All metrics of this moment. Queues and topics are those that the caller may see.
pub async fn text(call: &Call) -> String {
    let mut out = Exposition::default();
    process(&mut out, call);
    counters(&mut out, call);
    journal(&mut out, call);
    queues(&mut out, call).await;
    topics(&mut out, call);
    out.0
}

fn process(out: &mut Exposition, call: &Call) {
    let broker = call.broker();
    out.family("posthaste_info", "gauge", "The program and its data directory; always 1.");
    let version = env!("CARGO_PKG_VERSION");
    out.sample("posthaste_info", &[("version", version), ("cluster_id", broker.cluster_id())], 1);
    let uptime = call.server.started.elapsed().as_secs();
    out.gauge("posthaste_uptime_seconds", "Seconds since the start.", uptime);
    out.gauge("posthaste_connections", "Open connections over all listeners.", broker.connections() as u64);
    let no_space = u64::from(broker.no_space());
    out.gauge("posthaste_no_space", "1 while publishers are refused because the disk is full.", no_space);
    let overloaded = u64::from(broker.overloaded());
    out.gauge("posthaste_overloaded", "1 while publishers are held back.", overloaded);
    let help = "Dead letters and messages at MQTT QoS 2 on their way to a queue or topic.";
    out.gauge("posthaste_outbox_messages", help, broker.metrics().outbox.value());
    let (stretches, messages) = broker.damage_counts();
    let help = "Damaged stretches of stored data that were met since the start; see /v1/status.";
    out.gauge("posthaste_damaged_stretches", help, stretches);
    let help = "Messages that are missing because of damage met since the start, at most.";
    out.gauge("posthaste_lost_messages", help, messages);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(resident) = memory(&status, "VmRSS:") {
        out.gauge("process_resident_memory_bytes", "Resident memory in bytes.", resident);
    }
    if let Some(anonymous) = memory(&status, "RssAnon:") {
        let help = "Resident memory that no file backs, in bytes.";
        out.gauge("posthaste_process_anonymous_memory_bytes", help, anonymous);
    }
}

/// A field of /proc/self/status, which is in KiB, in bytes.
fn memory(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn counters(out: &mut Exposition, call: &Call) {
    let m = call.broker().metrics();
    for (name, help, value) in [
        ("published", "Messages and batches stored, once per place.", m.published.value()),
        ("published_bytes", "Bytes of payloads taken from publishers.", m.published_bytes.value()),
        ("delivered", "Messages handed to consumers of queues.", m.delivered.value()),
        ("dropped", "Messages dropped by a queue without dead-letter target.", m.dropped.value()),
        ("refused", "Messages and batches refused by a queue or topic: no space or full.", m.refused.value()),
        ("dead_lettered", "Messages moved to a dead-letter target.", m.dead_lettered.value()),
        ("live", "Messages handed straight to live readers.", m.live.value()),
        ("live_dropped", "Messages that live readers were too slow for.", m.live_dropped.value()),
        ("unroutable", "Publishes that had nowhere to go.", m.unroutable.value()),
        ("unreadable", "Stored messages that could not be read.", m.unreadable.value()),
        ("checkpoints", "Checkpoints made.", m.checkpoints.value()),
        (
            "checkpoint_failures",
            "Checkpoints that could not be made; the journal is kept.",
            m.checkpoint_failures.value(),
        ),
        ("audit_lost", "Events that the audit topic should have and has not.", m.audit_lost.value()),
        ("authentication_failures", "Logins that were refused.", m.authentication_failures.value()),
    ] {
        out.counter(&format!("posthaste_{name}_total"), help, value);
    }
}

fn journal(out: &mut Exposition, call: &Call) {
    let Some(stats) = call.broker().commit_stats() else { return };
    for (name, help, value) in [
        ("commits", "Commits written to the journal.", stats.frames),
        ("syncs", "Syncs of journal files.", stats.syncs),
        ("records", "Records written to the journal.", stats.records),
        ("bytes", "Bytes written to the journal, headers and padding included.", stats.bytes),
        ("rotations", "Journal files begun.", stats.rotations),
    ] {
        out.counter(&format!("posthaste_journal_{name}_total"), help, value);
    }
}

async fn queues(out: &mut Exposition, call: &Call) {
    let catalog = call.broker().catalog();
    let all: Vec<&Arc<Queue>> = catalog.namespaces().flat_map(|n| n.queues.values()).collect();
    out.gauge("posthaste_queues", "Queues of all namespaces.", all.len() as u64);
    let seen = all.into_iter().filter_map(|queue| {
        let client = call.client.in_namespace(queue.namespace.clone());
        let may = client.allow::<right::See, _>(queue.clone()).is_ok();
        (may && queue.exclusive.is_none()).then_some((client, queue))
    });
    let mut states = Vec::new();
    for (client, queue) in seen.take(QUEUES_MAX) {
        if let Ok(state) = client.queue_state(&queue.name).await {
            states.push((queue, state));
        }
    }
    type Count = fn(&posthaste_engine::effect::QueueState) -> u64;
    let families: [(&str, &str, Count); 4] = [
        ("ready", "Messages that wait for a consumer.", |s| s.ready),
        ("leased", "Messages that are delivered and not settled.", |s| s.leased),
        ("delayed", "Messages that are not due yet.", |s| s.delayed),
        ("consumers", "Consumers of the queue.", |s| u64::from(s.consumers)),
    ];
    for (name, help, value) in families {
        let name = format!("posthaste_queue_{name}");
        out.family(&name, "gauge", help);
        for (queue, state) in &states {
            let labels = [("namespace", queue.namespace.as_str()), ("queue", queue.name.as_str())];
            out.sample(&name, &labels, value(state));
        }
    }
}

fn topics(out: &mut Exposition, call: &Call) {
    let catalog = call.broker().catalog();
    let all: Vec<&Arc<Topic>> = catalog.namespaces().flat_map(|n| n.topics.values()).collect();
    out.gauge("posthaste_topics", "Topics of all namespaces.", all.len() as u64);
    let seen = all.into_iter().filter_map(|topic| {
        let client = call.client.in_namespace(topic.namespace.clone());
        client.allow::<right::See, _>(topic.clone()).ok()
    });
    let partitions = seen.flat_map(|topic| {
        let count = topic.partitions.len();
        (0..count).filter_map(move |at| topic.partition(at).map(|partition| (topic.clone(), at, partition)))
    });
    let logs: Vec<_> = partitions
        .take(PARTITIONS_MAX)
        .filter_map(|(topic, at, partition)| {
            call.client.extent(partition).ok().map(|extent| (topic, at.to_string(), extent))
        })
        .collect();
    type Count = fn(&posthaste_broker::Extent) -> u64;
    let families: [(&str, &str, Count); 3] = [
        ("start_offset", "The first offset that is there.", |log| log.start()),
        ("end_offset", "The offset after the last durable message.", |log| log.end()),
        ("bytes", "Bytes that the partition holds, as stored.", |log| log.bytes()),
    ];
    for (name, help, value) in families {
        let name = format!("posthaste_partition_{name}");
        out.family(&name, "gauge", help);
        for (topic, at, log) in &logs {
            let labels = [
                ("namespace", topic.namespace.as_str()),
                ("topic", topic.name.as_str()),
                ("partition", at.as_str()),
            ];
            out.sample(&name, &labels, value(log));
        }
    }
}

/// The text as it grows.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail, here and below.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escaped(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// As the format wants label values.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let mut out = Exposition::default();
        out.counter("a_total", "A.", 1);
        out.family("b", "gauge", "B.");
        out.sample("b", &[("x", "q\"\\"), ("y", "z")], 2);
        assert_eq!(
            out.0,
            "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n# HELP b B.\n# TYPE b gauge\n\
             b{x=\"q\\\"\\\\\",y=\"z\"} 2\n"
        );
    }

    #[test]
    fn memory_in_bytes() {
        let status = "Name:\tx\nVmRSS:\t    1024 kB\nRssAnon:\t 512 kB\n";
        assert_eq!(memory(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(memory(status, "RssFile:"), None);
    }
}
