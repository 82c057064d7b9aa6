//! `posthaste status`

use super::{Connection, show};
use clap::Args;
use std::process::ExitCode;

/// Show what the broker is and how it does
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    connection: Connection,
}

impl Flags {
    pub fn run(self) -> ExitCode {
        self.connection.run(|api| show::one(api.json, &api.get(&["status"], &[])?))
    }
}
