//! `cargo xtask sim`

use clap::{Parser, ValueEnum};
use posthaste_sim::{Bug, On, Report, Settings, Without, run};
use std::{
    process::ExitCode,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Runs the whole broker in simulations that repeat from their seeds, and judges what its clients saw.
#[derive(Parser)]
struct Options {
    /// How many seeds to run
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run only this one, and print everything that happens in it
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// A mistake to make on purpose; it is an error then if no seed finds it
    #[arg(long)]
    bug: Option<Bug>,
    /// What the data lies on; by default each seed chooses, a bucket one time in four
    #[arg(long)]
    on: Option<On>,
    /// A part of the workload to leave out; may be given several times
    #[arg(long)]
    without: Vec<Part>,
    /// Whether stored bits change; by default each seed chooses, one time in ten
    #[arg(long)]
    rots: Option<bool>,
    /// Whether power cuts tear sectors, and sectors become unreadable where stored bits change; by default
    /// each seed chooses, one time in three
    #[arg(long)]
    tears: Option<bool>,
    /// Runs at the same time; by default one per processor
    #[arg(long)]
    jobs: Option<usize>,
}

/// See [`Without`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    FullTargets,
    Surveyor,
    Undertakers,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let lacks = |part| options.without.contains(&part);
    let without = Without {
        full_targets: lacks(Part::FullTargets),
        surveyor: lacks(Part::Surveyor),
        undertakers: lacks(Part::Undertakers),
    };
    let (bug, on, rots, tears) = (options.bug, options.on, options.rots, options.tears);
    let settings = |seed, verbose| Settings { seed, bug, on, without, rots, tears, verbose };
    if let Some(seed) = options.seed {
        let report = run(settings(seed, true));
        report.log.iter().for_each(|line| println!("{line}"));
        print(&report);
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    many(&options, settings)
}

fn many(options: &Options, settings: impl Fn(u64, bool) -> Settings + Sync) -> ExitCode {
    let started = Instant::now();
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let next = AtomicU64::new(options.first);
    let end = options.first.saturating_add(options.seeds);
    let (sender, reports) = mpsc::channel();
    let (mut done, mut failed) = (0, Vec::new());
    let mut total = posthaste_sim::Counts::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, next, settings) = (sender.clone(), &next, &settings);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(run(settings(seed, false))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut told = Instant::now();
        for report in reports {
            done += 1;
            total.add(&report.counts);
            if !report.violations.is_empty() {
                if options.bug.is_none() {
                    print(&report);
                }
                failed.push(report.seed);
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                println!("{done} of {} seeds, {} failed", options.seeds, failed.len());
            }
            // One is proof enough.
            if options.bug.is_some() && !failed.is_empty() {
                next.store(end, Ordering::Relaxed);
            }
        }
    });
    println!(
        "{done} seeds in {:.1} s: {} starts, {} connections, {} published, {} acknowledged, {} delivered, {} read",
        started.elapsed().as_secs_f64(),
        total.starts,
        total.connections,
        total.published,
        total.acknowledged,
        total.delivered,
        total.read,
    );
    match (options.bug, failed.as_slice()) {
        (None, []) => ExitCode::SUCCESS,
        (None, failed) => {
            println!("{} seeds failed; repeat one with: cargo xtask sim --seed {}", failed.len(), failed[0]);
            ExitCode::FAILURE
        }
        (Some(bug), []) => {
            println!("{bug:?} was not found");
            ExitCode::FAILURE
        }
        (Some(bug), found) => {
            println!("{bug:?} was found by seed {}", found[0]);
            ExitCode::SUCCESS
        }
    }
}

fn print(report: &Report) {
    println!("seed {}: trace {:016x}, {:?}", report.seed, report.trace, report.counts);
    report.violations.iter().for_each(|violation| println!("    {violation}"));
}
