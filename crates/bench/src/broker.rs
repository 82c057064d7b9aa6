//! The broker's process: the real program on a directory of its own.

use crate::Common;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a start may take before it counts as hung.
const START: Duration = Duration::from_secs(300);
/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(60);

/// Where the program and the scratch space are.
pub struct Place {
    program: PathBuf,
    scratch: PathBuf,
}

impl Place {
    /// As the flags say, or beside this program; builds the broker if it is not there.
    pub fn find(common: &Common) -> Result<Place> {
        let here = std::env::current_exe().context("cannot tell where this program is")?;
        let beside = here.parent().ok_or_else(|| anyhow!("this program is in no directory"))?;
        let program = common.broker.clone().unwrap_or_else(|| beside.join("posthaste"));
        if !program.exists() {
            ensure!(common.broker.is_none(), "there is no program {}", program.display());
            build(beside)?;
        }
        let scratch = common.scratch.clone().unwrap_or_else(|| beside.to_owned());
        Ok(Place { program, scratch })
    }

    /// Only the scratch space: no broker is started.
    pub fn scratch(common: &Common) -> Result<Place> {
        let here = std::env::current_exe().context("cannot tell where this program is")?;
        let beside = here.parent().ok_or_else(|| anyhow!("this program is in no directory"))?;
        let scratch = common.scratch.clone().unwrap_or_else(|| beside.to_owned());
        Ok(Place { program: PathBuf::new(), scratch })
    }

    /// An empty directory that goes when it is dropped.
    pub fn directory(&self) -> Result<TempDir> {
        let made = tempfile::Builder::new().prefix("posthaste-bench-").tempdir_in(&self.scratch);
        made.with_context(|| format!("cannot make a directory in {}", self.scratch.display()))
    }
}

fn build(beside: &Path) -> Result<()> {
    let target = beside.parent().ok_or_else(|| anyhow!("this program is in no target directory"))?;
    eprintln!("building the broker");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "posthaste", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the broker does not build");
    Ok(())
}

/// A running broker. It is killed when it is dropped.
pub struct Broker {
    child: Child,
    listeners: HashMap<String, SocketAddr>,
    /// From the start of the process to the line `ready`.
    pub until_ready: Duration,
}

impl Broker {
    /// Starts the broker on a data directory, all listeners on free ports, and waits until it is ready.
    pub fn start(place: &Place, data: &Path) -> Result<Broker> {
        let begin = Instant::now();
        let mut child = Command::new(&place.program)
            .arg("serve")
            .arg("--data")
            .arg(data)
            .args(["--log", "warn"])
            .args(["kafka", "amqp", "mqtt", "http"].map(|p| format!("--listen={p}=127.0.0.1:0")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", place.program.display()))?;
        let output = child.stdout.take().ok_or_else(|| anyhow!("the broker has no standard output"))?;
        let (lines, said) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if lines.send((line, Instant::now())).is_err() {
                    break;
                }
            }
        });
        let mut broker = Broker { child, listeners: HashMap::new(), until_ready: Duration::ZERO };
        loop {
            let left = START.saturating_sub(begin.elapsed());
            let (line, at) = said.recv_timeout(left).context("the broker did not become ready")?;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["listening", protocol, address] => {
                    broker.listeners.insert(protocol.to_owned(), address.parse()?);
                }
                ["ready"] => {
                    broker.until_ready = at - begin;
                    return Ok(broker);
                }
                _ => {}
            }
        }
    }

    /// A connection to a listener, as [`connect`].
    pub fn connect(&self, protocol: &str) -> Result<TcpStream> {
        connect(self.address(protocol)?)
    }

    /// Where a protocol is spoken.
    pub fn address(&self, protocol: &str) -> Result<SocketAddr> {
        self.listeners.get(protocol).copied().ok_or_else(|| anyhow!("no listener for {protocol}"))
    }

    /// A field of /proc/PID/status, such as `RssAnon`, in bytes.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = value.and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| anyhow!("no {field} in the process's status"))
    }

    /// Processor time used so far, over all threads.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The command's name in parentheses may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        // Linux shows 100 ticks a second to programs, whatever it counts itself.
        Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
    }

    /// The samples of `/metrics`, by name and labels as they stand there.
    pub fn metrics(&self) -> Result<HashMap<String, f64>> {
        let mut stream = self.connect("http")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "/metrics answers {:?}", answer.lines().next());
        let samples = answer.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(samples.collect())
    }

    /// Stops it in order.
    pub fn stop(mut self) -> Result<()> {
        let status = Command::new("kill").arg(self.child.id().to_string()).status()?;
        ensure!(status.success(), "cannot send SIGTERM");
        let begin = Instant::now();
        while begin.elapsed() < STOP {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the broker ended with {status}");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("the broker did not stop within {STOP:?}")
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection, blocking; reads give up after two minutes.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    Ok(stream)
}

/// Bytes that the files below a directory take on disk.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A file may go while the broker runs.
        let Ok(metadata) = entry.metadata() else { continue };
        sum += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}
