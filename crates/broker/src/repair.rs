//! Repairing a data directory, when it is asked for: damaged files are copied to `quarantine/`, what is
//! readable is written anew, and what is lost is told.

use crate::{
    Config,
    check::{Check, check, check_place},
    home::{Home, Place},
    open::{Assembled, Environment, OpenError, random},
};
use posthaste_storage::{
    data_dir::{CHECKPOINTS_DIR, JOURNAL_DIR, SEGMENTS_DIR},
    disk::Disk,
    journal::{self, JournalPlace},
};
use serde::Serialize;
use std::{collections::BTreeSet, io, io::IoSlice, sync::Arc};

/// Directory of what repairs set aside.
pub const QUARANTINE_DIR: &str = "quarantine";
const REPORT: &str = "report.json";
const COPY_BYTES: usize = 1 << 20;

/// What a repair did.
#[derive(Clone, Debug, Serialize)]
pub struct Repair {
    /// What was wrong.
    pub before: Check,
    /// What is wrong now: nothing, unless the disk goes on failing.
    pub after: Check,
    /// Where the damaged files are, relative to the data directory.
    pub quarantine: Option<String>,
}

/// Repairs a data directory or a bucket, of which it takes possession. Must be called on a tokio runtime of
/// several threads, in `block_in_place`.
pub fn repair(home: &Home, config: Config) -> Result<Repair, OpenError> {
    let name = config.data.display().to_string();
    let looked = home.look(&name)?;
    let before = check_place(&looked)?;
    if before.is_clean() && before.set_aside.is_empty() {
        return Ok(Repair { after: before.clone(), before, quarantine: None });
    }
    let quarantine = format!("{QUARANTINE_DIR}/{:08}", looked.data.epoch());
    drop(looked);
    let random = random()?;
    let place = home.open(&name, random)?;
    let disk = place.data.disk();
    copy_damaged(&*disk, &place.journal, &before, &quarantine)?;
    match before.is_clean() {
        true => drop(place),
        false => write_anew(place, config, Environment::new(random))?,
    }
    move_aside(&*disk, &quarantine)?;
    let after = check(home, &name)?;
    Ok(Repair { before, after, quarantine: Some(quarantine) })
}

/// Copies every file with damage, whole, and the report beside them. Copies of journal files are cut behind
/// what was ever written, since the rest is zeros.
fn copy_damaged(
    disk: &dyn Disk,
    journal: &JournalPlace,
    check: &Check,
    quarantine: &str,
) -> Result<(), OpenError> {
    disk.create_dir(quarantine)?;
    let files: BTreeSet<&String> = check.damage.iter().filter_map(|damage| damage.file.as_ref()).collect();
    for file in files {
        let target = format!("{quarantine}/{}", flat(file));
        match journal_file(file) {
            Some(number) => {
                let Some(source) = present(journal.file(number))? else { continue };
                copy(disk, |position, buffer| source.read_at(position, buffer), &target)?;
            }
            None => {
                let Some(source) = present(disk.open(file).map_err(OpenError::Io))? else { continue };
                copy(disk, |position, buffer| source.read_at(position, buffer), &target)?;
            }
        }
    }
    let report = serde_json::to_vec_pretty(check).map_err(io::Error::other)?;
    write(disk, &format!("{quarantine}/{REPORT}"), &report)?;
    disk.sync_dir(quarantine)?;
    disk.sync_dir(".")?;
    Ok(())
}

/// Journal files are known by number, wherever they lie.
fn journal_file(path: &str) -> Option<u64> {
    journal::file_number(path.strip_prefix(JOURNAL_DIR)?.strip_prefix('/')?)
}

/// A missing file is part of the damage.
fn present<T>(opened: Result<T, impl Into<OpenError>>) -> Result<Option<T>, OpenError> {
    match opened.map_err(Into::into) {
        Err(OpenError::Io(error) | OpenError::Journal(journal::OpenError::Io { error, .. }))
            if error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        outcome => outcome.map(Some),
    }
}

fn copy(disk: &dyn Disk, read_at: impl Fn(u64, &mut [u8]) -> io::Result<usize>, to: &str) -> io::Result<()> {
    let target = create(disk, to)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut position = 0;
    loop {
        let read = read_at(position, &mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        // Zeros that are not written are zeros too.
        if bytes.iter().any(|byte| *byte != 0) {
            target.write_at(position, &[IoSlice::new(bytes)])?;
        }
        position += read as u64;
    }
    target.sync_data()
}

fn write(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let file = create(disk, path)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync_data()
}

/// A repair that was interrupted is begun again.
fn create(disk: &dyn Disk, path: &str) -> io::Result<Arc<dyn posthaste_storage::disk::DiskFile>> {
    match disk.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(path)?;
            disk.create(path)
        }
        outcome => outcome,
    }
}

fn flat(path: &str) -> String {
    path.replace('/', "-")
}

/// Starts a broker that nobody can connect to, has it write two checkpoints (the second makes the first one
/// the fallback, so that nothing old is needed any more) and stops it.
fn write_anew(place: Place, config: Config, environment: Environment) -> Result<(), OpenError> {
    let assembled = Assembled::new(place, config, environment)?;
    let (broker, mut checkpointer) = assembled.start_without_checkpoints()?;
    let written = broker.shared.runtime().clone().block_on(checkpointer.write_anew());
    broker.stop();
    written.map_err(|error| OpenError::State(format!("the directory cannot be written anew: {error}")))
}

/// Moves what the broker set aside.
fn move_aside(disk: &dyn Disk, quarantine: &str) -> io::Result<()> {
    disk.create_dir(quarantine)?;
    for dir in [JOURNAL_DIR, SEGMENTS_DIR, CHECKPOINTS_DIR] {
        for entry in disk.list(dir)?.into_iter().filter(|entry| entry.name.ends_with(".damaged")) {
            let path = format!("{dir}/{}", entry.name);
            disk.rename(&path, &format!("{quarantine}/{}", flat(&path)))?;
        }
        disk.sync_dir(dir)?;
    }
    disk.sync_dir(quarantine)?;
    disk.sync_dir(".")
}
