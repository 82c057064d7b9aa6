//! Names, configurations, routing rules and users: one state machine, read by everyone as a snapshot.
//!
//! It is made of persistent maps, so cloning it is cheap and a change costs what it changes. Durable entries
//! change by journalled [`CatalogEvent`]s; volatile ones (exclusive queues, clean sessions) by the same events, not
//! journalled.

mod change;
mod decide;
mod entry;
mod name_pattern;
mod permission;
mod routing;
mod small_map;
mod trie;
mod usage;
mod user;

pub use change::{CatalogCommand, CatalogEvent, CatalogRefusal, Change};
pub use entry::{
    Binding, DeadLetter, Durability, ExchangeKind, ExchangeSpec, Matching, Options, Overflow, Partition,
    Queue, QueueConfig, Rule, Target, Topic, TopicConfig,
};
pub use name_pattern::{Expression, NamePattern, PATTERN_BYTES_MAX};
pub use permission::{Action, Asker, Effect, PERMISSIONS_MAX, Permission, Resource, Wish};
pub use routing::{Exchange, Headers, NoHeaders, QueueRoute, Routes};
pub use usage::{Limited, UsageLimits};
pub use user::{AccessKey, CREDENTIALS_MAX, Grants, Password, ScramVerifier, User, UserGroup};

use imbl::{HashMap, OrdMap};
use posthaste_model::{Name, QueueId, ShardId, TopicId};
use std::sync::Arc;
use trie::Trie;

/// The exchange that is the bus: what is published to it also goes to every topic that captures its subject.
pub const BUS: &str = "amq.topic";

/// Exchanges that every namespace has from the start.
pub const PREDECLARED: [(&str, ExchangeKind); 5] = [
    ("amq.direct", ExchangeKind::Direct),
    ("amq.fanout", ExchangeKind::Fanout),
    ("amq.headers", ExchangeKind::Headers),
    ("amq.match", ExchangeKind::Headers),
    (BUS, ExchangeKind::Topic),
];

/// Everything that has a name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    namespaces: OrdMap<Name, Arc<Namespace>>,
    users: OrdMap<Name, Arc<User>>,
    user_groups: OrdMap<Name, Arc<UserGroup>>,
    /// Whose each is.
    certificate_names: OrdMap<String, Name>,
    access_keys: OrdMap<String, Name>,
    /// How often the limits of namespaces were changed.
    limits_changes: u64,
    /// How many objects each user has created.
    created: OrdMap<Name, u64>,
    queues: HashMap<QueueId, Arc<Queue>>,
    topics: HashMap<TopicId, Arc<Topic>>,
    next_id: u64,
    /// Ids below are journalled as taken.
    reserved_id: u64,
    shards: u16,
}

/// An owner of names.
#[derive(Clone, Debug)]
pub struct Namespace {
    pub name: Name,
    pub limits: UsageLimits,
    pub topics: OrdMap<Name, Arc<Topic>>,
    pub queues: OrdMap<Name, Arc<Queue>>,
    pub exchanges: OrdMap<Name, Exchange>,
    /// Which topics capture a subject: by their own name or a pattern.
    captures: Trie<Name, Arc<Topic>>,
    bindings: usize,
}

impl Catalog {
    /// The catalog of a new data directory, whose state is divided into `shards`.
    pub fn new(shards: u16) -> Catalog {
        Catalog { shards: shards.max(1), next_id: 1, reserved_id: 1, ..Catalog::default() }
    }

    pub fn shards(&self) -> u16 {
        self.shards
    }

    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// Whether the users and their groups are those of another state of this catalog: found by comparing
    /// pointers.
    pub fn has_users_of(&self, other: &Catalog) -> bool {
        self.users.ptr_eq(&other.users) && self.user_groups.ptr_eq(&other.user_groups)
    }

    /// Whether the limits of namespaces are those of another state of this catalog.
    pub fn has_limits_of(&self, other: &Catalog) -> bool {
        self.limits_changes == other.limits_changes
    }

    /// Whether there is a user that is not called `name`.
    pub fn has_users_besides(&self, name: &str) -> bool {
        self.users.len() > usize::from(self.users.contains_key(name))
    }

    pub fn queue_by_id(&self, id: QueueId) -> Option<&Arc<Queue>> {
        self.queues.get(&id)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// The shard that something without a catalog entry lives in, such as a group: by its name.
    pub fn shard_of(&self, name: &str) -> ShardId {
        ShardId((crc32c::crc32c(name.as_bytes()) % u32::from(self.shards)) as u16)
    }

    /// Where the catalog places a queue or partition with this id.
    pub fn place(&self, id: u64) -> ShardId {
        ShardId((id % u64::from(self.shards)) as u16)
    }
}

impl Namespace {
    fn new(name: Name) -> Namespace {
        let mut namespace = Namespace {
            name: name.clone(),
            limits: UsageLimits::default(),
            topics: OrdMap::new(),
            queues: OrdMap::new(),
            exchanges: OrdMap::new(),
            captures: Trie::default(),
            bindings: 0,
        };
        for (exchange, kind) in PREDECLARED {
            let exchange = Name::constant(exchange);
            let spec = ExchangeSpec {
                namespace: name.clone(),
                name: exchange.clone(),
                kind,
                durable: true,
                auto_delete: false,
                internal: false,
                alternate: None,
                created_by: None,
                options: Options::new(),
            };
            namespace.exchanges.insert(exchange, Exchange::new(spec));
        }
        namespace
    }

    /// How many bindings all its exchanges have.
    pub fn bindings_len(&self) -> usize {
        self.bindings
    }
}
