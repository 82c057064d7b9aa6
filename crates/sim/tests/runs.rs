//! What the simulation is worth: it repeats, it passes, and it finds mistakes.

use posthaste_sim::{Bug, Settings, run};

fn settings(seed: u64) -> Settings {
    Settings { seed, bug: None, verbose: false }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..6 {
        let (one, other) = (run(settings(seed)), run(settings(seed)));
        assert_eq!((one.trace, one.counts), (other.trace, other.counts), "seed {seed}");
    }
    assert_ne!(run(settings(1)).trace, run(settings(2)).trace);
}

#[test]
fn a_few_seeds_pass() {
    for seed in 1000..1012 {
        let report = run(settings(seed));
        assert!(report.violations.is_empty(), "cargo xtask sim --seed {seed}: {:#?}", report.violations);
        assert!(report.counts.acknowledged > 50, "seed {seed} says nothing: {:?}", report.counts);
    }
}

#[test]
fn planted_mistakes_are_found() {
    for bug in [Bug::SkipSync, Bug::LoseRelease, Bug::Reorder, Bug::ForgetHole, Bug::BeforeDurable] {
        let found = (1..=1_000).find(|seed| {
            let report = run(Settings { bug: Some(bug), ..settings(*seed) });
            !report.violations.is_empty()
        });
        println!("{bug:?} was found by seed {found:?}");
        assert!(found.is_some(), "{bug:?} was not found in 1,000 seeds");
    }
}
