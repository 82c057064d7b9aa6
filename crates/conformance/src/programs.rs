//! The client programs: what each is called, which protocol it speaks and how it is started.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::tools::Tools;

/// `HOST:PORT` per listener.
pub type Addresses = BTreeMap<Protocol, String>;

/// The listeners that client programs use.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    Amqp,
    Http,
    Kafka,
    Mqtt,
}

impl Protocol {
    pub const ALL: [Self; 4] = [Self::Amqp, Self::Http, Self::Kafka, Self::Mqtt];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amqp => "amqp",
            Self::Http => "http",
            Self::Kafka => "kafka",
            Self::Mqtt => "mqtt",
        })
    }
}

impl FromStr for Protocol {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|protocol| protocol.to_string() == text) {
            Some(protocol) => Ok(protocol),
            None => bail!("unknown protocol {text}"),
        }
    }
}

/// What a program is written in, and so what has to be installed for it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Language {
    Go,
    Java,
    Node,
    Python,
    Rust,
    Shell,
}

/// One client library with its checks.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The library's own name; `--only` selects by it.
    pub name: &'static str,
    pub protocol: Protocol,
    pub language: Language,
    /// The script, or the argument of the language's one binary.
    pub entry: &'static str,
}

const fn program(name: &'static str, protocol: Protocol, language: Language, entry: &'static str) -> Program {
    Program { name, protocol, language, entry }
}

/// All programs, in the order in which they run.
pub const PROGRAMS: [Program; 16] = [
    program("confluent-kafka", Protocol::Kafka, Language::Python, "kafka_confluent.py"),
    program("aiokafka", Protocol::Kafka, Language::Python, "kafka_aio.py"),
    program("kcat", Protocol::Kafka, Language::Shell, "kcat.sh"),
    program("kafka-clients", Protocol::Kafka, Language::Java, "kafka"),
    program("kafkajs", Protocol::Kafka, Language::Node, "kafka_kafkajs.js"),
    program("franz-go", Protocol::Kafka, Language::Go, "kafka"),
    program("pika", Protocol::Amqp, Language::Python, "amqp_pika.py"),
    program("aio-pika", Protocol::Amqp, Language::Python, "amqp_aio.py"),
    program("celery", Protocol::Amqp, Language::Python, "amqp_celery.py"),
    program("amqplib", Protocol::Amqp, Language::Node, "amqp_amqplib.js"),
    program("amqp-client", Protocol::Amqp, Language::Java, "amqp"),
    program("lapin", Protocol::Amqp, Language::Rust, "amqp"),
    program("paho-mqtt", Protocol::Mqtt, Language::Python, "mqtt_paho.py"),
    program("mqtt.js", Protocol::Mqtt, Language::Node, "mqtt_mqttjs.js"),
    program("mosquitto", Protocol::Mqtt, Language::Shell, "mosquitto.sh"),
    program("rumqttc", Protocol::Mqtt, Language::Rust, "mqtt"),
];

/// The programs that log in by every mechanism of their protocols, in the order in which they run.
pub const LOG_INS: [Program; 5] = [
    program("log-ins-python", Protocol::Kafka, Language::Python, "log_ins.py"),
    program("log-ins-java", Protocol::Kafka, Language::Java, "log-ins"),
    program("log-ins-node", Protocol::Amqp, Language::Node, "log_ins.js"),
    program("log-ins-go", Protocol::Kafka, Language::Go, "log-ins"),
    program("log-ins-shell", Protocol::Mqtt, Language::Shell, "log_ins.sh"),
];

/// The programs whose name or protocol is one of `only`; all when `only` is empty.
pub fn select(only: &[String]) -> Result<Vec<Program>> {
    for name in only {
        if !PROGRAMS.iter().any(|program| program.is_called(name)) {
            let known: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
            bail!("no client program is called {name}; known are kafka, amqp, mqtt and {}", known.join(", "));
        }
    }
    let wanted = |program: &Program| only.is_empty() || only.iter().any(|name| program.is_called(name));
    Ok(PROGRAMS.into_iter().filter(wanted).collect())
}

impl Program {
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.protocol.to_string() == name
    }

    /// The command that runs the program against `addresses`.
    pub fn command(&self, tools: &Tools, addresses: &Addresses) -> Command {
        let mut command = tools.command(self.language, self.entry);
        command.args(arguments(addresses));
        command
    }
}

/// `PROTOCOL=HOST:PORT` for each listener, as every program expects it.
pub fn arguments(addresses: &Addresses) -> impl Iterator<Item = String> {
    addresses.iter().map(|(protocol, address)| format!("{protocol}={address}"))
}

/// The directory that holds the programs' sources.
pub fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_is_by_library_or_protocol() {
        let names = |only: &[&str]| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            select(&only).unwrap().iter().map(|program| program.name).collect()
        };
        assert_eq!(names(&["pika"]), ["pika"]);
        assert_eq!(names(&["mqtt"]), ["paho-mqtt", "mqtt.js", "mosquitto", "rumqttc"]);
        assert_eq!(names(&[]).len(), PROGRAMS.len());
        assert!(select(&["nothing".to_owned()]).is_err());
    }
}
