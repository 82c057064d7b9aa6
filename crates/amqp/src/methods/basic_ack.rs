use crate::{
    channel::Lease,
    connection::Connection,
    wire::{Exception, basic},
};
use posthaste_broker::Holder;
use posthaste_engine::command::Outcome;

impl Connection {
    /// `basic.ack`: the client is done with a delivery, or with all up to it.
    pub(crate) fn basic_ack(&mut self, number: u16, ack: basic::Ack) -> Result<(), Exception> {
        self.settle_tags(number, ack.delivery_tag, ack.multiple, Outcome::Accept)
    }

    /// Settles what `tag` stands for. With `multiple` that is all up to it, or everything for 0.
    pub(crate) fn settle_tags(
        &mut self,
        number: u16,
        tag: u64,
        multiple: bool,
        outcome: Outcome,
    ) -> Result<(), Exception> {
        let channel = self.channel(number)?;
        let unknown = || Exception::unknown_delivery_tag(tag);
        if !multiple {
            let lease = channel.unsettled.take(tag).ok_or_else(unknown)?;
            self.settled(number, &[lease]);
            self.settle_leases([lease], outcome);
            return Ok(());
        }
        let leases = channel.unsettled.take_through(tag).ok_or_else(unknown)?;
        self.settled(number, &leases);
        self.settle_leases(leases, outcome);
        Ok(())
    }

    /// Makes room for what was held back.
    fn settled(&mut self, number: u16, leases: &[Lease]) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        let getter = channel.getter.map(Holder::consumer);
        let of_consumers = leases.iter().filter(|lease| Some(lease.holder.consumer()) != getter).count();
        let of_consumers = u32::try_from(of_consumers).unwrap_or(u32::MAX);
        channel.consumers_unsettled = channel.consumers_unsettled.saturating_sub(of_consumers);
        if !channel.held.is_empty() {
            self.unhold(number);
        }
    }
}
