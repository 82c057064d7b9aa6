use crate::{
    channel::Lease,
    connection::Connection,
    convert::render,
    deliveries::write_content,
    reply,
    wire::{Exception, GetOkRef, ReplyCode, basic},
};
use posthaste_broker::right;
use posthaste_engine::command::{Mode, Outcome};
use posthaste_model::DeathReason;
use posthaste_net::Output;

/// Messages that cannot be read are passed over, but not for ever.
const TRIES: usize = 16;
/// What `basic.get` took and nobody acknowledged, on one channel.
const UNSETTLED_MAX: usize = 262_144;

impl Connection {
    /// `basic.get`: one message, if there is one.
    pub(crate) async fn basic_get(
        &mut self,
        number: u16,
        get: basic::Get,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let name = self.queue_name(number, &get.queue)?;
        let queue = self.queue_to::<right::Read>(&name)?;
        if !get.no_ack && self.channel(number)?.unsettled.len() >= UNSETTLED_MAX {
            let text = format!("{UNSETTLED_MAX} deliveries on this channel are not acknowledged");
            return Err(Exception::new(ReplyCode::PreconditionFailed, text));
        }
        let getter = match self.channel(number)?.getter {
            Some(getter) => getter.on(&queue),
            None => self.client.holder(&queue),
        };
        self.channel(number)?.getter = Some(getter);
        let mode = if get.no_ack { Mode::Settled } else { Mode::Lease };
        for _ in 0..TRIES {
            let pulled = self.client.pull(getter, 1, mode).await;
            let (deliveries, ready) =
                pulled.map_err(|error| reply::exception(&error, self.queue_resource(&name)))?;
            let Some((lane, position)) = deliveries.first().map(|d| (d.lane, d.position)) else { break };
            let resolved = self.broker.resolve(deliveries).await.into_iter().next();
            let redelivered = resolved.as_ref().is_some_and(|message| message.delivery.redelivered);
            let Some(Ok(message)) = resolved.map(|message| render(&self.broker, &queue, message)) else {
                tracing::error!(queue = %queue.name, "a message cannot be rendered");
                let outcome = Outcome::Reject(DeathReason::Rejected);
                self.client.settle(getter, vec![(lane, position)], outcome);
                continue;
            };
            self.client.charge_read(1, message.body.len() as u64);
            self.gets = true;
            let frame_max = self.frame_max;
            let channel = self.channel(number)?;
            let delivery_tag = channel.next_delivery_tag();
            if !get.no_ack {
                channel.unsettled.push(delivery_tag, Lease { holder: getter, lane, position });
            }
            let (exchange, routing_key) = message.address();
            let message_count = u32::try_from(ready).unwrap_or(u32::MAX);
            let get_ok = GetOkRef { delivery_tag, redelivered, exchange, routing_key, message_count };
            return write_content(number, &get_ok, &message, frame_max, out);
        }
        self.send(number, &basic::GetEmpty {}, out)
    }
}
