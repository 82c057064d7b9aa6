//! `cargo xtask profile`: what a message costs, counted by valgrind instead of timed, and compared with a
//! baseline.
//!
//! Each path of crates/profile runs twice with different numbers of messages; the difference, divided, is the
//! cost of one message, without what starting up costs. The counts are the same in every run on the same
//! build, whatever else the machine does.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::steps;

const BASELINE: &str = "crates/profile/baseline.txt";
/// Messages of the shorter run; the longer one has twice as many.
const MESSAGES: u64 = 3_000;
/// A count may be this much above the baseline, as compilers and C libraries differ: a share of it ...
const TOLERANCE: f64 = 0.1;
/// ... and this much in any case, of instructions, blocks or bytes.
const SLACK: [f64; COUNTS] = [50.0, 0.05, 64.0, 64.0];
const COUNTS: usize = 4;
const NAMES: [&str; COUNTS] = ["instructions", "allocations", "allocated bytes", "copied bytes"];
/// Copies as loops of vector instructions: valgrind counts the string instructions that the C library prefers
/// for large ones by the byte.
const TUNABLES: &str =
    "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824";
const HEADER: &str = "\
# What a message costs: instructions, allocations, allocated bytes, bytes copied by memcpy and memmove. Whole
# paths include what the clients in memory cost. Written by `cargo xtask profile --update`; checked in CI.
";

/// Per message.
type Costs = [f64; COUNTS];

/// Counts all paths, or those named; compares with the baseline, or with `--update` writes it.
pub fn run(arguments: &[String]) -> Result<()> {
    let update = arguments.iter().any(|word| word == "--update");
    let named: Vec<&String> = arguments.iter().filter(|word| *word != "--update").collect();
    ensure!(!update || named.is_empty(), "--update takes no names: it writes the whole baseline");
    ensure_valgrind()?;
    let program = steps::build_release("posthaste-profile")?;
    let mut paths = paths(&program)?;
    if let Some(unknown) = named.iter().find(|name| !paths.contains(name)) {
        bail!("no path {unknown}; there are {}", paths.join(", "));
    }
    paths.retain(|path| named.is_empty() || named.contains(&path));
    let counted = count_all(&program, &paths)?;
    if update {
        return write(&counted);
    }
    compare(&counted, &read()?)
}

fn ensure_valgrind() -> Result<()> {
    if steps::output("valgrind", &["--version"]).is_ok() {
        return Ok(());
    }
    let install = "apt-get install --yes --quiet valgrind";
    println!("valgrind is missing: {install}");
    let words: Vec<&str> = install.split(' ').collect();
    steps::output(words[0], &words[1..]).context("install valgrind")?;
    Ok(())
}

/// The names that the program takes.
fn paths(program: &str) -> Result<Vec<String>> {
    let list = steps::output(program, &[])?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Two at a time.
fn count_all(program: &str, paths: &[String]) -> Result<BTreeMap<String, Costs>> {
    let next = Mutex::new(paths.iter());
    let counted = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        loop {
            let Some(path) = next.lock().ok().and_then(|mut paths| paths.next()) else { return Ok(()) };
            let costs = count(program, path).with_context(|| format!("count {path}"))?;
            println!("{path:16} {}", text(&costs));
            if let Ok(mut counted) = counted.lock() {
                counted.insert(path.clone(), costs);
            }
        }
    };
    println!("{:16} {}", "per message", NAMES.map(|name| format!("{name:>15}")).join(" "));
    thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("counting panicked"),
        })
    })?;
    Ok(counted.into_inner().unwrap_or_default())
}

fn count(program: &str, path: &str) -> Result<Costs> {
    let mut costs = [0.0; COUNTS];
    let (few, many) = (totals(program, path, MESSAGES)?, totals(program, path, 2 * MESSAGES)?);
    for (cost, (few, many)) in costs.iter_mut().zip(few.into_iter().zip(many)) {
        *cost = many.saturating_sub(few) as f64 / MESSAGES as f64;
    }
    Ok(costs)
}

fn totals(program: &str, path: &str, messages: u64) -> Result<[u64; COUNTS]> {
    let run = |tool: &[&str]| -> Result<String> {
        let found = Command::new("valgrind")
            .args(tool)
            .args([program, path, "--messages", &messages.to_string()])
            .env("GLIBC_TUNABLES", TUNABLES)
            .output()
            .context("run valgrind")?;
        let text = String::from_utf8_lossy(&found.stderr).into_owned();
        ensure!(found.status.success(), "valgrind {}: {text}", tool.join(" "));
        Ok(text)
    };
    let instructions = run(&["--tool=callgrind", "--callgrind-out-file=/dev/null"])?;
    let heap = run(&["--tool=dhat", "--dhat-out-file=/dev/null"])?;
    let copies = run(&["--tool=dhat", "--mode=copy", "--dhat-out-file=/dev/null"])?;
    let (allocated, allocations) = total(&heap)?;
    Ok([number_after(&instructions, "Collected :")?, allocations, allocated, total(&copies)?.0])
}

/// "Total: 1,234 bytes in 56 blocks"
fn total(text: &str) -> Result<(u64, u64)> {
    Ok((number_after(text, "Total:")?, number_after(text, "bytes in")?))
}

fn number_after(text: &str, words: &str) -> Result<u64> {
    let (_, rest) = text.split_once(words).with_context(|| format!("no \"{words}\" in: {text}"))?;
    let number = rest.split_whitespace().next().unwrap_or_default().replace(',', "");
    number.parse().with_context(|| format!("{number} is no number"))
}

fn text(costs: &Costs) -> String {
    let [instructions, allocations, allocated, copied] = costs;
    format!("{instructions:15.0} {allocations:15.2} {allocated:15.0} {copied:15.0}")
}

fn baseline() -> PathBuf {
    steps::root().join(BASELINE)
}

fn write(counted: &BTreeMap<String, Costs>) -> Result<()> {
    let lines = counted.iter().map(|(path, costs)| format!("{path:16} {}\n", text(costs)));
    fs::write(baseline(), HEADER.to_owned() + &lines.collect::<String>())?;
    println!("{BASELINE} is written");
    Ok(())
}

fn read() -> Result<BTreeMap<String, Costs>> {
    let text = fs::read_to_string(baseline()).with_context(|| format!("read {BASELINE}"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| parse(line).with_context(|| format!("{BASELINE}: {line}"))).collect()
}

fn parse(line: &str) -> Option<(String, Costs)> {
    let mut words = line.split_whitespace();
    let path = words.next()?.to_owned();
    let costs: Vec<f64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    Some((path, costs.try_into().ok()?))
}

/// Names everything that has grown, and fails if something has.
fn compare(counted: &BTreeMap<String, Costs>, baseline: &BTreeMap<String, Costs>) -> Result<()> {
    let mut grown = 0;
    for (path, costs) in counted {
        let Some(before) = baseline.get(path) else {
            bail!("{path} has no baseline; write one with: cargo xtask profile --update")
        };
        for count in 0..COUNTS {
            let (now, before) = (costs[count], before[count]);
            let change = format!("{path}: {} per message {before} -> {now:.2}", NAMES[count]);
            if now > before * (1.0 + TOLERANCE) + SLACK[count] {
                println!("grown: {change}");
                grown += 1;
            } else if now < before * (1.0 - TOLERANCE) - SLACK[count] {
                println!("less: {change}; keep it with: cargo xtask profile --update");
            }
        }
    }
    ensure!(
        grown == 0,
        "{grown} counts have grown by more than {:.0} %; if that is wanted: cargo xtask profile --update",
        TOLERANCE * 100.0
    );
    Ok(())
}
