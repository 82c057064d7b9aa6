//! Starting a broker: recovery, then threads.

use crate::{
    Broker, Config, Error,
    access::{audit, password, usage},
    broker::{Chore, Parts, Shared},
    checkpoint::{Checkpointer, Meta, key},
    client::Client,
    damage::object_of,
    environment::{Clock, Work, default_threads},
    home::{Home, Place},
    inbox::{self, Inbox, inbox},
    kept::closed_by,
    log::{Chunk, JournalEntry, Logs, Storage},
    outbox,
    record::{self, StoredAt, stored_at},
    retention,
    salvage::Followed,
    thread::{EngineThread, Input},
};
use posthaste_engine::{
    Catalog, Command, Event, Shard,
    catalog::{CatalogEvent, Durability},
    effect::OutboxEntry,
    event::PartitionSpec,
};
use posthaste_model::{Name, PartitionId, QueueId, ShardId};
use posthaste_storage::{
    DataDir,
    checkpoint::{CheckpointError, Checkpoints},
    data_dir,
    disk::Disk,
    journal::{self, Completion, Drive, Journal, JournalConfig, Lsn, RecordRef, RecoveryReport},
    object,
    segment::{self, DiskSegments, Run, Segments},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, mpsc},
    thread::JoinHandle,
};
use tokio::sync::{mpsc as async_mpsc, oneshot};

/// The namespace that is there from the start.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    DataDir(#[from] data_dir::OpenError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    #[error(transparent)]
    Object(#[from] object::OpenError),
    #[error(transparent)]
    Segment(#[from] segment::ReadError),
    #[error("{0}")]
    State(String),
}

/// What recovery has put together.
pub(crate) struct Recovered {
    pub shards: Vec<Shard>,
    pub catalog: Catalog,
    pub logs: Arc<Logs>,
    pub meta: Meta,
    pub pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub runs: HashMap<u64, Vec<Run>>,
    /// By stream, what stayed in the journal.
    pub kept: BTreeMap<u64, Vec<Chunk>>,
    /// By stream, the offset behind all that the checkpoint has places of.
    pub covered: HashMap<u64, u64>,
    catalog_keys: HashMap<Vec<u8>, u32>,
    kept_keys: HashMap<Vec<u8>, u32>,
    pub problems: u64,
    pub followed: Followed,
}

/// Threads and tasks that end when the broker does.
pub(crate) struct Running {
    threads: Vec<JoinHandle<()>>,
    checkpointer: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    _data: DataDir,
}

/// What the world gives a broker that is being opened.
pub(crate) struct Environment {
    pub random: [u8; 16],
    pub clock: Clock,
    pub work: Work,
    pub drive: Drive,
    pub fatal: Option<Fatal>,
    /// All of the journal is replayed, as if there were no checkpoint.
    pub ignores_checkpoints: bool,
    /// Nothing of the journal is released.
    pub keeps_journal: bool,
}

impl Environment {
    pub fn new(random: [u8; 16]) -> Environment {
        Environment {
            random,
            clock: Clock::System,
            work: Work::Elsewhere,
            drive: Drive::Threads,
            fatal: None,
            ignores_checkpoints: false,
            keeps_journal: false,
        }
    }
}

/// A broker that is recovered but does not run yet.
pub(crate) struct Assembled {
    pub broker: Broker,
    pub threads: Vec<EngineThread>,
    /// Whether the last stop was orderly.
    pub clean: bool,
    pub checkpointer: Checkpointer,
    pub journal: Journal,
    data: DataDir,
    tasks: Tasks,
}

/// What the broker's own tasks begin with.
struct Tasks {
    outboxes: Vec<async_mpsc::UnboundedReceiver<OutboxEntry>>,
    chores: async_mpsc::UnboundedReceiver<Chore>,
    taps: BTreeMap<PartitionId, u64>,
    first_start: bool,
}

impl Assembled {
    pub fn new(place: Place, config: Config, environment: Environment) -> Result<Assembled, OpenError> {
        let Place { data, journal } = place;
        let Environment { random, clock, work, drive, fatal, ignores_checkpoints, keeps_journal } =
            environment;
        let shards = data.shards();
        let segments = Segments::open(Arc::new(DiskSegments::open(data.disk(), data_dir::SEGMENTS_DIR)?))?;
        let (checkpoints, loaded) = Checkpoints::open(data.disk(), data_dir::CHECKPOINTS_DIR)?;
        let mut recovered = Recovered::new(shards, work);
        if let Some(loaded) = loaded.filter(|_| !ignores_checkpoints) {
            recovered.take(&loaded, &segments, &journal)?;
        }
        recovered.meta.resize(shards);
        recovered.index_places();

        let threads =
            usize::from(config.threads.unwrap_or_else(default_threads).max(1)).min(usize::from(shards));
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| inbox()).unzip();
        let journal_config = JournalConfig {
            file_bytes: config.limits.journal_file_bytes,
            ring_bytes: config.limits.recent_bytes_max,
            fatal,
            drive,
            nonce_seed: nonce(&random),
            ..JournalConfig::default()
        };
        let from = recovered.meta.replay_from;
        let completed = completions(inboxes.clone());
        let mut replay = |lsn: Lsn, record: RecordRef<'_>| recovered.replay(lsn, record);
        let (journal, report) = journal.open(journal_config, from, &mut replay, completed)?;
        let kept = recovered.kept_files(&journal);
        for damage in recovered.assess(&report).into_iter().chain(recovered.missing_places(&kept)) {
            recovered.logs.damages().report(damage);
        }
        report_recovery(&report);
        recovered.catalog.recovered();
        let storage = Storage { journal: journal.clone(), segments };
        recovered.logs.attach(storage.clone());

        let first_start =
            recovered.catalog.namespace(DEFAULT_NAMESPACE).is_none() || recovered.lost_all_users();
        let (outboxes, outbox_entries): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| async_mpsc::unbounded_channel()).unzip();
        let (chores, chore_list) = async_mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(Parts {
            limits: config.limits,
            formats: config.formats,
            logs: recovered.logs.clone(),
            catalog: recovered.catalog.clone(),
            cluster_id: data.cluster_id().to_owned(),
            epoch: u32::try_from(data.epoch()).unwrap_or(u32::MAX),
            clock,
            work,
            advertised: config.advertised,
            inboxes,
            outboxes,
            chores,
            runtime: tokio::runtime::Handle::current(),
        }));
        let _ = shared.journal.set(journal.clone());
        let named = Arc::downgrade(&shared);
        let names = move |stream| object_of(&named.upgrade()?.catalog(), stream);
        shared.logs.damages().name_by(Box::new(names));
        let taps = recovered.prepare_views(&shared);
        reconcile(&shared, &recovered);

        let Recovered { shards: all, catalog, meta, pending, runs, catalog_keys, kept_keys, .. } = recovered;
        let threads = engine_threads(&shared, all, catalog, &journal, receivers);
        let named = runs.values().flatten().map(|run| run.segment).collect::<HashSet<_>>();
        let checkpointer = Checkpointer {
            shared: shared.clone(),
            storage,
            checkpoints,
            meta,
            pending,
            catalog: catalog_keys,
            streams: runs,
            places: kept_keys,
            named: [named, HashSet::new()],
            kept: [kept.starts(), BTreeSet::new()],
            keeps_files: true,
            keeps_journal,
        };
        let tasks = Tasks { outboxes: outbox_entries, chores: chore_list, taps, first_start };
        let clean = report.clean_shutdown;
        Ok(Assembled { broker: Broker { shared }, threads, clean, checkpointer, journal, data, tasks })
    }

    /// Starts the threads and the broker's own tasks; nobody is served before the defaults are there.
    fn start(self) -> Result<Broker, OpenError> {
        let (broker, checkpointer) = self.start_without_checkpoints()?;
        let (stop, stopped) = mpsc::channel();
        let builder = std::thread::Builder::new().name("checkpoint".to_owned());
        let thread = builder.spawn(move || checkpointer.run(&stopped))?;
        if let Some(running) = &mut *broker.shared.running.lock() {
            running.checkpointer = Some((stop, thread));
        }
        Ok(broker)
    }

    /// As [`Assembled::start`], but checkpoints are the caller's.
    pub fn start_without_checkpoints(self) -> Result<(Broker, Checkpointer), OpenError> {
        let Assembled { broker, threads, clean, checkpointer, data, tasks, .. } = self;
        let mut running = Running { threads: Vec::new(), checkpointer: None, _data: data };
        for thread in threads {
            let builder = std::thread::Builder::new().name(format!("engine-{}", thread.number));
            running.threads.push(builder.spawn(move || thread.run(clean))?);
        }
        *broker.shared.running.lock() = Some(running);
        let _ = tasks.start(&broker).blocking_recv();
        Ok((broker, checkpointer))
    }

    /// Takes it apart for someone who drives it step by step. The broker's own tasks run; the receiver hears
    /// when the defaults are there.
    pub fn into_parts(
        self,
    ) -> (Broker, Vec<EngineThread>, Checkpointer, Journal, DataDir, oneshot::Receiver<()>) {
        let ready = self.tasks.start(&self.broker);
        (self.broker, self.threads, self.checkpointer, self.journal, self.data, ready)
    }
}

impl Tasks {
    /// Returns who hears when the defaults are there and taps go on.
    fn start(self, broker: &Broker) -> oneshot::Receiver<()> {
        let runtime = broker.shared.runtime().clone();
        for (shard, entries) in (0u16..).zip(self.outboxes) {
            runtime.spawn(outbox::pump(broker.clone(), ShardId(shard), entries));
        }
        runtime.spawn(do_chores(broker.clone(), self.chores));
        runtime.spawn(retention::run(broker.clone()));
        runtime.spawn(audit::keep(broker.clone()));
        runtime.spawn(usage::watch_stored(broker.clone()));
        let (broker, (ready, is_ready)) = (broker.clone(), oneshot::channel());
        runtime.spawn(async move {
            if self.first_start {
                broker.create_defaults().await;
            }
            broker.shared.taps.resume(&broker, &self.taps).await;
            let _ = ready.send(());
        });
        is_ready
    }
}

/// Divides the shards over the threads; the first one keeps the catalog.
fn engine_threads(
    shared: &Arc<Shared>,
    shards: Vec<Shard>,
    catalog: Catalog,
    journal: &Journal,
    inboxes: Vec<Inbox>,
) -> Vec<EngineThread> {
    let threads = inboxes.len();
    let mut by_thread: Vec<BTreeMap<ShardId, Shard>> = (0..threads).map(|_| BTreeMap::new()).collect();
    for shard in shards {
        if let Some(thread) = by_thread.get_mut(usize::from(shard.id().0) % threads) {
            thread.insert(shard.id(), shard);
        }
    }
    let mut catalog = Some(catalog);
    (0u16..)
        .zip(by_thread.into_iter().zip(inboxes))
        .map(|(number, (shards, inbox))| {
            EngineThread::new(shared.clone(), number, shards, catalog.take(), journal.clone(), inbox)
        })
        .collect()
}

impl Broker {
    /// Recovers what the data directory, or the bucket, holds and starts. A broker that still runs on the
    /// bucket is stopped by that. Must be called on a tokio runtime, off its async tasks or in
    /// `block_in_place`, since recovery reads for as long as it takes.
    pub fn open(config: Config) -> Result<Broker, OpenError> {
        let random = random()?;
        let place = match Home::at(&config.data)? {
            Home::Disk(_) => Place::directory(DataDir::open(&config.data, random)?),
            home => home.open(&config.data.display().to_string(), random)?,
        };
        Assembled::new(place, config, Environment::new(random))?.start()
    }

    /// As [`Broker::open`], on another disk: one that fails on purpose, for tests. `fatal` is told when the
    /// journal cannot go on, instead of the process being aborted; the broker then acknowledges nothing more.
    pub fn open_on(disk: Arc<dyn Disk>, config: Config, fatal: Fatal) -> Result<Broker, OpenError> {
        Broker::open_home(&Home::Disk(disk), config, fatal)
    }

    /// As [`Broker::open_on`], in any home.
    pub fn open_home(home: &Home, config: Config, fatal: Fatal) -> Result<Broker, OpenError> {
        let random = random()?;
        let place = home.open(&config.data.display().to_string(), random)?;
        Assembled::new(place, config, Environment { fatal: Some(fatal), ..Environment::new(random) })?.start()
    }

    async fn create_defaults(&self) {
        let client = Client::system(self.clone(), Name::constant(DEFAULT_NAMESPACE));
        let created = async {
            match client.create_namespace(&Name::constant(DEFAULT_NAMESPACE)).await {
                // Only the users were lost.
                Ok(()) | Err(Error::Exists) => {}
                Err(error) => return Err(error.to_string()),
            }
            client.put_user(password::guest()).await.map_err(|e| e.to_string())
        };
        if let Err(error) = created.await {
            tracing::error!(error, "the first namespace and user could not be created");
        }
    }

    /// Answers what is durable, then ends all threads. Waits for them, so not to be called on an async task
    /// without `block_in_place`.
    pub fn stop(&self) {
        self.announce_stop();
        let Some(mut running) = self.shared.running.lock().take() else { return };
        if let Some((stop, thread)) = running.checkpointer.take() {
            drop(stop);
            let _ = thread.join();
        }
        let (done, all_done) = mpsc::channel();
        for thread in 0..self.shared.threads() {
            self.shared.input(thread, Input::Stop(done.clone()));
        }
        drop(done);
        all_done.iter().for_each(drop);
        for thread in running.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(journal) = self.shared.journal.get()
            && let Err(error) = journal.clone().close()
        {
            tracing::error!(%error, "the journal did not close cleanly; the next start recovers");
        }
    }
}

/// Called once, with the reason.
pub type Fatal = Box<dyn FnOnce(String) + Send + Sync>;

pub(crate) fn random() -> Result<[u8; 16], OpenError> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|e| OpenError::State(format!("no randomness: {e}")))?;
    Ok(random)
}

pub(crate) fn nonce(random: &[u8; 16]) -> u64 {
    u64::from_le_bytes(random.first_chunk().copied().unwrap_or_default())
}

fn completions(inboxes: Vec<inbox::Sender>) -> Box<dyn FnMut(Completion) + Send> {
    Box::new(move |completion| {
        let inbox = inboxes.get(usize::from(completion.source));
        inbox.map(|inbox| inbox.send(Input::Completed(completion)));
    })
}

fn report_recovery(report: &RecoveryReport) {
    let RecoveryReport { records, cut_bytes, clean_shutdown: clean, .. } = report;
    tracing::info!(records, cut_bytes, clean, "recovered");
}

impl Recovered {
    pub fn new(shards: u16, work: Work) -> Recovered {
        Recovered {
            shards: (0..shards).map(|id| Shard::new(ShardId(id))).collect(),
            catalog: Catalog::new(shards),
            logs: Logs::new(work),
            meta: Meta::default(),
            pending: BTreeMap::new(),
            runs: HashMap::new(),
            kept: BTreeMap::new(),
            covered: HashMap::new(),
            catalog_keys: HashMap::new(),
            kept_keys: HashMap::new(),
            problems: 0,
            followed: Followed::default(),
        }
    }

    /// Takes one entry of a checkpoint.
    pub fn load(&mut self, key: &[u8], value: &[u8]) {
        let understood = match key.split_first() {
            Some((&key::CATALOG, _)) => match postcard::from_bytes::<CatalogEvent>(value) {
                Ok(event) => {
                    self.catalog.apply(&event);
                    self.catalog_keys.insert(key.to_vec(), crc32c::crc32c(value));
                    true
                }
                Err(_) => false,
            },
            Some((&key::SHARD, rest)) => rest.split_first_chunk::<2>().is_some_and(|(shard, entity)| {
                let shard = self.shards.get_mut(usize::from(u16::from_be_bytes(*shard)));
                shard.is_some_and(|shard| shard.load(entity, value).is_ok())
            }),
            Some((&key::KEPT, rest)) => match (rest.first_chunk(), postcard::from_bytes(value)) {
                (Some(stream), Ok(chunk)) => {
                    self.kept.entry(u64::from_be_bytes(*stream)).or_default().push(chunk);
                    self.kept_keys.insert(key.to_vec(), crc32c::crc32c(value));
                    true
                }
                _ => false,
            },
            Some((&key::STREAM, stream)) => match (stream.first_chunk(), postcard::from_bytes(value)) {
                (Some(stream), Ok(runs)) => {
                    self.runs.insert(u64::from_be_bytes(*stream), runs);
                    true
                }
                _ => false,
            },
            _ => false,
        };
        self.problems += u64::from(!understood);
    }

    /// Takes one record of the journal.
    pub fn replay(&mut self, lsn: Lsn, record: RecordRef<'_>) {
        if record.shard == record::CATALOG {
            if lsn >= self.meta.catalog {
                match postcard::from_bytes::<CatalogEvent>(record.head) {
                    Ok(event) => {
                        self.follow_names(&event);
                        self.catalog.apply(&event);
                    }
                    Err(_) => self.problems += 1,
                }
            }
            return;
        }
        let Ok((mut event, shared)) = record::decode(record.head) else {
            self.problems += 1;
            return;
        };
        if event.payload().is_some() && shared.is_none() && needs_body(&event) {
            event.set_body(bytes::Bytes::copy_from_slice(record.body));
        }
        let index = usize::from(record.shard);
        self.forget_places(closed_by(&event));
        if self.meta.shards.get(index).is_some_and(|from| lsn >= *from) {
            self.follow(index, &event);
            if let Some(shard) = self.shards.get_mut(index) {
                shard.replay(&event);
            }
        }
        self.index(&event, lsn, (record.head.len() + record.body.len()) as u64);
    }

    fn index(&mut self, event: &Event, lsn: Lsn, bytes: u64) {
        let Some(StoredAt { stream, offset, span, timestamp }) = stored_at(event) else { return };
        self.followed.last.insert(stream, lsn);
        let log = self.logs.find_or_add(stream);
        // The checkpoint has places also of what came while it was being made.
        if self.covered.get(&stream).is_none_or(|covered| offset >= *covered) {
            log.add([JournalEntry { offset, timestamp, lsn, bytes }]);
            log.extend(offset + u64::from(span));
        }
    }

    /// Readers see what is there; returns where the taps stand.
    fn prepare_views(&self, shared: &Shared) -> BTreeMap<PartitionId, u64> {
        let mut taps = BTreeMap::new();
        let mut wanted = HashSet::new();
        for shard in &self.shards {
            for stream in shard.streams() {
                wanted.insert(stream.id);
                let log = self.logs.find_or_add(stream.id);
                log.extend(stream.next);
                log.trim(stream.start);
            }
            for (namespace, envelope, payload) in shard.retained() {
                let message = Some((envelope.clone(), payload.clone()));
                shared.retained.change(namespace, envelope.subject.clone(), message);
            }
            let (partitions, _) = shard.objects();
            taps.extend(partitions.into_iter().map(|partition| (partition, shard.tap(partition))));
        }
        for log in self.logs.all().iter().filter(|log| !wanted.contains(&log.stream())) {
            self.logs.remove(log.stream());
        }
        taps
    }
}

/// Only these keep their body in the state.
fn needs_body(event: &Event) -> bool {
    matches!(event, Event::RetainedSet { .. } | Event::Relayed { .. })
}

/// A crash may fall between a change of the catalog and what follows from it in the shards: they follow now.
/// Also gone are the queues that no catalog names.
fn reconcile(shared: &Shared, recovered: &Recovered) {
    let catalog = &recovered.catalog;
    let mut partitions: BTreeMap<PartitionId, PartitionSpec> = BTreeMap::new();
    let mut queues: BTreeMap<QueueId, posthaste_engine::event::QueueSpec> = BTreeMap::new();
    for namespace in catalog.namespaces() {
        for topic in namespace.topics.values() {
            for (index, partition) in (0u32..).zip(&topic.partitions) {
                let sync = topic.config.durability == Durability::Fsync;
                partitions.insert(partition.id, PartitionSpec { topic: topic.id, index, sync });
            }
        }
        queues.extend(namespace.queues.values().map(|queue| (queue.id, crate::change::queue_spec(queue))));
    }
    for shard in &recovered.shards {
        let (held_partitions, held_queues) = shard.objects();
        for partition in held_partitions.iter().filter(|id| !partitions.contains_key(id)) {
            shared.send(shard.id(), Command::ClosePartition { partition: *partition });
        }
        for queue in held_queues.iter().filter(|id| !queues.contains_key(id)) {
            shared.send(shard.id(), Command::CloseQueue { queue: *queue });
        }
    }
    // What is there already is left as it is.
    for (partition, spec) in partitions {
        shared.logs.find_or_add(partition.0);
        shared.send(catalog.place(partition.0), Command::OpenPartition { partition, spec });
    }
    for (queue, spec) in queues {
        shared.send(catalog.place(queue.0), Command::OpenQueue { queue, spec });
    }
}

async fn do_chores(broker: Broker, mut chores: async_mpsc::UnboundedReceiver<Chore>) {
    while let Some(chore) = chores.recv().await {
        match chore {
            Chore::DeleteUnused(id) => {
                let Some(queue) = broker.catalog().queue_by_id(id).cloned() else { continue };
                // Somebody may have begun to use it meanwhile: then it stays.
                let _ = broker.shared.delete_queue(&queue, true, false).await;
            }
            Chore::DeadLetter { from, reason, message } => {
                let (envelope, payload) = *message;
                outbox::dead_letter_now(&broker, &from, reason, envelope, payload);
            }
        }
    }
}
