//! Messages in the outbox of a damaged checkpoint: recovery reads them from the journal again, and counts
//! those that the journal does not have any more.

use super::{Recovered, hurts_shard};
use crate::{
    damage::{Damage, DamageKind},
    open::OpenError,
    record,
};
use posthaste_engine::Event;
use posthaste_storage::{
    checkpoint::LostKeys,
    journal::{JournalPlace, Lsn, RecordRef, Scope},
};

impl Recovered {
    /// Puts messages back into the outboxes that the journal still has. Destinations recognize by their
    /// numbers those that have arrived.
    pub(super) fn restore_relays(
        &mut self,
        lost: &[LostKeys],
        journal: &JournalPlace,
    ) -> Result<(), OpenError> {
        let lacking = |shard: &posthaste_engine::Shard| {
            let held = self.meta.held.get(usize::from(shard.id().0));
            let is_hurt = lost.iter().any(|lost| hurts_shard(lost, shard.id()));
            held.filter(|held| is_hurt && shard.lacks(held) > 0).cloned()
        };
        let lacking: Vec<_> = self.shards.iter().map(lacking).collect();
        if lacking.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut found: Vec<(usize, Event)> = Vec::new();
        let mut look = |lsn: Lsn, record: RecordRef<'_>| {
            let shard = usize::from(record.shard);
            let Some(held) = lacking.get(shard).and_then(Option::as_ref) else { return };
            if self.meta.shards.get(shard).is_none_or(|from| lsn >= *from) {
                return;
            }
            if let Ok((mut event, _)) = record::decode(record.head)
                && let Event::Relayed { number, .. } = &event
                && held.includes(*number)
            {
                event.set_body(bytes::Bytes::copy_from_slice(record.body));
                found.push((shard, event));
            }
        };
        journal.inspect(Scope::All(self.meta.replay_from), &mut look)?;
        for (shard, event) in found {
            self.apply(shard, &event);
        }
        for (shard, held) in lacking.iter().enumerate() {
            let (Some(held), Some(state)) = (held, self.shards.get(shard)) else { continue };
            let messages = state.lacks(held);
            if messages > 0 {
                let what = format!(
                    "messages on their way from shard {shard} to queues or topics were lost with a damaged \
                     checkpoint, after they had been acknowledged"
                );
                let mut told = Damage::new(DamageKind::Messages, what);
                told.messages = Some(messages);
                self.followed.damage.push(told);
            }
        }
        Ok(())
    }
}
