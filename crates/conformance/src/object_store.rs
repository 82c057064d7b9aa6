//! The broker on a bucket of a real server: broker and server are killed under load, a second broker takes
//! over, and [`crate::history`] judges what the clients saw.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::broker::{Broker, Environment};
use crate::crash::{
    ACKED_PER_ROUND_MIN, CONSUMERS, Crew, PRODUCERS, Random, Worker, all_alive, judge, read_histories, stop,
    wait_until_received,
};
use crate::disk_full::{acked, wait};
use crate::history::{CHANNELS, Promise};
use crate::s3_server::{self, Forgetful, Product, Server};
use crate::scratch::Scratch;
use crate::tools::Tools;

const PREFIX: &str = "crash";
/// Of the other prefix, which a store that ignores the condition must not get.
const REFUSED_PREFIX: &str = "refused";
/// Broker and server each live up to this, in each round.
const LIFE_MILLISECONDS_MAX: u64 = 4_000;
/// After the last acknowledgement that comes while the server is away.
const SILENCE: Duration = Duration::from_secs(1);
const SILENCE_SECONDS_MAX: u64 = 30;
/// How much later than the broker the server is started when both were killed.
const AWAY_AT_START: Duration = Duration::from_secs(1);
/// Small, so that checkpoints are made and objects removed under load.
const BYTES_BETWEEN_CHECKPOINTS: u64 = 4 << 20;
const TAKEN_OVER: &str = "another broker has taken over this bucket";
const NOT_HONOURED: &str = "does not honour put-if-absent";

/// What to kill, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub product: Product,
    /// Each kills the broker once and then the server once. After the last one both are killed together.
    pub rounds: u32,
    /// The same seed kills after the same times.
    pub seed: u64,
}

/// Runs `plan` on `binary`; fails when a promise was broken.
pub fn run(tools: &Tools, binary: &Path, work: &Path, plan: Plan) -> Result<()> {
    let program = plan.product.install(tools)?;
    let mut scratch = Scratch::new(work, "object-store")?;
    println!("\n== object-store: {:?}, {} rounds, seed {}", plan.product, plan.rounds, plan.seed);
    let outcome = Server::start(plan.product, &program, scratch.path()).and_then(|server| {
        let mut run = Run { tools, binary, folder: scratch.path(), server };
        run.refuses_unsafe_stores()?;
        run.under_load(plan)
    });
    if outcome.is_err() {
        scratch.keep();
        println!("   bucket, logs and histories are in {}", scratch.path().display());
    }
    outcome
}

struct Run<'a> {
    tools: &'a Tools,
    binary: &'a Path,
    folder: &'a Path,
    server: Server,
}

impl Run<'_> {
    fn refuses_unsafe_stores(&self) -> Result<()> {
        let proxy = Forgetful::before(&self.server)?;
        let environment = s3_server::environment(proxy.address());
        let log = self.folder.join("refused.log");
        match Broker::start_with(self.binary, &s3_server::data(REFUSED_PREFIX), &log, &environment) {
            Ok(_started) => bail!("the broker has started on a store that ignores If-None-Match"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(text.contains(NOT_HONOURED), "refused for another reason: {text}");
                println!("ok object-store: a store that ignores If-None-Match is refused");
                Ok(())
            }
        }
    }

    fn under_load(&mut self, plan: Plan) -> Result<()> {
        let configuration = self.folder.join("posthaste.toml");
        let limits = format!("[limits]\njournal_bytes_between_checkpoints = {BYTES_BETWEEN_CHECKPOINTS}\n");
        fs::write(&configuration, limits)?;
        let mut environment = s3_server::environment(self.server.address());
        environment.insert("POSTHASTE_CONFIG".to_owned(), configuration.to_string_lossy().into_owned());
        let mut broker = self.start(&environment, "broker.log")?;
        println!("   ready in {} ms on an empty bucket", broker.start_time.as_millis());
        let crew = Crew { tools: self.tools, folder: self.folder, addresses: broker.addresses().clone() };
        crew.once("setup")?;
        let mut consumers = crew.start(&CONSUMERS)?;
        let mut producers = crew.start(&PRODUCERS)?;
        let mut random = Random(plan.seed);
        for round in 1..=plan.rounds {
            let context = || format!("round {round}");
            self.kill_broker(&mut broker, round, random.below(LIFE_MILLISECONDS_MAX))
                .with_context(context)?;
            self.kill_server(&mut broker, round, random.below(LIFE_MILLISECONDS_MAX))
                .with_context(context)?;
            all_alive(&mut producers)?;
            all_alive(&mut consumers)?;
        }
        self.kill_both(&mut broker, random.below(LIFE_MILLISECONDS_MAX))?;
        self.take_over(&mut broker, &environment)?;
        self.goes_on("the start after the takeover")?;
        self.settle(&crew, producers, consumers, plan.rounds as usize * ACKED_PER_ROUND_MIN)?;
        self.journal_is_removed()?;
        // Settled stays settled: nothing comes back after a clean stop and start.
        broker.stop()?;
        broker.restart()?;
        crew.once("empty")?;
        println!("ok object-store: what was settled stayed settled");
        broker.stop()
    }

    fn start(&self, environment: &Environment, log: &str) -> Result<Broker> {
        Broker::start_with(self.binary, &s3_server::data(PREFIX), &self.folder.join(log), environment)
    }

    fn kill_broker(&self, broker: &mut Broker, round: u32, milliseconds: u64) -> Result<()> {
        thread::sleep(Duration::from_millis(milliseconds));
        broker.kill()?;
        broker.restart()?;
        let ready = broker.start_time.as_millis();
        println!("   round {round}: broker killed after {milliseconds} ms, ready again in {ready} ms");
        self.goes_on("the restart of the broker")
    }

    /// While the server is away nothing is acknowledged; when it is back the same broker goes on.
    fn kill_server(&mut self, broker: &mut Broker, round: u32, milliseconds: u64) -> Result<()> {
        thread::sleep(Duration::from_millis(milliseconds));
        self.server.kill()?;
        let away = Instant::now();
        self.falls_silent()?;
        self.server.restart()?;
        let away = away.elapsed().as_millis();
        self.goes_on("the restart of the server")?;
        if let Some(status) = broker.exited()? {
            bail!("the broker ended while the server was away: {status}\n{}", broker.log_tail());
        }
        println!("   round {round}: server killed after {milliseconds} ms, away for {away} ms");
        Ok(())
    }

    /// A broker that is started while the server is away waits for it.
    fn kill_both(&mut self, broker: &mut Broker, milliseconds: u64) -> Result<()> {
        thread::sleep(Duration::from_millis(milliseconds));
        self.server.kill()?;
        broker.kill()?;
        let server = &mut self.server;
        let (served, started) = thread::scope(|scope| {
            let later = scope.spawn(|| {
                thread::sleep(AWAY_AT_START);
                server.restart()
            });
            let started = broker.restart();
            (later.join(), started)
        });
        served.map_err(|_| anyhow!("the thread that starts the server has panicked"))??;
        started.context("a start while the server is away")?;
        let ready = broker.start_time.as_millis();
        println!(
            "   both killed after {milliseconds} ms, the broker started first and was ready in {ready} ms"
        );
        self.goes_on("the restart of both")
    }

    fn goes_on(&self, after: &str) -> Result<()> {
        let before = acked(self.folder)?;
        wait(&format!("more acknowledged on every channel after {after}"), || {
            Ok(acked(self.folder)?.iter().zip(&before).all(|(now, before)| now > before))
        })
    }

    /// Waits until what was on its way has been written down and nothing follows it.
    fn falls_silent(&self) -> Result<()> {
        let since = Instant::now();
        let mut before = acked(self.folder)?;
        loop {
            thread::sleep(SILENCE);
            let now = acked(self.folder)?;
            if now == before {
                return Ok(());
            }
            ensure!(
                since.elapsed() < Duration::from_secs(SILENCE_SECONDS_MAX),
                "messages are acknowledged without a store: {before:?}, then {now:?}"
            );
            before = now;
        }
    }

    /// A second broker opens the bucket under load: the first ends, and what it acknowledged is there.
    fn take_over(&self, broker: &mut Broker, environment: &Environment) -> Result<()> {
        let mut second = self.start(environment, "second.log").context("a second broker")?;
        let mut status = None;
        wait("the first broker has ended", || {
            status = broker.exited()?;
            Ok(status.is_some())
        })?;
        let log = broker.log_tail();
        ensure!(status.is_some_and(|status| !status.success()), "the first broker ended well\n{log}");
        ensure!(log.contains(TAKEN_OVER), "the first broker does not say why it ended\n{log}");

        let folder = self.folder.join("second");
        fs::create_dir_all(&folder)?;
        let mut history = read_histories(self.folder)?;
        let crew = Crew { tools: self.tools, folder: &folder, addresses: second.addresses().clone() };
        crew.once("audit")?;
        history.add(&fs::read_to_string(folder.join("audit.history"))?)?;
        for channel in
            CHANNELS.iter().filter(|channel| matches!(channel.promise, Promise::Log | Promise::LogOnce))
        {
            let lost = history.not_logged(channel);
            ensure!(lost.is_empty(), "acknowledged by the first and not read from the second: {lost:?}");
            let found = history.counts(channel).acked;
            println!(
                "ok object-store: fenced; all {found} messages of {} are read from the second",
                channel.name
            );
        }
        second.kill()?;
        broker.restart().context("a start after the second broker was killed")
    }

    fn settle(
        &self,
        crew: &Crew<'_>,
        mut producers: Vec<Worker>,
        mut consumers: Vec<Worker>,
        acked_min: usize,
    ) -> Result<()> {
        stop(&mut producers)?;
        let caught_up = wait_until_received(self.folder, &mut consumers);
        stop(&mut consumers)?;
        crew.once("audit")?;
        judge(self.folder, acked_min)?;
        caught_up
    }

    /// Checkpoints have made the first objects of the journal superfluous.
    fn journal_is_removed(&self) -> Result<()> {
        let journal = self.server.bucket().join(PREFIX).join("journal");
        wait("the first object of the journal is removed", || {
            Ok(!journal.join("00000001/0000000000000000").exists())
        })?;
        let (mut put, mut left) = (0, 0);
        for epoch in fs::read_dir(&journal)? {
            let mut last = None;
            for object in fs::read_dir(epoch?.path())? {
                let number = object?.file_name().to_string_lossy().parse::<u64>()?;
                last = last.max(Some(number));
                left += 1;
            }
            put += last.map_or(0, |last| last + 1);
        }
        println!(
            "ok object-store: the journal had about {put} objects; {left} are left, the rest is removed"
        );
        Ok(())
    }
}
