//! Where a broker's data lies.

use crate::open::{OpenError, nonce};
use posthaste_storage::{
    DataDir, data_dir,
    disk::{Disk, LocalDisk},
    journal::JournalPlace,
    object::{self, Bucket, ObjectDisk},
};
use std::{path::Path, sync::Arc};

/// A directory's disk, or a bucket.
#[derive(Clone)]
pub enum Home {
    Disk(Arc<dyn Disk>),
    Bucket(Bucket),
}

/// An opened home.
pub(crate) struct Place {
    pub data: DataDir,
    pub journal: JournalPlace,
}

impl Home {
    /// The home at a directory's path, or a bucket's address. Nothing is opened or changed yet.
    pub fn at(data: &Path) -> Result<Home, OpenError> {
        match data.to_str().filter(|data| object::is_address(data)) {
            Some(address) => Ok(Home::Bucket(Bucket::open(address)?)),
            None => Ok(Home::Disk(Arc::new(LocalDisk::new(data)))),
        }
    }

    /// Opens it to look at it. A bucket cannot tell whether a broker runs on it, and none is disturbed.
    pub(crate) fn look(&self, name: &str) -> Result<Place, OpenError> {
        Ok(match self {
            Home::Disk(disk) => Place::directory(DataDir::inspect(disk.clone(), name)?),
            Home::Bucket(bucket) => {
                let disk = ObjectDisk::look(bucket.clone())?;
                let data = DataDir::inspect(Arc::new(disk.clone()), name)?;
                Place { data, journal: JournalPlace::bucket(disk) }
            }
        })
    }

    /// Opens it, or makes it; a bucket is taken over. `random` becomes its id if it is new.
    pub(crate) fn open(&self, name: &str, random: [u8; 16]) -> Result<Place, OpenError> {
        Ok(match self {
            Home::Disk(disk) => Place::directory(DataDir::open_on(disk.clone(), name, random)?),
            Home::Bucket(bucket) => {
                bucket.probe()?;
                let disk = ObjectDisk::open(bucket.clone(), nonce(&random))?;
                let data = DataDir::open_on(Arc::new(disk.clone()), name, random)?;
                Place { data, journal: JournalPlace::bucket(disk) }
            }
        })
    }
}

impl Place {
    /// Of a directory, which has the journal beside the rest.
    pub fn directory(data: DataDir) -> Place {
        let journal = JournalPlace::directory(data.disk(), data_dir::JOURNAL_DIR);
        Place { data, journal }
    }
}
