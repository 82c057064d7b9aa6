//! The broker under test as an operator sees it: a process with a data directory, listeners and a log.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ports::free_address;
use crate::programs::{Addresses, Protocol};

/// From start to `ready`; generous, because a checkpoint of a long run may have to be read on a busy machine.
const READY_SECONDS_MAX: u64 = 60;
/// From SIGTERM to the end of the process.
const STOP_SECONDS_MAX: u64 = 30;
/// Lines of the log that a failure shows.
const LOG_LINES_SHOWN: usize = 40;

/// Variables that the broker is started with, besides those of this process.
pub type Environment = BTreeMap<String, String>;

/// A running broker. Dropping it kills the process.
pub struct Broker {
    binary: PathBuf,
    data: PathBuf,
    log: PathBuf,
    environment: Environment,
    addresses: Addresses,
    child: Child,
    /// How long the last start took until `ready`.
    pub start_time: Duration,
}

/// What the process holds, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub anonymous: u64,
    pub resident: u64,
    /// The largest resident size so far.
    pub resident_max: u64,
}

impl Broker {
    /// Starts `binary` on `data` with every listener on a free port of the loopback address, and waits for
    /// `ready`.
    pub fn start(binary: &Path, data: &Path, log: &Path) -> Result<Self> {
        Self::start_with(binary, data, log, &Environment::new())
    }

    /// As [`Broker::start`]; `data` may be the address of a bucket, which takes its settings from
    /// `environment`.
    pub fn start_with(binary: &Path, data: &Path, log: &Path, environment: &Environment) -> Result<Self> {
        let free = |protocol| Ok((protocol, free_address()?.to_string()));
        let wanted = Protocol::ALL.into_iter().map(free).collect::<Result<_>>()?;
        let (child, addresses, start_time) = launch(binary, data, log, environment, &wanted)?;
        Ok(Self {
            binary: binary.to_owned(),
            data: data.to_owned(),
            log: log.to_owned(),
            environment: environment.clone(),
            addresses,
            child,
            start_time,
        })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The variables that it was started with, besides those of this process.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Ends the process with SIGKILL: nothing that it holds in memory is written.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker had ended before it was killed: {status}\n{}", self.log_tail());
        }
        self.child.kill().context("kill the broker")?;
        self.child.wait().context("wait for the killed broker")?;
        Ok(())
    }

    /// Has the process do nothing more until it is killed.
    pub fn stand_still(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker had ended before it was stopped: {status}\n{}", self.log_tail());
        }
        let status = Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "kill -STOP failed: {status}");
        Ok(())
    }

    /// Starts the ended broker again on the same directory and the same ports.
    pub fn restart(&mut self) -> Result<()> {
        let (child, addresses, start_time) =
            launch(&self.binary, &self.data, &self.log, &self.environment, &self.addresses.clone())?;
        (self.child, self.addresses, self.start_time) = (child, addresses, start_time);
        Ok(())
    }

    /// Asks the process to stop with SIGTERM and waits for it; it must end by itself with status 0.
    pub fn stop(&mut self) -> Result<()> {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "kill -TERM failed: {status}");
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the broker stopped with {status}\n{}", self.log_tail()),
                None if Instant::now() > deadline => {
                    bail!("the broker did not stop {STOP_SECONDS_MAX} s after SIGTERM\n{}", self.log_tail())
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Memory as the kernel counts it (`/proc/PID/status`).
    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok(Memory {
            anonymous: kib("RssAnon:") * 1024,
            resident: kib("VmRSS:") * 1024,
            resident_max: kib("VmHWM:") * 1024,
        })
    }

    /// The last lines of the broker's log, for a failure's report.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        format!("--- end of {}\n{}\n---", self.log.display(), lines[from..].join("\n"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(
    binary: &Path,
    data: &Path,
    log: &Path,
    environment: &Environment,
    listen: &Addresses,
) -> Result<(Child, Addresses, Duration)> {
    let started = Instant::now();
    let errors = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--data").arg(data).envs(environment);
    for (protocol, address) in listen {
        command.arg("--listen").arg(format!("{protocol}={address}"));
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let lines = match child.stdout.take() {
        Some(stdout) => lines_of(stdout, log)?,
        None => bail!("the broker has no standard output"),
    };
    match announced(&lines, started) {
        Ok(addresses) => {
            for protocol in listen.keys() {
                if !addresses.contains_key(protocol) {
                    let _ = child.kill();
                    bail!("the broker is ready but announced no {protocol} listener");
                }
            }
            Ok((child, addresses, started.elapsed()))
        }
        Err(error) => {
            let _ = child.kill();
            let status = child.wait()?;
            let shown = fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = shown.lines().rev().take(LOG_LINES_SHOWN).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            Err(error.context(format!("the broker did not start ({status})\n{}", tail.join("\n"))))
        }
    }
}

/// Passes the lines of standard output on; what follows `ready` goes to the log, so that the pipe never
/// fills.
fn lines_of(stdout: ChildStdout, log: &Path) -> Result<Receiver<String>> {
    let mut rest = File::options().create(true).append(true).open(log)?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Err(unsent) = sender.send(line) {
                use std::io::Write;
                let _ = writeln!(rest, "stdout: {}", unsent.0);
            }
        }
    });
    Ok(receiver)
}

/// Reads `listening PROTOCOL ADDR` lines until `ready` (DESIGN: the outside contract).
fn announced(lines: &Receiver<String>, started: Instant) -> Result<Addresses> {
    let mut addresses = BTreeMap::new();
    loop {
        let left = Duration::from_secs(READY_SECONDS_MAX).saturating_sub(started.elapsed());
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("not ready after {READY_SECONDS_MAX} s"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("ended before it was ready"),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["ready"] => return Ok(addresses),
            ["listening", protocol, address] => {
                if let Ok(protocol) = protocol.parse::<Protocol>() {
                    addresses.insert(protocol, (*address).to_owned());
                }
            }
            _ => bail!("unexpected line on standard output: {line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(lines: &[&str]) -> Result<Addresses> {
        let (sender, receiver) = mpsc::channel();
        for line in lines {
            sender.send((*line).to_owned()).unwrap();
        }
        drop(sender);
        announced(&receiver, Instant::now())
    }

    #[test]
    fn addresses_are_read_until_ready() {
        let addresses =
            announce(&["listening kafka 127.0.0.1:1234", "listening pulsar 127.0.0.1:5", "ready"]).unwrap();
        assert_eq!(addresses.get(&Protocol::Kafka).map(String::as_str), Some("127.0.0.1:1234"));
        assert_eq!(addresses.len(), 1, "a protocol without client programs is not kept");
    }

    #[test]
    fn an_early_end_or_an_unknown_line_is_an_error() {
        assert!(announce(&["listening kafka 127.0.0.1:1234"]).is_err());
        assert!(announce(&["hello", "ready"]).is_err());
    }
}
