//! Client commands: what a person or a script asks of a running broker, over its HTTP API.

mod api;
pub mod binding;
pub mod exchange;
pub mod group;
pub mod limits;
pub mod namespace;
pub mod publish;
pub mod queue;
pub mod show;
pub mod status;
pub mod subscribe;
pub mod topic;
pub mod user;
pub mod user_group;

use api::Api;
use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Where the broker is and who asks.
#[derive(Args)]
pub struct Connection {
    /// The broker's HTTP listener
    #[arg(
        long,
        value_name = "URL",
        env = "POSTHASTE_SERVER",
        default_value = "http://127.0.0.1:8080",
        global = true,
        help_heading = "Connection"
    )]
    server: String,
    /// Log in as this user; from the same machine it can be left out
    #[arg(long, value_name = "NAME", env = "POSTHASTE_USER", global = true, help_heading = "Connection")]
    user: Option<String>,
    /// The user's password
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "POSTHASTE_PASSWORD",
        hide_env_values = true,
        requires = "user",
        global = true,
        help_heading = "Connection"
    )]
    password: Option<String>,
    /// Trust this certificate or authority, a PEM file, for https
    #[arg(long, value_name = "FILE", env = "POSTHASTE_CA", global = true, help_heading = "Connection")]
    ca: Option<PathBuf>,
    /// The namespace of the names
    #[arg(
        long,
        short,
        value_name = "NAME",
        env = "POSTHASTE_NAMESPACE",
        default_value = "default",
        global = true,
        help_heading = "Connection"
    )]
    namespace: String,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// Commands about one kind of thing.
#[derive(Args)]
pub struct About<C: Subcommand> {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: C,
}

/// Why a command was not done.
#[derive(Debug)]
pub struct Failure {
    /// The broker's word for it; empty when it did not come from there.
    pub code: String,
    pub message: String,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { code: String::new(), message: message.into() }
    }

    fn is(&self, code: &str) -> bool {
        self.code == code
    }
}

pub type Done = Result<(), Failure>;

impl<C: Subcommand> About<C> {
    pub fn run(self, command: impl FnOnce(&Api, C) -> Done) -> ExitCode {
        self.connection.run(|api| command(api, self.command))
    }
}

impl Connection {
    /// Runs a command; the exit code says whether it went well.
    pub fn run(&self, command: impl FnOnce(&Api) -> Done) -> ExitCode {
        match Api::new(self).and_then(|api| command(&api)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("posthaste: {}", failure.message);
                ExitCode::FAILURE
            }
        }
    }
}

/// A thing that is there already is fine for whoever says so.
fn unless_there(
    result: Result<serde_json::Value, Failure>,
    tolerated: bool,
) -> Result<Option<serde_json::Value>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if tolerated && failure.is("exists") => Ok(None),
        Err(failure) => Err(failure),
    }
}
