use super::binding;
use crate::{
    connection::Connection,
    names, reply,
    wire::{Exception, ResourceKind, ShortString, queue},
};
use posthaste_broker::Error;
use posthaste_engine::catalog::{Exchange, Resource, Target};
use posthaste_net::Output;

impl Connection {
    /// `queue.bind`: when the answer leaves, what is published next sees the binding.
    pub(crate) async fn queue_bind(
        &mut self,
        number: u16,
        bind: queue::Bind,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let name = self.queue_name(number, &bind.queue)?;
        let routing_key = self.routing_key(&bind.queue, &name, &bind.routing_key);
        let exchange = self.find_exchange(&bind.exchange)?;
        let queue = self.find_queue(&name)?;
        let target = Target::Queue(queue.name.clone());
        let binding = binding::binding(exchange.spec.kind, target, &routing_key, &bind.arguments)?;
        self.bind(&exchange, binding, ResourceKind::Queue, &name).await?;
        self.answer(number, bind.no_wait, &queue::BindOk {}, out)
    }

    pub(super) async fn bind(
        &self,
        exchange: &Exchange,
        binding: posthaste_engine::catalog::Binding,
        kind: ResourceKind,
        target: &ShortString,
    ) -> Result<(), Exception> {
        let source = names::short(&exchange.spec.name);
        self.client.bind(&exchange.spec.name, binding).await.map_err(|error| match &error {
            Error::NotFound(Resource::Exchange, name) if **name == *exchange.spec.name => {
                reply::exception(&error, self.exchange_resource(&source))
            }
            _ if kind == ResourceKind::Queue => reply::exception(&error, self.queue_resource(target)),
            _ => reply::exception(&error, self.exchange_resource(target)),
        })
    }

    /// No queue and no key together mean the name of the queue that was declared last (AMQP 0-9-1
    /// queue.bind).
    pub(super) fn routing_key(
        &self,
        given: &ShortString,
        name: &ShortString,
        key: &ShortString,
    ) -> ShortString {
        if given.is_empty() && key.is_empty() { name.clone() } else { key.detached() }
    }

    /// An exchange to bind to or unbind from.
    ///
    /// # Errors
    /// ACCESS_REFUSED for the default exchange, NOT_FOUND.
    pub(super) fn find_exchange(&self, name: &ShortString) -> Result<Exchange, Exception> {
        let name = names::stripped(name);
        if name.is_empty() {
            return Err(Exception::default_exchange());
        }
        let text = name.as_str().map_err(|_| Exception::not_found(self.exchange_resource(&name)))?;
        self.client.exchange(text).map_err(|error| reply::exception(&error, self.exchange_resource(&name)))
    }
}
