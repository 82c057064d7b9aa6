//! Clients of the three protocols, each small and strict. They reconnect when their connection breaks, and go
//! on with what they remember.

pub mod amqp;
pub mod gardener;
pub mod group;
pub mod kafka;
pub mod mqtt;
pub mod surveyor;
pub mod undertaker;

use crate::{
    history::{History, Place},
    network::{self, Weather},
    topology,
};
use anyhow::Context;
use posthaste_broker::{Broker, Client};
use posthaste_storage::Random;
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::sleep,
};

/// Connections in a row that may break before a client gives up, where it may.
const FAILURES_MAX: u32 = 20;

/// Hands a server's end of a connection to the broker.
pub type Accept = Box<dyn Fn(DuplexStream)>;

/// What all clients of a run share.
pub struct Shore {
    pub history: RefCell<History>,
    pub random: RefCell<Random>,
    pub weather: Cell<Weather>,
    /// No more is published; everything that is held is to be taken.
    pub draining: Cell<bool>,
    /// Partitions are added to the topic that captures what devices publish.
    pub sensor_partitions: Cell<i32>,
    /// One more queue gets what devices publish.
    pub comer_is_bound: Cell<bool>,
    /// By protocol, while a broker runs.
    pub doors: RefCell<Option<Doors>>,
}

/// Where a running broker is connected to.
pub struct Doors {
    pub broker: Broker,
    pub kafka: Accept,
    pub amqp: Accept,
    pub mqtt: Accept,
}

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    Kafka,
    Amqp,
    Mqtt,
}

impl Shore {
    pub fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.random.borrow_mut().chance(numerator, denominator)
    }

    pub async fn pause(&self, ms_max: u64) {
        let ms = self.below(ms_max + 1);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Where what a device publishes from now on is to arrive.
    pub fn device_places(&self) -> Vec<Place> {
        let mut places = topology::device_places();
        places.extend(self.comer_is_bound.get().then_some(topology::COMER));
        places
    }

    /// The broker of this moment, without a protocol between.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let broker = self.doors.borrow().as_ref().map(|doors| doors.broker.clone());
        topology::client(&broker.context("no broker")?).await
    }

    pub fn broken(&self, text: &str) {
        self.history.borrow_mut().broken(text.to_owned());
    }

    /// A connection to the broker of this moment.
    pub fn connect(&self, door: Door) -> io::Result<Stream> {
        let doors = self.doors.borrow();
        let doors = doors.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?;
        let (client, server) = network::connect(self.weather.get(), &mut self.random.borrow_mut());
        self.history.borrow_mut().counts.connections += 1;
        match door {
            Door::Kafka => (doors.kafka)(server),
            Door::Amqp => (doors.amqp)(server),
            Door::Mqtt => (doors.mqtt)(server),
        }
        Ok(Stream { stream: client, input: bytes::BytesMut::new() })
    }
}

/// A client's end, and what has arrived there.
pub struct Stream {
    stream: DuplexStream,
    pub input: bytes::BytesMut,
}

impl Stream {
    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets).await
    }

    /// Waits for more.
    pub async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Something that a broker must not answer; what the network does to a client is an [`io::Error`] as it is.
pub fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Does `work` again and again, on a new connection each time that one breaks, until it says that it is done.
pub async fn persist<F: Future<Output = io::Result<bool>>>(
    shore: &Rc<Shore>,
    name: &str,
    mut work: impl FnMut() -> F,
) {
    let mut failures = 0;
    loop {
        match work().await {
            Ok(true) => return,
            Ok(false) => failures = 0,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                shore.history.borrow_mut().broken(format!("{name}: {error}"));
                return;
            }
            // With changed bits the client's user may be gone, and what it needs.
            Err(_) if failures > FAILURES_MAX && shore.history.borrow().rots => return,
            Err(_) => failures += 1,
        }
        shore.pause(20).await;
        sleep(Duration::from_millis(1)).await;
    }
}
