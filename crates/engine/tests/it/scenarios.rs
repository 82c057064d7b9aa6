//! The shard's scenarios: queues, partitions, sessions, groups.
//!
//! `>` lines hold commands, joined by ` ; ` when they belong to one round; a round of deliveries follows. Below stand the
//! journal's events (`~` for those that a crash may lose, `&` for those joined to the next) and the effects with what they
//! wait for: `@sync`, `@written`, and how many rounds ago that was. In deliveries `*` marks what may have been delivered
//! before, `(n)` the attempt, `!` what is settled, `?` what its reader settles, `^` what has to be read.

use crate::{table, world::World};
use bytes::Bytes;
use posthaste_engine::{
    Command, Content, Delivery, Effect, Event, Gate, Output, Position, Reply,
    catalog::{DeadLetter, Durability, Overflow, QueueConfig},
    command::{Append, Arrival, Consume, Destination, Enqueue, Mode, Outcome, Relay, Settle},
    effect::OutboxItem,
    event::{CommittedOffset, PartitionSpec, QueueSpec, Sequence},
    group::{Join, Member},
};
use posthaste_model::{
    ConsumerId, DeathReason, Envelope, Format, Name, PartitionId, Payload, QueueId, Subject, Timestamp,
    TopicId,
};
use std::{collections::HashMap, fmt::Write};

#[test]
fn queues() {
    check("queues.txt");
}

#[test]
fn limits_and_dead_letters() {
    check("dead_letters.txt");
}

#[test]
fn partitions_and_subscriptions() {
    check("partitions.txt");
}

#[test]
fn sessions_and_arrivals() {
    check("sessions.txt");
}

#[test]
fn groups() {
    check("groups.txt");
}

fn check(file: &str) {
    table::check(file, Table::new, Table::run, |table| {
        assert_eq!(
            table.world.replayed().digest(),
            table.world.shard.digest(),
            "replay is not what was live"
        );
    });
}

struct Table {
    world: World,
    /// What is stored, by stream and offset.
    stored: HashMap<(u64, u64), String>,
    /// Where a message was last handed out, by queue and name.
    held: HashMap<(u64, String), (u8, Position)>,
    ticket: u64,
}

/// A command's words: plain ones, and options `key=value` or `key`.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn word(&self, at: usize) -> &'a str {
        self.0.get(at).copied().unwrap_or_else(|| panic!("word {at} is missing in {:?}", self.0))
    }

    fn number(&self, at: usize) -> u64 {
        let word = self.word(at).trim_start_matches(|c: char| c.is_alphabetic());
        word.parse().unwrap_or_else(|_| panic!("{word} is no number in {:?}", self.0))
    }

    fn option(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    }

    fn value(&self, key: &str) -> Option<u64> {
        self.option(key).map(|v| v.parse().unwrap())
    }

    fn flag(&self, key: &str) -> bool {
        self.0.contains(&key)
    }

    fn queue(&self) -> QueueId {
        QueueId(self.number(1))
    }

    fn partition(&self, at: usize) -> PartitionId {
        PartitionId(self.number(at))
    }

    fn consumer(&self) -> ConsumerId {
        ConsumerId(self.number(2))
    }

    fn mode(&self) -> Mode {
        if self.flag("settled") { Mode::Settled } else { Mode::Lease }
    }

    fn text(&self, key: &str) -> String {
        self.option(key).unwrap_or_default().to_owned()
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn space() -> Name {
    Name::constant("default")
}

impl Table {
    fn new() -> Table {
        Table { world: World::new(), stored: HashMap::new(), held: HashMap::new(), ticket: 0 }
    }

    fn run(&mut self, line: &str) -> String {
        let mut text = String::new();
        for command in line.split(" ; ") {
            let words = Words(command.split_whitespace().collect());
            match words.word(0) {
                "restart" => self.restart(&words, &mut text),
                "full-disk" => self.world.no_space = words.word(1) == "on",
                "members-max" => self.world.limits.group_members_max = words.number(1) as usize,
                "next-timer" => {
                    let at = self
                        .world
                        .shard
                        .next_timer()
                        .map_or("none".to_owned(), |at| format!("in {} ms", at.0 - self.world.now));
                    writeln!(text, "{at}").unwrap();
                }
                _ => {
                    self.ticket += 1;
                    let command = self.command(&words);
                    let out = self.world.step(command, self.ticket);
                    self.show(&out, &mut text);
                }
            }
        }
        let out = self.world.deliver();
        self.show(&out, &mut text);
        self.world.batch += 1;
        text
    }

    fn restart(&mut self, words: &Words, text: &mut String) {
        for effect in self.world.restart(words.flag("clean"), words.flag("lost")) {
            writeln!(text, "{}", self.effect(&effect)).unwrap();
        }
    }

    fn command(&mut self, words: &Words) -> Command {
        match words.word(0) {
            "open" => Command::OpenQueue { queue: words.queue(), spec: spec(words) },
            "seal" => Command::SealQueue {
                queue: words.queue(),
                if_unused: words.flag("if-unused"),
                if_empty: words.flag("if-empty"),
            },
            "unseal" => Command::UnsealQueue { queue: words.queue() },
            "close" => Command::CloseQueue { queue: words.queue() },
            "put" => {
                let (envelope, payload) = self.message(words, 2);
                Command::Enqueue(Enqueue { queue: words.queue(), envelope, payload })
            }
            "consume" => Command::Consume(Consume {
                queue: words.queue(),
                consumer: words.consumer(),
                credit: words.value("credit").unwrap_or(0) as u32,
                mode: words.mode(),
                exclusive: words.flag("exclusive"),
                priority: words.option("pri").map_or(0, |p| p.parse().unwrap()),
            }),
            "cancel" => Command::Cancel { queue: words.queue(), consumer: words.consumer() },
            "detach" => Command::Detach { queue: words.queue(), consumer: words.consumer() },
            "recover" => Command::Recover { queue: words.queue(), consumer: words.consumer() },
            "credit" => {
                let (queue, consumer) = (words.queue(), words.consumer());
                Command::Credit { queue, consumer, add: words.number(3) as u32 }
            }
            "pull" => Command::Pull {
                queue: words.queue(),
                consumer: words.consumer(),
                count: words.number(3) as u32,
                mode: words.mode(),
            },
            "accept" => self.settle(words, Outcome::Accept),
            "release" => self.settle(words, Outcome::Release { attempted: false }),
            "fail" => self.settle(words, Outcome::Release { attempted: true }),
            "reject" => self.settle(words, Outcome::Reject(DeathReason::Rejected)),
            "purge" => Command::Purge { queue: words.queue() },
            "state" => Command::QueueState { queue: words.queue() },
            "outbox-done" => {
                Command::OutboxDone { numbers: words.0[1..].iter().map(|n| n.parse().unwrap()).collect() }
            }
            "route" => {
                let to = words.0[2..].iter().map(|queue| Destination::Queue(QueueId(queue.parse().unwrap())));
                Command::RouteOutbox { routes: vec![(words.number(1), to.collect())] }
            }
            "tick" => {
                self.world.now += words.number(1) as i64;
                Command::Tick
            }
            _ => self.other_command(words),
        }
    }

    fn other_command(&mut self, words: &Words) -> Command {
        let queue = || words.queue();
        match words.word(0) {
            "receive" => {
                let (envelope, payload) = self.message(words, 3);
                let relay =
                    Relay { to: vec![Destination::Queue(QueueId(9))], live: vec![], envelope, payload };
                Command::Receive { queue: queue(), id: words.number(2) as u32, relay: Box::new(relay) }
            }
            "forget" => Command::Forget { queue: queue(), id: words.number(2) as u32 },
            "handles" => {
                let handles = words.0[3..].iter().map(|pair| {
                    let (handle, name) = pair.split_once('=').unwrap();
                    let (lane, position) = self.held[&(queue().0, name.to_owned())];
                    (lane, position, handle.parse().unwrap())
                });
                Command::AssignHandles {
                    queue: queue(),
                    consumer: words.consumer(),
                    handles: handles.collect(),
                }
            }
            "settle-handle" => Command::SettleHandle { queue: queue(), handle: words.number(2) as u32 },
            "free-handle" => Command::FreeHandle { queue: queue(), handle: words.number(2) as u32 },
            "session" => Command::SessionState { queue: queue() },
            "arrive" => {
                let items = words.0[2..].iter().map(|item| {
                    let parts: Vec<&str> = item.split(':').collect();
                    let words = Words(vec!["put", parts[1], parts[2]]);
                    let (envelope, payload) = self.message(&words, 2);
                    let enqueue = Enqueue { queue: words.queue(), envelope, payload };
                    (parts[0].parse().unwrap(), Arrival::Enqueue(enqueue))
                });
                Command::Arrive { source: words.number(1), items: items.collect() }
            }
            "retain" => {
                let subject = Subject::dotted(words.word(1).to_owned()).unwrap();
                let body = if words.word(2) == "-" { "" } else { words.word(2) };
                let envelope = Envelope::new(subject, Timestamp(self.world.now));
                Command::Retain { namespace: space(), envelope, payload: payload(body) }
            }
            "partition" => {
                let spec = PartitionSpec { topic: TopicId(1), index: 0, sync: !words.flag("os") };
                Command::OpenPartition { partition: words.partition(1), spec }
            }
            "close-partition" => Command::ClosePartition { partition: words.partition(1) },
            "append" => self.append(words),
            "trim" => Command::Trim { partition: words.partition(1), before: words.number(2) },
            "tap" => {
                let (partition, to) = (words.partition(1), words.number(2));
                Command::MoveTap { partition, to, durable: words.flag("durable") }
            }
            "producer-ids" => Command::ReserveProducerIds { count: words.number(1) },
            _ => group_command(words),
        }
    }

    fn append(&mut self, words: &Words) -> Command {
        let (envelope, payload) = self.message(words, 2);
        let sequence = words.option("seq").map(|text| {
            let numbers: Vec<u64> = text.split(',').map(|n| n.parse().unwrap()).collect();
            let (producer, epoch, first, count) =
                (numbers[0], numbers[1] as u16, numbers[2] as u32, numbers[3] as u32);
            Sequence { producer, epoch, first, count }
        });
        Command::Append(Append {
            partition: words.partition(1),
            span: words.value("span").unwrap_or(1) as u32,
            timestamp: Timestamp(self.world.now),
            sequence,
            envelope: words.flag("bus").then_some(envelope),
            payload,
        })
    }

    fn message(&self, words: &Words, at: usize) -> (Envelope, Payload) {
        let now = Timestamp(self.world.now);
        let mut envelope = Envelope::new(Subject::dotted("a.b").unwrap(), now);
        envelope.durable = !words.flag("transient");
        envelope.priority = words.value("pri").unwrap_or(0) as u8;
        envelope.expires = words.value("ttl").map(|ms| now.plus_ms(ms));
        envelope.due = words.value("delay").map(|ms| now.plus_ms(ms));
        (envelope, payload(words.word(at)))
    }

    fn settle(&self, words: &Words, outcome: Outcome) -> Command {
        let (queue, consumer) = (words.queue(), words.consumer());
        let find = |name: &&str| self.held.get(&(queue.0, (*name).to_owned())).copied();
        let names = words.0[3..].iter().filter(|word| **word != "lazily");
        let deliveries = names.map(|name| find(name).expect("it was never delivered")).collect();
        let lasting = !words.flag("lazily");
        Command::Settle(Settle { queue, consumer, deliveries, outcome, lasting })
    }

    fn show(&mut self, out: &Output, text: &mut String) {
        if !out.events.is_empty() {
            let events: Vec<String> = out
                .events
                .iter()
                .map(|j| {
                    let (lazy, joined) = (if j.sync { "" } else { "~" }, if j.joined { " &" } else { "" });
                    format!("{lazy}{}{joined}", self.event(&j.event))
                })
                .collect();
            writeln!(text, "+ {}", events.join(" | ")).unwrap();
        }
        for gated in &out.effects {
            let effect = self.effect(&gated.effect);
            writeln!(text, "{effect}{}", self.gate(gated.gate)).unwrap();
        }
    }

    fn gate(&self, gate: Gate) -> String {
        let (kind, batch) = match gate {
            Gate::Open => return String::new(),
            Gate::Written(batch) => ("written", batch),
            Gate::Synced(batch) => ("sync", batch),
        };
        match self.world.batch - batch {
            0 => format!(" @{kind}"),
            ago => format!(" @{kind}-{ago}"),
        }
    }

    fn event(&mut self, event: &Event) -> String {
        match event {
            Event::Enqueued { queue, lane, offset, payload, .. } => {
                let name = body(payload);
                self.stored.insert((queue.0 + u64::from(*lane), *offset), name.clone());
                format!("enqueued {queue}/{lane}@{offset} {name}")
            }
            Event::Appended { partition, offset, span, payload, .. } => {
                self.stored.insert((partition.0, *offset), body(payload));
                format!("appended {partition}@{offset}+{span} {}", body(payload))
            }
            Event::Settled { queue, lane, ranges } => {
                let ranges: Vec<String> = ranges.iter().map(|(s, e)| format!("{s}..{e}")).collect();
                format!("settled {queue}/{lane} {}", ranges.join(" "))
            }
            Event::DeliveredTo { queue, lane, to } => format!("delivered {queue}/{lane} to {to}"),
            Event::Attempted { queue, lane, offset, attempts } => {
                format!("attempted {queue}/{lane}@{offset} {attempts}")
            }
            Event::Due { queue, lane, offset } => format!("due {queue}/{lane}@{offset}"),
            Event::DeadLettered { number, queue, lane, offset, reason, .. } => {
                format!("dead #{number} {queue}/{lane}@{offset} {reason:?}")
            }
            Event::Relayed { number, payload, .. } => format!("relayed #{number} {}", body(payload)),
            Event::Routed { routes } => {
                let routes: Vec<String> =
                    routes.iter().map(|(number, to)| format!("#{number} to {}", places(to))).collect();
                format!("routed {}", routes.join(" "))
            }
            Event::Arrived { source, at, number } => {
                format!("arrived {source}#{number} at {}", places(&[*at]))
            }
            Event::OutboxDone { ranges } => {
                let ranges: Vec<String> = ranges.iter().map(|(s, e)| format!("{s}..{e}")).collect();
                format!("done {}", ranges.join(" "))
            }
            Event::QueueOpened { queue, .. } => format!("opened {queue}"),
            Event::QueueClosed { queue, .. } => format!("closed {queue}"),
            Event::QueueDraining { queue } => format!("draining {queue}"),
            Event::PartitionOpened { partition, .. } => format!("opened partition {partition}"),
            Event::PartitionClosed { partition } => format!("closed partition {partition}"),
            Event::OffsetsCommitted { group, offsets, .. } => {
                let offsets: Vec<String> =
                    offsets.iter().map(|o| format!("{}={}", o.partition, o.offset)).collect();
                format!("committed {group} {}", offsets.join(" "))
            }
            Event::RetainedSet { envelope, payload, .. } => {
                format!("retained {} {}", envelope.subject, body(payload))
            }
            Event::RetainedCleared { subject, .. } => format!("cleared {subject}"),
            other => format!("{other:?}"),
        }
    }

    fn effect(&mut self, effect: &Effect) -> String {
        match effect {
            Effect::Reply { ticket, reply } => {
                let whose = if ticket.0 == self.ticket { String::new() } else { format!("[{}] ", ticket.0) };
                format!("{whose}{}", self.reply(reply))
            }
            Effect::Deliver { consumer, deliveries } => {
                format!("c{consumer} <- {}", self.deliveries(deliveries))
            }
            Effect::Cancelled { consumer } => format!("c{consumer} cancelled"),
            Effect::Ended { consumer } => format!("c{consumer} ended"),
            Effect::Unused { queue } => format!("unused {queue}"),
            Effect::Outbox(entry) => match &entry.item {
                OutboxItem::DeadLetter { stream, offset, reason, .. } => {
                    let name = self.stored.get(&(*stream, *offset)).cloned().unwrap_or_default();
                    format!("outbox #{} {name} {reason:?}", entry.number)
                }
                OutboxItem::Relay { body, .. } => {
                    format!("outbox #{} relay {}", entry.number, String::from_utf8_lossy(body))
                }
            },
            Effect::DeadLetter { reason, payload, .. } => format!("dead-letter {} {reason:?}", body(payload)),
            Effect::Retained { subject, message, .. } => {
                let message = message.as_ref().map_or("nothing".to_owned(), |(_, payload)| body(payload));
                format!("shows {subject} {message}")
            }
            Effect::Dropped { reason, count, .. } => format!("dropped {count} {reason:?}"),
        }
    }

    fn reply(&mut self, reply: &Reply) -> String {
        match reply {
            Reply::Done => "done".to_owned(),
            Reply::Refused(refusal) => format!("refused: {refusal:?}"),
            Reply::Deliveries { deliveries, ready } => {
                format!("got {} ({ready} left)", self.deliveries(deliveries))
            }
            Reply::QueueState(s) => format!(
                "ready {} leased {} delayed {} transient {} consumers {}",
                s.ready, s.leased, s.delayed, s.transient, s.consumers
            ),
            Reply::Session { handles, received } => {
                let handles: Vec<String> = handles
                    .iter()
                    .map(|h| format!("{}={:?}", h.handle, h.delivery.map(|(_, p)| p.offset)))
                    .collect();
                format!("handles [{}] received {received:?}", handles.join(" "))
            }
            Reply::Joined(j) => {
                let leads: Vec<&str> = j.members.iter().map(|(id, ..)| id.as_str()).collect();
                match j.refusal {
                    Some(refusal) => format!("join refused: {refusal:?} {}", j.member),
                    None => format!(
                        "{} joined {} generation {} leader {} members {leads:?}",
                        j.member, j.protocol, j.generation, j.leader
                    ),
                }
            }
            Reply::Assignment(a) => {
                format!("share {:?} of {}", String::from_utf8_lossy(&a.share), a.protocol)
            }
            Reply::Offsets(offsets) => {
                let offsets: Vec<String> =
                    offsets.iter().map(|o| format!("{}={}", o.partition, o.offset)).collect();
                format!("offsets [{}]", offsets.join(" "))
            }
            Reply::Group(Some(g)) => {
                let members: Vec<&str> = g.members.iter().map(|m| m.id.as_str()).collect();
                format!("{} {:?} {} {members:?}", g.group, g.phase, g.protocol)
            }
            Reply::Groups(groups) => {
                let groups: Vec<String> =
                    groups.iter().map(|g| format!("{} {:?}", g.group, g.phase)).collect();
                groups.join(", ")
            }
            other => format!("{other:?}"),
        }
    }

    fn deliveries(&mut self, deliveries: &[Delivery]) -> String {
        let show = |d: &Delivery| {
            let (mut name, read) = match &d.content {
                Content::Inline(_, payload) => (body(payload), ""),
                Content::Stored { stream, offset } => {
                    (self.stored.get(&(*stream, *offset)).cloned().unwrap_or_else(|| "?".into()), "^")
                }
            };
            self.held.insert((d.queue.0, name.clone()), (d.lane, d.position));
            name.push_str(read);
            if d.redelivered {
                name.push('*');
            }
            if d.attempt > 1 {
                write!(name, "({})", d.attempt).unwrap();
            }
            name + if d.settled { "!" } else { "" } + if d.settle_when_read { "?" } else { "" }
        };
        let shown: Vec<String> = deliveries.iter().map(show).collect();
        if shown.is_empty() { "nothing".to_owned() } else { shown.join(" ") }
    }
}

fn payload(body: &str) -> Payload {
    Payload { format: Format::MESSAGE, head: Bytes::new(), body: Bytes::copy_from_slice(body.as_bytes()) }
}

fn places(places: &[Destination]) -> String {
    let name = |at: &Destination| match at {
        Destination::Queue(queue) => format!("q{queue}"),
        Destination::Partition(partition) => format!("p{partition}"),
    };
    places.iter().map(name).collect::<Vec<_>>().join(",")
}

fn body(payload: &Payload) -> String {
    String::from_utf8_lossy(&payload.body).into_owned()
}

fn spec(words: &Words) -> QueueSpec {
    let first = words.value("over").unwrap_or(words.queue().0);
    let priorities = words.value("priorities").unwrap_or(0);
    QueueSpec {
        namespace: space(),
        name: name(words.word(1)),
        streams: (first..=first + priorities).collect(),
        config: QueueConfig {
            priorities: priorities as u8,
            ttl_ms: words.value("ttl"),
            unused_ms_max: words.value("unused"),
            length_max: words.value("max"),
            overflow: if words.flag("reject") { Overflow::Reject } else { Overflow::DropOldest },
            dead_letter: words.flag("dlx").then_some(DeadLetter { exchange: None, subject: None }),
            delivery_limit: words.value("limit").map(|l| l as u32),
            single_active: words.flag("single-active"),
            durability: if words.flag("os") { Durability::Os } else { Durability::Fsync },
            ..QueueConfig::default()
        },
        durable: !words.flag("volatile"),
        auto_delete: words.flag("auto-delete"),
        over: words.value("over").map(PartitionId),
    }
}

fn group_command(words: &Words) -> Command {
    let (namespace, group) = (space(), name(words.0.get(1).copied().unwrap_or("g")));
    let member = || Member {
        id: words.text("member"),
        instance: words.option("instance").map(str::to_owned),
        generation: words.option("generation").map_or(1, |g| g.parse().unwrap()),
    };
    let partitions =
        || words.text("partitions").split(',').map(|p| (TopicId(1), p.parse().unwrap())).collect();
    match words.word(0) {
        "join" => Command::Join(Box::new(Join {
            namespace,
            group,
            member: words.text("member"),
            new_member: words.text("new"),
            instance: words.option("instance").map(str::to_owned),
            client: "client".into(),
            host: "host".into(),
            session_timeout_ms: words.value("session").unwrap_or(10_000),
            rebalance_timeout_ms: words.value("rebalance").unwrap_or(30_000),
            protocol_type: words.option("type").unwrap_or("consumer").into(),
            protocols: words
                .option("protocols")
                .unwrap_or("range")
                .split(',')
                .map(|p| (p.to_owned(), Bytes::from_static(b"metadata")))
                .collect(),
            require_member_id: words.flag("id-required"),
        })),
        "sync" => {
            let share = |(id, share): (&str, &str)| (id.to_owned(), Bytes::copy_from_slice(share.as_bytes()));
            let assignments = words.option("shares").into_iter().flat_map(|s| s.split(','));
            let assignments = assignments.map(|s| share(s.split_once(':').unwrap())).collect();
            Command::Sync { namespace, group, member: member(), assignments }
        }
        "heartbeat" => Command::Heartbeat { namespace, group, member: member() },
        "leave" => Command::Leave { namespace, group, members: vec![(member().id, member().instance)] },
        "commit" => {
            let offsets = words.text("offsets");
            let offsets = offsets.split(',').map(|pair| {
                let (partition, offset) = pair.split_once(':').unwrap();
                CommittedOffset {
                    topic: TopicId(1),
                    partition: partition.parse().unwrap(),
                    offset: offset.parse().unwrap(),
                    epoch: -1,
                    metadata: String::new(),
                    committed: Timestamp(0),
                }
            });
            let member = words.option("member").map(|_| member());
            Command::CommitOffsets { namespace, group, member, offsets: offsets.collect() }
        }
        "offsets" => {
            let partitions = words.option("partitions").map(|_| partitions());
            Command::FetchOffsets { namespace, group, partitions }
        }
        "describe" => Command::DescribeGroup { namespace, group },
        "groups" => Command::ListGroups { namespace },
        "delete-group" => Command::DeleteGroup { namespace, group },
        "forget-offsets" => Command::ForgetOffsets { namespace, group, partitions: partitions() },
        other => panic!("no command {other}"),
    }
}
