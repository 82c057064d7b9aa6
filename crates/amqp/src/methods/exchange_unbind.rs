use crate::{
    connection::Connection,
    names,
    wire::{Exception, ResourceKind, exchange},
};
use posthaste_engine::catalog::Target;
use posthaste_net::Output;

impl Connection {
    /// `exchange.unbind`; succeeds when there is nothing to unbind.
    pub(crate) async fn exchange_unbind(
        &mut self,
        number: u16,
        unbind: exchange::Unbind,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let destination = names::stripped(&unbind.destination);
        if destination.is_empty() {
            return Err(Exception::default_exchange());
        }
        let target = Target::Exchange(names::name(ResourceKind::Exchange, &destination)?);
        let about = (ResourceKind::Exchange, &destination);
        self.unbind(&unbind.source, target, &unbind.routing_key, &unbind.arguments, about).await?;
        self.answer(number, unbind.no_wait, &exchange::UnbindOk {}, out)
    }
}
