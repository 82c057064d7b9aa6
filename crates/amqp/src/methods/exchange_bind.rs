use super::binding;
use crate::{
    connection::Connection,
    wire::{Exception, ResourceKind, exchange},
};
use posthaste_engine::catalog::Target;
use posthaste_net::Output;

impl Connection {
    /// `exchange.bind`, RabbitMQ's extension.
    pub(crate) async fn exchange_bind(
        &mut self,
        number: u16,
        bind: exchange::Bind,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let source = self.find_exchange(&bind.source)?;
        let destination = self.find_exchange(&bind.destination)?;
        let target = Target::Exchange(destination.spec.name.clone());
        let binding = binding::binding(source.spec.kind, target, &bind.routing_key, &bind.arguments)?;
        self.bind(&source, binding, ResourceKind::Exchange, &bind.destination).await?;
        self.answer(number, bind.no_wait, &exchange::BindOk {}, out)
    }
}
