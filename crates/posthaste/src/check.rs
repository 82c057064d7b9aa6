//! `posthaste check`: looks at a data directory that no broker runs on, and changes nothing.

use clap::Args;
use posthaste_broker::{Check, Home, OpenError, check};
use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Verify every checksum of a data directory that no broker is running on; changes nothing.
///
/// Ends with 0 if nothing is damaged, with 1 if something is, and with 2 if the directory cannot be looked at.
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    pub directory: Directory,
}

#[derive(Args)]
pub struct Directory {
    /// The data directory, or a bucket, s3://BUCKET/PREFIX; no broker must run on it
    #[arg(long, value_name = "DIR", env = "POSTHASTE_DATA", default_value = "posthaste-data")]
    pub data: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Something is damaged.
pub const DAMAGED: u8 = 1;
/// The directory cannot be looked at.
const FAILED: u8 = 2;

impl Flags {
    pub fn run(self) -> ExitCode {
        let Directory { data, json } = self.directory;
        match Home::at(&data).and_then(|home| check(&home, &data.display().to_string())) {
            Ok(found) => {
                let json = json.then(|| serde_json::to_string(&found));
                print(&match json {
                    Some(text) => text.unwrap_or_default() + "\n",
                    None => text(&data, &found),
                });
                if found.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
            }
            Err(error) => failed(&error),
        }
    }
}

/// Says why the directory cannot be looked at.
pub fn failed(error: &OpenError) -> ExitCode {
    eprintln!("posthaste: {error}");
    ExitCode::from(FAILED)
}

/// Prints all of it at once; whoever closes the pipe has read enough.
pub fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// A check for people.
pub fn text(data: &Path, check: &Check) -> String {
    let mut out = String::new();
    let Check { journal, segments, checkpoints, .. } = check;
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        out,
        "{}: cluster {}, started {} times, {} topics, {} queues",
        data.display(),
        check.cluster_id,
        check.epoch,
        check.topics,
        check.queues
    );
    let stopped = if journal.clean_shutdown { "stopped in order" } else { "not stopped in order" };
    let _ = writeln!(
        out,
        "journal      {} files, {} bytes; {} records from LSN {} to {}; {stopped}",
        journal.files, journal.bytes, journal.records, journal.from, journal.end
    );
    if journal.unsynced_bytes > 0 {
        let _ = writeln!(
            out,
            "             an unsynced tail of {} bytes was never acknowledged; the next start drops it",
            journal.unsynced_bytes
        );
    }
    let _ = writeln!(
        out,
        "segments     {} files, {} bytes; {} entries; {} files unused",
        segments.files, segments.bytes, segments.entries, segments.unused
    );
    let _ = writeln!(out, "checkpoints  {} files, {} bytes", checkpoints.files, checkpoints.bytes);
    for file in &check.set_aside {
        let _ = writeln!(out, "set aside before: {file}");
    }
    match check.damage.len() {
        0 => out.push_str("nothing is damaged\n"),
        1 => out.push_str("damaged:\n"),
        found => {
            let _ = writeln!(out, "damaged, {found} findings:");
        }
    }
    for damage in &check.damage {
        let _ = writeln!(out, "- {damage}");
    }
    out
}
