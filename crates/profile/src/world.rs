//! A broker on one thread, which always does the same in the same order.

use anyhow::{Context, Result, ensure};
use posthaste_broker::{
    Broker, Config, Formats, Home,
    stepped::{Stepper, World},
};
use posthaste_model::Limits;
use posthaste_net::{Peer, Protocol};
use posthaste_storage::{disk::LocalDisk, journal::StepOutcome};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize},
    },
    time::Duration,
};
use tokio::{
    io::{DuplexStream, duplex},
    sync::watch,
    task::{LocalSet, spawn_local, yield_now},
    time::sleep,
};

/// Octets that are on their way in one direction.
const IN_FLIGHT_OCTETS: usize = 256 << 10;
/// Turns in which the broker had nothing to do, before time goes on.
const IDLE_TURNS: u32 = 4;
/// 2026-01-01, in milliseconds.
const BEGINNING_MS: i64 = 1_767_225_600_000;

/// Where clients connect.
pub struct Doors {
    accept_kafka: Accept,
    accept_amqp: Accept,
    accept_mqtt: Accept,
}

type Accept = Box<dyn Fn(DuplexStream)>;

impl Doors {
    pub fn kafka(&self) -> DuplexStream {
        connect(&self.accept_kafka)
    }

    pub fn amqp(&self) -> DuplexStream {
        connect(&self.accept_amqp)
    }

    pub fn mqtt(&self) -> DuplexStream {
        connect(&self.accept_mqtt)
    }
}

/// Runs a broker on an empty directory until the clients' `work` is done.
pub fn run<F: Future<Output = Result<()>> + 'static>(work: impl FnOnce(Doors) -> F) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    LocalSet::new().block_on(&runtime, async {
        let (broker, mut stepper) = open(directory.path())?;
        stepper.begin();
        while !stepper.is_ready() {
            turn(&mut stepper, &mut 0).await;
        }
        let stopping = watch::Sender::new(false);
        let work = spawn_local(work(doors(&broker, &stopping)));
        let mut idle = 0;
        while !work.is_finished() {
            turn(&mut stepper, &mut idle).await;
            ensure!(idle < 10_000, "nothing happens any more");
        }
        work.await?
    })
}

fn open(data: &std::path::Path) -> Result<(Broker, Stepper)> {
    let world = World {
        home: Home::Disk(Arc::new(LocalDisk::new(data))),
        clock: Arc::new(AtomicI64::new(BEGINNING_MS)),
        random: [7; 16],
        fatal: Box::new(|why| eprintln!("posthaste-profile: {why}")),
        ignores_checkpoints: false,
        keeps_journal: false,
    };
    let codecs = [posthaste_kafka::codec(), posthaste_amqp::codec(), posthaste_mqtt::codec()];
    let config = Config {
        data: data.to_owned(),
        limits: Limits::default(),
        formats: Formats::new(codecs),
        advertised: Default::default(),
        threads: Some(2),
    };
    let (broker, stepper, _) = Broker::open_stepped(world, config).context("the broker does not start")?;
    Ok((broker, stepper))
}

/// Engine threads first, then the journal, then all connections.
async fn turn(stepper: &mut Stepper, idle: &mut u32) {
    let mut worked = false;
    for thread in 0..stepper.threads() {
        worked |= stepper.engine(thread, usize::MAX);
    }
    worked |= stepper.journal() == StepOutcome::Committed;
    *idle = if worked { 0 } else { *idle + 1 };
    if *idle > IDLE_TURNS {
        sleep(Duration::from_millis(1)).await;
    } else {
        yield_now().await;
    }
}

fn doors(broker: &Broker, stopping: &watch::Sender<bool>) -> Doors {
    let ids = broker.clone();
    let shared = posthaste_net::Shared {
        limits: Arc::new(broker.limits().clone()),
        stopping: stopping.subscribe(),
        connections: Arc::new(AtomicUsize::new(0)),
        loops: Default::default(),
        next_connection: Arc::new(move || ids.next_connection()),
        leave: Default::default(),
    };
    Doors {
        accept_kafka: door(posthaste_kafka::protocol(broker.clone()), &shared),
        accept_amqp: door(posthaste_amqp::protocol(broker.clone()), &shared),
        accept_mqtt: door(posthaste_mqtt::protocol(broker.clone()), &shared),
    }
}

fn door<P: Protocol>(protocol: P, shared: &posthaste_net::Shared) -> Accept {
    let (protocol, shared) = (Arc::new(protocol), shared.clone());
    Box::new(move |stream| {
        let (protocol, shared) = (protocol.clone(), shared.clone());
        let connection = (shared.next_connection)();
        let peer = Peer::plain(P::NAME.into(), SocketAddr::from(([127, 0, 0, 1], 40_000)), connection);
        spawn_local(async move {
            posthaste_net::serve_stream(stream, peer, &*protocol, shared).await;
        });
    })
}

fn connect(accept: &Accept) -> DuplexStream {
    let (client, server) = duplex(IN_FLIGHT_OCTETS);
    accept(server);
    client
}
