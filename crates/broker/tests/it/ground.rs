//! What a broker's data lies on in tests that damage it: a directory or a bucket, both in memory. Files of a
//! bucket have the names that they would have in a directory; those of the journal are its objects.

use posthaste_broker::{
    Broker, Config, Home,
    storage::{
        data_dir::{CHECKPOINTS_DIR, JOURNAL_DIR, SEGMENTS_DIR},
        disk::{Disk, SimDisk},
        object::{Bucket, Rates, SimStore},
    },
};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Clone)]
pub enum Ground {
    Directory(SimDisk),
    Bucket(SimStore),
}

const PREFIX: &str = "prefix";

impl Ground {
    /// One of each kind, empty.
    pub fn all() -> [Ground; 2] {
        [Ground::directory(1), Ground::bucket(1)]
    }

    pub fn directory(seed: u64) -> Ground {
        Ground::Directory(SimDisk::new(seed))
    }

    pub fn bucket(seed: u64) -> Ground {
        Ground::Bucket(SimStore::new(Rates::default(), seed))
    }

    pub fn copy(&self) -> Ground {
        match self {
            Ground::Directory(disk) => Ground::Directory(disk.copy()),
            Ground::Bucket(store) => Ground::Bucket(store.copy()),
        }
    }

    pub fn home(&self) -> Home {
        match self {
            Ground::Directory(disk) => Home::Disk(Arc::new(disk.clone())),
            Ground::Bucket(store) => {
                Home::Bucket(Bucket::on(Arc::new(store.clone()), PREFIX, "memory").unwrap())
            }
        }
    }

    /// As [`Ground::home`], for a broker without threads.
    pub fn stepped_home(&self) -> Home {
        match self {
            Ground::Directory(_) => self.home(),
            Ground::Bucket(store) => Home::Bucket(Bucket::stepped(Arc::new(store.clone()), PREFIX, "memory")),
        }
    }

    pub fn open(&self, config: Config) -> Broker {
        let fatal = Box::new(|why: String| panic!("{why}"));
        let opened = tokio::task::block_in_place(|| Broker::open_home(&self.home(), config, fatal));
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Names and bytes, as far as they were ever written, of what is neither empty nor a fence.
    pub fn files(&self) -> Vec<(String, u64)> {
        let mut files = Vec::new();
        match self {
            Ground::Directory(disk) => {
                for dir in [JOURNAL_DIR, SEGMENTS_DIR, CHECKPOINTS_DIR] {
                    let names =
                        disk.list(dir).unwrap().into_iter().map(|entry| format!("{dir}/{}", entry.name));
                    files.extend(names.map(|name| (name.clone(), disk.written_bytes(&name))));
                }
                files.retain(|(_, bytes)| *bytes > 0);
            }
            Ground::Bucket(store) => {
                let journal = store.list_now().into_iter().filter_map(|(key, bytes)| {
                    let name = key.strip_prefix(PREFIX)?.strip_prefix('/')?;
                    let is_file = name.starts_with("journal/") && !store.begins_with(&key, b"{");
                    is_file.then(|| (name.to_owned(), bytes))
                });
                files.extend(journal);
                let named = table(store).into_keys();
                let dirs = [SEGMENTS_DIR, CHECKPOINTS_DIR];
                let named = named.filter(|name| dirs.iter().any(|dir| name.starts_with(dir)));
                files.extend(named.map(|name| (name.clone(), self.read(&name).len() as u64)));
            }
        }
        files
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        match self {
            Ground::Directory(disk) => {
                let mut bytes = vec![0; disk.written_bytes(name) as usize];
                disk.open(name).unwrap().read_at(0, &mut bytes).unwrap();
                bytes
            }
            Ground::Bucket(store) => store.read_now(&key(store, name)).unwrap(),
        }
    }

    pub fn flip_bit(&self, name: &str, bit: u64) {
        let there = match self {
            Ground::Directory(disk) => disk.flip_bit(name, bit),
            Ground::Bucket(store) => store.flip_bit(&key(store, name), bit),
        };
        assert!(there, "{name} has no bit {bit}");
    }

    pub fn truncate(&self, name: &str, bytes: u64) {
        match self {
            Ground::Directory(disk) => assert!(disk.truncate(name, bytes)),
            Ground::Bucket(store) => {
                let mut content = self.read(name);
                content.truncate(bytes as usize);
                store.write_now(&key(store, name), content);
            }
        }
    }

    pub fn remove(&self, name: &str) {
        match self {
            Ground::Directory(disk) => disk.remove(name).unwrap(),
            Ground::Bucket(store) => store.remove_now(&key(store, name)),
        }
    }

    /// Whether a file of this name is there, whatever it is.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Ground::Directory(disk) => disk.open(name).is_ok(),
            Ground::Bucket(store) => store.read_now(&key(store, name)).is_some(),
        }
    }
}

fn key(store: &SimStore, name: &str) -> String {
    let key = if name.starts_with(JOURNAL_DIR) {
        name.to_owned()
    } else {
        table(store).remove(name).unwrap_or_default()
    };
    format!("{PREFIX}/{key}")
}

/// Which object holds which file.
fn table(store: &SimStore) -> BTreeMap<String, String> {
    let mut keys = store.list_now().into_iter().map(|(key, _)| key);
    let newest = keys.rfind(|key| key.starts_with(&format!("{PREFIX}/table/"))).unwrap();
    let table: serde_json::Value = serde_json::from_slice(&store.read_now(&newest).unwrap()).unwrap();
    let files = table["files"].as_object().unwrap().iter();
    files.map(|(name, stored)| (name.clone(), stored["key"].as_str().unwrap().to_owned())).collect()
}
