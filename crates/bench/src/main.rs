//! Benchmarks of the real broker binary against the bare disk of the same machine.
//!
//! `cargo run --release -p posthaste-bench -- <what>`; docs/benchmarks.md says what each one measures. Load comes
//! from plain threads with blocking sockets and requests that were encoded beforehand, so that as much of the
//! machine as possible is the broker's.
#![forbid(unsafe_code)]

mod amqp;
mod backlog;
mod bare;
mod broker;
mod commits;
mod floor;
mod idle;
mod kafka;
mod latencies;
mod load;
mod machine;
mod mqtt;
mod report;
mod strangers;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Measures the broker: throughput against the bare disk, memory, and time to start.
#[derive(Parser)]
#[command(name = "posthaste-bench", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

/// What every benchmark needs.
#[derive(clap::Args)]
pub struct Common {
    /// The broker's program; by default the one beside this one, built first if it is not there
    #[arg(long, global = true, value_name = "FILE")]
    broker: Option<PathBuf>,
    /// Where data directories are made and removed, on the disk to be measured; by default beside this program
    #[arg(long, global = true, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Prints JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Persistent publishes with confirms to a durable queue, acknowledged by a consumer
    Amqp(amqp::Options),
    /// Memory, disk and time to restart after kill -9 with a large queue and a large topic
    Backlog(backlog::Options),
    /// Persistent publishes to a queue of a broker that listens somewhere
    Fill(amqp::FillOptions),
    /// The bare disk with the commit sizes of a stopped broker's journal
    Floor(bare::FloorOptions),
    /// Time to start on an empty directory, and memory when idle
    Idle(idle::Options),
    /// Durable produce: acks=all
    Kafka(kafka::Options),
    /// A bare copy over TCP on loopback
    Loopback(bare::LoopbackOptions),
    /// Load on any MQTT broker, counted at the subscribers
    Mqtt(mqtt::Options),
    /// Latency of one client while strangers try to get in
    Strangers(strangers::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.what {
        What::Amqp(options) => amqp::run(&cli.common, options),
        What::Backlog(options) => backlog::run(&cli.common, options),
        What::Fill(options) => amqp::run_fill(options),
        What::Floor(options) => bare::floor(&cli.common, options),
        What::Idle(options) => idle::run(&cli.common, options),
        What::Kafka(options) => kafka::run(&cli.common, options),
        What::Loopback(options) => bare::loopback(options),
        What::Mqtt(options) => mqtt::run(options),
        What::Strangers(options) => strangers::run(&cli.common, options),
    };
    match result {
        Ok(report) => {
            report.print(cli.common.json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("posthaste-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
