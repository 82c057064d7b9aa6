use crate::{
    connection::Connection,
    wire::{Exception, basic},
};
use posthaste_engine::command::Outcome;
use posthaste_model::DeathReason;

impl Connection {
    /// `basic.reject`: as `basic.nack` of one delivery, but a requeue counts towards the delivery limit.
    pub(crate) fn basic_reject(&mut self, number: u16, reject: basic::Reject) -> Result<(), Exception> {
        let outcome = match reject.requeue {
            true => Outcome::Release { attempted: true },
            false => Outcome::Reject(DeathReason::Rejected),
        };
        self.settle_tags(number, reject.delivery_tag, false, outcome)
    }
}
