use crate::{
    channel::Consumer,
    connection::Connection,
    deliveries::consumer_priority,
    names, reply,
    state::Window,
    wire::{Exception, ReplyCode, ShortString, basic},
};
use posthaste_broker::{
    Allowed, ConsumeOptions, Error, QueueDeclaration, Readable,
    right::{self, Right},
};
use posthaste_engine::{
    catalog::{Queue, QueueConfig},
    command::Mode,
};
use posthaste_net::Output;
use std::sync::Arc;

/// Consumers of one connection.
const CONSUMERS_MAX: usize = 65_536;

impl Connection {
    /// `basic.consume`.
    pub(crate) async fn basic_consume(
        &mut self,
        number: u16,
        consume: basic::Consume,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let queue = self.queue_name(number, &consume.queue)?;
        let tag = match consume.consumer_tag.is_empty() {
            true => names::consumer_tag()?,
            false => consume.consumer_tag.detached(),
        };
        if self.channel(number)?.consumers.contains_key(&tag) {
            return Err(Exception::reused_consumer_tag(&tag));
        }
        if self.consumers.len() >= CONSUMERS_MAX {
            let text = format!("reached maximum ({CONSUMERS_MAX}) of consumers per connection");
            return Err(Exception::new(ReplyCode::NotAllowed, text));
        }
        let queue = match queue == names::REPLY_TO {
            true => self.open_reply_queue(number, &consume).await?,
            false => self.queue_to::<right::Read>(&queue)?,
        };
        let (window, has_prefetch) = self.first_window(number, consume.no_ack)?;
        let options = ConsumeOptions {
            credit: window.granted(),
            mode: if consume.no_ack { Mode::Settled } else { Mode::Lease },
            exclusive: consume.exclusive,
            priority: consumer_priority(&consume.arguments)?,
        };
        let holder = self.client.holder(&queue);
        let id = holder.consumer();
        let result = self.client.consume(holder, options, self.inbox.sink(holder, &queue)).await;
        let name = names::short(&queue.name);
        result.map_err(|error| match error {
            Error::InUse => Exception::in_exclusive_use(self.queue_resource(&name)),
            error => reply::exception(&error, self.queue_resource(&name)),
        })?;
        let no_ack = consume.no_ack;
        let queue = Arc::clone(&queue);
        let consumer =
            Consumer { channel: number, tag: tag.clone(), holder, queue, no_ack, window, has_prefetch };
        self.consumers.insert(id, consumer);
        self.channel(number)?.consumers.insert(tag.clone(), id);
        self.answer(number, consume.no_wait, &basic::ConsumeOk { consumer_tag: tag }, out)
    }

    fn first_window(&mut self, number: u16, no_ack: bool) -> Result<(Window, bool), Exception> {
        let first = self.broker.limits().unsettled_per_consumer_max;
        let channel = self.channel(number)?;
        Ok(match (no_ack, channel.prefetch, channel.prefetch_of_all) {
            (true, ..) => (Window::passing(first), false),
            (false, 0, 0) => (Window::new(0, first), false),
            (false, 0, of_all) => (Window::new(of_all.into(), first), false),
            (false, prefetch, _) => (Window::new(prefetch.into(), first), true),
        })
    }

    /// Direct reply-to: a queue for this channel alone, that goes with it and keeps nothing on disk.
    async fn open_reply_queue(
        &mut self,
        number: u16,
        consume: &basic::Consume,
    ) -> Result<Readable<Arc<Queue>>, Exception> {
        let refuse = |text: &str| Err(Exception::new(ReplyCode::PreconditionFailed, text));
        if !consume.no_ack {
            return refuse("reply consumer cannot acknowledge");
        }
        if self.channel(number)?.reply_queue.is_some() {
            return refuse("reply consumer already set");
        }
        let name = names::reply_queue()?;
        let declaration = QueueDeclaration {
            config: QueueConfig::default(),
            durable: false,
            exclusive: true,
            auto_delete: false,
            owner: None,
        };
        let queue = self.declare(&name, declaration).await?;
        self.channel(number)?.reply_queue = Some(queue);
        self.queue_to::<right::Read>(&name)
    }

    /// The queue that a client means by its name, or by none.
    ///
    /// # Errors
    /// NOT_FOUND for no name where none was declared before.
    pub(crate) fn queue_name(&mut self, number: u16, name: &ShortString) -> Result<ShortString, Exception> {
        if !name.is_empty() {
            return Ok(names::stripped(name));
        }
        let last = self.channel(number)?.last_queue.clone();
        last.ok_or_else(|| Exception::new(ReplyCode::NotFound, "no previously declared queue"))
    }

    /// # Errors
    /// There is no such queue, or it is another connection's.
    pub(crate) fn find_queue(&self, name: &ShortString) -> Result<Arc<Queue>, Exception> {
        let text = name.as_str().map_err(|_| Exception::not_found(self.queue_resource(name)))?;
        self.client.queue(text).map_err(|error| reply::exception(&error, self.queue_resource(name)))
    }

    /// As [`Connection::find_queue`], with the right to something.
    pub(crate) fn queue_to<R: Right>(&self, name: &ShortString) -> Result<Allowed<R, Arc<Queue>>, Exception> {
        let text = name.as_str().map_err(|_| Exception::not_found(self.queue_resource(name)))?;
        self.client.queue_to(text).map_err(|error| reply::exception(&error, self.queue_resource(name)))
    }
}
