//! Damage below what was durable: told, passed over, never delivered, and gone after a repair.

use crate::{ground::Ground, support::*};
use posthaste_broker::{
    AppendBatch, Broker, Check, Client, Config, Damage, DamageKind, Formats, Home, QueueDeclaration, check,
    repair,
    storage::{Random, disk::Disk},
};
use posthaste_engine::{
    catalog::TopicConfig,
    command::{Mode, Outcome},
};
use posthaste_model::{Limits, Timestamp};
use std::collections::BTreeSet;

/// Messages in the topic and in the queue.
const MESSAGES: u64 = 120;
const CASES: u64 = 90;
const CASES_ON_BUCKET: u64 = 60;

fn config(checkpoint_every: u64) -> Config {
    let limits = Limits { journal_bytes_between_checkpoints: checkpoint_every, ..Limits::default() };
    Config {
        data: "data".into(),
        limits,
        formats: Formats::new([]),
        advertised: Default::default(),
        threads: Some(2),
    }
}

/// With small journal files, which are kept whenever half of one is wanted.
fn keeping(checkpoint_every: u64) -> Config {
    let mut config = config(checkpoint_every);
    (config.limits.journal_file_bytes, config.limits.kept_entry_bytes_min) = (16 << 10, 1);
    config
}

fn open_on(ground: &Ground, checkpoint_every: u64) -> Broker {
    ground.open(config(checkpoint_every))
}

fn body(id: u64) -> Vec<u8> {
    [&id.to_le_bytes()[..], &vec![7; (id * 37 % 900) as usize]].concat()
}

fn number_in(body: &[u8]) -> u64 {
    let id = u64::from_le_bytes(body[..8].try_into().unwrap());
    assert_eq!(body, self::body(id), "a body was changed");
    id
}

/// Fills a topic of one partition and a queue, the first two thirds in segments if there are to be checkpoints.
async fn fill(broker: &Broker, with_checkpoint: bool) {
    let client = client_of(broker).await;
    let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    let queue = client.create_queue(&name("jobs"), declaration).await.unwrap();
    client.create_topic(&name("log"), 1, TopicConfig::default()).await.unwrap();
    let partition = part(&client, &client.topic("log").unwrap(), 0);
    for id in 0..MESSAGES {
        let (envelope, payload) = message("jobs", &body(id));
        let mut batch = client.batch();
        batch.enqueue(&to(&client, &queue), envelope, payload.clone());
        batch.append(partition, AppendBatch { span: 1, timestamp: Timestamp(1), sequence: None, payload });
        assert!(submit(batch).await.refused.is_empty());
        let checkpoints = if with_checkpoint { id / (MESSAGES / 3) } else { 0 };
        while broker.metrics().checkpoints.value() < checkpoints {
            tokio::task::yield_now().await;
        }
    }
}

/// What the topic shows, with its offsets.
async fn read_log(client: &Client) -> Vec<(u64, u64)> {
    // Its name may be what was lost.
    let catalog = client.broker().catalog();
    let topics = catalog.namespaces().flat_map(|namespace| namespace.topics.values());
    let Some(topic) = topics.into_iter().next() else { return Vec::new() };
    let log = log_of(client, topic, 0);
    let (mut found, mut next) = (Vec::new(), log.start());
    while next < log.end() {
        let entries = log.read(next, 10_000).await.unwrap();
        let Some(last) = entries.last() else { break };
        next = last.offset + 1;
        found.extend(entries.iter().map(|entry| (entry.offset, number_in(&entry.payload.body))));
    }
    found
}

/// Takes everything from the queue, until nothing is left in it.
async fn drain(broker: &Broker, client: &Client) -> Vec<u64> {
    let catalog = broker.catalog();
    let queues = catalog.namespaces().flat_map(|namespace| namespace.queues.values());
    let Some(queue) = queues.into_iter().next().cloned() else { return Vec::new() };
    let mut found = Vec::new();
    loop {
        let holder = hold(client, &queue);
        let (deliveries, _) = client.pull(holder, 50, Mode::Lease).await.unwrap();
        if deliveries.is_empty() {
            return found;
        }
        let got = broker.resolve(deliveries).await;
        let positions = got.iter().map(|r| (r.delivery.lane, r.delivery.position)).collect();
        found.extend(got.iter().map(|r| number_in(&r.payload.body)));
        client.settle_durably(holder, positions, Outcome::Accept).await.unwrap();
    }
}

/// The position of a message's body in a file, if it is there.
fn position_of(ground: &Ground, file: &str, id: u64) -> Option<u64> {
    let (bytes, body) = (ground.read(file), body(id));
    bytes.windows(body.len()).position(|window| window == body).map(|at| at as u64)
}

/// Every file that holds a message's body, and where.
fn places_of(ground: &Ground, id: u64) -> impl Iterator<Item = (String, u64)> {
    let names = ground.files().into_iter().map(|(file, _)| file);
    names.filter_map(move |file| Some((file.clone(), position_of(ground, &file, id)?)))
}

fn checked(ground: &Ground) -> Check {
    tokio::task::block_in_place(|| check(&ground.home(), "data")).unwrap()
}

fn stop(broker: Broker) {
    tokio::task::block_in_place(|| broker.stop());
}

/// A message of the journal, of which everything else is readable.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_record_is_named_and_passed_over() {
    for ground in Ground::all() {
        pass_over_a_damaged_journal_record(ground).await;
    }
}

async fn pass_over_a_damaged_journal_record(ground: Ground) {
    let broker = open_on(&ground, u64::MAX);
    fill(&broker, false).await;
    stop(broker);
    assert!(checked(&ground).is_clean());
    let (file, at) = places_of(&ground, 55).next().unwrap();
    assert!(file.starts_with("journal"));
    ground.flip_bit(&file, (at + 3) * 8);

    let seen = checked(&ground);
    let missing: Vec<&Damage> = seen.damage.iter().filter(|d| d.kind == DamageKind::Messages).collect();
    assert!(!missing.is_empty(), "{:?}", seen.damage);
    assert!(missing.iter().all(|d| (d.from, d.to, d.messages) == (Some(55), Some(56), Some(1))));
    let stretch = seen.damage.iter().find(|d| d.kind == DamageKind::Journal).unwrap();
    assert_eq!(stretch.file.as_deref(), Some(&file[..]));
    let (from, bytes) = (stretch.position.unwrap(), stretch.bytes.unwrap());
    assert!((from..from + bytes).contains(&at), "{stretch}");
    let named = stretch.to_string();
    assert!(
        named.contains("offset 55") && (named.contains("default/jobs/0") || named.contains("default/log/0"))
    );

    let broker = open_on(&ground, u64::MAX);
    let client = client_of(&broker).await;
    assert!(broker.damage_counts().0 >= 2 && broker.damage_counts().1 >= 1);
    assert!(
        broker.damage().iter().any(|d| d
            .object
            .as_ref()
            .is_some_and(|o| o.name.as_str() == "log" || o.name.as_str() == "jobs"))
    );
    let log = read_log(&client).await;
    let expect: Vec<_> = (0..MESSAGES).filter(|id| *id != 55).map(|id| (id, id)).collect();
    let queue = drain(&broker, &client).await;
    // Both records hold the body, or one refers to the other's.
    assert!(log.len() as u64 >= MESSAGES - 1 && expect.iter().all(|entry| log.contains(entry)));
    assert!(queue.len() as u64 >= MESSAGES - 1 && queue.is_sorted());
    assert!(log.len() + queue.len() < 2 * MESSAGES as usize);
    stop(broker);
}

/// The last message of its topic, behind which others follow in the journal: nothing of its own tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_offset_of_a_lost_last_message_is_not_given_out_again() {
    for ground in Ground::all() {
        do_not_give_out_again(ground).await;
    }
}

async fn do_not_give_out_again(ground: Ground) {
    let broker = open_on(&ground, u64::MAX);
    fill(&broker, false).await;
    let client = client_of(&broker).await;
    let partition = part(&client, &client.topic("log").unwrap(), 0);
    let append = async |client: &Client, id: u64| {
        let (_, payload) = message("log", &body(id));
        let mut batch = client.batch();
        batch.append(partition, AppendBatch { span: 1, timestamp: Timestamp(1), sequence: None, payload });
        assert!(submit(batch).await.refused.is_empty());
    };
    append(&client, MESSAGES).await;
    assert!(publish(&client, None, "jobs", &body(MESSAGES + 1)).await.refused.is_empty());
    stop(broker);
    drop(client);
    let (file, at) = places_of(&ground, MESSAGES).last().unwrap();
    ground.flip_bit(&file, (at + 3) * 8);
    for start in 0..3u64 {
        let broker = open_on(&ground, u64::MAX);
        let told = broker.damage();
        let missing: Vec<_> = told.iter().filter(|d| d.kind == DamageKind::Messages).collect();
        assert!(missing.len() == 1 && missing[0].to_string().contains("topic default/log/0"), "{told:?}");
        assert_eq!((missing[0].from, missing[0].to), (Some(MESSAGES), Some(MESSAGES + 1)));
        let client = client_of(&broker).await;
        assert_eq!(client.extent(partition).unwrap().end(), MESSAGES + 1 + start);
        append(&client, MESSAGES + 1 + start).await;
        let log = read_log(&client).await;
        assert_eq!(log.last(), Some(&(MESSAGES + 1 + start, MESSAGES + 1 + start)));
        assert!(log.iter().all(|(offset, id)| offset == id && *id != MESSAGES));
        stop(broker);
    }
}

/// The end of the journal, where nothing follows: the last ten of twenty messages, whether the broker was
/// stopped or killed.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_messages_that_are_gone_from_the_end_are_told_with_their_number() {
    for stopped in [true, false] {
        let ground = Ground::directory(1);
        let broker = open_on(&ground, u64::MAX);
        let client = client_of(&broker).await;
        let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
        client.create_queue(&name("jobs"), declaration).await.unwrap();
        client.create_topic(&name("log"), 1, TopicConfig::default()).await.unwrap();
        for id in 0..20 {
            put_in_both(&client, id).await;
        }
        let ground = if stopped {
            drop(client);
            stop(broker);
            ground
        } else {
            // As a kill would leave it, once the last of them has been noted.
            loop {
                let left = ground.copy();
                let journal = left.files().into_iter().filter(|(name, _)| name.ends_with(".journal"));
                for (file, bytes) in journal {
                    overwrite(&left, &file, 0, bytes);
                }
                if checked(&left).damage.iter().filter_map(|damage| damage.messages).sum::<u64>() == 40 {
                    break ground.copy();
                }
                tokio::task::yield_now().await;
            }
        };
        let journal = ground.files().into_iter().filter(|(name, _)| name.starts_with("journal"));
        let found = journal.filter_map(|(file, bytes)| Some((position_of(&ground, &file, 10)?, file, bytes)));
        let (at, file, bytes) = found.collect::<Vec<_>>().pop().unwrap();
        overwrite(&ground, &file, at, bytes);

        let seen = checked(&ground);
        let lost: Vec<&Damage> = seen.damage.iter().filter(|damage| damage.messages.is_some()).collect();
        assert_eq!(lost.iter().filter_map(|damage| damage.messages).sum::<u64>(), 20, "{:?}", seen.damage);
        assert!(lost.iter().any(|damage| damage.file.as_ref() == Some(&file)), "{lost:?}");
        let mut log: Vec<(u64, u64)> = (0..10).map(|id| (id, id)).collect();
        for start in 20..23 {
            let broker = open_on(&ground, u64::MAX);
            assert_eq!(broker.damage_counts().1, 20, "{:?}", broker.damage());
            let client = client_of(&broker).await;
            assert_eq!(read_log(&client).await, log);
            put_in_both(&client, start).await;
            log = read_log(&client).await;
            let (offset, id) = *log.last().unwrap();
            assert!(id == start && offset >= 20, "an offset is given out again: {log:?}");
            stop(broker);
        }
        let broker = open_on(&ground, u64::MAX);
        let client = client_of(&broker).await;
        assert_eq!(drain(&broker, &client).await, (0..10).chain(20..23).collect::<Vec<_>>());
        stop(broker);
    }
}

async fn put_in_both(client: &Client, id: u64) {
    let partition = part(client, &client.topic("log").unwrap(), 0);
    let catalog = client.broker().catalog();
    let queue = catalog.namespaces().flat_map(|n| n.queues.values()).next().unwrap().clone();
    let (envelope, payload) = message("jobs", &body(id));
    let mut batch = client.batch();
    batch.enqueue(&to(client, &queue), envelope, payload.clone());
    batch.append(partition, AppendBatch { span: 1, timestamp: Timestamp(1), sequence: None, payload });
    assert!(submit(batch).await.refused.is_empty());
}

/// Fills with zeros, durably.
fn overwrite(ground: &Ground, path: &str, from: u64, to: u64) {
    let Ground::Directory(disk) = ground else { panic!("objects are put whole") };
    let file = disk.open(path).unwrap();
    file.write_at(from, &[std::io::IoSlice::new(&vec![0; (to - from) as usize])]).unwrap();
    file.sync_data().unwrap();
}

/// Damage that comes while the broker runs: a segment's bit flips under its readers.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_rots_under_a_running_broker_costs_one_message() {
    let ground = Ground::directory(1);
    let broker = open_on(&ground, 20_000);
    fill(&broker, true).await;
    let segments: Vec<_> =
        ground.files().into_iter().filter(|(name, _)| name.ends_with(".segment")).collect();
    // The body is there once for the topic and once for the queue.
    let mut flipped = 0;
    for (file, _) in &segments {
        let (bytes, wanted) = (ground.read(file), body(10));
        for at in (0..bytes.len() - wanted.len()).filter(|at| bytes[*at..].starts_with(&wanted)) {
            ground.flip_bit(file, (at as u64 + 5) * 8);
            flipped += 1;
        }
    }
    assert_eq!(flipped, 2);
    let client = client_of(&broker).await;
    let expect: Vec<u64> = (0..MESSAGES).filter(|id| *id != 10).collect();
    assert_eq!(read_log(&client).await, expect.iter().map(|id| (*id, *id)).collect::<Vec<_>>());
    assert_eq!(drain(&broker, &client).await, expect);
    assert_eq!(client.queue_state("jobs").await.unwrap().leased, 0, "nothing is in the way");
    assert_eq!(broker.metrics().unreadable.value(), 1);
    let told: Vec<String> = broker.damage().iter().map(|damage| damage.to_string()).collect();
    for object in ["topic default/log/0", "queue default/jobs/0"] {
        let of = told.iter().filter(|text| text.contains(object)).collect::<Vec<_>>();
        assert!(of.len() == 1 && of[0].contains("offsets 10 to 10, up to 1 messages"), "{told:?}");
    }
    stop(broker);
}

/// The same in a journal file that was kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_journal_file_that_rots_costs_what_is_damaged() {
    let ground = Ground::directory(1);
    let broker = ground.open(keeping(20_000));
    fill(&broker, true).await;
    stop(broker);
    assert!(checked(&ground).is_clean());
    let (file, at) = places_of(&ground, 10).next().unwrap();
    assert!(file.starts_with("journal") && checked(&ground).journal.from > at, "{file} is not merely kept");
    ground.flip_bit(&file, (at + 5) * 8);
    let seen = checked(&ground);
    let named = |d: &&Damage| d.file.as_ref() == Some(&file) && d.from == Some(10) && d.to == Some(11);
    assert!(seen.damage.iter().any(|d| named(&d)), "{:?}", seen.damage);

    let broker = ground.open(keeping(u64::MAX));
    let client = client_of(&broker).await;
    let log = read_log(&client).await;
    let queue = drain(&broker, &client).await;
    // One refers to the other's body, if they were published by the same engine thread.
    for id in (0..MESSAGES).filter(|id| *id != 10) {
        assert!(log.contains(&(id, id)) && queue.contains(&id), "{id}");
    }
    assert!(log.len() + queue.len() < 2 * MESSAGES as usize);
    assert!(broker.damage_counts().1 >= 1, "{:?}", broker.damage());
    stop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_journal_file_that_is_missing_is_told_at_the_start() {
    let ground = Ground::directory(1);
    let broker = ground.open(keeping(20_000));
    fill(&broker, true).await;
    stop(broker);
    let (file, _) = places_of(&ground, 10).next().unwrap();
    assert!(file.starts_with("journal"));
    ground.remove(&file);
    let is_of_10 = |d: &Damage| d.from.is_some_and(|from| from <= 10) && d.to.is_some_and(|to| to > 10);
    assert!(checked(&ground).damage.iter().any(is_of_10), "{:?}", checked(&ground).damage);

    let broker = ground.open(keeping(u64::MAX));
    assert!(broker.damage().iter().any(is_of_10), "{:?}", broker.damage());
    let log = read_log(&client_of(&broker).await).await;
    assert!(!log.contains(&(10, 10)) && log.contains(&(MESSAGES - 1, MESSAGES - 1)));
    stop(broker);
}

/// All state lies in the only checkpoint, which is unreadable; what is left are segments or kept files of the
/// journal.
#[tokio::test(flavor = "multi_thread")]
async fn messages_outlive_all_that_was_known_of_them() {
    for make in [config, keeping] {
        for ground in Ground::all() {
            outlive_all_that_was_known(ground, make(60_000)).await;
        }
    }
}

async fn outlive_all_that_was_known(ground: Ground, config: Config) {
    let broker = ground.open(config);
    fill(&broker, false).await;
    while broker.metrics().checkpoints.value() == 0 {
        tokio::task::yield_now().await;
    }
    stop(broker);
    let checkpoint = ground.files().into_iter().find(|(file, _)| file.ends_with(".delta")).unwrap().0;
    // The first block's checksum.
    ground.flip_bit(&checkpoint, 33 * 8);
    let broker = open_on(&ground, u64::MAX);
    let client = client_of(&broker).await;
    let told: Vec<String> = broker.damage().iter().map(|damage| damage.to_string()).collect();
    let names = [
        "a topic's name was lost; it is default/recovered.topic.",
        "a queue's entry in the catalog was lost",
    ];
    for expect in names {
        assert!(told.iter().any(|text| text.contains(expect)), "{told:?}");
    }
    assert_eq!(read_log(&client).await, (0..MESSAGES).map(|id| (id, id)).collect::<Vec<_>>());
    assert_eq!(drain(&broker, &client).await, (0..MESSAGES).collect::<Vec<_>>());
    stop(broker);
}

/// What was damaged, and where, for messages of failed cases.
fn harm(ground: &Ground, random: &mut Random) -> String {
    let mut files = ground.files();
    // A bucket has many objects in its journal, and few of all else.
    if matches!(ground, Ground::Bucket(_)) {
        let dirs: BTreeSet<_> =
            files.iter().map(|(name, _)| name.split('/').next().unwrap().to_owned()).collect();
        let dir = dirs.iter().nth(random.below(dirs.len() as u64) as usize).unwrap();
        files.retain(|(name, _)| name.starts_with(dir));
    }
    // Most of a journal file is zeros that nobody reads.
    let (name, used) = files[random.below(files.len() as u64) as usize].clone();
    if random.below(4) == 0 {
        // Less than a header is no object that anybody has put.
        let least = if matches!(ground, Ground::Bucket(_)) { 4_096.min(used - 1) } else { 0 };
        let to = least + random.below(used - least);
        ground.truncate(&name, to);
        return format!("{name} cut from {used} to {to} bytes");
    }
    let bit = random.below(used * 8);
    ground.flip_bit(&name, bit);
    format!("{name} bit {bit}")
}

/// Whole brokers on damaged directories and buckets: what is shown is what was published, what is not shown
/// was reported, and a repair leaves what is clean and shows the same.
#[tokio::test(flavor = "multi_thread")]
async fn random_damage_is_told_and_never_shown() {
    let without = (config as fn(u64) -> Config, u64::MAX);
    let (with, kept) = ((config as fn(u64) -> Config, 20_000), (keeping as fn(u64) -> Config, 20_000));
    random_damage(Ground::directory, &[without, with, with, with, kept, kept], CASES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_damage_of_a_bucket_is_told_and_never_shown() {
    let without = (config as fn(u64) -> Config, u64::MAX);
    let with = (config as fn(u64) -> Config, 20_000);
    random_damage(Ground::bucket, &[without, with, with], CASES_ON_BUCKET).await;
}

/// How a broker is configured, and after how many bytes it makes a checkpoint.
type Layout = (fn(u64) -> Config, u64);

async fn random_damage(ground: fn(u64) -> Ground, layouts: &[Layout], cases: u64) {
    let mut templates = Vec::new();
    for (make, checkpoint_every) in layouts {
        let ground = ground(templates.len() as u64);
        let broker = ground.open(make(*checkpoint_every));
        fill(&broker, *checkpoint_every < u64::MAX).await;
        stop(broker);
        templates.push(ground);
    }
    for seed in 0..cases {
        let ground = templates[seed as usize % templates.len()].copy();
        let mut random = Random::new(seed);
        let what = harm(&ground, &mut random);
        let context = format!("seed {seed}, {what}");

        let found = match tokio::task::block_in_place(|| check(&ground.home(), "data")) {
            Ok(found) => found,
            Err(error) => panic!("{context}: {error}"),
        };
        let opened = tokio::task::block_in_place(|| {
            Broker::open_home(&ground.home(), config(u64::MAX), Box::new(|why| panic!("{why}")))
        });
        let broker = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
        let client = client_of(&broker).await;
        let log = read_log(&client).await;
        let told = broker.damage();
        assert!(log.iter().all(|(offset, id)| offset == id), "{context}");
        let lost: Vec<u64> = (0..MESSAGES).filter(|id| !log.contains(&(*id, *id))).collect();
        let covered = |id: &u64| {
            told.iter().any(|d| d.from.is_some_and(|from| from <= *id) && d.to.is_some_and(|to| *id < to))
        };
        // What is gone from the end has no offsets that follow, but is counted.
        let is_end = |id: &u64| (*id..MESSAGES).all(|later| lost.contains(&later));
        let of_end = lost.iter().filter(|id| !covered(id)).count() as u64;
        let counted: u64 =
            told.iter().filter(|d| d.kind == DamageKind::Journal).filter_map(|d| d.messages).sum();
        assert!(of_end <= counted, "{context}: {of_end} {told:?}");
        assert!(lost.iter().all(|id| covered(id) || is_end(id)), "{context}: {lost:?} {told:?}");
        assert!(lost.is_empty() || !found.is_clean(), "{context}");
        // Segments and journal tell of messages what checkpoints do not.
        let harmless = what.starts_with("checkpoints");
        assert!(!harmless || lost.is_empty(), "{context}: {lost:?}");
        stop(broker);

        let repaired = tokio::task::block_in_place(|| repair(&ground.home(), config(u64::MAX)));
        let repaired = repaired.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(repaired.after.is_clean(), "{context}: {:?}", repaired.after.damage);
        assert!(checked(&ground).is_clean() && checked(&ground).set_aside.is_empty(), "{context}");
        if let Some(quarantine) = &repaired.quarantine {
            assert!(ground.has(&format!("{quarantine}/report.json")), "{context}");
        }
        let broker = open_on(&ground, u64::MAX);
        let client = client_of(&broker).await;
        assert_eq!(read_log(&client).await, log, "{context}");
        assert_eq!(broker.damage(), [], "{context}");
        let queue = drain(&broker, &client).await;
        assert!(queue.is_sorted() && queue.len() >= log.len().saturating_sub(60), "{context}: {queue:?}");
        assert!(!harmless || queue.len() as u64 == MESSAGES, "{context}: {queue:?}");
        assert!(broker.catalog().users().count() > 0, "{context}: nobody could log in");
        stop(broker);
    }
}

/// A bucket in a directory: the objects are files there.
#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_bucket_is_told_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("file://{}", dir.path().display());
    let config = |checkpoint_every| Config { data: address.clone().into(), ..config(checkpoint_every) };
    let home = Home::at(address.as_ref()).unwrap();
    let checked = || tokio::task::block_in_place(|| check(&home, &address).unwrap());

    let broker = tokio::task::block_in_place(|| Broker::open(config(u64::MAX)).unwrap());
    fill(&broker, false).await;
    assert!(!checked().journal.clean_shutdown, "a broker that runs is not disturbed by a look");
    stop(broker);
    let found = checked();
    assert!(found.is_clean() && found.journal.clean_shutdown && found.journal.files > 0, "{found:?}");
    assert_eq!((found.topics, found.queues), (1, 1));

    let (path, mut bytes, at) = objects(&dir.path().join("journal"))
        .into_iter()
        .find_map(|path| {
            let (bytes, body) = (std::fs::read(&path).unwrap(), body(41));
            let at = bytes.windows(body.len()).position(|window| window == body)?;
            Some((path, bytes, at))
        })
        .unwrap();
    bytes[at] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    let found = checked();
    let key = path.strip_prefix(dir.path()).unwrap().display().to_string();
    let named = |damage: &Damage| damage.kind == DamageKind::Journal && damage.file.as_ref() == Some(&key);
    assert!(found.damage.iter().any(named), "{key}: {:?}", found.damage);

    let repaired = tokio::task::block_in_place(|| repair(&home, config(u64::MAX)).unwrap());
    assert!(repaired.before.damage.iter().any(named) && repaired.after.is_clean(), "{:?}", repaired.after);
    assert!(checked().is_clean());
    let broker = tokio::task::block_in_place(|| Broker::open(config(u64::MAX)).unwrap());
    let client = client_of(&broker).await;
    let log = read_log(&client).await;
    assert!(log.len() as u64 >= MESSAGES - 1 && log.iter().all(|(offset, id)| offset == id && *id != 41));
    assert_eq!(broker.damage(), []);
    stop(broker);
}

fn objects(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] }).collect()
}
