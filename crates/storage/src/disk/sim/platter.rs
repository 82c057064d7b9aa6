//! What the device holds of a file: sectors on the platter, and those that are only in its own memory so far.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::inode::BLOCK;
use super::{Damage, PowerCut, Tears};
use crate::Random;

type Content = Arc<[u8]>;

/// The sectors of one file.
#[derive(Clone)]
pub(super) struct Platter {
    sector_bytes: usize,
    /// Those that were ever written; the others read as zeros.
    sectors: BTreeMap<u64, Sector>,
    /// Those that the next flush makes durable.
    volatile: BTreeSet<u64>,
}

#[derive(Clone)]
struct Sector {
    durable: Content,
    /// What it held before that.
    before: Content,
    /// Written since the last flush, oldest first: any of them may be what a power cut leaves.
    newer: Vec<Content>,
    /// A flush of it has failed, and no later one tries again.
    is_stuck: bool,
    /// Reads fail until it is written again.
    is_unreadable: bool,
}

impl Platter {
    pub fn new(sector_bytes: usize) -> Platter {
        Platter { sector_bytes, sectors: BTreeMap::new(), volatile: BTreeSet::new() }
    }

    pub fn read_block(&self, block: u64, into: &mut [u8]) -> io::Result<()> {
        for (number, part) in (self.first_of(block)..).zip(into.chunks_mut(self.sector_bytes)) {
            match self.sectors.get(&number) {
                Some(sector) if sector.is_unreadable => return Err(super::io_error("read")),
                Some(sector) => part.copy_from_slice(&sector.now()[..part.len()]),
                None => part.fill(0),
            }
        }
        Ok(())
    }

    /// Into the device's memory.
    pub fn write_block(&mut self, block: u64, bytes: &[u8]) {
        for (number, part) in (self.first_of(block)..).zip(bytes.chunks(self.sector_bytes)) {
            let blank = || Sector::new(self.sector_bytes);
            let sector = self.sectors.entry(number).or_insert_with(blank);
            if **sector.now() != *part || sector.is_unreadable || sector.is_stuck {
                sector.newer.push(part.into());
                (sector.is_unreadable, sector.is_stuck) = (false, false);
                self.volatile.insert(number);
            }
        }
    }

    /// The device's memory reaches the platter.
    pub fn flush(&mut self) {
        for number in std::mem::take(&mut self.volatile) {
            self.sectors.get_mut(&number).into_iter().for_each(Sector::flush);
        }
    }

    /// Some of it does, and of the rest nobody hears again.
    pub fn flush_fails(&mut self, random: &mut Random) {
        for number in std::mem::take(&mut self.volatile) {
            let Some(sector) = self.sectors.get_mut(&number) else { continue };
            match random.chance(1, 2) {
                true => sector.flush(),
                false => sector.is_stuck = true,
            }
        }
    }

    /// Whether a flush has failed to bring something to the platter that was not written again since.
    pub fn is_stuck(&self) -> bool {
        self.sectors.values().any(|sector| sector.is_stuck)
    }

    /// Of each sector the oldest or a later version stays; one that was being written may be torn.
    pub fn power_cut(&mut self, cut: &mut PowerCut<'_>) {
        self.volatile.clear();
        let uncertain = self.sectors.values_mut().filter(|sector| !sector.newer.is_empty());
        for sector in uncertain {
            let (old, new) = (sector.durable.clone(), sector.newer.last().cloned());
            if cut.keeps() {
                sector.flush();
            } else {
                // Mostly the last durable content, sometimes one of the overwritten versions.
                let later = cut.random.below(sector.newer.len() as u64) as usize;
                sector.newer.truncate(if cut.random.chance(1, 2) { 0 } else { later });
                sector.flush();
            }
            if let Some(new) = new.filter(|_| cut.tears != Tears::None && cut.random.chance(1, 8)) {
                let end = cut.random.below(new.len() as u64) as usize;
                sector.durable = new[..end].iter().chain(&old[end..]).copied().collect();
                sector.is_unreadable = cut.tears == Tears::Unreadable && cut.random.chance(1, 2);
            }
        }
    }

    pub fn unreadable_sectors(&self) -> u64 {
        self.sectors.values().filter(|sector| sector.is_unreadable).count() as u64
    }

    /// The block reads as zeros, as one of which the metadata say that it was never written.
    pub fn forget_block(&mut self, block: u64) {
        let end = self.first_of(block + 1);
        for number in self.first_of(block)..end {
            self.sectors.remove(&number);
            self.volatile.remove(&number);
        }
    }

    /// What lies behind `size` is gone.
    pub fn truncate(&mut self, size: u64) {
        let (number, kept) = self.locate(size);
        let rest = self.sectors.split_off(&(number + u64::from(kept > 0)));
        rest.keys().for_each(|number| _ = self.volatile.remove(number));
        if let Some(sector) = self.sectors.get_mut(&number).filter(|_| kept > 0) {
            sector.change(|bytes| bytes[kept..].fill(0));
        }
    }

    /// Behind the last sector that was ever written.
    pub fn written_end(&self) -> u64 {
        self.sectors.keys().next_back().map_or(0, |number| (number + 1) * self.sector_bytes as u64)
    }

    pub fn flip_bit(&mut self, bit: u64) {
        let (number, at) = self.locate(bit / 8);
        self.sector(number).change(|bytes| bytes[at] ^= 1 << (bit % 8));
    }

    pub fn damage(&mut self, position: u64, damage: Damage, random: &mut Random) {
        let number = self.locate(position).0;
        match damage {
            Damage::Bits(count) => {
                let first = number * self.sector_bytes as u64 * 8;
                let bits = self.sector_bytes as u64 * 8;
                (0..count).for_each(|_| self.flip_bit(first + random.below(bits)));
            }
            Damage::Garbage => self.sector(number).change(|bytes| {
                bytes.iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
            }),
            Damage::Lost => self.sector(number).lose(),
            Damage::Misdirected { to } => {
                let content = self.sector(number).now().clone();
                self.sector(number).lose();
                let target = self.locate(to).0;
                self.sector(target).change(|bytes| bytes.copy_from_slice(&content));
            }
            Damage::Unreadable => self.sector(number).is_unreadable = true,
        }
    }

    /// As [`super::SimDisk::fill_unreadable`].
    pub fn fill_unreadable(&mut self) -> bool {
        let mut filled = false;
        for sector in self.sectors.values_mut().filter(|sector| sector.is_unreadable) {
            sector.is_unreadable = false;
            sector.change(|bytes| bytes.fill(0));
            filled = true;
        }
        filled
    }

    fn sector(&mut self, number: u64) -> &mut Sector {
        self.sectors.entry(number).or_insert_with(|| Sector::new(self.sector_bytes))
    }

    fn first_of(&self, block: u64) -> u64 {
        block * BLOCK / self.sector_bytes as u64
    }

    fn locate(&self, position: u64) -> (u64, usize) {
        let bytes = self.sector_bytes as u64;
        (position / bytes, (position % bytes) as usize)
    }
}

impl Sector {
    fn new(bytes: usize) -> Sector {
        let blank: Content = vec![0; bytes].into();
        let before = blank.clone();
        Sector { durable: blank, before, newer: Vec::new(), is_stuck: false, is_unreadable: false }
    }

    fn now(&self) -> &Content {
        self.newer.last().unwrap_or(&self.durable)
    }

    fn flush(&mut self) {
        if let Some(now) = self.newer.pop() {
            self.before = std::mem::replace(&mut self.durable, now);
            self.newer.clear();
        }
        self.is_stuck = false;
    }

    /// The last write never happened.
    fn lose(&mut self) {
        self.newer.clear();
        self.durable = self.before.clone();
    }

    /// In all that it may hold.
    fn change(&mut self, mut change: impl FnMut(&mut [u8])) {
        for content in self.newer.iter_mut().chain([&mut self.durable]) {
            let mut bytes = content.to_vec();
            change(&mut bytes);
            *content = bytes.into();
        }
    }
}
