//! The queues, topics and bindings of a run, and where messages are to arrive.

use crate::{
    clients::{amqp, kafka},
    history::{Fate, Place},
    run::Without,
};
use anyhow::{Context, Result};
use bytes::Bytes;
use posthaste_broker::{Broker, Client, Credentials, QueueDeclaration, right};
use posthaste_engine::catalog::{
    Binding, DeadLetter, ExchangeKind, ExchangeSpec, Overflow, QueueConfig, Rule, Target, TopicConfig,
};
use posthaste_model::{Name, Pattern, Subject, pattern::Syntax};
use std::net::IpAddr;

/// Numbers of publishers.
pub const AMQP_PUBLISHER: u32 = 100;
pub const PRODUCER: u32 = 201;
pub const DEVICE: u32 = 300;
pub const GARDENER: u32 = 400;
pub const UNDERTAKER: u32 = 500;
pub const SURVEYOR: u32 = 600;

/// Queues, and whether their consumers may reject.
pub const QUEUES: [(&str, bool); 11] = [
    ("work", false),
    ("picky", true),
    ("dead", false),
    ("left", false),
    ("right", false),
    (LATE, false),
    ("sensors", false),
    ("orders-copy", false),
    ("graves", false),
    ("narrow", false),
    ("comer", false),
];
/// Messages expire in the one and go on to the other.
pub const WAITING: &str = "waiting";
pub const LATE: &str = "late";
/// Bound to what devices publish while they do.
pub const COMER: Place = Place::Queue("comer");
/// Where undertakers send the dead: a queue, one that is often full, one that does not exist, and one that is
/// full, deleted and made again.
pub const GRAVES: [&str; 7] = ["graves", "graves", "graves", "narrow", "narrow", "nowhere", "vault"];

pub fn is_queue(name: &str) -> bool {
    QUEUES.iter().any(|(queue, _)| *queue == name)
}
/// Topics, their partitions, and the group that reads each.
pub const TOPICS: [(&str, i32, &str); 3] =
    [("log", 3, "log-readers"), ("orders", 2, "orders-readers"), ("sensors-log", 2, "sensors-readers")];

/// What AMQP publishers choose from.
pub fn amqp_targets() -> Vec<amqp::Target> {
    let target = |exchange, key, places: &[&'static str], dies: bool| amqp::Target {
        exchange,
        key,
        places: places.iter().map(|queue| Place::Queue(queue)).collect(),
        fate: if dies { Fate::Dies } else { Fate::Stays },
    };
    vec![
        target("", "work", &["work"], false),
        target("", "work", &["work"], false),
        target("", "picky", &["picky", "dead"], true),
        target("", WAITING, &[LATE], false),
        target("fan", "any", &["left", "right"], false),
    ]
}

/// Where a producer sends.
pub fn kafka_target(number: u32) -> kafka::Target {
    if number.is_multiple_of(2) {
        // Bound on the bus: every record goes on to a queue.
        let places = vec![Place::Topic("orders"), Place::Queue("orders-copy")];
        kafka::Target { topic: "orders", partitions: 2, places }
    } else {
        kafka::Target { topic: "log", partitions: 3, places: vec![Place::Topic("log")] }
    }
}

/// Where what a device publishes is to arrive.
pub fn device_places() -> Vec<Place> {
    vec![
        Place::Queue("sensors"),
        Place::Topic("sensors-log"),
        Place::Session("reader-1"),
        Place::Session("reader-2"),
    ]
}

/// Makes all of it.
pub fn create(broker: &Broker, without: Without) -> impl Future<Output = Result<()>> + 'static {
    let broker = broker.clone();
    async move {
        let client = client(&broker).await?;
        for (queue, rejects) in QUEUES {
            let dead_letter = rejects.then(|| to_queue("dead")).transpose()?;
            let mut config = QueueConfig { dead_letter, ..QueueConfig::default() };
            // Often full: what comes from elsewhere has to wait, publishers are told.
            if !without.full_targets && matches!(queue, "narrow" | "orders-copy" | "sensors") {
                (config.length_max, config.overflow) = (Some(4), Overflow::Reject);
            }
            create_queue(&client, queue, config).await?;
        }
        let waiting =
            QueueConfig { ttl_ms: Some(120), dead_letter: Some(to_queue(LATE)?), ..QueueConfig::default() };
        create_queue(&client, WAITING, waiting).await?;
        client
            .create_exchange(ExchangeSpec {
                namespace: name("default")?,
                name: name("fan")?,
                kind: ExchangeKind::Fanout,
                durable: true,
                auto_delete: false,
                internal: false,
                alternate: None,
                created_by: None,
                options: Default::default(),
            })
            .await?;
        for (exchange, queue, key) in [
            ("fan", "left", ""),
            ("fan", "right", ""),
            ("amq.topic", "sensors", "sensors.#"),
            ("amq.topic", "orders-copy", "orders"),
        ] {
            client.bind(&name(exchange)?, binding(queue, key)?).await?;
        }
        for (topic, partitions, _) in TOPICS {
            let captures = if topic == "sensors-log" { vec![pattern("sensors.#")?] } else { Vec::new() };
            let config = TopicConfig { captures, ..TopicConfig::default() };
            client.create_topic(&name(topic)?, partitions.unsigned_abs(), config).await?;
        }
        Ok(())
    }
}

fn binding(queue: &str, key: &'static str) -> Result<Binding> {
    Ok(Binding {
        target: Target::Queue(name(queue)?),
        key: Bytes::from_static(key.as_bytes()),
        rule: if key.is_empty() { Rule::All } else { Rule::Pattern(pattern(key)?) },
        arguments: Bytes::new(),
        durable: true,
        transient: false,
    })
}

/// Has one more queue get what devices publish, unless it does.
pub async fn bind_comer(client: &Client) -> Result<()> {
    client.bind(&name("amq.topic")?, binding("comer", "sensors.#")?).await?;
    Ok(())
}

/// Makes the queue that nobody takes anything from, or deletes it.
pub async fn tend_vault(client: &Client) -> Result<()> {
    if client.queue("vault").is_ok() {
        client.delete_queue("vault", false, false).await?;
        return Ok(());
    }
    let config = QueueConfig { length_max: Some(2), overflow: Overflow::Reject, ..QueueConfig::default() };
    create_queue(client, "vault", config).await
}

/// Partitions of the topic that captures what devices publish.
pub async fn sensor_partitions(broker: Broker) -> Result<i32> {
    Ok(i32::try_from(client(&broker).await?.topic("sensors-log")?.partitions.len())?)
}

/// Where each partition ends.
pub async fn ends(broker: Broker) -> Result<Vec<(&'static str, i32, i64)>> {
    let client = client(&broker).await?;
    let mut ends = Vec::new();
    for (topic, _, _) in TOPICS {
        let found = client.topic_to::<right::See>(topic)?;
        for (index, at) in (0..).zip(0..found.partitions.len()) {
            let Some(partition) = found.partition(at) else { continue };
            ends.push((topic, index, client.extent(partition)?.end() as i64));
        }
    }
    Ok(ends)
}

pub async fn client(broker: &Broker) -> Result<Client> {
    let principal = broker.authenticate(Credentials::Anonymous, IpAddr::from([127, 0, 0, 1])).await?;
    Ok(broker.client(principal, name("default")?, broker.next_connection()))
}

async fn create_queue(client: &Client, queue: &str, config: QueueConfig) -> Result<()> {
    let declaration = QueueDeclaration { config, durable: true, ..QueueDeclaration::default() };
    client.create_queue(&name(queue)?, declaration).await?;
    Ok(())
}

fn to_queue(queue: &'static str) -> Result<DeadLetter> {
    let subject = Subject::dotted(queue.to_owned()).ok().context("a subject")?;
    Ok(DeadLetter { exchange: None, subject: Some(subject) })
}

fn name(text: &str) -> Result<Name> {
    Name::new(text).ok().with_context(|| format!("{text} is no name"))
}

fn pattern(text: &str) -> Result<Pattern> {
    Pattern::parse(text, Syntax::DOTTED).ok().with_context(|| format!("{text} is no pattern"))
}
