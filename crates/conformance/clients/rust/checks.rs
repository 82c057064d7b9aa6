//! Named checks, one line each: `ok NAME` or `not ok NAME: reason`.

use std::fmt::Debug;
use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use tokio::time::timeout;

const CHECK_SECONDS_MAX: u64 = 90;

#[derive(Default)]
pub struct Checks {
    ran: u32,
    failed: u32,
}

impl Checks {
    /// Runs one check and prints its result.
    pub async fn check(&mut self, name: &str, body: impl Future<Output = Result<()>>) {
        self.ran += 1;
        let outcome = match timeout(Duration::from_secs(CHECK_SECONDS_MAX), body).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no result after {CHECK_SECONDS_MAX} s")),
        };
        match outcome {
            Ok(()) => println!("ok {name}"),
            Err(error) => {
                self.failed += 1;
                println!("not ok {name}: {}", format!("{error:#}").replace('\n', " "));
            }
        }
    }

    pub fn finish(self) -> ExitCode {
        if self.failed > 0 || self.ran == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// A name that no other run uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros());
    format!("{prefix}-{time:x}-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn equal<T: PartialEq + Debug>(actual: T, expected: T, what: &str) -> Result<()> {
    ensure!(actual == expected, "{what}: expected {expected:?}, was {actual:?}");
    Ok(())
}
