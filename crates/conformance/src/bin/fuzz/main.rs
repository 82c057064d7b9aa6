//! Throws mutated bytes at every decoder, and mutated sequences of operations at whole brokers, on stable
//! Rust: what a short run in CI can find.
//!
//! A target is a function of bytes that must not panic and must not allocate more than its input justifies.
//! Inputs start from `fuzz/corpus/TARGET` and from what the run itself found interesting. The same decoders
//! can be fuzzed with coverage guidance by `cargo fuzz`, from the same corpus (`fuzz/`).

mod allocation;
mod mutate;
mod targets;

use std::collections::{BTreeMap, HashSet};
use std::env;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use allocation::Usage;
use mutate::Mutator;
use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

const USAGE: &str = "\
usage: conformance-fuzz --corpus DIR --artifacts DIR [--seconds N] [--seed N] [--target NAME] [--input FILE]
  --seconds N   for all targets together (default 60); 0: only what is in the corpus
  --input FILE  run one target on one file, to reproduce a failure";

/// Inputs that one target keeps; beyond it new ones replace old ones.
const POOL_INPUTS_MAX: usize = 2000;
/// Longest input, in bytes.
const INPUT_BYTES_MAX: usize = 1 << 16;
/// One input that takes longer than this hangs a connection.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

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
    let mut options = BTreeMap::new();
    let mut words = arguments.into_iter();
    while let Some(name) = words.next() {
        let known = ["--corpus", "--artifacts", "--seconds", "--seed", "--target", "--input"];
        ensure!(known.contains(&name.as_str()), "unknown option {name}\n{USAGE}");
        let value = words.next().with_context(|| format!("{name} needs a value\n{USAGE}"))?;
        options.insert(name, value);
    }
    let wanted = options.get("--target");
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|target| wanted.is_none_or(|name| name == target.name)).collect();
    ensure!(!chosen.is_empty(), "no target is called {}", wanted.map_or("", String::as_str));
    // Panics are results here; their text is printed with the input that caused them.
    panic::set_hook(Box::new(|_| {}));
    if let Some(file) = options.get("--input") {
        let input = fs::read(file).with_context(|| format!("read {file}"))?;
        return reproduce(&chosen, &input);
    }
    let folder =
        |name: &str| options.get(name).map(PathBuf::from).with_context(|| format!("{name}\n{USAGE}"));
    let (corpus, artifacts) = (folder("--corpus")?, folder("--artifacts")?);
    fs::create_dir_all(&artifacts)?;
    let number = |name: &str, default: u64| {
        options
            .get(name)
            .map_or(Ok(default), |text| text.parse())
            .with_context(|| format!("{name} is not a number"))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()));
    let seed = number("--seed", now)?;
    let time = Duration::from_secs(number("--seconds", 60)?) / u32::try_from(chosen.len())?;
    println!("fuzz: {} targets, {:.0} s each, seed {seed}", chosen.len(), time.as_secs_f64());
    let mut failures = 0;
    for target in chosen {
        failures += u32::from(!fuzz(target, &corpus, &artifacts, time, seed)?);
    }
    ensure!(failures == 0, "{failures} targets failed; reproduce with --target NAME --input FILE");
    Ok(())
}

fn reproduce(chosen: &[&Target], input: &[u8]) -> Result<()> {
    let [target] = chosen else { bail!("--input needs --target\n{USAGE}") };
    match execute(target, input) {
        Ok(usage) => {
            println!("ok: {usage:?}");
            Ok(())
        }
        Err(reason) => bail!("{}: {reason}", target.name),
    }
}

/// Fuzzes one target for `time`; true when nothing was found.
fn fuzz(target: &Target, corpus: &Path, artifacts: &Path, time: Duration, seed: u64) -> Result<bool> {
    let mut pool = seeds(&corpus.join(target.name))?;
    allocation::write_oversized_input_to(&artifacts.join(format!("{}-allocation", target.name)));
    let mut mutator = Mutator::new(seed);
    let mut seen = HashSet::new();
    let (started, mut runs, mut kept) = (Instant::now(), 0_u64, 0_u64);
    let mut from_corpus = pool.clone().into_iter();
    loop {
        let (input, original) = match from_corpus.next() {
            Some(input) => (input, true),
            None if started.elapsed() < time => (mutator.next(&pool, INPUT_BYTES_MAX, target.repair), false),
            None => break,
        };
        runs += 1;
        match execute(target, &input) {
            Ok(usage) => {
                if seen.insert(usage.signature()) && !original {
                    kept += 1;
                    keep(&mut pool, input, &mut mutator);
                }
            }
            Err(reason) => {
                let path = artifacts.join(format!("{}-{runs}", target.name));
                fs::write(&path, &input)?;
                println!(
                    "not ok fuzz {}: {reason}; input of {} bytes in {}",
                    target.name,
                    input.len(),
                    path.display()
                );
                return Ok(false);
            }
        }
    }
    println!("ok fuzz {}: {runs} inputs, {kept} of them kept", target.name);
    Ok(true)
}

fn seeds(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let mut pool = Vec::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        pool.push(fs::read(&path)?);
    }
    ensure!(!pool.is_empty(), "{} holds no seeds", folder.display());
    Ok(pool)
}

fn keep(pool: &mut Vec<Vec<u8>>, input: Vec<u8>, mutator: &mut Mutator) {
    if pool.len() < POOL_INPUTS_MAX {
        pool.push(input);
    } else {
        let place = mutator.below(pool.len());
        pool[place] = input;
    }
}

/// Runs the target once; an error says what it did wrong.
fn execute(target: &Target, input: &[u8]) -> Result<Usage, String> {
    let started = Instant::now();
    let (outcome, usage) = allocation::measure(input, || panic::catch_unwind(|| (target.run)(input)));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        return Err(format!("panicked: {text}"));
    }
    let allowed = target.base_bytes_max + target.bytes_per_input_byte_max * input.len();
    if usage.peak_bytes > allowed {
        return Err(format!("held {} bytes at once, allowed are {allowed}", usage.peak_bytes));
    }
    if started.elapsed() > INPUT_TIME_MAX {
        return Err(format!("took {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(usage)
}
