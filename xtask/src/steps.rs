//! The commands that build and run other programs, each step announced and timed.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{profile, tidy};

/// How long the decoders are fuzzed in CI, all together.
const CI_FUZZ_SECONDS: u64 = 120;

/// Rounds on a bucket in CI: about half a minute.
const CI_OBJECT_STORE_ROUNDS: u64 = 2;

/// Seeds of the simulation in CI.
const CI_SIM_SEEDS: u64 = 200;

/// Everything that has to hold before a change lands.
pub fn ci() -> Result<()> {
    let started = Instant::now();
    step("formatting", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || {
        let workspace = ["clippy", "--workspace", "--all-targets", "--features", FUZZ_FEATURE];
        cargo(&[&workspace[..], &["--", "-D", "warnings"]].concat())
    })?;
    step("tidy", || tidy::run(tidy::Mode::Check))?;
    step("benchmarks' harness", || execute(Command::new(root().join("bench/selfcheck"))))?;
    test()?;
    step("costs of a message", || profile::run(&[]))?;
    step("fuzz", || {
        // As the tests have built it: slower than `cargo xtask fuzz`, which builds everything once more.
        let mut program = Command::new(target_directory().join("debug/conformance-fuzz"));
        program.args(fuzz_folders()).args(["--seconds", &CI_FUZZ_SECONDS.to_string()]);
        execute(program)
    })?;
    println!("\n=== all passed in {:.1} min", started.elapsed().as_secs_f64() / 60.0);
    Ok(())
}

const FUZZ_FEATURE: &str = "posthaste-conformance/fuzz";

/// All tests: those of the crates, then real clients against the release binary.
pub fn test() -> Result<()> {
    step("tests of the workspace", || cargo(&["test", "--workspace", "--features", FUZZ_FEATURE]))?;
    step("simulation", || {
        // As the tests have built it.
        let mut program = Command::new(target_directory().join("debug/posthaste-sim"));
        program.args(["--seeds", &CI_SIM_SEEDS.to_string()]);
        execute(program)
    })?;
    // The program that runs the clients is there: the tests have built it.
    step("release binary", || cargo(&["build", "--release", "--package", "posthaste"]))?;
    for command in ["contract", "clients", "log-ins", "flow", "crash"] {
        step(&format!("conformance: {command}"), || run_conformance(command, &[]))?;
    }
    step("conformance: object-store", || {
        run_conformance("object-store", &["--rounds".to_owned(), CI_OBJECT_STORE_ROUNDS.to_string()])
    })?;
    // Whoever may not mount a file system cannot take its power away.
    if run_conformance("can-mount", &[]).is_err() {
        println!("\n=== NOT RUN: power-loss and disk-full. Run them where file systems can be mounted.");
        return Ok(());
    }
    for command in ["power-loss", "power-loss-without-syncs", "disk-full"] {
        step(&format!("conformance: {command}"), || run_conformance(command, &[]))?;
    }
    Ok(())
}

/// Builds what is needed, then one command of the conformance program with `arguments`.
pub fn conformance(command: &str, arguments: &[String]) -> Result<()> {
    build_for_conformance()?;
    run_conformance(command, arguments)
}

/// Simulates the whole broker, optimized but with overflow checks and debug assertions.
pub fn sim(arguments: &[String]) -> Result<()> {
    let mut command = Command::new(cargo_binary());
    command.args(["run", "--quiet", "--profile", "fuzz", "--package", "posthaste-sim", "--"]).args(arguments);
    execute(command)
}

/// Fuzzes every decoder on stable Rust, with overflow checks and debug assertions.
pub fn fuzz(arguments: &[String]) -> Result<()> {
    let mut passed = Vec::new();
    let mut words = arguments.iter();
    while let Some(name) = words.next() {
        let value = words.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--minutes" => {
                let minutes: u64 = value.parse().context("--minutes is not a number")?;
                passed.extend(["--seconds".to_owned(), (minutes * 60).to_string()]);
            }
            _ => passed.extend([name.clone(), value.clone()]),
        }
    }
    let mut command = Command::new(cargo_binary());
    command.args(["run", "--quiet", "--profile", "fuzz", "--package", "posthaste-conformance"]);
    command.args(["--no-default-features", "--features", "fuzz", "--bin", "conformance-fuzz", "--"]);
    command.args(fuzz_folders()).args(passed);
    execute(command)
}

fn fuzz_folders() -> [OsString; 4] {
    let (corpus, artifacts) = (root().join("fuzz/corpus"), target_directory().join("fuzz-artifacts"));
    ["--corpus".into(), corpus.into(), "--artifacts".into(), artifacts.into()]
}

/// Builds a program of the workspace with the release profile and returns its path.
pub fn build_release(package: &str) -> Result<String> {
    cargo(&["build", "--release", "--package", package])?;
    Ok(target_directory().join("release").join(package).to_string_lossy().into_owned())
}

fn build_for_conformance() -> Result<()> {
    cargo(&["build", "--release", "--package", "posthaste"])?;
    cargo(&["build", "--package", "posthaste-conformance"])
}

fn run_conformance(command: &str, arguments: &[String]) -> Result<()> {
    let target = target_directory();
    let mut program = Command::new(target.join("debug/conformance"));
    program.arg(command);
    program.arg("--binary").arg(target.join("release/posthaste"));
    program.arg("--cache").arg(target.join("conformance"));
    program.args(arguments);
    execute(program)
}

fn step(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n=== {name}");
    let started = Instant::now();
    body().with_context(|| name.to_owned())?;
    println!("=== {name}: passed in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(cargo_binary());
    command.args(arguments);
    execute(command)
}

fn execute(mut command: Command) -> Result<()> {
    let status =
        command.current_dir(root()).status().with_context(|| format!("run {:?}", command.get_program()))?;
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    ensure!(status.success(), "{} {}: {status}", command.get_program().to_string_lossy(), words.join(" "));
    Ok(())
}

/// The standard output of a program that must succeed.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let found = Command::new(program).args(arguments).current_dir(root()).output();
    let found = found.with_context(|| format!("run {program}"))?;
    if !found.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&found.stderr));
    }
    Ok(String::from_utf8(found.stdout)?)
}

/// The cargo that runs this program.
pub fn cargo_binary() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// The root of the workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn target_directory() -> PathBuf {
    // A relative one is relative to the directory that cargo was called from; cargo itself sees the root here.
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}
