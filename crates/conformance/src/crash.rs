//! Kills the broker under load, again and again, and has [`History`] judge what the clients saw.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::broker::Broker;
use crate::history::{CHANNELS, Channel, History};
use crate::programs::{Addresses, Language, arguments};
use crate::scratch::Scratch;
use crate::tools::Tools;
use crate::volume::{Volume, without_syncs};

const SCRIPT: &str = "crash_worker.py";
/// Workers that publish, and those that read; each is one process.
pub(crate) const PRODUCERS: [&str; 5] =
    ["produce-log", "produce-exact", "produce-queue", "produce-http", "produce-sessions"];
pub(crate) const CONSUMERS: [&str; 7] = [
    "consume-log-a",
    "consume-log-b",
    "consume-queue-a",
    "consume-queue-b",
    "consume-http",
    "consume-bus",
    "consume-sessions",
];
/// From the start of a consumer to its subscription.
const READY_SECONDS_MAX: u64 = 60;
/// From the last restart until all that was sent is acknowledged, and then until all of it has been received.
const SETTLE_SECONDS_MAX: u64 = 120;
/// Fewer acknowledged messages than this per round and channel would prove little.
pub(crate) const ACKED_PER_ROUND_MIN: usize = 20;
/// Of the disk whose power is cut.
const VOLUME_MEGABYTES: u64 = 1_500;

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9`: what was written is there.
    Kill,
    /// What was written and not synced is gone.
    PowerCut,
    /// The same, for a broker whose syncs do nothing: it has to be found out.
    PowerCutWithoutSyncs,
}

/// How often and how fast to kill.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub blow: Blow,
    pub rounds: u32,
    /// The same seed kills after the same times.
    pub seed: u64,
    /// Each round lives a random time up to this.
    pub round_milliseconds_max: u64,
}

/// Runs `plan` on `binary`; fails when a promise was broken.
pub fn run(tools: &Tools, binary: &Path, work: &Path, plan: Plan) -> Result<()> {
    let name = if plan.blow == Blow::Kill { "crash" } else { "power-loss" };
    let mut scratch = Scratch::new(work, name)?;
    println!("\n== {name}: {} rounds, seed {}, {:?}", plan.rounds, plan.seed, plan.blow);
    let mut blows = 0;
    let outcome = match plan.blow {
        Blow::Kill => run_in(tools, binary, scratch.path(), None, plan, &mut blows),
        Blow::PowerCut => {
            let volume = Volume::new(scratch.path(), VOLUME_MEGABYTES)?;
            run_in(tools, binary, scratch.path(), Some(&volume), plan, &mut blows)
        }
        Blow::PowerCutWithoutSyncs => {
            let volume = Volume::new(scratch.path(), VOLUME_MEGABYTES)?;
            let unsynced = without_syncs(scratch.path(), binary)?;
            found_out(run_in(tools, &unsynced, scratch.path(), Some(&volume), plan, &mut blows), blows)
        }
    };
    if outcome.is_err() {
        scratch.keep();
        println!("   data, logs and histories are in {}", scratch.path().display());
    }
    outcome
}

/// Turns the failure that a broker without syncs must have into success. Whatever fails after a power cut is
/// what the cut took: the same run succeeds with syncs.
fn found_out(outcome: Result<()>, blows: u32) -> Result<()> {
    let Err(error) = outcome else { bail!("a broker that syncs nothing has passed") };
    if blows == 0 {
        return Err(error.context("failed before the power was cut for the first time"));
    }
    println!("ok power-loss: a broker that syncs nothing is found out: {error}");
    Ok(())
}

/// Counts the blows that it has dealt.
fn run_in(
    tools: &Tools,
    binary: &Path,
    folder: &Path,
    volume: Option<&Volume>,
    plan: Plan,
    blows: &mut u32,
) -> Result<()> {
    let log = folder.join("broker.log");
    let data = volume.map_or(folder, Volume::path).join("data");
    let mut broker = Broker::start(binary, &data, &log)?;
    let crew = Crew { tools, folder, addresses: broker.addresses().clone() };
    crew.once("setup")?;
    let mut consumers = crew.start(&CONSUMERS)?;
    let mut producers = crew.start(&PRODUCERS)?;
    let mut random = Random(plan.seed);
    for round in 1..=plan.rounds {
        let pause = Duration::from_millis(random.below(plan.round_milliseconds_max));
        thread::sleep(pause);
        all_alive(&mut producers)?;
        all_alive(&mut consumers)?;
        match volume {
            Some(volume) => volume.cut_power(&mut broker)?,
            None => broker.kill()?,
        }
        *blows += 1;
        broker.restart().with_context(|| format!("restart of round {round}"))?;
        println!(
            "   round {round}: ended after {} ms, ready again in {} ms",
            pause.as_millis(),
            broker.start_time.as_millis()
        );
    }
    // What could not be acknowledged between kills is acknowledged now.
    thread::sleep(Duration::from_secs(2));
    stop(&mut producers)?;
    let caught_up = wait_until_received(folder, &mut consumers);
    stop(&mut consumers)?;
    crew.once("audit")?;
    judge(folder, plan.rounds as usize * ACKED_PER_ROUND_MIN)?;
    caught_up?;
    // Settled stays settled: nothing comes back after a clean stop and start.
    broker.stop()?;
    broker.restart()?;
    crew.once("empty")?;
    println!("ok crash: what was settled stayed settled");
    Ok(())
}

/// Judges the histories in `folder`; a channel with fewer acknowledged messages than `acked_min` is a failure
/// too.
pub fn judge(folder: &Path, acked_min: usize) -> Result<()> {
    let history = read_histories(folder)?;
    let mut violations = history.violations(&CHANNELS);
    for channel in &CHANNELS {
        let counts = history.counts(channel);
        println!(
            "   {:6} {} sent, {} acknowledged, {} received of which {} flagged as redelivered",
            channel.name, counts.sent, counts.acked, counts.received, counts.again
        );
        if counts.acked < acked_min {
            violations.push(format!("{}: fewer than {acked_min} messages were acknowledged", channel.name));
        }
    }
    for violation in &violations {
        println!("not ok crash: {violation}");
    }
    ensure!(violations.is_empty(), "{} promises were broken", violations.len());
    println!("ok crash: nothing lost, nothing invented, order kept, consumers resumed");
    Ok(())
}

pub(crate) fn read_histories(folder: &Path) -> Result<History> {
    let mut history = History::default();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "history") {
            let text = fs::read_to_string(&path)?;
            // A worker that still runs may be in the middle of its last line.
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            history.add(whole).with_context(|| path.display().to_string())?;
        }
    }
    Ok(history)
}

/// Starts workers that all know the same addresses and write their histories into one folder.
pub(crate) struct Crew<'a> {
    pub tools: &'a Tools,
    pub folder: &'a Path,
    pub addresses: Addresses,
}

pub(crate) struct Worker {
    role: &'static str,
    child: Child,
    errors: PathBuf,
}

impl Crew<'_> {
    fn spawn(&self, role: &'static str) -> Result<Worker> {
        let errors = self.folder.join(format!("{role}.stderr"));
        let mut command = self.tools.command(Language::Python, SCRIPT);
        command.arg(role).arg(self.folder).args(arguments(&self.addresses));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
        let child = command.spawn().with_context(|| format!("start the worker {role}"))?;
        Ok(Worker { role, child, errors })
    }

    /// Starts workers and waits until each says that it is ready.
    pub fn start(&self, roles: &[&'static str]) -> Result<Vec<Worker>> {
        let mut workers = Vec::new();
        for role in roles {
            workers.push(self.spawn(role)?);
        }
        for worker in &mut workers {
            worker.wait_ready()?;
        }
        Ok(workers)
    }

    /// Runs a worker that ends by itself.
    pub fn once(&self, role: &'static str) -> Result<()> {
        let mut worker = self.spawn(role)?;
        worker.wait_end(Duration::from_secs(SETTLE_SECONDS_MAX))
    }
}

impl Worker {
    fn wait_ready(&mut self) -> Result<()> {
        let stdout = self.child.stdout.take().context("no standard output")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        match receiver.recv_timeout(Duration::from_secs(READY_SECONDS_MAX)) {
            Ok(line) if line == "ready" => Ok(()),
            other => bail!("{} was not ready: {other:?}\n{}", self.role, self.error_text()),
        }
    }

    fn wait_end(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ended with {status}\n{}", self.role, self.error_text()),
                None if Instant::now() > deadline => {
                    bail!("{} did not end in {} s\n{}", self.role, limit.as_secs(), self.error_text())
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn error_text(&self) -> String {
        let text = fs::read(&self.errors).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn all_alive(workers: &mut [Worker]) -> Result<()> {
    for worker in workers {
        if let Some(status) = worker.child.try_wait()? {
            bail!("the worker {} ended with {status}\n{}", worker.role, worker.error_text());
        }
    }
    Ok(())
}

/// Asks workers to finish what they have begun and waits for them.
pub(crate) fn stop(workers: &mut Vec<Worker>) -> Result<()> {
    for worker in workers.iter_mut() {
        if let Some(stdin) = &mut worker.child.stdin {
            writeln!(stdin, "stop")
                .with_context(|| format!("{} is gone\n{}", worker.role, worker.errors.display()))?;
        }
    }
    for worker in workers.iter_mut() {
        worker.wait_end(Duration::from_secs(SETTLE_SECONDS_MAX))?;
    }
    workers.clear();
    Ok(())
}

pub(crate) fn wait_until_received(folder: &Path, consumers: &mut [Worker]) -> Result<()> {
    wait_until_received_on(&CHANNELS.iter().collect::<Vec<_>>(), folder, consumers)
}

/// Waits until everything acknowledged on these channels has been received.
pub(crate) fn wait_until_received_on(
    channels: &[&Channel],
    folder: &Path,
    consumers: &mut [Worker],
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(SETTLE_SECONDS_MAX);
    loop {
        all_alive(consumers)?;
        let history = read_histories(folder)?;
        let waiting: Vec<&Channel> =
            channels.iter().copied().filter(|channel| history.outstanding(channel) > 0).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let names: Vec<String> = waiting
                .iter()
                .map(|channel| format!("{} of {}", history.outstanding(channel), channel.name))
                .collect();
            bail!("not received {SETTLE_SECONDS_MAX} s after the last restart: {}", names.join(", "));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// SplitMix64: enough to choose moments, and the same on every machine.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % limit.max(1)
    }
}
