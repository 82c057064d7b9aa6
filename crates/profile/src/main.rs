//! The hot paths, each run on one thread and always in the same order, so that what a message costs can be
//! counted instead of timed: `cargo xtask profile` runs this program under valgrind twice, with different
//! numbers of messages, and divides the difference.
//!
//! Whole paths lead from the octets that a client sends, through adapter, broker, engine and journal, to the
//! octets that another one receives. Sockets are replaced by memory, and the little that the clients do is
//! counted too.
#![forbid(unsafe_code)]

mod client;
mod paths;
mod world;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::process::ExitCode;

/// Runs one path with so many messages, or names all of them.
#[derive(Parser)]
#[command(name = "posthaste-profile")]
struct Cli {
    /// None prints the names of all
    #[arg(value_enum)]
    path: Option<Path>,
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
}

/// What can be counted.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Path {
    /// AMQP: frames of a publish of 1 KiB, decoded
    AmqpDecode,
    /// Kafka: a produce request with four batches of 15 records of 1 KiB, decoded and verified
    KafkaDecode,
    /// MQTT: a PUBLISH of 1 KiB with QoS 1, decoded
    MqttDecode,
    /// The journal: records of 1 KiB in batches of 100, synced
    Journal,
    /// AMQP: persistent publish of 1 KiB into a durable queue, confirmed, 100 at a time
    AmqpPublish,
    /// AMQP: the same, delivered to a consumer, each delivery acknowledged
    AmqpQueue,
    /// AMQP: transient, delivered to a consumer without acknowledgements
    AmqpTransient,
    /// Kafka: 1 KiB records in batches of 16 KiB to four partitions, acks=all
    KafkaProduce,
    /// Kafka: the same records read, 1 MiB at a time
    KafkaFetch,
    /// MQTT: 1 KiB with QoS 0 from one client to another
    MqttQos0,
    /// MQTT: 1 KiB with QoS 1 from one client to a durable session, 100 at a time
    MqttQos1,
    /// MQTT: 100 bytes with QoS 0 from one client to ten; counted for each delivery
    MqttFanout,
}

fn main() -> ExitCode {
    let Cli { path, messages } = Cli::parse();
    let Some(path) = path else {
        Path::value_variants()
            .iter()
            .filter_map(Path::to_possible_value)
            .for_each(|path| println!("{}", path.get_name()));
        return ExitCode::SUCCESS;
    };
    match run(path, messages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("posthaste-profile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: Path, messages: u32) -> Result<()> {
    use paths::{amqp, kafka, mqtt, storage};
    match path {
        Path::AmqpDecode => amqp::decode(messages),
        Path::KafkaDecode => kafka::decode(messages),
        Path::MqttDecode => mqtt::decode(messages),
        Path::Journal => storage::journal(messages),
        Path::AmqpPublish => world::run(|doors| amqp::publish(doors, messages)),
        Path::AmqpQueue => world::run(|doors| amqp::queue(doors, messages, amqp::Durability::Persistent)),
        Path::AmqpTransient => world::run(|doors| amqp::queue(doors, messages, amqp::Durability::Transient)),
        Path::KafkaProduce => world::run(|doors| kafka::produce(doors, messages)),
        Path::KafkaFetch => world::run(|doors| kafka::fetch(doors, messages)),
        Path::MqttQos0 => world::run(|doors| mqtt::qos0(doors, messages)),
        Path::MqttQos1 => world::run(|doors| mqtt::qos1(doors, messages)),
        Path::MqttFanout => world::run(|doors| mqtt::fanout(doors, messages)),
    }
}
