//! One run: a broker on simulated disk, network and time, clients of three protocols, faults, and a verdict.
//! Everything follows from the seed.

use crate::{
    bug::Bug,
    clients::{Doors, Shore, amqp, gardener, group, kafka, mqtt, surveyor, undertaker},
    ground::{Befallen, Ground, On},
    history::{Counts, History},
    network::Weather,
    panics,
    schedule::{Ended, Faults, Scheduler},
    topology,
};
use anyhow::{Context, Result, bail};
use posthaste_broker::{
    Broker, Config, Formats, Home, OpenError,
    stepped::{Checkpoints, Stepper, World},
    storage::checkpoint::CheckpointError,
};
use posthaste_engine::planted;
use posthaste_model::Limits;
use posthaste_mqtt::wire::{ProtocolVersion, QoS};
use posthaste_net::{Peer, Protocol};
use posthaste_storage::{Random, object::Rates};
use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
};
use tokio::{
    io::DuplexStream,
    sync::watch,
    task::LocalSet,
    time::{Duration, Instant},
};

/// What a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub seed: u64,
    /// A mistake on purpose, to see whether it is found.
    pub bug: Option<Bug>,
    /// What the data lies on, instead of what the seed chooses.
    pub on: Option<On>,
    /// Parts of the workload that are left out.
    pub without: Without,
    /// Whether bits change, instead of what the seed chooses.
    pub rots: Option<bool>,
    /// Whether power cuts tear sectors, and sectors become unreadable in runs whose bits change, instead of
    /// what the seed chooses.
    pub tears: Option<bool>,
    /// Keep every event as text.
    pub verbose: bool,
}

/// Parts of the workload that a run can do without, to see what the others find.
#[derive(Clone, Copy, Debug, Default)]
pub struct Without {
    /// Full queues at the end of taps, relays and dead letters.
    pub full_targets: bool,
    /// Partitions and a binding that are added, topics and namespaces that come and go.
    pub surveyor: bool,
    /// Queues whose messages die, and that are deleted meanwhile.
    pub undertakers: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub violations: Vec<String>,
    /// Equal for equal runs.
    pub trace: u64,
    pub counts: Counts,
    pub log: Vec<String>,
}

/// Starts of the broker that end in a fault; one more follows without any.
const STARTS: std::ops::RangeInclusive<u64> = 1..=4;
/// 2026-01-01.
pub const BEGINNING_MS: i64 = 1_767_225_600_000;
/// How long the last start may take to hand out everything, in simulated time.
const DRAINING: Duration = Duration::from_secs(600);
/// Nothing has been seen for so long: nothing is coming any more.
const QUIET: Duration = Duration::from_secs(8);

/// Runs one seed.
pub fn run(settings: Settings) -> Report {
    planted::plant(settings.bug.and_then(Bug::planted));
    let mut run = Run::new(settings);
    let (outcome, panics) = panics::caught(|| run.all());
    if let Some(Err(error)) = outcome {
        let mut history = run.shore.history.borrow_mut();
        // With both generations of its names and positions damaged, the broker refuses to start and says so.
        let refused =
            matches!(error.downcast_ref(), Some(OpenError::Checkpoint(CheckpointError::Damaged(_))));
        if refused { history.refused(format!("{error:#}")) } else { history.wrong(format!("{error:#}")) }
    }
    for panic in panics {
        run.shore.history.borrow_mut().wrong(format!("a panic: {panic}"));
    }
    let mut history = run.shore.history.borrow_mut();
    Report {
        seed: settings.seed,
        violations: std::mem::take(&mut history.violations),
        trace: history.trace(),
        counts: history.counts,
        log: history.log.take().unwrap_or_default(),
    }
}

struct Run {
    random: Random,
    ground: Ground,
    /// Milliseconds since 1970.
    clock: Arc<AtomicI64>,
    shore: Rc<Shore>,
    cast: Cast,
    /// Bits flip while nobody looks.
    rots: bool,
    /// Sectors tear, and become unreadable if bits flip.
    tears: bool,
    without: Without,
    /// The journal is never released, so that the end of the run can be compared with all of it.
    keeps_journal: bool,
}

/// The clients, as they live on over the broker's starts.
struct Cast {
    amqp_sent: Vec<Rc<Cell<u32>>>,
    producers: Vec<Rc<kafka::Producer>>,
    devices: Vec<Rc<mqtt::Device>>,
    subscribers: Vec<Rc<mqtt::Subscriber>>,
    gardener: Rc<gardener::Gardener>,
    surveyor: Rc<surveyor::Surveyor>,
    undertakers: Vec<Rc<undertaker::Undertaker>>,
    /// Messages that each publisher sends in all.
    most: u32,
}

/// Makes another sequence of random numbers of the seed.
const TEARS: u64 = 0x7465_6172_7300_0000;
const AMQP_PUBLISHERS: u32 = 2;
const PRODUCERS: u32 = 3;
const DEVICES: u32 = 2;
const UNDERTAKERS: u32 = 2;

impl Run {
    fn new(settings: Settings) -> Run {
        let mut random = Random::new(settings.seed);
        let ground = Ground::new(&mut random, settings.on);
        if settings.bug == Some(Bug::SkipSync) {
            ground.lie();
        }
        let shore = Shore {
            history: RefCell::new(History::new(settings.verbose)),
            random: RefCell::new(Random::new(random.next_u64())),
            weather: Cell::new(Weather::CALM),
            draining: Cell::new(false),
            sensor_partitions: Cell::new(2),
            comer_is_bound: Cell::new(false),
            doors: RefCell::new(None),
        };
        let cast = Cast {
            amqp_sent: (0..AMQP_PUBLISHERS).map(|_| Rc::default()).collect(),
            producers: (0..PRODUCERS).map(|_| Rc::default()).collect(),
            devices: (0..DEVICES).map(|n| Rc::new(mqtt::Device::new(topology::DEVICE + n))).collect(),
            subscribers: vec![
                Rc::new(mqtt::Subscriber::new("reader-1", QoS::AtLeastOnce, ProtocolVersion::V3_1_1)),
                Rc::new(mqtt::Subscriber::new("reader-2", QoS::ExactlyOnce, ProtocolVersion::V5)),
            ],
            gardener: Rc::new(gardener::Gardener::new(topology::GARDENER)),
            surveyor: Rc::default(),
            undertakers: (0..UNDERTAKERS)
                .map(|n| Rc::new(undertaker::Undertaker::new(topology::UNDERTAKER + n)))
                .collect(),
            most: 20 + random.below(150) as u32,
        };
        let chosen = random.chance(1, 10);
        let rots = settings.rots.unwrap_or(chosen);
        shore.history.borrow_mut().rots = rots;
        let keeps_journal = random.chance(1, 2);
        // Chosen apart, so that seeds without it run as they did before there was a choice.
        let tears = settings.tears.unwrap_or(Random::new(settings.seed ^ TEARS).chance(1, 3));
        if tears {
            ground.tear_sectors(rots);
        }
        Run {
            rots,
            tears,
            without: settings.without,
            keeps_journal,
            random,
            ground,
            clock: Arc::new(AtomicI64::new(BEGINNING_MS)),
            shore: Rc::new(shore),
            cast,
        }
    }

    fn all(&mut self) -> Result<()> {
        let starts = STARTS.start() + self.random.below(STARTS.end() - STARTS.start() + 1);
        for number in 0..starts {
            let faults = Faults::choose(&mut self.random);
            self.start(number == 0, Some(faults))?;
            if self.rots {
                for Befallen { text, streams, unnoted } in self.ground.flip_bits(&mut self.random, self.tears)
                {
                    let mut history = self.shore.history.borrow_mut();
                    history.note(format_args!("{text}"));
                    history.hurt(1, streams, unnoted);
                }
            }
        }
        // What is read of every message in the end would fail again and again.
        self.rescue();
        self.start(false, None)
    }

    /// Somebody has the disk replaced.
    fn rescue(&self) {
        for (path, sectors) in self.ground.unreadable() {
            let mut history = self.shore.history.borrow_mut();
            history.note(format_args!("rescued but for {sectors} sectors: {path}"));
        }
        self.ground.rescue();
    }

    /// One start of the broker, until a fault ends it; without faults until nothing is left to do.
    fn start(&mut self, first: bool, faults: Option<Faults>) -> Result<()> {
        {
            let mut history = self.shore.history.borrow_mut();
            history.incarnation += 1;
            history.counts.starts += 1;
            let fails_reads = faults.as_ref().is_some_and(Faults::fails_reads);
            history.reads_fail = fails_reads || !self.ground.unreadable().is_empty();
        }
        self.shore.weather.set(match faults {
            Some(_) => Weather {
                pieces_until_cut: Some(20 + self.random.below(400)),
                one_late_in: 1 + self.random.below(20),
                late_ms_max: 1 + self.random.below(30),
            },
            None => Weather::CALM,
        });
        self.ground.set_rates(match faults {
            Some(_) => Rates {
                refused: self.random.below(6),
                answer_lost: self.random.below(6),
                own_success: self.random.below(6),
                slow: self.random.below(80),
            },
            None => Rates::default(),
        });
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let local = LocalSet::new();
        let outcome = local.block_on(&runtime, self.start_within(first, faults));
        self.shore.doors.take();
        // All tasks die here, in the middle of whatever they were doing.
        drop(local);
        drop(runtime);
        if let Some(ended) = outcome? {
            self.leave(ended);
        }
        Ok(())
    }

    /// The broker is gone. A sector that cannot be read afterwards counts as damaged.
    fn leave(&self, ended: Ended) {
        let sectors = || self.ground.unreadable().iter().map(|(_, sectors)| sectors).sum::<u64>();
        let before = sectors();
        self.ground.left(ended);
        let torn = sectors().saturating_sub(before);
        if torn > 0 {
            let mut history = self.shore.history.borrow_mut();
            history.note(format_args!("{torn} sectors were torn and cannot be read"));
            // Sectors tear while they are written: at the journal's end, or before its position was noted.
            history.hurt(torn, None, true);
        }
    }

    async fn start_within(&mut self, first: bool, faults: Option<Faults>) -> Result<Option<Ended>> {
        let failed = Arc::new(AtomicBool::new(false));
        let (broker, mut scheduler) = self.open(&failed)?;
        scheduler.until_ready().await?;
        self.listen(&broker);
        let stopping = watch::Sender::new(false);
        self.shore.doors.replace(Some(doors(&broker, &stopping)));
        if first {
            scheduler.alongside(topology::create(&broker, self.without)).await.context("the topology")??;
            for subscriber in &self.cast.subscribers {
                tokio::task::spawn_local(mqtt::subscriber(self.shore.clone(), subscriber.clone()));
            }
            let subscribers = self.cast.subscribers.clone();
            scheduler.until(|| subscribers.iter().all(|s| s.subscribed.get())).await?;
        }
        if !first {
            match scheduler.alongside(topology::sensor_partitions(broker.clone())).await? {
                Ok(partitions) => self.shore.sensor_partitions.set(partitions),
                Err(error) => self.shore.history.borrow_mut().broken(format!("{error:#}")),
            }
        }
        self.shore.history.borrow_mut().survey(&broker.catalog());
        self.bring_on(first);
        match faults {
            Some(faults) => {
                let ended = match &self.ground {
                    Ground::Disk(disk) => scheduler.until_fault(disk, faults).await,
                    Ground::Bucket(store) => {
                        let store = store.clone();
                        let rival = self.world(self.ground.home());
                        let rival = || Broker::open_stepped(rival, self.config()).map(drop);
                        scheduler.until_fault_in(&store, faults, rival).await?
                    }
                };
                self.listen(&broker);
                self.shore.history.borrow_mut().note(format_args!("{ended:?}"));
                Ok(Some(ended))
            }
            None => self.finish(&broker, &mut scheduler).await.map(|()| None),
        }
    }

    /// What the broker tells of damage.
    fn listen(&self, broker: &Broker) {
        let mut history = self.shore.history.borrow_mut();
        broker.damage().iter().for_each(|damage| history.damage(damage));
        history.learn_streams(&broker.catalog());
    }

    fn open(&mut self, failed: &Arc<AtomicBool>) -> Result<(Broker, Scheduler)> {
        let (told, shore) = (failed.clone(), Random::new(self.random.next_u64()));
        let (broker, stepper, checkpoints) = match self.try_to_open(told.clone()) {
            Err(error) if self.names_unreadable(&error) => {
                let text = format!("does not start: {error:#}");
                self.shore.history.borrow_mut().note(format_args!("{text}"));
                self.rescue();
                self.try_to_open(told)
            }
            outcome => outcome,
        }
        .context("the broker does not start")?;
        let scheduler = Scheduler::new(
            stepper,
            checkpoints,
            shore,
            self.clock.clone(),
            failed.clone(),
            self.shore.clone(),
        );
        Ok((broker, scheduler))
    }

    fn try_to_open(&mut self, failed: Arc<AtomicBool>) -> Result<(Broker, Stepper, Checkpoints), OpenError> {
        let fatal = Box::new(move |_| failed.store(true, Ordering::Relaxed));
        let world = World { fatal, ..self.world(self.ground.home()) };
        Broker::open_stepped(world, self.config())
    }

    /// Whether a start was refused for a file with a sector that cannot be read, and says which.
    fn names_unreadable(&self, error: &OpenError) -> bool {
        let text = format!("{error:#}");
        // Journal files are called by their numbers.
        let name = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            name.strip_suffix(".journal").unwrap_or(name).to_owned()
        };
        self.ground.unreadable().iter().any(|(path, _)| text.contains(&name(path)))
    }

    fn world(&mut self, home: Home) -> World {
        let mut random = [0; 16];
        random[..8].copy_from_slice(&self.random.next_u64().to_le_bytes());
        random[8..].copy_from_slice(&self.random.next_u64().to_le_bytes());
        World {
            home,
            clock: self.clock.clone(),
            random,
            fatal: Box::new(|_| {}),
            ignores_checkpoints: false,
            keeps_journal: self.keeps_journal,
        }
    }

    fn config(&self) -> Config {
        let codecs = [posthaste_kafka::codec(), posthaste_amqp::codec(), posthaste_mqtt::codec()];
        Config {
            data: "data".into(),
            limits: Limits {
                journal_bytes_between_checkpoints: 60_000,
                // Some files are kept, and some are not.
                kept_entry_bytes_min: 300,
                journal_file_bytes: 64 << 10,
                // Small, so that some of it is read from the disk.
                recent_bytes_max: 200_000,
                reserve_bytes: 2 << 20,
                ..Limits::default()
            },
            formats: Formats::new(codecs),
            advertised: Default::default(),
            threads: Some(2),
        }
    }

    /// Starts all clients.
    fn bring_on(&self, subscribers_are_there: bool) {
        use tokio::task::spawn_local;
        let (shore, cast) = (&self.shore, &self.cast);
        let targets = Rc::new(topology::amqp_targets());
        for (number, sent) in (topology::AMQP_PUBLISHER..).zip(&cast.amqp_sent) {
            spawn_local(amqp::publisher(shore.clone(), number, sent.clone(), cast.most, targets.clone()));
        }
        for (queue, rejects) in topology::QUEUES {
            spawn_local(amqp::consumer(shore.clone(), queue, rejects));
        }
        spawn_local(amqp::consumer(shore.clone(), "work", false));
        for (number, producer) in (topology::PRODUCER..).zip(&cast.producers) {
            let idempotent = number % 3 != 0;
            let target = Rc::new(topology::kafka_target(number));
            spawn_local(kafka::producer(
                shore.clone(),
                number,
                producer.clone(),
                cast.most,
                target,
                idempotent,
            ));
        }
        for (topic, partitions, group) in topology::TOPICS {
            spawn_local(kafka::reader(shore.clone(), topic, partitions, group));
        }
        for _ in 0..2 {
            spawn_local(group::member(shore.clone(), "log", 3, "pair"));
        }
        spawn_local(gardener::gardener(shore.clone(), cast.gardener.clone(), cast.most));
        for undertaker in cast.undertakers.iter().filter(|_| !self.without.undertakers) {
            spawn_local(undertaker::undertaker(shore.clone(), undertaker.clone(), cast.most));
        }
        if !self.without.surveyor {
            spawn_local(surveyor::surveyor(shore.clone(), cast.surveyor.clone(), cast.most));
        }
        for (number, device) in (topology::DEVICE..).zip(&cast.devices) {
            spawn_local(mqtt::device(shore.clone(), number, device.clone(), cast.most));
        }
        for subscriber in cast.subscribers.iter().filter(|_| !subscribers_are_there) {
            spawn_local(mqtt::subscriber(shore.clone(), subscriber.clone()));
        }
    }

    /// Has everything taken that is held, and compares what is rebuilt from the journal with what was live.
    async fn finish(&mut self, broker: &Broker, scheduler: &mut Scheduler) -> Result<()> {
        // Some more traffic without faults first.
        scheduler.run_for(Duration::from_millis(200 + self.random.below(2_000))).await?;
        self.shore.draining.set(true);
        self.shore.history.borrow_mut().note(format_args!("draining"));
        let end = Instant::now() + DRAINING;
        let mut seen = (self.shore.history.borrow().events, Instant::now());
        loop {
            scheduler.run_for(Duration::from_millis(500)).await?;
            // A reader that has all of it commits the same again and again.
            let counts = self.shore.history.borrow().counts;
            let events = counts.delivered + counts.read + counts.acknowledged;
            if events != seen.0 {
                seen = (events, Instant::now());
            }
            if seen.1.elapsed() >= QUIET {
                break;
            }
            if Instant::now() > end {
                bail!("the broker still delivers after {} s", DRAINING.as_secs());
            }
        }
        self.listen(broker);
        match scheduler.alongside(topology::ends(broker.clone())).await? {
            Ok(ends) => self.shore.history.borrow_mut().finish(&ends),
            Err(error) => self.shore.history.borrow_mut().broken(format!("{error:#}")),
        }
        scheduler.settle_down().await?;
        let live = scheduler.stepper.digest();
        let beginnings: &[bool] = if self.keeps_journal { &[false, true] } else { &[false] };
        for ignores_checkpoints in beginnings.iter().copied() {
            let rebuilt = self.rebuilt(ignores_checkpoints)?;
            if rebuilt != live {
                let from = if ignores_checkpoints { "the beginning" } else { "the last checkpoint" };
                let differing: Vec<_> = live
                    .shards
                    .iter()
                    .zip(&rebuilt.shards)
                    .filter(|(a, b)| a != b)
                    .map(|(a, _)| a.0.0)
                    .collect();
                let catalog = live.catalog != rebuilt.catalog;
                let text = format!(
                    "what is rebuilt from {from} differs from what was live: shards {differing:?}, catalog: {catalog}"
                );
                let mut history = self.shore.history.borrow_mut();
                // What was damaged in all of the journal is in no checkpoint any more.
                if ignores_checkpoints { history.broken(text) } else { history.wrong(text) }
            }
        }
        Ok(())
    }

    /// The state that a start would find, on a copy.
    fn rebuilt(&mut self, ignores_checkpoints: bool) -> Result<posthaste_broker::stepped::Digest> {
        let home = self.ground.copy().home();
        let world = World { ignores_checkpoints, ..self.world(home) };
        let (_broker, stepper, _) =
            Broker::open_stepped(world, self.config()).context("the copy does not start")?;
        Ok(stepper.digest())
    }
}

/// Connections to this broker.
pub fn doors(broker: &Broker, stopping: &watch::Sender<bool>) -> Doors {
    let ids = broker.clone();
    let shared = posthaste_net::Shared {
        limits: Arc::new(broker.limits().clone()),
        stopping: stopping.subscribe(),
        connections: Arc::new(AtomicUsize::new(0)),
        loops: Default::default(),
        next_connection: Arc::new(move || ids.next_connection()),
        leave: posthaste_net::Leave::new(broker.leave_to_tell()),
    };
    Doors {
        broker: broker.clone(),
        kafka: door(posthaste_kafka::protocol(broker.clone()), &shared),
        amqp: door(posthaste_amqp::protocol(broker.clone()), &shared),
        mqtt: door(posthaste_mqtt::protocol(broker.clone()), &shared),
    }
}

fn door<P: Protocol>(protocol: P, shared: &posthaste_net::Shared) -> Box<dyn Fn(DuplexStream)> {
    let (protocol, shared) = (Arc::new(protocol), shared.clone());
    Box::new(move |stream| {
        let (protocol, shared) = (protocol.clone(), shared.clone());
        let connection = (shared.next_connection)();
        let peer = Peer::plain(P::NAME.into(), SocketAddr::from(([127, 0, 0, 1], 40_000)), connection);
        tokio::task::spawn_local(async move {
            posthaste_net::serve_stream(stream, peer, &*protocol, shared).await;
        });
    })
}
