//! The floor: the same commits with nothing but the system calls that make them durable.

use crate::{broker::Place, latencies::Latencies};
use anyhow::{Result, ensure};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

/// Size of a file, that of the journal's.
const FILE_BYTES: u64 = 64 << 20;
/// Files that are used in turn.
const FILES: u64 = 4;

/// What the bare disk does.
pub struct Floor {
    pub commits: u64,
    pub bytes: u64,
    pub elapsed: Duration,
    /// Of one write and sync.
    pub latencies: Latencies,
}

impl Floor {
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    pub fn commits_per_second(&self) -> f64 {
        self.commits as f64 / self.elapsed.as_secs_f64()
    }
}

/// Repeats `pwrite` and `fdatasync` with these sizes, in this order and again from the start, for `duration`: one
/// commit at a time, on files that were filled and synced before, overwritten from their beginnings in turn.
pub fn replay(place: &Place, sizes: &[u64], duration: Duration) -> Result<Floor> {
    ensure!(!sizes.is_empty(), "the journal recorded no commits");
    let directory = place.directory()?;
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let file_bytes = FILE_BYTES.max(largest);
    let files: Vec<File> = (0..FILES)
        .map(|n| filled(&directory.path().join(n.to_string()), file_bytes))
        .collect::<Result<_>>()?;
    // Not zeros: a disk may be quicker with those.
    let content: Vec<u8> =
        (0..largest).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect();
    let mut floor = Floor { commits: 0, bytes: 0, elapsed: Duration::ZERO, latencies: Latencies::default() };
    let (mut file, mut position) = (0, 0);
    let begin = Instant::now();
    for &size in sizes.iter().cycle() {
        let start = Instant::now();
        if start - begin >= duration {
            break;
        }
        if position + size > file_bytes {
            (file, position) = ((file + 1) % files.len(), 0);
        }
        files[file].write_all_at(&content[..size as usize], position)?;
        files[file].sync_data()?;
        floor.latencies.record(start.elapsed(), 1);
        position += size;
        floor.commits += 1;
        floor.bytes += size;
    }
    floor.elapsed = begin.elapsed();
    Ok(floor)
}

fn filled(path: &std::path::Path, bytes: u64) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    let mut position = 0;
    while position < bytes {
        let part = (bytes - position).min(zeros.len() as u64);
        file.write_all_at(&zeros[..part as usize], position)?;
        position += part;
    }
    file.sync_all()?;
    Ok(file)
}
