use super::binding;
use crate::{
    connection::Connection,
    names, reply,
    wire::{Exception, ReplyCode, ResourceKind, ShortString, queue},
};
use posthaste_broker::Error;
use posthaste_engine::catalog::Target;
use posthaste_net::Output;

impl Connection {
    /// `queue.unbind`. Like RabbitMQ since 3.2, it succeeds when there is nothing to unbind.
    pub(crate) async fn queue_unbind(
        &mut self,
        number: u16,
        unbind: queue::Unbind,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let name = self.queue_name(number, &unbind.queue)?;
        let routing_key = self.routing_key(&unbind.queue, &name, &unbind.routing_key);
        match self.find_queue(&name) {
            Err(error) if error.reply_code != ReplyCode::NotFound => return Err(error),
            _ => {}
        }
        let target = Target::Queue(names::name(ResourceKind::Queue, &name)?);
        self.unbind(&unbind.exchange, target, &routing_key, &unbind.arguments, (ResourceKind::Queue, &name))
            .await?;
        self.send(number, &queue::UnbindOk {}, out)
    }

    pub(super) async fn unbind(
        &self,
        exchange: &ShortString,
        target: Target,
        routing_key: &ShortString,
        arguments: &crate::wire::FieldTable,
        about: (ResourceKind, &ShortString),
    ) -> Result<(), Exception> {
        let exchange = names::stripped(exchange);
        if exchange.is_empty() {
            return Err(Exception::default_exchange());
        }
        let (key, arguments) = binding::identity(routing_key, arguments);
        let source = names::name(ResourceKind::Exchange, &exchange)?;
        match self.client.unbind(&source, target, key, arguments).await {
            Ok(()) | Err(Error::NotFound(..) | Error::Gone) => Ok(()),
            Err(error) => Err(match about {
                (ResourceKind::Queue, name) => reply::exception(&error, self.queue_resource(name)),
                (ResourceKind::Exchange, name) => reply::exception(&error, self.exchange_resource(name)),
            }),
        }
    }
}
