//! Where a broker's data lies.

use crate::open::{OpenError, nonce};
use posthaste_storage::{
    DataDir,
    disk::{Disk, LocalDisk},
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
    /// Where the journal is, if not in the data directory.
    pub bucket: Option<ObjectDisk>,
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
        let (disk, bucket): (Arc<dyn Disk>, _) = match self {
            Home::Disk(disk) => (disk.clone(), None),
            Home::Bucket(bucket) => {
                let disk = ObjectDisk::look(bucket.clone())?;
                (Arc::new(disk.clone()), Some(disk))
            }
        };
        Ok(Place { data: DataDir::inspect(disk, name)?, bucket })
    }

    /// Opens it, or makes it; a bucket is taken over. `random` becomes its id if it is new.
    pub(crate) fn open(&self, name: &str, random: [u8; 16]) -> Result<Place, OpenError> {
        let (disk, bucket): (Arc<dyn Disk>, _) = match self {
            Home::Disk(disk) => (disk.clone(), None),
            Home::Bucket(bucket) => {
                bucket.probe()?;
                let disk = ObjectDisk::open(bucket.clone(), nonce(&random))?;
                (Arc::new(disk.clone()), Some(disk))
            }
        };
        Ok(Place { data: DataDir::open_on(disk, name, random)?, bucket })
    }
}
