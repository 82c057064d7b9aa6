use crate::{
    connection::Connection,
    wire::{Exception, ReplyCode, basic},
};
use posthaste_engine::command::Outcome;
use posthaste_net::Output;

impl Connection {
    /// `basic.recover`: everything that the channel has not settled, also by `basic.get`, goes back to its
    /// place.
    pub(crate) fn basic_recover(
        &mut self,
        number: u16,
        requeue: bool,
        answers: bool,
        out: &mut Output,
    ) -> Result<(), Exception> {
        if !requeue {
            return Err(Exception::new(ReplyCode::NotImplemented, "requeue=false"));
        }
        self.settle_tags(number, 0, true, Outcome::Release { attempted: false })?;
        self.hand_over();
        self.answer(number, !answers, &basic::RecoverOk {}, out)
    }
}
