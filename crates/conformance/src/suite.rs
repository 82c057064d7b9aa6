//! Runs the client programs one after the other and reports their checks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::broker::Broker;
use crate::programs::{Addresses, Program};
use crate::tools::Tools;

/// One program with all its checks, including restarts of the broker.
const PROGRAM_SECONDS_MAX: u64 = 300;
/// Lines of a failed program's standard error that are shown.
const ERROR_LINES_SHOWN: usize = 30;

/// What the programs run against.
pub enum Target<'a> {
    /// The broker under test, which the programs may have killed and restarted.
    Broker(&'a mut Broker),
    /// Something that is already running, to validate the programs themselves.
    Peer(&'a Addresses),
}

/// The result of one program.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    pub failures: Vec<String>,
}

/// Runs `programs` in order; fails when any check failed, after all have run.
pub fn run(tools: &Tools, programs: &[Program], target: &mut Target<'_>, logs: &Path) -> Result<()> {
    fs::create_dir_all(logs)?;
    let mut failures: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut passed = 0;
    for program in programs {
        println!("\n== {} ({})", program.name, program.protocol);
        let started = Instant::now();
        let report =
            run_one(tools, program, target, logs).with_context(|| format!("run {}", program.name))?;
        println!(
            "   {} passed, {} failed in {:.1} s",
            report.passed,
            report.failures.len(),
            started.elapsed().as_secs_f64()
        );
        passed += report.passed;
        if !report.failures.is_empty() {
            if let Target::Broker(broker) = target {
                println!("   {}", broker.log_tail());
            }
            failures.insert(program.name, report.failures);
        }
        if let Target::Broker(broker) = target {
            survive(broker, program, &mut failures)?;
        }
    }
    println!("\n{passed} checks passed");
    if failures.is_empty() {
        return Ok(());
    }
    for (name, reasons) in &failures {
        for reason in reasons {
            println!("{name}: {reason}");
        }
    }
    bail!("{} checks failed; logs are in {}", failures.values().map(Vec::len).sum::<usize>(), logs.display());
}

/// A broker that died under a program is that program's failure; the next one gets it running again.
fn survive(
    broker: &mut Broker,
    program: &Program,
    failures: &mut BTreeMap<&'static str, Vec<String>>,
) -> Result<()> {
    if let Some(status) = broker.exited()? {
        println!("not ok: the broker ended with {status}\n{}", broker.log_tail());
        failures.entry(program.name).or_default().push(format!("the broker ended with {status}"));
        broker.restart()?;
    }
    let memory = broker.memory()?;
    println!(
        "   broker: {:.1} MiB anonymous, {:.1} MiB resident at most",
        mebibytes(memory.anonymous),
        mebibytes(memory.resident_max)
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn run_one(tools: &Tools, program: &Program, target: &mut Target<'_>, logs: &Path) -> Result<Report> {
    let errors = logs.join(format!("{}.stderr", program.name));
    let mut command = match target {
        Target::Broker(broker) => program.command(tools, broker.addresses()),
        Target::Peer(addresses) => program.command(tools, addresses),
    };
    if let Target::Broker(broker) = target {
        command.env("CONFORMANCE_CAN_RESTART", "1").envs(broker.environment());
    }
    command.stderr(File::create(&errors)?);
    let mut report = Report::default();
    let status = drive(command, Duration::from_secs(PROGRAM_SECONDS_MAX), |line, answer| {
        println!("   {line}");
        if line.starts_with("ok ") {
            report.passed += 1;
        } else if let Some(reason) = line.strip_prefix("not ok ") {
            report.failures.push(reason.to_owned());
        } else if line == "restart-broker"
            && let Target::Broker(broker) = target
        {
            broker.kill()?;
            broker.restart()?;
            writeln!(answer, "restarted")?;
        }
        Ok(())
    })?;
    match status {
        None => report.failures.push(format!("program: not finished after {PROGRAM_SECONDS_MAX} s")),
        Some(status) if !status.success() && report.failures.is_empty() => {
            report.failures.push(format!("program: ended with {status}"));
        }
        Some(status) if status.success() && report.passed == 0 => {
            report.failures.push("program: reported no check".to_owned());
        }
        Some(_) => {}
    }
    if !report.failures.is_empty() {
        show_end(&errors);
    }
    Ok(report)
}

/// Shows the last lines of what a program wrote to its standard error.
pub fn show_end(path: &Path) {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(ERROR_LINES_SHOWN);
    println!("   --- end of {}", path.display());
    for line in &lines[from..] {
        println!("   {line}");
    }
}

/// Runs `command`, hands each line of its standard output to `on_line` with its standard input, and returns its
/// status; `None` when it had to be ended because the time was up.
pub fn drive(
    mut command: Command,
    limit: Duration,
    mut on_line: impl FnMut(&str, &mut dyn Write) -> Result<()>,
) -> Result<Option<ExitStatus>> {
    // A group of its own, so that what the program started ends with it.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
    let (Some(stdout), Some(mut stdin)) = (child.stdout.take(), child.stdin.take()) else {
        bail!("no pipes to the program");
    };
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    let result = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Err(error) = on_line(&line, &mut stdin) {
                    break Err(error);
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(Some(())),
        }
    };
    match result {
        Ok(Some(())) => {
            let status = child.wait()?;
            end_group(&child);
            Ok(Some(status))
        }
        other => {
            end_group(&child);
            child.wait()?;
            other.map(|_| None)
        }
    }
}

/// Ends the program and whatever it started.
fn end_group(child: &Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_are_answered_and_the_status_returned() {
        let mut seen = Vec::new();
        let status = drive(
            shell("echo ask; read answer; echo got $answer; exit 3"),
            Duration::from_secs(20),
            |line, to| {
                seen.push(line.to_owned());
                if line == "ask" {
                    writeln!(to, "well")?;
                }
                Ok(())
            },
        );
        assert_eq!(seen, ["ask", "got well"]);
        assert_eq!(status.unwrap().unwrap().code(), Some(3));
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_what_it_started() {
        let status = drive(shell("sleep 1000 & sleep 1000"), Duration::from_millis(100), |_, _| Ok(()));
        assert!(status.unwrap().is_none());
    }
}
