//! Fills the disk under load and has [`crate::history`] judge what the clients saw: publishers are told,
//! consumers go on, nothing acknowledged is lost, and with space everything goes on by itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::broker::Broker;
use crate::crash::{
    CONSUMERS, Crew, all_alive, judge, read_histories, stop, wait_until_received, wait_until_received_on,
};
use crate::history::{CHANNELS, Channel};
use crate::programs::Protocol;
use crate::scratch::Scratch;
use crate::tools::Tools;
use crate::volume::Volume;

const PRODUCERS: [&str; 5] =
    ["produce-log", "produce-exact", "produce-queue", "produce-http", "produce-sessions-311"];
const VOLUME_MEGABYTES: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(60);
/// Fewer acknowledged messages than this on a channel would prove little.
const ACKED_MIN: usize = 50;

/// Runs `rounds`, each on a disk of its own; every second one kills the broker while the disk is full.
pub fn run(tools: &Tools, binary: &Path, work: &Path, rounds: u32) -> Result<()> {
    for round in 1..=rounds {
        let killed = round.is_multiple_of(2);
        println!("\n== disk-full: round {round} of {rounds}{}", if killed { ", with kill -9" } else { "" });
        let mut scratch = Scratch::new(work, "disk-full")?;
        let outcome = run_in(tools, binary, scratch.path(), killed);
        if outcome.is_err() {
            scratch.keep();
            println!("   logs and histories are in {}", scratch.path().display());
        }
        outcome?;
    }
    Ok(())
}

fn run_in(tools: &Tools, binary: &Path, folder: &Path, killed: bool) -> Result<()> {
    let volume = Volume::new(folder, VOLUME_MEGABYTES)?;
    let mut broker = Broker::start(binary, &volume.path().join("data"), &folder.join("broker.log"))?;
    let crew = Crew { tools, folder, addresses: broker.addresses().clone() };
    crew.once("setup")?;
    let mut consumers = crew.start(&CONSUMERS)?;
    let mut producers = crew.start(&PRODUCERS)?;
    wait("something acknowledged on every channel", || Ok(acked(folder)?.iter().all(|n| *n > 0)))?;

    volume.fill()?;
    // Publishes large messages until one is refused.
    crew.once("fill-queue").context("a publisher has to be told that there is no space")?;
    wait("not ready for publishers", || Ok(readiness(&broker)? == 503))?;
    crew.once("refused").context("each protocol has an error of its own for this")?;
    // What was accepted with QoS 2 and is on its way to other shards needs space for its copies there.
    let served: Vec<&Channel> = CHANNELS.iter().filter(|channel| channel.source != "qos2").collect();
    wait_until_received_on(&served, folder, &mut consumers)
        .context("consumers go on while the disk is full")?;
    println!("ok disk-full: publishers are refused, consumers have got everything acknowledged");
    if killed {
        broker.kill()?;
        broker.restart().context("a start while the disk is full")?;
        wait_until_received_on(&served, folder, &mut consumers)
            .context("consumers after a start on a full disk")?;
        println!("ok disk-full: a killed broker starts on a full disk and serves consumers");
    }

    volume.relieve()?;
    wait("ready for publishers", || Ok(readiness(&broker)? == 200))?;
    let before = acked(folder)?;
    wait("more acknowledged on every channel", || {
        Ok(acked(folder)?.iter().zip(&before).all(|(now, before)| now > before))
    })?;
    all_alive(&mut producers)?;
    stop(&mut producers)?;
    let caught_up = wait_until_received(folder, &mut consumers);
    stop(&mut consumers)?;
    crew.once("audit")?;
    judge(folder, ACKED_MIN)?;
    caught_up?;
    println!("ok disk-full: with space everything went on without a restart");
    broker.stop()
}

/// Messages acknowledged so far, by channel.
pub(crate) fn acked(folder: &Path) -> Result<Vec<usize>> {
    let history = read_histories(folder)?;
    Ok(CHANNELS.iter().map(|channel| history.counts(channel).acked).collect())
}

/// The status that `GET /readyz` answers.
fn readiness(broker: &Broker) -> Result<u16> {
    let address = broker.addresses().get(&Protocol::Http).context("no HTTP listener")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.with_context(|| format!("no status in: {answer}"))
}

pub(crate) fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    while !done()? {
        ensure!(since.elapsed() < PATIENCE, "not {} s later: {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
