//! A data directory of an earlier version opens, and holds what it held.
//!
//! `tests/fixtures/data-vN.bin.gz` is such a directory without the zeros in its files, and `data-vN.txt` what a broker
//! of that version said that it held. Existing ones are never changed. When the format changes, a new pair is made:
//! raise [`NEWEST`], then `NEW_FIXTURE=1 cargo test -p posthaste-broker --test it a_fixture`.

use crate::support::*;
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use posthaste_broker::{
    AppendBatch, Broker, Client, Config, Credentials, Formats, Home, QueueDeclaration, check, hash_password,
    storage::disk::{Disk, SimDisk},
};
use posthaste_engine::{
    catalog::{
        Action, Binding, DeadLetter, Durability, ExchangeKind, ExchangeSpec, NamePattern, NoHeaders,
        Permission, QueueConfig, Resource, Rule, Target, TopicConfig, User, UserGroup,
    },
    command::{Mode, Outcome},
    event::{CommittedOffset, Sequence},
};
use posthaste_model::{Limits, Name, Pattern, Syntax, Timestamp};
use std::{
    fmt::Write as _,
    io::{IoSlice, Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The oldest version that opens. Before the first release formats changed without an upgrade.
const OLDEST: u32 = 6;
/// The version that a new fixture is of. All up to it are tested.
const NEWEST: u32 = 6;
/// Files are kept in pieces of this size, unless they are zeros.
const PIECE_BYTES: usize = 64;
/// The year 2100.
const FAR: Timestamp = Timestamp(4_102_444_800_000);
/// Enough for a base and deltas over it.
const CHECKPOINTS: u64 = 19;

/// A file: path, size, and its pieces that are not zeros.
type StoredFile = (String, u64, Vec<(u64, Vec<u8>)>);

fn fixture(version: u32, ending: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join(format!("data-v{version}.{ending}"))
}

fn open_on(disk: &SimDisk) -> Broker {
    let config = Config {
        data: "data".into(),
        limits: Limits {
            journal_bytes_between_checkpoints: 3_000,
            journal_file_bytes: 16 << 10,
            kept_entry_bytes_min: 1,
            ..Limits::default()
        },
        formats: Formats::new([]),
        advertised: Default::default(),
        threads: Some(2),
    };
    let fatal = Box::new(|why: String| panic!("{why}"));
    tokio::task::block_in_place(|| Broker::open_on(Arc::new(disk.clone()), config, fatal)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_all_versions_open_and_hold_what_they_held() {
    for version in OLDEST..=NEWEST {
        let disk = unpack(&std::fs::read(fixture(version, "bin.gz")).unwrap());
        let seen = check(&Home::Disk(Arc::new(disk.clone())), "data").unwrap();
        assert!(seen.is_clean(), "version {version}: {:?}", seen.damage);
        assert!(seen.segments.entries > 0 && seen.checkpoints.files > 3 && seen.journal.records > 0);
        let broker = open_on(&disk);
        let expect = std::fs::read_to_string(fixture(version, "txt")).unwrap();
        assert_eq!(describe(&broker).await, expect, "version {version}");
        assert_eq!(broker.damage(), []);
        let client = client_of(&broker).await;
        // It goes on where it was.
        let outcome = publish(&client, None, "orders", b"one more").await;
        assert!(outcome.refused.is_empty());
        tokio::task::block_in_place(|| broker.stop());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixture_made_today_holds_what_was_put_into_it() {
    let disk = SimDisk::new(1);
    let broker = open_on(&disk);
    fill(&broker).await;
    let description = describe(&broker).await;
    tokio::task::block_in_place(|| broker.stop());
    let packed = pack(&disk);
    if std::env::var_os("NEW_FIXTURE").is_some() {
        assert!(!fixture(NEWEST, "txt").exists(), "version {NEWEST} is there already, and stays as it is");
        std::fs::write(fixture(NEWEST, "txt"), &description).unwrap();
        std::fs::write(fixture(NEWEST, "bin.gz"), &packed).unwrap();
    }
    let broker = open_on(&unpack(&packed));
    assert_eq!(describe(&broker).await, description);
    tokio::task::block_in_place(|| broker.stop());
}

fn pack(disk: &SimDisk) -> Vec<u8> {
    let mut files: Vec<StoredFile> = Vec::new();
    for dir in [".", "journal", "segments", "checkpoints"] {
        for entry in disk.list(dir).unwrap().into_iter().filter(|entry| !entry.is_dir) {
            let path =
                format!("{}{}", if dir == "." { String::new() } else { format!("{dir}/") }, entry.name);
            let file = disk.open(&path).unwrap();
            let mut bytes = vec![0; disk.written_bytes(&path) as usize];
            file.read_at(0, &mut bytes).unwrap();
            let pieces = (0u64..).step_by(PIECE_BYTES).zip(bytes.chunks(PIECE_BYTES));
            let pieces = pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != 0));
            files.push((path, entry.bytes, pieces.map(|(at, piece)| (at, piece.to_vec())).collect()));
        }
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&postcard::to_allocvec(&files).unwrap()).unwrap();
    packed.finish().unwrap()
}

fn unpack(packed: &[u8]) -> SimDisk {
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    let files: Vec<StoredFile> = postcard::from_bytes(&bytes).unwrap();
    let disk = SimDisk::new(1);
    for dir in ["journal", "segments", "checkpoints"] {
        disk.create_dir(dir).unwrap();
    }
    for (path, bytes, pieces) in files {
        let file = disk.create(&path).unwrap();
        file.allocate(bytes).unwrap();
        pieces.iter().for_each(|(at, piece)| file.write_at(*at, &[IoSlice::new(piece)]).unwrap());
        file.sync_data().unwrap();
    }
    disk.copy()
}

/// Something of every kind.
async fn fill(broker: &Broker) {
    let client = client_of(broker).await;
    let tenant = name("tenant");
    client.create_namespace(&tenant).await.unwrap();
    let permissions = vec![
        Permission::allow(&[Action::Read], Resource::Queue, "*").within("tenant"),
        Permission {
            name: NamePattern::regex("^%u").unwrap(),
            ..Permission::allow(&[Action::Write], Resource::Topic, "")
        }
        .denied(),
    ];
    client
        .put_user_group(UserGroup { permissions: permissions.clone(), ..UserGroup::new(name("staff")) })
        .await
        .unwrap();
    let user = User {
        password: hash_password(b"secret").unwrap(),
        loopback_only: true,
        permissions,
        groups: vec![name("staff")],
        certificate_names: vec!["CN=reader".to_owned()],
        ..User::new(name("reader"))
    };
    client.put_user(user).await.unwrap();
    routes(&client).await;
    fill_topics(&client, broker).await;
    fill_queues(&client, &client.in_namespace(tenant)).await;
    session(&client).await;
    // What is behind the last checkpoint stays in the journal.
    append(&client, 1, 100..103, None).await;
    publish(&client, None, "orders", b"in the journal").await;
}

async fn routes(client: &Client) {
    let declaration = |config| QueueDeclaration { config, durable: true, ..QueueDeclaration::default() };
    let dead_letter = DeadLetter { exchange: None, subject: Some(subject("dead")) };
    let orders = QueueConfig {
        priorities: 2,
        dead_letter: Some(dead_letter),
        delivery_limit: Some(5),
        ..QueueConfig::default()
    };
    for (queue, config) in [
        ("orders", orders),
        ("dead", QueueConfig::default()),
        ("session", QueueConfig { durability: Durability::Os, ..QueueConfig::default() }),
    ] {
        client.create_queue(&name(queue), declaration(config)).await.unwrap();
    }
    let spec = ExchangeSpec {
        namespace: name("default"),
        name: name("routes"),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        internal: false,
        alternate: Some(name("amq.fanout")),
        created_by: None,
        options: Default::default(),
    };
    client.create_exchange(spec).await.unwrap();
    for (exchange, queue, key) in [("routes", "orders", "order.#"), ("amq.topic", "session", "news.*")] {
        let binding = Binding {
            target: Target::Queue(name(queue)),
            key: Bytes::from(key),
            rule: Rule::Pattern(Pattern::parse(key, Syntax::DOTTED).unwrap()),
            arguments: Bytes::from_static(b"arguments"),
            durable: true,
            transient: false,
        };
        client.bind(&name(exchange), binding).await.unwrap();
    }
}

async fn append(client: &Client, partition: usize, values: std::ops::Range<u32>, producer: Option<u64>) {
    let partition = part(client, &client.topic("log").unwrap(), partition);
    for value in values {
        let (_, payload) = message("log", format!("record {value}").as_bytes());
        let sequence = producer.map(|producer| Sequence { producer, epoch: 0, first: value, count: 1 });
        let mut batch = client.batch();
        batch.append(
            partition,
            AppendBatch { span: 1, timestamp: Timestamp(i64::from(value)), sequence, payload },
        );
        assert!(submit(batch).await.refused.is_empty());
    }
}

async fn fill_topics(client: &Client, broker: &Broker) {
    let config = TopicConfig {
        captures: vec![Pattern::parse("order.new", Syntax::DOTTED).unwrap()],
        retention_bytes: Some(1 << 40),
        durability: Durability::Os,
        ..TopicConfig::default()
    };
    client.create_topic(&name("log"), 2, config).await.unwrap();
    let producer = client.producer_id().await.unwrap();
    append(client, 0, 0..20, Some(producer)).await;
    let mut value = 0;
    while broker.metrics().checkpoints.value() < CHECKPOINTS {
        append(client, 1, value..value + 1, None).await;
        value += 1;
        // Most of the time goes by between two looks of the checkpoints' thread.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let topic = client.topic("log").unwrap();
    client.trim(part(client, &topic, 0), 5).await.unwrap();
    let committed = |partition, offset| CommittedOffset {
        topic: topic.id,
        partition,
        offset,
        epoch: 1,
        metadata: format!("note {partition}"),
        committed: Timestamp(7),
    };
    client.commit_offsets(&name("readers"), None, vec![committed(0, 12), committed(1, 3)]).await.unwrap();
}

async fn fill_queues(client: &Client, tenant: &Client) {
    for number in 0..30u8 {
        let (mut envelope, payload) = message("order.new", format!("order {number}").as_bytes());
        envelope.priority = number % 3;
        envelope.due = (number == 7).then_some(FAR);
        envelope.expires = (number == 8).then_some(FAR);
        let mut batch = client.batch();
        batch.publish(Some("routes"), envelope, payload, &NoHeaders).unwrap();
        assert!(submit(batch).await.refused.is_empty());
    }
    let (envelope, payload) = message("kept", b"the last one");
    let mut batch = client.batch();
    batch.retain(envelope, payload).unwrap();
    assert!(submit(batch).await.refused.is_empty());
    let queue = client.queue("orders").unwrap();
    let holder = hold(client, &queue);
    let (deliveries, _) = client.pull(holder, 9, Mode::Lease).await.unwrap();
    let places: Vec<_> = deliveries.iter().map(|delivery| (delivery.lane, delivery.position)).collect();
    let reject = Outcome::Reject(posthaste_model::DeathReason::Rejected);
    client.settle_durably(holder, places[..4].to_vec(), Outcome::Accept).await.unwrap();
    client.settle_durably(holder, places[5..7].to_vec(), reject).await.unwrap();
    client.detach(holder).await;
    while ready(client, "dead").await < 2 {
        tokio::task::yield_now().await;
    }
    let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    tenant.create_queue(&name("theirs"), declaration).await.unwrap();
    assert!(publish(tenant, None, "theirs", b"for them").await.refused.is_empty());
}

async fn session(client: &Client) {
    let session = client.queue("session").unwrap();
    for text in ["a", "b", "c"] {
        assert!(publish(client, Some("amq.topic"), "news.x", text.as_bytes()).await.refused.is_empty());
    }
    let holder = hold(client, &session);
    let (deliveries, _) = client.pull(holder, 2, Mode::Lease).await.unwrap();
    let handles = deliveries.iter().zip(1..).map(|(d, handle)| (d.lane, d.position, handle)).collect();
    client.assign_handles(holder, handles).await.unwrap();
    client.settle_handle(holder, 1).await.unwrap();
    let (envelope, payload) = message("nobody.listens", b"received");
    client.receive(holder, 77, Some(name("amq.topic")), envelope, payload).await.unwrap();
    client.detach(holder).await;
}

fn subject(text: &'static str) -> posthaste_model::Subject {
    posthaste_model::Subject::dotted(text).unwrap()
}

/// All that a broker holds, a line each, by fields that every version has.
async fn describe(broker: &Broker) -> String {
    let client = client_of(broker).await;
    let catalog = broker.catalog();
    let mut out = String::new();
    for user in catalog.users() {
        let (local, admin) = (user.loopback_only, user.administrator);
        let permissions = &user.permissions;
        writeln!(out, "user {} local {local} administrator {admin} {permissions:?}", user.name).unwrap();
        writeln!(out, "  of {:?}, certificates {:?}", user.groups, user.certificate_names).unwrap();
    }
    for group in catalog.user_groups() {
        writeln!(out, "user group {} {:?}", group.name, group.permissions).unwrap();
    }
    let local = std::net::IpAddr::from([127, 0, 0, 1]);
    let credentials = Credentials::Password { user: "reader", password: b"secret" };
    let known = broker.authenticate(credentials, local).await.is_ok();
    writeln!(out, "reader may log in {known}").unwrap();
    for namespace in catalog.namespaces() {
        let client = client.in_namespace(namespace.name.clone());
        writeln!(out, "namespace {}", namespace.name).unwrap();
        for (name, topic) in &namespace.topics {
            let config = &topic.config;
            let (bytes, durability) = (config.retention_bytes, config.durability);
            let captures = config.captures.len();
            writeln!(out, "topic {name} bytes {bytes:?} {durability:?} captures {captures}").unwrap();
            for partition in 0..topic.partitions.len() {
                describe_log(&mut out, &log_of(&client, topic, partition)).await;
            }
        }
        for exchange in namespace.exchanges.values() {
            for binding in exchange.bindings() {
                let (key, target) = (String::from_utf8_lossy(&binding.key), &binding.target);
                let (exchange, arguments) = (&exchange.spec.name, &binding.arguments);
                writeln!(out, "binding {exchange} {key} {target:?} {arguments:?}").unwrap();
            }
        }
        for queue in namespace.queues.keys() {
            describe_queue(&mut out, &client, queue).await;
        }
    }
    for offset in client.fetch_offsets(&name("readers"), None).await.unwrap() {
        let CommittedOffset { partition, offset, epoch, metadata, .. } = offset;
        writeln!(out, "committed {partition} {offset} epoch {epoch} {metadata}").unwrap();
    }
    for (envelope, payload) in
        client.retained("#", &Pattern::parse("#", Syntax::DOTTED).unwrap(), None, 100).unwrap()
    {
        writeln!(out, "retained {} {:?}", envelope.subject.to_dotted(), payload.body).unwrap();
    }
    out
}

async fn describe_log(out: &mut String, log: &std::sync::Arc<posthaste_broker::PartitionLog>) {
    writeln!(out, "partition from {} to {}", log.start(), log.end()).unwrap();
    let mut next = log.start();
    while next < log.end() {
        for entry in log.read(next, 1 << 20).await.unwrap() {
            writeln!(out, "  {} {:?}", entry.offset, entry.payload.body).unwrap();
            next = entry.offset + u64::from(entry.span);
        }
    }
}

async fn describe_queue(out: &mut String, client: &Client, queue: &Name) {
    let known = client.queue(queue).unwrap();
    let QueueConfig { priorities, dead_letter, delivery_limit, durability, .. } = &known.config;
    writeln!(out, "queue {queue} priorities {priorities} limit {delivery_limit:?} {durability:?}").unwrap();
    writeln!(out, "  dead letters {dead_letter:?}").unwrap();
    let state = client.queue_state(queue).await.unwrap();
    writeln!(out, "  ready {} delayed {}", state.ready, state.delayed).unwrap();
    let holder = hold(client, &known);
    let (deliveries, _) = client.pull(holder, 1_000, Mode::Lease).await.unwrap();
    for got in client.broker().resolve(deliveries).await {
        let (lane, envelope) = (got.delivery.lane, &got.envelope);
        let (subject, expires) = (envelope.subject.to_dotted(), envelope.expires.map(|at| at.0));
        writeln!(out, "  {lane} {subject} expires {expires:?} {:?}", got.payload.body).unwrap();
    }
    client.detach(holder).await;
    let (handles, received) = client.session_state(holder).await.unwrap();
    for handle in handles {
        let offset = handle.delivery.map(|(lane, position)| (lane, position.offset));
        writeln!(out, "  handle {} {offset:?}", handle.handle).unwrap();
    }
    if !received.is_empty() {
        writeln!(out, "  received {received:?}").unwrap();
    }
}
