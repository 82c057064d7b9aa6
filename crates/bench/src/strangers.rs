//! `strangers`: what clients that are not let in cost one that is.

use crate::{
    Common,
    broker::{Broker, Place},
    latencies::Latencies,
    machine,
    report::{Cell, Report, Table},
};
use anyhow::{Context, Result, ensure};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

/// How much longer the logged-in client may wait.
const RATIO_BELOW: f64 = 2.0;
/// Between two publishes of the logged-in client.
const EVERY: Duration = Duration::from_millis(2);

#[derive(clap::Args)]
pub struct Options {
    /// Strangers, of whom half say nothing and half have a wrong password; each has an address of its own
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=50_000))]
    strangers: u32,
    /// Seconds of measuring without them, and again with them
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

#[derive(Default)]
struct Counts {
    silent: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

/// Runs the benchmark.
pub fn run(common: &Common, options: &Options) -> Result<Report> {
    let place = Place::find(common)?;
    let directory = place.directory()?;
    let broker = Broker::start(&place, directory.path())?;
    let address = broker.address("mqtt")?;
    let time = Duration::from_secs(options.seconds);
    let mut report = Report::new("Strangers that connect as fast as they can");
    machine::describe(&mut report, directory.path());
    let mut table =
        Table::new(&["strangers", "log-ins refused", "silent ones closed", "p50 ms", "p99 ms", "p99 ratio"]);
    let [p50, alone] = publish(address, time)?.percentiles([0.5, 0.99]);
    table.row([
        Cell::text("0".to_owned()),
        Cell::text("0".to_owned()),
        Cell::text("0".to_owned()),
        Cell::Number(p50, 3),
        Cell::Number(alone, 3),
        Cell::Number(1.0, 2),
    ]);
    let counts = Arc::new(Counts::default());
    let (strangers, counted) = (options.strangers, counts.clone());
    let crowd = thread::spawn(move || crowd_in(address, strangers, &counted));
    // They are all there.
    thread::sleep(Duration::from_secs(2));
    let [p50, crowded] = publish(address, time)?.percentiles([0.5, 0.99]);
    counts.stop.store(true, Ordering::Relaxed);
    crowd.join().map_err(|_| anyhow::anyhow!("the strangers panicked"))??;
    let count = |of: &AtomicU64| Cell::text(of.load(Ordering::Relaxed).to_string());
    table.row([
        Cell::text(options.strangers.to_string()),
        count(&counts.refused),
        count(&counts.silent),
        Cell::Number(p50, 3),
        Cell::Number(crowded, 3),
        Cell::Below(crowded / alone, RATIO_BELOW, 2),
    ]);
    report.table(table);
    broker.stop()?;
    Ok(report)
}

/// One message at a time at QoS 1 into a stored session's queue, each acknowledged once it is durable.
fn publish(address: SocketAddr, time: Duration) -> Result<Latencies> {
    let mut reader = log_in(address, "reader", false)?;
    reader.write_all(&[0x82, 8, 0, 1, 0, 3, b'a', b'/', b'b', 0])?;
    let mut answer = [0; 5];
    reader.read_exact(&mut answer)?;
    let mut writer = log_in(address, "writer", true)?;
    let mut latencies = Latencies::default();
    let (begin, mut number) = (Instant::now(), 0_u16);
    while begin.elapsed() < time {
        number = number.checked_add(1).unwrap_or(1);
        let [high, low] = number.to_be_bytes();
        let sent = Instant::now();
        writer.write_all(&[0x32, 10, 0, 3, b'a', b'/', b'b', high, low, b'x', b'y', b'z'])?;
        let mut puback = [0; 4];
        writer.read_exact(&mut puback)?;
        ensure!(puback[..2] == [0x40, 2], "{puback:?} is no PUBACK");
        latencies.record(sent.elapsed(), 1);
        thread::sleep(EVERY);
    }
    Ok(latencies)
}

fn log_in(address: SocketAddr, identifier: &str, clean: bool) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(&connect(identifier, clean, "guest"))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    ensure!(connack[3] == 0, "the broker does not let guest in: {connack:?}");
    Ok(stream)
}

/// CONNECT of MQTT 3.1.1 as `guest`.
fn connect(identifier: &str, clean: bool, password: &str) -> Vec<u8> {
    let flags = 0b1100_0000 | if clean { 0b10 } else { 0 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0];
    for text in [identifier, "guest", password] {
        let length = u16::try_from(text.len()).unwrap_or_default();
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut packet = vec![0x10, u8::try_from(body.len()).unwrap_or_default()];
    packet.append(&mut body);
    packet
}

fn crowd_in(address: SocketAddr, strangers: u32, counts: &Arc<Counts>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..strangers).map(|number| tokio::spawn(stranger(address, number, counts.clone()))).collect();
        while !counts.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tasks.iter().for_each(|task| task.abort());
        for task in tasks {
            match task.await {
                Ok(result) => result?,
                Err(aborted) => ensure!(aborted.is_cancelled(), "{aborted}"),
            }
        }
        Ok(())
    })
}

/// Connects again and again, from an address of its own.
async fn stranger(address: SocketAddr, number: u32, counts: Arc<Counts>) -> Result<()> {
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number);
    loop {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into()).with_context(|| format!("cannot use the address {from}"))?;
        // The queue of connections may be full for a moment.
        let Ok(mut stream) = socket.connect(address).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let wrong = number % 2 == 1;
        if wrong && stream.write_all(&connect("stranger", true, "wrong")).await.is_err() {
            continue;
        }
        let mut answer = Vec::new();
        // The broker closes it, one way or another.
        let _ = stream.read_to_end(&mut answer).await;
        if wrong { &counts.refused } else { &counts.silent }.fetch_add(1, Ordering::Relaxed);
    }
}
