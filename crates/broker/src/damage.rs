//! What had been durable and cannot be read: told in the log, the metrics and the status, each stretch once.

use crate::{
    checkpoint::Meta,
    log::Logs,
    record::{self, stream_of},
    salvage::{hurts_names, hurts_shard},
};
use parking_lot::Mutex;
use posthaste_engine::{
    Catalog, Event,
    catalog::{CatalogEvent, Resource},
    planted::{self, Bug},
};
use posthaste_model::{Name, QueueId, ShardId};
use posthaste_storage::{
    checkpoint::LostKeys,
    data_dir::{CHECKPOINTS_DIR, JOURNAL_DIR, SEGMENTS_DIR},
    journal,
    segment::SegmentId,
};
use serde::Serialize;
use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// A stretch of stored data that cannot be read, or messages that are known to be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub kind: DamageKind,
    /// What is wrong, and what it means.
    pub what: String,
    /// The file, relative to the data directory.
    pub file: Option<String>,
    /// Where the stretch begins in the file, in bytes.
    pub position: Option<u64>,
    /// Its length in bytes.
    pub bytes: Option<u64>,
    /// Whose messages are missing.
    pub object: Option<Object>,
    /// The first offset that is missing.
    pub from: Option<u64>,
    /// The offset behind the last one that is missing.
    pub to: Option<u64>,
    /// How many messages are missing, at most.
    pub messages: Option<u64>,
    /// How many entries of the catalog are missing, at most: namespaces, topics, queues, exchanges, bindings
    /// and users.
    pub names: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DamageKind {
    Checkpoint,
    Journal,
    /// Missing messages of a topic or queue.
    Messages,
    /// A topic or queue whose name was lost.
    Name,
    Segment,
}

/// A partition of a topic, or one priority of a queue. Shown as `topic NAMESPACE/NAME/PARTITION` or
/// `queue NAMESPACE/NAME/PRIORITY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub resource: Resource,
    pub namespace: Name,
    pub name: Name,
    /// Partition or priority.
    pub part: u32,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.resource == Resource::Topic { "topic" } else { "queue" };
        write!(f, "{kind} {}/{}/{}", self.namespace, self.name, self.part)
    }
}

impl Serialize for Object {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(object) = &self.object {
            write!(f, "; {object}")?;
        }
        if let (Some(from), Some(to)) = (self.from, self.to) {
            write!(f, ", offsets {from} to {}", to.saturating_sub(1))?;
        }
        if let Some(messages) = self.messages {
            write!(f, ", up to {messages} messages")?;
        }
        if let Some(names) = self.names {
            write!(f, ", up to {names} entries of the catalog")?;
        }
        if let Some(file) = &self.file {
            write!(f, "; {file}")?;
            if let (Some(position), Some(bytes)) = (self.position, self.bytes) {
                write!(f, ", {bytes} bytes at byte {position}")?;
            }
        }
        Ok(())
    }
}

impl Damage {
    pub(crate) fn new(kind: DamageKind, what: impl Into<String>) -> Damage {
        let what = what.into();
        let (file, position, bytes, object, from, to, messages, names) = Default::default();
        Damage { kind, what, file, position, bytes, object, from, to, messages, names }
    }

    /// `by_gaps` are the messages that something else tells to be lost by damage from here on.
    pub(crate) fn of_journal(damage: &journal::Damage, by_gaps: &mut u64, catalog: &Catalog) -> Damage {
        let mut told = Damage::new(DamageKind::Journal, damage.to_string());
        if let Some(lost) = damage.lost {
            let elsewhere = lost.messages.min(*by_gaps);
            *by_gaps -= elsewhere;
            told.messages = Some(lost.messages - elsewhere).filter(|messages| *messages > 0);
            if damage.kind == journal::DamageKind::Missing {
                told.what += "; this had been acknowledged, and is gone from the end of the journal";
            }
        }
        told.file = damage.file.map(|file| format!("{JOURNAL_DIR}/{}", journal::file_name(file)));
        told.position = damage.file.map(|_| damage.from.0.saturating_sub(damage.file_start.0));
        told.bytes = Some(damage.to.0.saturating_sub(damage.from.0));
        if let Some((what, stream)) = damage.head.as_ref().and_then(|head| contents(damage.shard, head)) {
            told.what += &format!("; by its head, {what}");
            told.object = stream.and_then(|stream| object_of(catalog, stream));
        }
        told
    }

    /// Messages on their way are told apart, once it is known which of them the journal still has.
    pub(crate) fn of_checkpoint(lost: &LostKeys, meta: &Meta) -> Damage {
        let what = match lost.after.is_some() || lost.before.is_some() {
            false => "damaged header of a checkpoint file; nothing is lost by it".to_owned(),
            true => format!(
                "damaged checkpoint, state lost from {} to {}: it is rebuilt from segments and journal where they \
                 have it; what was settled since may come again",
                state_at(lost.after.as_deref().unwrap_or_default()),
                lost.before.as_deref().map_or_else(|| "the end".to_owned(), state_at),
            ),
        };
        let mut told = Damage::new(DamageKind::Checkpoint, what);
        told.file = Some(format!("{CHECKPOINTS_DIR}/{}", lost.file));
        (told.position, told.bytes) = (Some(lost.position), Some(lost.bytes));
        let entries = lost.bytes / ENTRY_BYTES_MIN + 1;
        if hurts_names(lost) {
            told.names = Some(meta.names.min(entries)).filter(|names| *names > 0);
        }
        let retained = (0u16..).zip(&meta.held).filter(|(shard, _)| hurts_shard(lost, ShardId(*shard)));
        let retained = retained.map(|(_, held)| held.retained).sum::<u64>().min(entries);
        if retained > 0 {
            told.what += "; among it are retained messages";
            told.messages = Some(retained);
        }
        told
    }

    pub(crate) fn of_segment(segment: SegmentId, what: &str) -> Damage {
        let mut told = Damage::new(DamageKind::Segment, what);
        told.file = Some(format!("{SEGMENTS_DIR}/{segment}.segment"));
        told
    }

    pub(crate) fn with_offsets(mut self, object: Option<Object>, from: u64, to: u64) -> Damage {
        self.object = object;
        (self.from, self.to, self.messages) = (Some(from), Some(to), Some(to.saturating_sub(from)));
        self
    }
}

/// What a record was, and of which stream. Heads of damaged records are not verified.
fn contents(shard: Option<u16>, head: &[u8]) -> Option<(String, Option<u64>)> {
    if shard == Some(record::CATALOG) {
        return Some((change_of_names(&postcard::from_bytes(head).ok()?), None));
    }
    let (event, _) = record::decode(head).ok()?;
    let of_queue = |what: &str, queue: QueueId, lane| (what.to_owned(), Some(stream_of(queue, lane)));
    Some(match event {
        Event::PartitionOpened { partition, .. } => {
            ("the making of a partition".to_owned(), Some(partition.0))
        }
        Event::PartitionClosed { partition } => ("the end of a partition".to_owned(), Some(partition.0)),
        Event::Appended { partition, offset, span, .. } => {
            (format!("{span} records at offset {offset}"), Some(partition.0))
        }
        Event::Trimmed { partition, start } => (format!("a trim to offset {start}"), Some(partition.0)),
        Event::QueueOpened { queue, .. } => of_queue("the making or settings of a queue", queue, 0),
        Event::QueueClosed { queue, .. } => of_queue("the end of a queue", queue, 0),
        Event::Enqueued { queue, lane, offset, .. } => {
            of_queue(&format!("the message at offset {offset}"), queue, lane)
        }
        Event::Settled { queue, lane, .. } => {
            of_queue("settlements: what was settled comes again", queue, lane)
        }
        Event::DeadLettered { queue, lane, .. } => of_queue("a dead-lettering", queue, lane),
        Event::OffsetsCommitted { group, .. } => (format!("offsets committed by group {group}"), None),
        Event::RetainedSet { envelope, .. } => {
            (format!("the retained message on {:?}", envelope.subject.to_dotted()), None)
        }
        Event::Relayed { envelope, .. } => {
            (format!("a message on its way to {:?}", envelope.subject.to_dotted()), None)
        }
        _ => return None,
    })
}

fn change_of_names(event: &CatalogEvent) -> String {
    match event {
        CatalogEvent::NamespaceCreated(name) => format!("the making of namespace {name}"),
        CatalogEvent::TopicPut(topic) => format!("the making or settings of topic {}", topic.name),
        CatalogEvent::QueuePut(queue) => format!("the making or settings of queue {}", queue.name),
        CatalogEvent::ExchangePut(exchange) => format!("the making of exchange {}", exchange.name),
        CatalogEvent::Bound { exchange, .. } => format!("a binding of exchange {exchange}"),
        CatalogEvent::UserPut(user) => format!("the making or settings of user {}", user.name),
        CatalogEvent::NamespaceLimited { name, .. } => format!("the limits of namespace {name}"),
        CatalogEvent::NamespaceDeleted(name) => format!("the end of namespace {name}"),
        CatalogEvent::TopicDeleted { name, .. } => format!("the end of topic {name}"),
        CatalogEvent::QueueDeleted { name, .. } => format!("the end of queue {name}"),
        CatalogEvent::ExchangeDeleted { name, .. } => format!("the end of exchange {name}"),
        CatalogEvent::Unbound { exchange, .. } => format!("the end of a binding of exchange {exchange}"),
        CatalogEvent::UserDeleted(name) => format!("the end of user {name}"),
        CatalogEvent::UserGroupPut(group) => format!("the making or settings of user group {}", group.name),
        CatalogEvent::UserGroupDeleted(name) => format!("the end of user group {name}"),
        CatalogEvent::IdsReserved(_) => "a reservation of ids".to_owned(),
    }
}

/// What a checkpoint's key is of.
fn state_at(key: &[u8]) -> String {
    use crate::checkpoint::key;
    match key.split_first() {
        Some((&key::CATALOG, _)) => "the names and users".to_owned(),
        Some((&key::SHARD, rest)) => match rest.first_chunk() {
            Some(shard) => format!("shard {}", u16::from_be_bytes(*shard)),
            None => "the shards".to_owned(),
        },
        Some((&(key::KEPT | key::STREAM), _)) => "the places of messages".to_owned(),
        _ => "the beginning".to_owned(),
    }
}

/// Whose messages a stream holds.
pub(crate) fn object_of(catalog: &Catalog, stream: u64) -> Option<Object> {
    let part = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    catalog.namespaces().find_map(|namespace| {
        let topic = namespace.topics.values().find_map(|topic| {
            let at = topic.partitions.iter().position(|partition| partition.id.0 == stream)?;
            let (resource, namespace, name) = (Resource::Topic, topic.namespace.clone(), topic.name.clone());
            Some(Object { resource, namespace, name, part: part(at) })
        });
        topic.or_else(|| {
            namespace.queues.values().find_map(|queue| {
                let at = queue.streams.iter().position(|lane| *lane == stream)?;
                let (resource, namespace, name) =
                    (Resource::Queue, queue.namespace.clone(), queue.name.clone());
                Some(Object { resource, namespace, name, part: part(at) })
            })
        })
    })
}

type Names = Box<dyn Fn(u64) -> Option<Object> + Send + Sync>;

#[derive(Default)]
struct Found {
    shown: Vec<Damage>,
    /// Checksums of all that was told, so that it is told once.
    told: HashSet<u32>,
}

/// All damage that was met since the start.
#[derive(Default)]
pub(crate) struct Damages {
    found: Mutex<Found>,
    stretches: AtomicU64,
    messages: AtomicU64,
    names: OnceLock<Names>,
}

/// Bytes of an entry of a checkpoint, at least.
const ENTRY_BYTES_MIN: u64 = 8;
/// Kept to be shown; more is counted and logged.
const SHOWN_MAX: usize = 1_000;

impl Damages {
    /// Tells whose streams are whose, from now on.
    pub fn name_by(&self, names: Names) {
        let _ = self.names.set(names);
    }

    /// Notes a stretch, unless it is known.
    pub fn report(&self, damage: Damage) {
        if planted::strikes_always(Bug::UntoldDamage) {
            return;
        }
        let mut found = self.found.lock();
        if !found.told.insert(crc32c::crc32c(damage.to_string().as_bytes())) {
            return;
        }
        tracing::error!(%damage, "stored data is damaged");
        self.stretches.fetch_add(1, Ordering::Relaxed);
        self.messages.fetch_add(damage.messages.unwrap_or(0), Ordering::Relaxed);
        if found.shown.len() < SHOWN_MAX {
            found.shown.push(damage);
        }
    }

    /// Notes that messages of a stream are missing.
    pub fn missing(&self, stream: u64, from: u64, to: u64, damage: Damage) {
        let object = self.names.get().and_then(|names| names(stream));
        self.report(damage.with_offsets(object, from, to));
    }

    pub fn found(&self) -> Vec<Damage> {
        self.found.lock().shown.clone()
    }

    pub fn stretches(&self) -> u64 {
        self.stretches.load(Ordering::Relaxed)
    }

    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}

impl Logs {
    /// What of the logs cannot be read.
    pub(crate) fn damages(&self) -> &Arc<Damages> {
        &self.damages
    }
}
