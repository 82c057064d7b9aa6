//! `floor` and `loopback`: what the machine does without a broker, for harnesses that measure one from
//! outside.

use crate::{Common, broker::Place, commits, floor, machine, report::Report};
use anyhow::{Context, Result, anyhow};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

#[derive(clap::Args)]
pub struct FloorOptions {
    /// Data directory of a stopped broker, whose journal's commits are replayed
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Seconds to write and sync
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

#[derive(clap::Args)]
pub struct LoopbackOptions {
    /// Bytes of one write
    #[arg(long, default_value_t = 16 << 10, value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    write_bytes: u32,
    /// Seconds to copy
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// Replays the commits of a journal on the bare disk.
pub fn floor(common: &Common, options: &FloorOptions) -> Result<Report> {
    let place = Place::scratch(common)?;
    let sizes = commits::sizes(&options.data)?;
    let mut floor = floor::replay(&place, &sizes, Duration::from_secs(options.seconds))?;
    let mut report = Report::new("pwrite and fdatasync of the sizes that a journal recorded");
    machine::describe(&mut report, place.directory()?.path());
    let [p50, p99] = floor.latencies.percentiles([0.5, 0.99]);
    report.figure("bytes_per_second", floor.bytes_per_second());
    report.figure("commits_per_second", floor.commits_per_second());
    report.figure("p50_ms", p50);
    report.figure("p99_ms", p99);
    Ok(report)
}

/// Copies bytes from one thread to another over TCP on loopback.
pub fn loopback(options: &LoopbackOptions) -> Result<Report> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    sender.set_nodelay(true)?;
    let (mut receiver, _) = listener.accept()?;
    let reader = thread::spawn(move || -> Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let mut sum = 0;
        loop {
            match receiver.read(&mut buffer).context("read")? {
                0 => return Ok(sum),
                read => sum += read as u64,
            }
        }
    });
    let octets = vec![0x5a; options.write_bytes as usize];
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(options.seconds) {
        sender.write_all(&octets)?;
    }
    drop(sender);
    let copied = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    let mut report = Report::new("one TCP connection on loopback, nothing else");
    report.figure("bytes_per_second", copied as f64 / begin.elapsed().as_secs_f64());
    Ok(report)
}
