//! Base and deltas as one sorted sequence, the newest value of each key.

use super::file::{Change, FileInfo, FileReader, LostKeys};
use super::{CheckpointError, Dir, Manifest};

/// A key and its value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

pub(super) struct Merge {
    /// Oldest first, each with its next change.
    sources: Vec<(FileReader, Option<Change>)>,
}

impl Merge {
    pub fn open(dir: &Dir, manifest: &Manifest) -> Result<Merge, CheckpointError> {
        Merge::of(manifest, |info| FileReader::open(dir, info))
    }

    /// As [`Merge::open`], but steps over damage.
    pub fn salvage(dir: &Dir, manifest: &Manifest) -> Result<Merge, CheckpointError> {
        Merge::of(manifest, |info| FileReader::salvage(dir, info))
    }

    /// What was stepped over so far.
    pub fn lost(&self) -> Vec<LostKeys> {
        self.sources.iter().flat_map(|(reader, _)| reader.lost()).cloned().collect()
    }

    fn of(
        manifest: &Manifest,
        open: impl Fn(&FileInfo) -> Result<FileReader, CheckpointError>,
    ) -> Result<Merge, CheckpointError> {
        let mut sources = Vec::new();
        for info in manifest.files() {
            let mut reader = open(info)?;
            let first = reader.next()?;
            sources.push((reader, first));
        }
        Ok(Merge { sources })
    }

    /// The next key that is there, with its value.
    pub fn next(&mut self) -> Result<Option<Entry>, CheckpointError> {
        loop {
            let keys = self.sources.iter().filter_map(|(_, change)| change.as_ref().map(|(key, _)| key));
            let Some(lowest) = keys.min().cloned() else { return Ok(None) };
            let mut newest = None;
            // There are at most a few dozen sources: a heap would cost more than it saves.
            for (reader, change) in &mut self.sources {
                if change.as_ref().is_some_and(|(key, _)| *key == lowest) {
                    newest = std::mem::replace(change, reader.next()?).and_then(|(_, value)| value);
                }
            }
            if let Some(value) = newest {
                return Ok(Some((lowest, value)));
            }
        }
    }
}
