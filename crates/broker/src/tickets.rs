//! Ties the replies of shards to those who asked.

use posthaste_engine::{Reply, Ticket};
use tokio::sync::oneshot;

/// The askers of an engine thread, by ticket.
#[derive(Default)]
pub(crate) struct Tickets {
    waiting: Vec<Option<oneshot::Sender<Reply>>>,
    free: Vec<usize>,
}

impl Tickets {
    pub fn take(&mut self, reply: Option<oneshot::Sender<Reply>>) -> Ticket {
        let Some(reply) = reply else { return Ticket::NONE };
        let at = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        });
        if let Some(slot) = self.waiting.get_mut(at) {
            *slot = Some(reply);
        }
        Ticket(at as u64 + 1)
    }

    pub fn answer(&mut self, ticket: Ticket, reply: Reply) {
        let Some(at) = ticket.0.checked_sub(1).map(|at| at as usize) else { return };
        if let Some(waiting) = self.waiting.get_mut(at).and_then(Option::take) {
            self.free.push(at);
            // Whoever asked may have gone.
            let _ = waiting.send(reply);
        }
    }
}
