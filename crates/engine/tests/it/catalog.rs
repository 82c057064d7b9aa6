//! The catalog's scenarios: names, bindings, and where a message goes.
//!
//! Below a command stand its changes (`~` for those that are not journalled). After every command the journalled changes
//! are replayed: the catalog is what its own `to_events` make again.

use crate::table;
use bytes::Bytes;
use posthaste_engine::{
    Catalog,
    catalog::{
        AccessKey, Binding, CatalogCommand, CatalogEvent, ExchangeKind, ExchangeSpec, Headers, Matching,
        Options, QueueConfig, Routes, Rule, Target, TopicConfig, UsageLimits, User, UserGroup,
    },
};
use posthaste_model::{ConnectionId, Limits, Name, Pattern, Subject, Syntax, Timestamp, Value};
use std::fmt::Write;

#[test]
fn names_and_routes() {
    table::check("catalog.txt", Table::new, Table::run, |_| {});
}

struct Table {
    catalog: Catalog,
    limits: Limits,
    journal: Vec<CatalogEvent>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn space() -> Name {
    Name::constant("default")
}

/// Headers of a message: `a=1,b=x`.
struct Given<'a>(&'a str);

fn value(text: &str) -> Value {
    text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Int)
}

impl Headers for Given<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        self.0
            .split(',')
            .find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| value(v)))
    }
}

impl Table {
    fn new() -> Table {
        let mut table = Table { catalog: Catalog::new(4), limits: Limits::default(), journal: Vec::new() };
        table.change(CatalogCommand::CreateNamespace(space()));
        table
    }

    fn change(&mut self, command: CatalogCommand) -> String {
        let changes = match self.catalog.decide(command, Timestamp(0), &self.limits) {
            Ok(changes) => changes,
            Err(refusal) => return format!("refused: {refusal:?}"),
        };
        let mut text = String::new();
        for change in changes {
            let journalled = if change.durable { "" } else { "~" };
            writeln!(text, "{journalled}{}", show(&change.event)).unwrap();
            self.catalog.apply(&change.event);
            if change.durable {
                self.journal.push(change.event);
            }
        }
        self.check_replay();
        text
    }

    /// What was journalled and what a checkpoint keeps make the same catalog.
    fn check_replay(&self) {
        let build = |events: &[CatalogEvent]| {
            let mut catalog = Catalog::new(4);
            events.iter().for_each(|event| catalog.apply(event));
            catalog.recovered();
            catalog
        };
        let replayed = build(&self.journal);
        let loaded = build(&self.catalog.to_events());
        assert_eq!(replayed.to_events(), self.catalog.to_events());
        assert_eq!(loaded.to_events(), self.catalog.to_events());
        for catalog in [&self.catalog, &replayed, &loaded] {
            check_counts_by_creator(catalog);
        }
        for namespace in loaded.namespaces() {
            let counted: usize = namespace.exchanges.values().map(|e| e.bindings().count()).sum();
            assert_eq!(namespace.bindings_len(), counted);
        }
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let option = |key: &str| words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        let flag = |key: &str| words.contains(&key);
        let word = |at: usize| words[at];
        let command = match word(0) {
            "limit" => {
                match word(1) {
                    "names" => self.limits.names_per_namespace_max = word(2).parse().unwrap(),
                    "namespace" => {
                        return self.change(CatalogCommand::LimitNamespace {
                            name: space(),
                            limits: limits(option("objects")),
                        });
                    }
                    _ => self.limits.bindings_max = word(2).parse().unwrap(),
                }
                return String::new();
            }
            "restart" => {
                self.catalog = Catalog::new(4);
                self.journal.iter().for_each(|event| self.catalog.apply(event));
                self.catalog.recovered();
                return String::new();
            }
            "route" => return self.route(word(1), word(2), option("headers").unwrap_or_default()),
            "topic" => CatalogCommand::CreateTopic {
                namespace: space(),
                name: name(word(1)),
                partitions: option("partitions").map_or(1, |n| n.parse().unwrap()),
                config: topic_config(option("captures")),
                creator: option("by").map(name),
            },
            "add-partitions" => CatalogCommand::AddPartitions {
                namespace: space(),
                name: name(word(1)),
                total: word(2).parse().unwrap(),
            },
            "configure-topic" => {
                let config = topic_config(option("captures"));
                CatalogCommand::ConfigureTopic { namespace: space(), name: name(word(1)), config }
            }
            "delete-topic" => CatalogCommand::DeleteTopic { namespace: space(), name: name(word(1)) },
            "queue" => CatalogCommand::CreateQueue {
                namespace: space(),
                name: name(word(1)),
                config: QueueConfig {
                    priorities: option("priorities").map_or(0, |n| n.parse().unwrap()),
                    ..QueueConfig::default()
                },
                durable: !flag("volatile"),
                exclusive: flag("exclusive").then_some(ConnectionId(1)),
                auto_delete: false,
                creator: option("by").map(name),
            },
            "configure-queue" => {
                let config = QueueConfig { ttl_ms: Some(1), ..QueueConfig::default() };
                CatalogCommand::ConfigureQueue { namespace: space(), name: name(word(1)), config }
            }
            "delete-queue" => {
                let namespace = self.catalog.namespace("default").unwrap();
                let queue = namespace.queues.get(word(1)).map_or(posthaste_model::QueueId(999_999), |q| q.id);
                CatalogCommand::DeleteQueue { queue }
            }
            "exchange" => CatalogCommand::CreateExchange(ExchangeSpec {
                namespace: space(),
                name: name(word(1)),
                kind: match word(2) {
                    "direct" => ExchangeKind::Direct,
                    "fanout" => ExchangeKind::Fanout,
                    "headers" => ExchangeKind::Headers,
                    _ => ExchangeKind::Topic,
                },
                durable: !flag("volatile"),
                auto_delete: flag("auto-delete"),
                internal: false,
                alternate: option("alternate").map(name),
                created_by: option("by").map(name),
                options: Options::new(),
            }),
            "delete-exchange" => CatalogCommand::DeleteExchange {
                namespace: space(),
                name: name(word(1)),
                if_unused: flag("if-unused"),
            },
            "bind" => {
                let binding = self.binding(&words, option("matching"), option("transient").is_some());
                CatalogCommand::Bind { namespace: space(), exchange: name(word(1)), binding }
            }
            "unbind" => {
                let Binding { target, key, arguments, .. } = self.binding(&words, option("matching"), false);
                CatalogCommand::Unbind { namespace: space(), exchange: name(word(1)), target, key, arguments }
            }
            "user" => {
                let mut user = User::new(name(word(1)));
                let list = |key| option(key).into_iter().flat_map(|text| text.split(','));
                user.groups = list("groups").map(name).collect();
                user.certificate_names = list("certificates").map(str::to_owned).collect();
                user.limits = limits(option("objects"));
                CatalogCommand::PutUser(Box::new(user))
            }
            "user-group" => {
                let mut group = UserGroup::new(name(word(1)));
                group.limits = limits(option("objects"));
                CatalogCommand::PutUserGroup(Box::new(group))
            }
            "created" => return self.catalog.objects_created_by(&name(word(1))).to_string(),
            "delete-user-group" => CatalogCommand::DeleteUserGroup(name(word(1))),
            "access-key" => {
                let key =
                    AccessKey { id: word(2).to_owned(), sealed_secret: Vec::new(), created: Timestamp(0) };
                CatalogCommand::PutAccessKey { user: name(word(1)), key }
            }
            "delete-access-key" => {
                CatalogCommand::DeleteAccessKey { user: name(word(1)), id: word(2).to_owned() }
            }
            "key-owner" => {
                let owner = self.catalog.user_by_access_key(word(1));
                return owner.map_or("nobody".to_owned(), |user| user.name.to_string());
            }
            "delete-user" => CatalogCommand::DeleteUser(name(word(1))),
            "namespace" => CatalogCommand::CreateNamespace(name(word(1))),
            "delete-namespace" => CatalogCommand::DeleteNamespace(name(word(1))),
            other => panic!("no command {other}"),
        };
        self.change(command)
    }

    /// `EXCHANGE TARGET KEY`, the target with `x:` in front when it is an exchange.
    fn binding(&self, words: &[&str], matching: Option<&str>, transient: bool) -> Binding {
        let target = match words[2].strip_prefix("x:") {
            Some(exchange) => Target::Exchange(name(exchange)),
            None => Target::Queue(name(words[2])),
        };
        let text = words.get(3).copied().unwrap_or_default();
        let key = Bytes::copy_from_slice(text.as_bytes());
        let namespace = self.catalog.namespace("default").unwrap();
        let kind = namespace.exchanges.get(words[1]).map_or(ExchangeKind::Topic, |e| e.spec.kind);
        let rule = match kind {
            ExchangeKind::Direct => Rule::Exact(key.clone()),
            ExchangeKind::Fanout => Rule::All,
            ExchangeKind::Headers => Rule::Headers {
                matching: if matching == Some("any") { Matching::Any } else { Matching::All },
                wanted: text
                    .split(',')
                    .filter(|t| !t.is_empty())
                    .map(|t| t.split_once('=').map_or((t.into(), None), |(n, v)| (n.into(), Some(value(v)))))
                    .collect(),
            },
            ExchangeKind::Topic if text.contains('/') => {
                Rule::Pattern(Pattern::parse(text, Syntax::SLASHED).unwrap())
            }
            ExchangeKind::Topic => Rule::Pattern(Pattern::parse(text, Syntax::DOTTED).unwrap()),
        };
        Binding {
            target,
            key,
            rule,
            arguments: Bytes::new(),
            durable: !words.contains(&"volatile"),
            transient,
        }
    }

    fn route(&self, exchange: &str, subject: &str, headers: &str) -> String {
        let namespace = self.catalog.namespace("default").unwrap();
        let exchange = (exchange != "default").then_some(exchange);
        let subject =
            Subject::dotted(if subject == "-" { String::new() } else { subject.to_owned() }).unwrap();
        let mut routes = Routes::default();
        if !self.catalog.route(namespace, exchange, &subject, &Given(headers), &mut routes) {
            return "no such exchange".to_owned();
        }
        let queues =
            routes.queues.iter().map(|r| format!("{}{}", r.queue.name, if r.transient { "~" } else { "" }));
        let topics = routes.topics.iter().map(|t| format!("topic {}", t.name));
        let mut places: Vec<String> = queues.chain(topics).collect();
        places.sort();
        if places.is_empty() { "nowhere".to_owned() } else { places.join(" ") }
    }
}

fn check_counts_by_creator(catalog: &Catalog) {
    for user in ["ann", "bob"].map(name) {
        let by = |creator: &Option<Name>| creator.as_ref() == Some(&user);
        let counted: usize = catalog
            .namespaces()
            .map(|n| {
                n.queues.values().filter(|q| by(&q.created_by)).count()
                    + n.topics.values().filter(|t| by(&t.created_by)).count()
                    + n.exchanges.values().filter(|e| by(&e.spec.created_by)).count()
            })
            .sum();
        assert_eq!(catalog.objects_created_by(&user), counted as u64, "{user}");
    }
}

fn limits(objects: Option<&str>) -> UsageLimits {
    UsageLimits { objects: objects.map(|n| n.parse().unwrap()), ..UsageLimits::default() }
}

fn topic_config(captures: Option<&str>) -> TopicConfig {
    let captures = captures.map(|c| Pattern::parse(c, Syntax::DOTTED).unwrap()).into_iter().collect();
    TopicConfig { captures, ..TopicConfig::default() }
}

fn show(event: &CatalogEvent) -> String {
    match event {
        CatalogEvent::TopicPut(t) => {
            let ids: Vec<u64> = t.partitions.iter().map(|p| p.id.0).collect();
            format!("topic {} = {} partitions {ids:?}", t.name, t.id)
        }
        CatalogEvent::QueuePut(q) => {
            format!("queue {} = {} on shard {} streams {:?}", q.name, q.id, q.shard, q.streams)
        }
        CatalogEvent::ExchangePut(e) => format!("exchange {}", e.name),
        CatalogEvent::TopicDeleted { name, .. } => format!("no topic {name}"),
        CatalogEvent::QueueDeleted { name, .. } => format!("no queue {name}"),
        CatalogEvent::ExchangeDeleted { name, .. } => format!("no exchange {name}"),
        CatalogEvent::Bound { exchange, binding, .. } => format!("bound {}", show_binding(exchange, binding)),
        CatalogEvent::Unbound { exchange, binding, .. } => {
            format!("unbound {}", show_binding(exchange, binding))
        }
        CatalogEvent::UserPut(user) => format!("user {}", user.name),
        CatalogEvent::UserGroupPut(group) => format!("user group {}", group.name),
        other => format!("{other:?}"),
    }
}

fn show_binding(exchange: &Name, binding: &Binding) -> String {
    let target = match &binding.target {
        Target::Exchange(name) => format!("exchange {name}"),
        Target::Queue(name) => format!("queue {name}"),
    };
    format!("{exchange} -> {target} {}", String::from_utf8_lossy(&binding.key))
}

/// Patterns made to be walked again and again cost what their nodes cost.
#[test]
fn patterns_of_wildcards_are_bounded() {
    let mut table = Table::new();
    table.run("queue q");
    let pattern = vec!["#.a"; 100].join(".");
    table.run(&format!("bind amq.topic q {pattern}"));
    let subject = vec!["a"; 120].join(".");
    assert_eq!(table.route("amq.topic", &subject, ""), "q");
    assert_eq!(table.route("amq.topic", &format!("{subject}.b"), ""), "nowhere");
    let long = vec!["a"; 257].join(".");
    assert_eq!(table.run(&format!("bind amq.topic q {long}")), "refused: TooMany");
}

/// A long chain of exchanges is followed to its end.
#[test]
fn chains_of_exchanges_need_no_stack() {
    let mut table = Table::new();
    table.run("queue q");
    let spec = |n: usize| ExchangeSpec {
        namespace: space(),
        name: name(&format!("x{n}")),
        kind: ExchangeKind::Fanout,
        durable: false,
        auto_delete: true,
        internal: false,
        alternate: None,
        created_by: None,
        options: Options::new(),
    };
    let bind = |n: usize, target| CatalogEvent::Bound {
        namespace: space(),
        exchange: name(&format!("x{n}")),
        binding: Binding {
            target,
            key: Bytes::new(),
            rule: Rule::All,
            arguments: Bytes::new(),
            durable: false,
            transient: false,
        },
    };
    const LAST: usize = 20_000;
    (0..=LAST).for_each(|n| table.catalog.apply(&CatalogEvent::ExchangePut(spec(n))));
    for n in 0..LAST {
        table.catalog.apply(&bind(n, Target::Exchange(name(&format!("x{}", n + 1)))));
    }
    table.catalog.apply(&bind(LAST, Target::Queue(name("q"))));
    assert_eq!(table.route("x0", "a", ""), "q");
}
