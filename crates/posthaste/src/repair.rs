//! `posthaste repair`: sets damage aside and writes anew what is readable, when it is told to.

use crate::{
    check::{DAMAGED, Directory, failed, print, text},
    listeners::formats,
};
use clap::Args;
use posthaste_broker::{Config, Home, Repair, check, model::Limits, repair};
use std::process::ExitCode;

/// Set the damaged files of a data directory aside, and write anew what is readable of them.
///
/// A broker starts and serves without this: it passes over damage and reports it. After a repair a check is clean, and
/// what was lost stays lost. Damaged files are copied to DIR/quarantine first, with a report; nothing is deleted.
/// Without --yes only says what would be done. Ends with 0 if nothing is damaged (any more), with 1 if something is,
/// and with 2 if the directory cannot be opened.
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    directory: Directory,
    /// Really do it
    #[arg(long)]
    yes: bool,
}

impl Flags {
    pub fn run(self) -> ExitCode {
        let Directory { data, json } = self.directory;
        let home = match Home::at(&data) {
            Ok(home) => home,
            Err(error) => return failed(&error),
        };
        if !self.yes {
            return match check(&home, &data.display().to_string()) {
                Ok(found) if found.is_clean() => {
                    print(&text(&data, &found));
                    ExitCode::SUCCESS
                }
                Ok(found) => {
                    print(&text(&data, &found));
                    eprintln!(
                        "posthaste: nothing was changed. Copy the directory first if you can; then say --yes to have \
                         the damaged files copied to {}/quarantine, and what is readable written anew",
                        data.display()
                    );
                    ExitCode::from(DAMAGED)
                }
                Err(error) => failed(&error),
            };
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("posthaste: cannot start the runtime: {error}");
                return ExitCode::from(2);
            }
        };
        let config = Config {
            data: data.clone(),
            limits: Limits::default(),
            formats: formats(),
            advertised: Default::default(),
            threads: None,
        };
        let _inside = runtime.enter();
        match repair(&home, config) {
            Ok(repaired) => {
                if json {
                    print(&(serde_json::to_string(&repaired).unwrap_or_default() + "\n"));
                } else {
                    print(&told(&data, &repaired));
                }
                if repaired.after.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
            }
            Err(error) => failed(&error),
        }
    }
}

fn told(data: &std::path::Path, repaired: &Repair) -> String {
    let mut out = format!("before\n{}", text(data, &repaired.before));
    let Some(quarantine) = &repaired.quarantine else { return out };
    out += &format!("\nthe damaged files and this report are in {}/{quarantine}\n", data.display());
    out += &format!("\nafter\n{}", text(data, &repaired.after));
    out
}
