use crate::{
    connection::Connection,
    wire::{Exception, ReplyCode, basic},
};
use posthaste_net::Output;

impl Connection {
    /// `basic.qos`: for each new consumer of the channel, or with `global` for all its consumers together,
    /// also at run time (Celery). RabbitMQ's meaning of `global`.
    pub(crate) fn basic_qos(
        &mut self,
        number: u16,
        qos: &basic::Qos,
        out: &mut Output,
    ) -> Result<(), Exception> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Exception::new(ReplyCode::NotImplemented, text));
        }
        let channel = self.channel(number)?;
        if !qos.global {
            channel.prefetch = qos.prefetch_count;
            return self.send(number, &basic::QosOk {}, out);
        }
        channel.prefetch_of_all = qos.prefetch_count;
        let ids: Vec<_> = channel.consumers.values().copied().collect();
        let first = self.broker.limits().unsettled_per_consumer_max;
        let limit = if qos.prefetch_count == 0 { first } else { qos.prefetch_count.into() };
        for id in ids {
            // A consumer with a prefetch of its own keeps that.
            let Some(consumer) = self.consumers.get_mut(&id).filter(|c| !c.no_ack && !c.has_prefetch) else {
                continue;
            };
            let add = consumer.window.raise(limit, first);
            if add > 0 {
                self.client.credit(consumer.holder, add);
            }
        }
        self.unhold(number);
        self.send(number, &basic::QosOk {}, out)
    }
}
