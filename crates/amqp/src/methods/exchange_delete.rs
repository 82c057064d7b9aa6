use crate::{
    connection::Connection,
    names, reply,
    wire::{Exception, ResourceKind, exchange},
};
use posthaste_broker::Error;
use posthaste_net::Output;

impl Connection {
    /// `exchange.delete`; succeeds when there is none (RabbitMQ).
    pub(crate) async fn exchange_delete(
        &mut self,
        number: u16,
        delete: exchange::Delete,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let name = names::stripped(&delete.exchange);
        if name.is_empty() {
            return Err(Exception::default_exchange());
        }
        let about = self.exchange_resource(&name);
        if names::is_reserved(&name) {
            return Err(reply::exception(&Error::Protected, about));
        }
        let exchange = names::name(ResourceKind::Exchange, &name)?;
        match self.client.delete_exchange(&exchange, delete.if_unused).await {
            Ok(()) | Err(Error::NotFound(..)) => {}
            Err(error) => return Err(reply::exception(&error, about)),
        }
        self.answer(number, delete.no_wait, &exchange::DeleteOk {}, out)
    }
}
