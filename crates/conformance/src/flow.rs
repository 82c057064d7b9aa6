//! The flow that the README shows, run against the real binary.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::broker::Broker;
use crate::programs::{Language, arguments};
use crate::scratch::Scratch;
use crate::suite;
use crate::tools::Tools;

const SECONDS_MAX: u64 = 180;

/// Starts a broker on an empty directory and runs `flow.py`, which calls the command line of the same binary.
pub fn run(tools: &Tools, binary: &Path, work: &Path) -> Result<()> {
    let mut scratch = Scratch::new(work, "flow")?;
    let log = scratch.path().join("broker.log");
    let broker = Broker::start(binary, &scratch.path().join("data"), &log)?;
    println!("\n== flow");
    let mut command = tools.command(Language::Python, "flow.py");
    command.args(arguments(broker.addresses())).env("POSTHASTE", broker.binary());
    let errors = scratch.path().join("flow.stderr");
    command.stderr(File::create(&errors)?);
    let status = suite::drive(command, Duration::from_secs(SECONDS_MAX), |line, _| {
        println!("   {line}");
        Ok(())
    })?;
    if status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    scratch.keep();
    suite::show_end(&errors);
    println!("{}", broker.log_tail());
    bail!("the flow failed ({status:?}); see {}", scratch.path().display())
}
