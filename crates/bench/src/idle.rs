//! `idle`: how long a start on an empty directory takes, and what the process needs when nothing happens.

use crate::{
    Common,
    broker::{Broker, Place},
    machine,
    report::{Cell, Report, Table},
};
use anyhow::Result;
use std::{thread, time::Duration};

/// Bars of the first release.
const READY_SECONDS_BELOW: f64 = 0.5;
const RESIDENT_MB_BELOW: f64 = 30.0;

#[derive(clap::Args)]
pub struct Options {
    /// Starts, each on a directory of its own
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// Runs the benchmark.
pub fn run(common: &Common, options: &Options) -> Result<Report> {
    let place = Place::find(common)?;
    let mut report = Report::new("Start on an empty directory");
    machine::describe(&mut report, place.directory()?.path());
    let mut table = Table::new(&["start", "ready s", "resident MB", "anonymous MB"]);
    for round in 1..=options.rounds {
        let directory = place.directory()?;
        let broker = Broker::start(&place, directory.path())?;
        // What the start itself needed may go again within a second.
        thread::sleep(Duration::from_secs(1));
        table.row([
            Cell::text(round.to_string()),
            Cell::Below(broker.until_ready.as_secs_f64(), READY_SECONDS_BELOW, 3),
            Cell::Below(broker.memory("VmRSS")? as f64 / 1e6, RESIDENT_MB_BELOW, 1),
            Cell::Number(broker.memory("RssAnon")? as f64 / 1e6, 1),
        ]);
        broker.stop()?;
    }
    report.table(table);
    Ok(report)
}
