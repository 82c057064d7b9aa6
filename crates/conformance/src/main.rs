//! `conformance`: real clients against the real binary. Called by `cargo xtask`, which builds it first.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use posthaste_conformance::crash::{self, Blow, Plan};
use posthaste_conformance::programs::{Addresses, Language, select};
use posthaste_conformance::s3_server::Product;
use posthaste_conformance::suite::{self, Target};
use posthaste_conformance::{
    Broker, Scratch, Tools, Volume, contract, disk_full, flow, log_ins, object_store,
};

const USAGE: &str = "\
usage: conformance COMMAND --binary PATH --cache DIR [options]
  clients [--only NAME]... [--against PROTOCOL=HOST:PORT,...]   run the client programs
  contract                                                      start, stop, refuse, and survive hostile bytes
  crash [--rounds N] [--seed N] [--round-ms N]                  kill the broker under load
  power-loss [--rounds N] [--seed N] [--round-ms N]             cut the power of a disk in a file under load
  power-loss-without-syncs [--rounds N]                         the same, for a broker that must be found out
  can-mount                                                     whether a disk in a file is possible here
  disk-full [--rounds N]                                        fill a disk in a file under load
  object-store [--server versitygw|minio] [--rounds N] [--seed N]
                                                                kill broker and server of a bucket under load
  judge --folder DIR                                            judge the histories of a kept crash run again
  flow                                                          run the flow of the README
  log-ins                                                       have clients log in by every mechanism
  install                                                       only install what the programs need";

fn main() -> ExitCode {
    match run(env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<()> {
    let options = Options::parse(arguments)?;
    let cache = options.path("--cache")?;
    let tools = Tools::new(&cache);
    let work = cache.join("runs");
    if options.command == "can-mount" {
        let scratch = Scratch::new(&work, "can-mount")?;
        ensure!(Volume::is_possible(scratch.path())?, "mounting takes root's rights and loop devices");
        return Ok(());
    }
    match options.command.as_str() {
        "clients" => clients(&options, &tools, &work),
        "contract" => contract::run(&options.path("--binary")?, &work),
        "disk-full" => {
            tools.install_language(Language::Python)?;
            let rounds = options.number("--rounds", 2)?.try_into()?;
            disk_full::run(&tools, &options.path("--binary")?, &work, rounds)
        }
        name @ ("crash" | "power-loss" | "power-loss-without-syncs") => {
            tools.install_language(Language::Python)?;
            let (blow, rounds) = match name {
                "crash" => (Blow::Kill, 20),
                "power-loss" => (Blow::PowerCut, 6),
                _ => {
                    tools.install_debian_package("eatmydata", "eatmydata")?;
                    (Blow::PowerCutWithoutSyncs, 2)
                }
            };
            let plan = Plan {
                blow,
                rounds: options.number("--rounds", rounds)?.try_into()?,
                seed: options.number("--seed", some_seed())?,
                round_milliseconds_max: options.number("--round-ms", 6000)?,
            };
            crash::run(&tools, &options.path("--binary")?, &work, plan)
        }
        "object-store" => {
            tools.install_language(Language::Python)?;
            let plan = object_store::Plan {
                product: options
                    .all("--server")
                    .last()
                    .map_or(Ok(Product::Versitygw), |name| name.parse())?,
                rounds: options.number("--rounds", 3)?.try_into()?,
                seed: options.number("--seed", some_seed())?,
            };
            object_store::run(&tools, &options.path("--binary")?, &work, plan)
        }
        "judge" => crash::judge(&options.path("--folder")?, 0),
        "flow" => {
            tools.install_language(Language::Python)?;
            flow::run(&tools, &options.path("--binary")?, &work)
        }
        "log-ins" => log_ins::run(&tools, &options.path("--binary")?, &work),
        "install" => tools.install(&select(&[])?),
        other => bail!("unknown command {other}\n{USAGE}"),
    }
}

fn some_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()))
}

fn clients(options: &Options, tools: &Tools, work: &Path) -> Result<()> {
    let mut programs = select(options.all("--only"))?;
    let logs = work.with_file_name("logs");
    if let Some(against) = options.all("--against").first() {
        let addresses = peers(against)?;
        programs.retain(|program| addresses.contains_key(&program.protocol));
        ensure!(!programs.is_empty(), "no chosen program speaks a protocol of --against {against}");
        tools.install(&programs)?;
        return suite::run(tools, &programs, &mut Target::Peer(&addresses), &logs);
    }
    tools.install(&programs)?;
    let mut scratch = Scratch::new(work, "clients")?;
    let log = scratch.path().join("broker.log");
    let mut broker = Broker::start(&options.path("--binary")?, &scratch.path().join("data"), &log)?;
    println!("-- broker ready in {} ms", broker.start_time.as_millis());
    let outcome = suite::run(tools, &programs, &mut Target::Broker(&mut broker), &logs)
        .and_then(|()| broker.stop().context("clean stop after all programs"));
    if outcome.is_err() {
        scratch.keep();
        println!("   data and log of the broker are in {}", scratch.path().display());
    }
    outcome
}

/// `kafka=HOST:PORT,amqp=HOST:PORT`.
fn peers(text: &str) -> Result<Addresses> {
    text.split(',')
        .map(|part| {
            let (protocol, address) =
                part.split_once('=').with_context(|| format!("not PROTOCOL=HOST:PORT: {part}"))?;
            Ok((protocol.parse()?, address.to_owned()))
        })
        .collect()
}

struct Options {
    command: String,
    values: BTreeMap<String, Vec<String>>,
}

impl Options {
    fn parse(arguments: Vec<String>) -> Result<Self> {
        const KNOWN: [&str; 9] = [
            "--against",
            "--binary",
            "--cache",
            "--folder",
            "--only",
            "--round-ms",
            "--rounds",
            "--seed",
            "--server",
        ];
        let mut arguments = arguments.into_iter();
        let command = arguments.next().context(USAGE)?;
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(name) = arguments.next() {
            ensure!(KNOWN.contains(&name.as_str()), "unknown option {name}\n{USAGE}");
            let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
            values.entry(name).or_default().push(value);
        }
        Ok(Self { command, values })
    }

    fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let value = self.all(name).last().with_context(|| format!("{name} is missing\n{USAGE}"))?;
        Ok(PathBuf::from(value))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64> {
        match self.all(name).last() {
            None => Ok(default),
            Some(text) => text.parse().with_context(|| format!("{name} {text} is not a number")),
        }
    }
}
