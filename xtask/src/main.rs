//! `cargo xtask`: what is done with the workspace besides building it.

mod profile;
mod steps;
mod tidy;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};

const USAGE: &str = "\
usage: cargo xtask COMMAND
  tidy [--update]                            check the project's own rules; --update lowers the ratchet
  test                                       all tests: of the workspace, with real clients, the flow, the crash run
  conformance [--only NAME]... [--against PROTOCOL=HOST:PORT,...]
                                             only the client programs, against the release binary or another system
  contract                                   only starting, stopping, refusing and hostile bytes
  flow                                       only the flow of the README
  log-ins                                    only clients that log in by every mechanism of their protocol
  crash [--rounds N] [--seed N] [--round-ms N]
                                             only the crash run: kill the broker under load and judge what clients saw
  power-loss [--rounds N] [--seed N] [--round-ms N]
                                             only power cuts: on a disk that forgets what was not synced
  power-loss-without-syncs [--rounds N]      only the proof that a broker which syncs nothing is found out
  disk-full [--rounds N]                     only a full disk: publishers are told, consumers go on
  object-store [--server versitygw|minio] [--rounds N] [--seed N]
                                             only a bucket of a real server: kill broker and server, fence, check
  sim [--seeds N] [--first N] [--seed N] [--bug NAME] [--jobs N]
                                             the whole broker with faults, each run repeatable
  fuzz [--minutes N | --seconds N] [--target NAME] [--input FILE] [--seed N]
                                             throw mutated bytes at every decoder
  profile [PATH]... [--update]               what a message costs on each hot path, by valgrind
  ci                                         what .ci/run runs: formatting, lints, tidy, test, a short fuzz run";

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else { bail!("{USAGE}") };
    match command.as_str() {
        "ci" => none(rest).and_then(|()| steps::ci()),
        "conformance" => steps::conformance("clients", rest),
        "contract"
        | "crash"
        | "disk-full"
        | "flow"
        | "log-ins"
        | "object-store"
        | "power-loss"
        | "power-loss-without-syncs" => steps::conformance(command, rest),
        "fuzz" => steps::fuzz(rest),
        "profile" => profile::run(rest),
        "sim" => steps::sim(rest),
        "test" => none(rest).and_then(|()| steps::test()),
        "tidy" => tidy::run(match rest {
            [] => tidy::Mode::Check,
            [flag] if flag == "--update" => tidy::Mode::Update,
            _ => bail!("{USAGE}"),
        }),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command {other}\n{USAGE}"),
    }
}

fn none(arguments: &[String]) -> Result<()> {
    ensure!(arguments.is_empty(), "unexpected argument {}\n{USAGE}", arguments[0]);
    Ok(())
}
