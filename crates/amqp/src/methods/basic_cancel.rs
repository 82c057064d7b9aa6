use crate::{
    connection::Connection,
    deliveries::take_of,
    session::Event,
    wire::{Exception, basic},
};
use posthaste_engine::catalog::Queue;
use posthaste_net::Output;

impl Connection {
    /// `basic.cancel`: what the consumer has not settled stays with the channel; what was not written yet
    /// goes back.
    pub(crate) async fn basic_cancel(
        &mut self,
        number: u16,
        cancel: basic::Cancel,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let consumer_tag = cancel.consumer_tag.detached();
        let answer = basic::CancelOk { consumer_tag: consumer_tag.clone() };
        let Some(id) = self.channel(number)?.consumers.remove(&consumer_tag) else {
            // Also a consumer that is unknown was cancelled well.
            return self.answer(number, cancel.no_wait, &answer, out);
        };
        let Some(consumer) = self.consumers.get(&id) else { return Ok(()) };
        let (holder, queue, no_ack) = (consumer.holder, consumer.queue.clone(), consumer.no_ack);
        self.client.cancel(holder).await;
        // Its last deliveries may still be in the mailbox: they go back even if the connection ends first.
        self.cancelled.insert(holder);
        self.inbox.mailbox().send(Event::Drained(holder));
        let mut left = take_of(&mut self.channel(number)?.held, holder);
        left.append(&mut self.waiting.take(holder));
        if no_ack && out.len() < self.broker.limits().connection_output_bytes_max {
            // Some of them count as delivered already, so this is their last chance.
            self.deliver(id, left.into(), out).await.map_err(|fault| fault.exception)?;
        } else {
            self.give_back(holder, left);
        }
        self.consumers.remove(&id);
        if self.channel(number)?.reply_queue.as_ref().is_some_and(|reply| reply.id == queue.id) {
            self.channel(number)?.reply_queue = None;
            // It was for this consumer only.
            let _ = self.client.delete_queue(&queue.name, false, false).await;
        }
        self.delete_if_unused(&queue).await;
        self.answer(number, cancel.no_wait, &answer, out)
    }

    /// The last consumer of an auto-delete queue takes it along, before the client hears of it. The broker
    /// would do so by itself, a moment later.
    pub(crate) async fn delete_if_unused(&self, queue: &Queue) {
        if !queue.auto_delete || self.client.queue(&queue.name).is_ok_and(|found| found.id != queue.id) {
            return;
        }
        // In use, deleted already, or not permitted to this user: all is as it should be.
        let _ = self.client.delete_queue(&queue.name, true, false).await;
    }
}
