//! The real program: a broker on a temporary directory, and commands that talk to it.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Nothing takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the environment must not say to a program under test.
const VARIABLES: [&str; 9] = [
    "POSTHASTE_ADVERTISE",
    "POSTHASTE_CONFIG",
    "POSTHASTE_DATA",
    "POSTHASTE_LISTEN",
    "POSTHASTE_LOG",
    "POSTHASTE_NAMESPACE",
    "POSTHASTE_PASSWORD",
    "POSTHASTE_SERVER",
    "POSTHASTE_USER",
];

pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends with the test.
pub struct Broker {
    process: Process,
    /// By protocol.
    pub addresses: BTreeMap<String, String>,
    directory: Option<tempfile::TempDir>,
}

struct Process(Child);

impl Broker {
    /// On free ports of this machine, HTTP only.
    pub fn start() -> Broker {
        let all = ["kafka=off", "amqp=off", "mqtt=off", "http=127.0.0.1:0"];
        Broker::start_with(&all.map(|listen| ["--listen", listen]).concat(), &[])
    }

    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Broker {
        let directory = tempfile::tempdir().unwrap();
        let mut command = program(&["serve", "--log", "error"]);
        command.arg("--data").arg(directory.path().join("data"));
        command.args(arguments).envs(variables.iter().copied());
        Broker { directory: Some(directory), ..Broker::spawn(command) }
    }

    /// On free ports, with its log in a file.
    pub fn start_logged(arguments: &[&str]) -> (Broker, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut command = program(&["serve"]);
        command.arg("--data").arg(directory.path().join("data")).args(arguments);
        let log = std::fs::File::create(&path).unwrap();
        (Broker { directory: Some(directory), ..Broker::spawn_to(command, log.into()) }, path)
    }

    /// Returns once it is ready.
    pub fn spawn(command: Command) -> Broker {
        Broker::spawn_to(command, Stdio::inherit())
    }

    fn spawn_to(mut command: Command, log: Stdio) -> Broker {
        let mut child = command.stderr(log).spawn().unwrap();
        let mut addresses = BTreeMap::new();
        for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
            let line = line.unwrap();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["listening", protocol, address] => addresses.insert(protocol.to_owned(), address.to_owned()),
                ["ready"] => return Broker { process: Process(child), addresses, directory: None },
                _ => panic!("unexpected: {line}"),
            };
        }
        panic!("it did not start: {:?}", child.wait());
    }

    pub fn server(&self) -> String {
        format!("http://{}", self.addresses["http"])
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("POSTHASTE_SERVER", self.server());
        command
    }

    /// Runs a command that must succeed; returns what it prints.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = finished(self.command(arguments));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same with something on standard input.
    pub fn feed(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail; returns its exit code and what it says.
    pub fn refused(&self, arguments: &[&str]) -> (i32, String) {
        refused(self.command(arguments))
    }

    /// Has its files read again, as an operator does.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.process.0), Signal::HUP).unwrap();
    }

    /// Asks it to stop, as an operator does; true when it ended well.
    pub fn stop(mut self) -> bool {
        kill_process(Pid::from_child(&self.process.0), Signal::TERM).unwrap();
        self.process.0.wait().unwrap().success()
    }

    /// A folder that goes with it.
    pub fn folder(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn refused(command: Command) -> (i32, String) {
    let output = finished(command);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it succeeded: {errors}");
    (output.status.code().expect("an exit code"), errors)
}

/// Its output; panics if it does not end.
pub fn finished(mut command: Command) -> Output {
    let mut child = command.spawn().unwrap();
    let since = Instant::now();
    // Both pipes are read while it runs, so that it cannot be stuck on a full one.
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text)
    });
    let watcher = std::thread::spawn(move || {
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if since.elapsed() > PATIENCE {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut text = Vec::new();
    stdout.read_to_end(&mut text).unwrap();
    let status = watcher.join().unwrap();
    assert!(since.elapsed() < PATIENCE, "it did not end: {command:?}");
    Output { status, stdout: text, stderr: reader.join().unwrap().unwrap() }
}
