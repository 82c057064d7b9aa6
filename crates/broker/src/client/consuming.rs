//! Being handed messages, and saying what becomes of them.

use super::{Client, ConsumeOptions};
use crate::{
    access::rights::{Holder, Readable},
    error::Error,
    thread::{DeliverySink, Input},
};
use posthaste_engine::{
    Command, Delivery, Position, Reply,
    catalog::Queue,
    command::{Consume, Mode, Outcome, Settle},
};
use posthaste_model::{QueueId, ShardId};
use std::sync::Arc;

impl Client {
    /// Has messages delivered to `sink`, as far as there is credit.
    pub async fn consume(
        &self,
        holder: Holder,
        options: ConsumeOptions,
        sink: Arc<dyn DeliverySink>,
    ) -> Result<(), Error> {
        let ConsumeOptions { credit, mode, exclusive, priority } = options;
        let (queue, consumer) = (holder.queue(), holder.consumer());
        let command = Command::Consume(Consume { queue, consumer, credit, mode, exclusive, priority });
        let (reply, answer) = tokio::sync::oneshot::channel();
        let shard = self.shard_of(queue);
        let input = Input::Consume { shard, command, sink, reply };
        if !self.shared().input(self.shared().thread_of(shard), input) {
            return Err(Error::Stopping);
        }
        match answer.await {
            Ok(Reply::Refused(refusal)) => Err(refusal.into()),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Stopping),
        }
    }

    fn send(&self, holder: Holder, command: Command) {
        self.shared().send(self.shard_of(holder.queue()), command);
    }

    pub(super) async fn ask(&self, holder: Holder, command: Command) -> Result<Reply, Error> {
        self.shared().ask(self.shard_of(holder.queue()), command).await
    }

    fn shard_of(&self, queue: QueueId) -> ShardId {
        // As the catalog places it; also right for a queue that was deleted meanwhile.
        self.shared().catalog_now().place(queue.0)
    }

    /// Lets the holder be handed `add` more.
    pub fn credit(&self, holder: Holder, add: u32) {
        let (queue, consumer) = (holder.queue(), holder.consumer());
        self.send(holder, Command::Credit { queue, consumer, add });
    }

    pub fn settle(&self, holder: Holder, deliveries: Vec<(u8, Position)>, outcome: Outcome) {
        self.send(holder, settle(holder, deliveries, outcome, false));
    }

    /// As [`Client::settle`], which a power cut before the next sync undoes, but returns once it lasts.
    pub async fn settle_durably(
        &self,
        holder: Holder,
        deliveries: Vec<(u8, Position)>,
        outcome: Outcome,
    ) -> Result<(), Error> {
        self.ask(holder, settle(holder, deliveries, outcome, true)).await.map(|_| ())
    }

    /// Nothing more is handed out; what the holder has stays leased to it.
    pub async fn cancel(&self, holder: Holder) {
        // A queue that is gone has no consumers.
        let (queue, consumer) = (holder.queue(), holder.consumer());
        let _ = self.ask(holder, Command::Cancel { queue, consumer }).await;
    }

    /// Nothing more is handed out, and what the holder has goes back.
    pub async fn detach(&self, holder: Holder) {
        let (queue, consumer) = (holder.queue(), holder.consumer());
        let _ = self.ask(holder, Command::Detach { queue, consumer }).await;
    }

    /// Gives back what the holder has; it goes on.
    pub fn recover(&self, holder: Holder) {
        let (queue, consumer) = (holder.queue(), holder.consumer());
        self.send(holder, Command::Recover { queue, consumer });
    }

    /// Takes what is ready at once, up to `count`; also says how many messages are ready beyond that.
    pub async fn pull(&self, holder: Holder, count: u32, mode: Mode) -> Result<(Vec<Delivery>, u64), Error> {
        let (queue, consumer) = (holder.queue(), holder.consumer());
        match self.ask(holder, Command::Pull { queue, consumer, count, mode }).await? {
            Reply::Deliveries { deliveries, ready } => Ok((deliveries, ready)),
            _ => Err(Error::Gone),
        }
    }

    /// Has messages that reach `queue` through transient bindings handed to `sink`.
    pub fn attach_live(&self, queue: &Readable<Arc<Queue>>, sink: Arc<dyn crate::LiveSink>) {
        let shared = self.shared();
        let _one_at_a_time = shared.live_change.lock();
        let mut live = (**shared.live.load()).clone();
        live.insert(queue.id, sink);
        shared.live.store(Arc::new(live));
    }

    /// Ends that, unless another sink has taken its place.
    pub fn detach_live(&self, queue: &Readable<Arc<Queue>>, sink: &Arc<dyn crate::LiveSink>) {
        let shared = self.shared();
        let _one_at_a_time = shared.live_change.lock();
        let mut live = (**shared.live.load()).clone();
        if live.get(&queue.id).is_some_and(|known| Arc::ptr_eq(known, sink)) {
            live.remove(&queue.id);
            shared.live.store(Arc::new(live));
        }
    }
}

fn settle(holder: Holder, deliveries: Vec<(u8, Position)>, outcome: Outcome, lasting: bool) -> Command {
    let (queue, consumer) = (holder.queue(), holder.consumer());
    Command::Settle(Settle { queue, consumer, deliveries, outcome, lasting })
}
