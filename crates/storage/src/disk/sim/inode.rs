//! A file of the simulated disk: what the page cache holds of it, what its metadata say, what the device
//! holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::platter::Platter;
use super::{Damage, PowerCut, Room, Space, no_space};
use crate::Random;
use crate::disk::BLOCK_BYTES;

/// A page of the cache and a block of the file system: written back whole.
pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;

#[derive(Clone)]
pub(super) struct Inode {
    pub size: u64,
    durable_size: u64,
    /// Those that are dirty, and clean ones that the device does not hold although a sync should have
    /// brought them there. What the device holds is not kept twice.
    pages: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
    dirty: BTreeSet<u64>,
    platter: Platter,
    /// Blocks that were written; the metadata say of the others that they hold nothing.
    mapped: BTreeSet<u64>,
    /// Of these, the ones of which the durable metadata do not know yet.
    newly_mapped: BTreeSet<u64>,
    /// The part of the file, from its start, for which space was taken.
    backed: u64,
    /// Overwritten since the last sync: with copy-on-write both copies take space.
    copied: BTreeSet<u64>,
}

impl Inode {
    pub fn new(sector_bytes: usize) -> Inode {
        Inode {
            size: 0,
            durable_size: 0,
            pages: BTreeMap::new(),
            dirty: BTreeSet::new(),
            platter: Platter::new(sector_bytes),
            mapped: BTreeSet::new(),
            newly_mapped: BTreeSet::new(),
            backed: 0,
            copied: BTreeSet::new(),
        }
    }

    /// Bytes that it takes of the disk.
    pub fn taken(&self, space: Space) -> u64 {
        match space {
            Space::Thin => self.mapped.len() as u64 * BLOCK,
            Space::CopyOnWrite => self.backed + self.copied.len() as u64 * BLOCK,
            Space::Delayed | Space::Reserved => self.backed,
        }
    }

    /// Through the page cache, or past it: then only what the device holds counts, to which dirty pages are
    /// written before.
    pub fn read(&mut self, position: u64, buffer: &mut [u8], past_cache: bool) -> io::Result<usize> {
        let left = self.size.saturating_sub(position);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let mut scratch = [0; BLOCK_BYTES];
        let mut filled = 0;
        for (block, start, length) in parts(position, wanted) {
            let target = &mut buffer[filled..filled + length];
            filled += length;
            if past_cache && self.dirty.contains(&block) {
                self.write_back(block);
            }
            match self.pages.get(&block).filter(|_| !past_cache) {
                Some(page) => target.copy_from_slice(&page[start..start + length]),
                None => {
                    self.platter.read_block(block, &mut scratch)?;
                    target.copy_from_slice(&scratch[start..start + length]);
                }
            }
        }
        Ok(wanted)
    }

    /// Into the page cache. Without enough space, as much as fits.
    pub fn write_cached(
        &mut self,
        position: u64,
        bytes: &[u8],
        room: &mut Room,
        random: &mut Random,
    ) -> io::Result<()> {
        let end = position + bytes.len() as u64;
        let mut written = bytes;
        if room.space == Space::Reserved {
            let fits = self.backed.saturating_add(room.left).saturating_sub(position);
            written = &bytes[..bytes.len().min(usize::try_from(fits).unwrap_or(usize::MAX))];
            self.back(position + written.len() as u64, room);
        }
        let mut rest = written;
        for (block, start, length) in parts(position, written.len()) {
            let (part, left) = rest.split_at(length);
            rest = left;
            // The system writes pages back whenever it likes.
            if self.dirty.contains(&block) && random.chance(1, 4) {
                self.write_back(block);
            }
            if !self.pages.contains_key(&block) {
                let mut page = Box::new([0; BLOCK_BYTES]);
                if length < BLOCK_BYTES {
                    self.platter.read_block(block, &mut *page)?;
                }
                self.pages.insert(block, page);
            }
            let page = self.pages.get_mut(&block).into_iter();
            page.for_each(|page| page[start..start + length].copy_from_slice(part));
            self.dirty.insert(block);
            self.size = self.size.max(block * BLOCK + (start + length) as u64);
        }
        if position + (written.len() as u64) < end { Err(no_space()) } else { Ok(()) }
    }

    /// Whole blocks, to the device. Without enough space, as many as fit.
    pub fn write_blocks(&mut self, position: u64, blocks: &[u8], room: &mut Room) -> io::Result<()> {
        for (block, bytes) in (position / BLOCK..).zip(blocks.chunks(BLOCK_BYTES)) {
            self.take_block(block, (block + 1) * BLOCK, room)?;
            self.size = self.size.max((block + 1) * BLOCK);
            if self.dirty.contains(&block) {
                self.write_back(block);
            }
            self.pages.remove(&block);
            self.put(block, bytes);
        }
        Ok(())
    }

    /// Extends the file; blocks that are not written are only reserved.
    pub fn allocate(&mut self, bytes: u64, written: bool, room: &mut Room) -> io::Result<()> {
        if room.space != Space::Thin {
            if bytes.saturating_sub(self.backed) > room.left {
                return Err(no_space());
            }
            self.back(bytes, room);
            if written {
                let blocks = self.size.div_ceil(BLOCK)..bytes.div_ceil(BLOCK);
                self.newly_mapped.extend(blocks.clone());
                self.mapped.extend(blocks);
            }
        }
        self.size = self.size.max(bytes);
        Ok(())
    }

    /// Pages to the device, the device's memory to the platter, the metadata as well. Pages for which there
    /// is no space are clean afterwards, although the device does not hold them.
    pub fn sync(&mut self, room: &mut Room) -> io::Result<()> {
        let mut outcome = Ok(());
        for block in std::mem::take(&mut self.dirty) {
            match self.take_block(block, self.size.min((block + 1) * BLOCK), room) {
                Ok(()) => self.write_back(block),
                Err(error) => outcome = Err(error),
            }
        }
        outcome?;
        self.platter.flush();
        self.newly_mapped.clear();
        self.copied.clear();
        self.durable_size = self.size;
        Ok(())
    }

    /// All pages are clean afterwards, and some of them did not reach the device; of what was in its memory
    /// some never leaves it.
    pub fn sync_fails(&mut self, random: &mut Random) {
        for block in std::mem::take(&mut self.dirty) {
            if random.chance(1, 2) {
                self.write_back(block);
            }
        }
        self.platter.flush_fails(random);
    }

    pub fn has_stale_pages(&self) -> bool {
        self.pages.len() > self.dirty.len() || self.platter.is_stuck()
    }

    /// The system needs the memory: clean pages are read from the device again.
    pub fn evict(&mut self) {
        let dirty = &self.dirty;
        self.pages.retain(|block, _| dirty.contains(block));
    }

    pub fn power_cut(&mut self, cut: &mut PowerCut<'_>) {
        for block in std::mem::take(&mut self.dirty) {
            if cut.keeps() {
                self.write_back(block);
            }
        }
        self.pages.clear();
        self.platter.power_cut(cut);
        for block in std::mem::take(&mut self.newly_mapped) {
            if !cut.keeps() {
                self.platter.forget_block(block);
                self.mapped.remove(&block);
            }
        }
        self.copied.clear();
        if self.size > self.durable_size && !cut.keeps() {
            let more = self.size - self.durable_size;
            let kept = if cut.random.chance(1, 2) { 0 } else { cut.random.below(more) };
            self.truncate(self.durable_size + kept);
        }
        self.durable_size = self.size;
    }

    /// Durably.
    pub fn truncate(&mut self, size: u64) {
        self.settle_pages();
        self.size = self.size.min(size);
        self.durable_size = self.durable_size.min(size);
        self.backed = self.backed.min(self.size);
        self.platter.truncate(self.size);
        for blocks in [&mut self.mapped, &mut self.newly_mapped, &mut self.copied] {
            blocks.split_off(&self.size.div_ceil(BLOCK));
        }
    }

    pub fn written_bytes(&self) -> u64 {
        let cached = self.dirty.last().map_or(0, |block| (block + 1) * BLOCK);
        self.platter.written_end().max(cached).min(self.size)
    }

    pub fn flip_bit(&mut self, bit: u64) {
        self.settle_pages();
        self.platter.flip_bit(bit);
    }

    pub fn damage(&mut self, position: u64, damage: Damage, random: &mut Random) {
        self.settle_pages();
        self.platter.damage(position, damage, random);
    }

    pub fn unreadable_sectors(&self) -> u64 {
        self.platter.unreadable_sectors()
    }

    /// As [`super::SimDisk::fill_unreadable`].
    pub fn fill_unreadable(&mut self) -> bool {
        self.settle_pages();
        self.platter.fill_unreadable()
    }

    /// Nothing of the file is in the page cache any more.
    fn settle_pages(&mut self) {
        std::mem::take(&mut self.dirty).into_iter().for_each(|block| self.write_back(block));
        self.pages.clear();
    }

    /// The device has it from then on, so that the page is not needed.
    fn write_back(&mut self, block: u64) {
        self.dirty.remove(&block);
        if let Some(page) = self.pages.remove(&block) {
            self.put(block, &*page);
        }
    }

    fn put(&mut self, block: u64, bytes: &[u8]) {
        if self.mapped.insert(block) {
            self.newly_mapped.insert(block);
        }
        self.platter.write_block(block, bytes);
    }

    /// Space for a block that is about to reach the device; `end` is what the file then covers at least.
    fn take_block(&mut self, block: u64, end: u64, room: &mut Room) -> io::Result<()> {
        let copies = match room.space {
            Space::Thin => !self.mapped.contains(&block),
            Space::CopyOnWrite => self.mapped.contains(&block) && !self.copied.contains(&block),
            Space::Delayed | Space::Reserved => false,
        };
        let growth = if room.space == Space::Thin { 0 } else { end.saturating_sub(self.backed) };
        let wanted = growth + if copies { BLOCK } else { 0 };
        if wanted > room.left {
            return Err(no_space());
        }
        room.left -= wanted;
        self.backed += growth;
        if copies && room.space == Space::CopyOnWrite {
            self.copied.insert(block);
        }
        Ok(())
    }

    fn back(&mut self, end: u64, room: &mut Room) {
        let growth = end.saturating_sub(self.backed);
        room.left = room.left.saturating_sub(growth);
        self.backed += growth;
    }
}

/// Block, start within it, and length of each part of a stretch.
fn parts(position: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = position + length as u64;
    let mut at = position;
    std::iter::from_fn(move || {
        let (block, start) = (at / BLOCK, (at % BLOCK) as usize);
        let part = (BLOCK_BYTES - start).min((end - at) as usize);
        at += part as u64;
        (part > 0).then_some((block, start, part))
    })
}
