use crate::{
    connection::Connection,
    wire::{Exception, basic},
};
use posthaste_engine::command::Outcome;
use posthaste_model::DeathReason;

impl Connection {
    /// `basic.nack`: with `requeue` the messages go back to their places, and this does not count as an
    /// attempt (RabbitMQ 4.3); without, they are dead-lettered.
    pub(crate) fn basic_nack(&mut self, number: u16, nack: basic::Nack) -> Result<(), Exception> {
        let outcome = match nack.requeue {
            true => Outcome::Release { attempted: false },
            false => Outcome::Reject(DeathReason::Rejected),
        };
        self.settle_tags(number, nack.delivery_tag, nack.multiple, outcome)
    }
}
