//! What the simulation is worth: it repeats, it passes, and it finds mistakes.

use posthaste_sim::{Bug, On, Settings, Without, run};

fn settings(seed: u64) -> Settings {
    Settings {
        seed,
        bug: None,
        on: None,
        without: Without::default(),
        rots: None,
        tears: None,
        verbose: false,
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for on in [On::Disk, On::Bucket] {
        for seed in 1..6 {
            let settings = Settings { on: Some(on), ..settings(seed) };
            let (one, other) = (run(settings), run(settings));
            assert_eq!((one.trace, one.counts), (other.trace, other.counts), "seed {seed} on {on:?}");
        }
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

/// A checkpoint that is made while the first batch of an engine thread is still on its way begins no earlier
/// than the checkpoint before.
#[test]
fn a_checkpoint_soon_after_a_start_needs_nothing_that_was_released() {
    for seed in [30_079, 30_431] {
        let report = run(Settings { on: Some(On::Bucket), ..settings(seed) });
        assert!(report.violations.is_empty(), "--seed {seed} --on bucket: {:#?}", report.violations);
    }
}

/// Sectors that tear cost nothing that was acknowledged; those that cannot be read cost what is told.
#[test]
fn torn_and_unreadable_sectors() {
    let seeds = [
        (false, 300_000, "sectors tear in power cuts"),
        (true, 310_011, "a start is refused for a journal file with a sector that cannot be read"),
        (true, 310_014, "a start is refused for a checkpoint file with a sector that cannot be read"),
        (true, 310_158, "what expires in a queue whose segment cannot be read never comes to the next one"),
        (true, 310_161, "a deleted queue is back with its checkpoint's state, and has another target"),
        (true, 320_025, "a power cut brings back an older manifest, whose part of the journal was released"),
        (
            true,
            330_155,
            "messages that are in the journal only are taken for settled by later ones in segments",
        ),
        (true, 330_228, "both generations of a checkpoint are lost, and what only they held is counted"),
        (
            true,
            331_279,
            "both generations of a checkpoint are lost, and names that only they held are counted",
        ),
    ];
    for (rots, seed, why) in seeds {
        let (rots, tears) = (Some(rots), Some(true));
        let report = run(Settings { on: Some(On::Disk), rots, tears, ..settings(seed) });
        assert!(
            report.violations.is_empty(),
            "--seed {seed} --on disk --rots {rots:?} --tears true ({why}): {:#?}",
            report.violations
        );
    }
}

/// Runs that failed once, and why.
#[test]
fn what_failed_once_passes() {
    let (disk, bucket) = (On::Disk, On::Bucket);
    let seeds = [
        (
            disk,
            52_922,
            "a message with a consumer whose connection is not over yet is deleted and not counted",
        ),
        (disk, 53_301, "a partition whose topic lost its name ends where a new one of its number does"),
        (
            disk,
            53_631,
            "two checkpoints are damaged, and the partitions added to a topic are another topic's now",
        ),
        (disk, 54_730, "a topic that is made and deleted lacks what damage was told of"),
        (disk, 55_388, "no content is told to be missing that waited for space at the turn to a new file"),
        (disk, 5_808, "a message of QoS 2 that cannot be read as a session goes on comes again as a new one"),
        (disk, 207_987, "the numbers of a lost end are passed over in each partition, not once"),
        (disk, 500_343, "a queue that is fed from a topic lacks what the topic has lost"),
        (bucket, 400_385, "a queue that deletes itself may still be going when somebody looks for it"),
    ];
    for (on, seed, why) in seeds {
        // They are from before sectors tore.
        let report = run(Settings { on: Some(on), tears: Some(false), ..settings(seed) });
        assert!(
            report.violations.is_empty(),
            "--seed {seed} --on {on:?} --tears false ({why}): {:#?}",
            report.violations
        );
    }
}

/// Whether a run with the mistake fails that passes without it.
fn is_found(bug: Bug, settings: Settings) -> bool {
    let fails = |bug| !run(Settings { bug, ..settings }).violations.is_empty();
    fails(Some(bug)) && !fails(None)
}

/// One for each promise that something is acknowledged, deleted or told of.
#[test]
fn mistakes_with_what_was_acknowledged_are_found_within_200_seeds() {
    let bugs = [
        Bug::LoseRefusedArrival,
        Bug::RepeatArrivals,
        Bug::ReuseNumbers,
        Bug::ForgetOutbox,
        Bug::RouteAnew,
        Bug::LoseDying,
        Bug::Miscount,
        Bug::ForgetKept,
        Bug::UntoldDamage,
    ];
    for bug in bugs {
        let rots = (bug == Bug::UntoldDamage).then_some(true);
        let found = (1..=200).find(|seed| is_found(bug, Settings { rots, ..settings(*seed) }));
        println!("{bug:?} was found by seed {found:?}");
        assert!(found.is_some(), "{bug:?} was not found in 200 seeds");
    }
}

#[test]
fn planted_mistakes_are_found() {
    for bug in [Bug::SkipSync, Bug::LoseRelease, Bug::Reorder, Bug::ForgetHole, Bug::BeforeDurable] {
        for on in [On::Disk, On::Bucket] {
            let found = (1..=1_000).find(|seed| is_found(bug, Settings { on: Some(on), ..settings(*seed) }));
            println!("{bug:?} on {on:?} was found by seed {found:?}");
            assert!(found.is_some(), "{bug:?} on {on:?} was not found in 1,000 seeds");
        }
    }
}
