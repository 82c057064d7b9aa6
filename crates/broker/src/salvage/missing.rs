//! What is done about messages that are gone with the end of a journal.

use super::Recovered;
use posthaste_engine::Event;
use posthaste_model::PartitionId;
use posthaste_storage::journal::{DamageKind as Stretch, Lsn, RecoveryReport};

impl Recovered {
    /// Nobody knows whose the messages were that are gone with the end of a journal. Offsets that may have
    /// been theirs are not given out again, or readers that had come so far would never see what gets them.
    pub(super) fn pass_over_the_missing(&mut self, report: &RecoveryReport) {
        for lost in report.quarantined.iter().filter(|lost| lost.kind == Stretch::Missing) {
            let messages = lost.lost.map_or(0, |lost| lost.messages);
            if messages == 0 {
                continue;
            }
            // Where messages came since, an earlier start has done it; it is the stretch that is told.
            self.followed.gaps.retain(|(_, from, to)| to.saturating_sub(*from) != messages);
            for (shard, stream, skip, to) in self.skips(lost.to, messages) {
                self.apply(shard, &skip);
                self.followed.next.insert(stream, to);
            }
        }
    }

    /// What passes over so many offsets of every stream that has no message from `behind` on. With its shard,
    /// its stream, and where that goes on.
    fn skips(&self, behind: Lsn, messages: u64) -> Vec<(usize, u64, Event, u64)> {
        let mut skips = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            // A checkpoint that was made since has it.
            if self.meta.shards.get(index).is_some_and(|from| *from >= behind) {
                continue;
            }
            let queues = shard.objects().1;
            let ended = |stream| self.followed.last.get(&stream).is_none_or(|last| *last < behind);
            for stream in shard.streams().into_iter().filter(|stream| ended(stream.id)) {
                let to = stream.next.saturating_add(messages);
                let queue = queues.iter().rfind(|queue| queue.0 <= stream.id);
                let skip = match queue.filter(|_| !stream.log) {
                    Some(queue) => Event::Settled {
                        queue: *queue,
                        lane: u8::try_from(stream.id - queue.0).unwrap_or(u8::MAX),
                        ranges: smallvec::smallvec![(stream.next, to)],
                    },
                    None => Event::OffsetsSkipped { partition: PartitionId(stream.id), to },
                };
                skips.push((index, stream.id, skip, to));
            }
        }
        skips
    }
}
