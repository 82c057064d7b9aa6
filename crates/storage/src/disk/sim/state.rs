//! Names, space and faults of the simulated disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use super::inode::Inode;
use super::{PowerCut, Room, Space, Tears, WriteFault, dir_of, power_cut};
use crate::Random;

#[derive(Clone)]
pub(super) struct State {
    pub random: Random,
    pub sector_bytes: usize,
    pub generation: u64,
    pub next_inode: u64,
    pub inodes: BTreeMap<u64, Inode>,
    pub names: BTreeMap<String, u64>,
    pub durable_names: BTreeMap<String, u64>,
    pub dirs: BTreeSet<String>,
    pub durable_dirs: BTreeSet<String>,
    pub name_changes: Vec<NameChange>,
    pub locks: BTreeSet<String>,
    pub syncs: u64,
    pub faults: Faults,
}

/// What is set to go wrong.
#[derive(Clone, Default)]
pub(super) struct Faults {
    pub capacity: Option<u64>,
    pub space: Space,
    pub fail_reads: u32,
    pub fail_writes: VecDeque<WriteFault>,
    pub fail_syncs: u32,
    pub skip_syncs: Option<u64>,
    pub refuses_direct: bool,
    pub tears: Tears,
    pub power: Option<u64>,
    /// The first write without power still reached the system's memory; later ones did not.
    pub write_was_cut: bool,
}

impl State {
    pub fn new(seed: u64, sector_bytes: usize) -> State {
        State {
            random: Random::new(seed),
            sector_bytes,
            generation: 0,
            next_inode: 1,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            durable_dirs: BTreeSet::new(),
            name_changes: Vec::new(),
            locks: BTreeSet::new(),
            syncs: 0,
            faults: Faults::default(),
        }
    }

    /// Counts a change against the power that is left.
    pub fn change(&mut self) -> io::Result<()> {
        match &mut self.faults.power {
            Some(0) => Err(power_cut()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub fn used(&self) -> u64 {
        let linked = self.names.values().filter_map(|inode| self.inodes.get(inode));
        linked.map(|inode| inode.taken(self.faults.space)).sum()
    }

    pub fn room(&self) -> Room {
        let left = self.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()));
        Room { space: self.faults.space, left }
    }

    pub fn add_file(&mut self, path: &str) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::new(self.sector_bytes));
        self.names.insert(path.to_owned(), inode);
        self.name_changes.push(NameChange::Link { path: path.to_owned(), inode });
        inode
    }

    pub fn add_dir(&mut self, path: &str) {
        if self.dirs.insert(path.to_owned()) {
            self.name_changes.push(NameChange::MakeDir { path: path.to_owned() });
        }
    }

    pub fn inode_named(&mut self, path: &str) -> Option<&mut Inode> {
        let inode = self.names.get(path)?;
        self.inodes.get_mut(inode)
    }

    pub fn sync_dir(&mut self, dir: &str) {
        self.syncs += 1;
        for change in std::mem::take(&mut self.name_changes) {
            if change.is_in(dir) {
                change.apply(&mut self.durable_names, &mut self.durable_dirs);
            } else {
                self.name_changes.push(change);
            }
        }
    }

    pub fn power_cut(&mut self) {
        self.generation += 1;
        self.faults.power = None;
        self.faults.write_was_cut = false;
        self.faults.fail_syncs = 0;
        self.faults.fail_reads = 0;
        self.faults.fail_writes.clear();
        self.locks.clear();
        // Some crashes keep nothing, some keep all, most keep some.
        let keep_of_four = self.random.below(5);
        let tears = self.faults.tears;
        let mut cut = PowerCut { random: &mut self.random, keep_of_four, tears };
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for change in std::mem::take(&mut self.name_changes) {
            // Changes to one name stay in order: after a lost one, none of its successors can have happened.
            let blocked = change.paths().iter().any(|path| lost.contains(*path));
            if !blocked && cut.keeps() {
                change.apply(&mut self.durable_names, &mut self.durable_dirs);
            } else {
                lost.extend(change.paths().into_iter().map(str::to_owned));
            }
        }
        // Nothing can be reached in a directory that is lost.
        let mut dirs: BTreeSet<String> = BTreeSet::new();
        for dir in &self.durable_dirs {
            if dir_of(dir).is_empty() || dirs.contains(dir_of(dir)) {
                dirs.insert(dir.clone());
            }
        }
        self.durable_names.retain(|path, _| dir_of(path).is_empty() || dirs.contains(dir_of(path)));
        (self.dirs, self.durable_dirs) = (dirs.clone(), dirs);
        self.names = self.durable_names.clone();
        let linked: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| linked.contains(inode));
        self.inodes.values_mut().for_each(|inode| inode.power_cut(&mut cut));
    }
}

#[derive(Clone)]
pub(super) enum NameChange {
    Link { path: String, inode: u64 },
    MakeDir { path: String },
    Rename { from: String, to: String, inode: u64 },
    Unlink { path: String },
}

impl NameChange {
    fn paths(&self) -> Vec<&str> {
        match self {
            NameChange::Link { path, .. } | NameChange::MakeDir { path } | NameChange::Unlink { path } => {
                vec![path]
            }
            NameChange::Rename { from, to, .. } => vec![from, to],
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        self.paths().iter().any(|path| dir_of(path) == dir)
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>, dirs: &mut BTreeSet<String>) {
        match self {
            NameChange::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            NameChange::MakeDir { path } => {
                dirs.insert(path.clone());
            }
            NameChange::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Unlink { path } => {
                names.remove(path);
            }
        }
    }
}
