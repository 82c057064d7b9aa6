use crate::{
    connection::Connection,
    wire::{Exception, access},
};
use posthaste_net::Output;

impl Connection {
    /// Gone from AMQP 0-9-1; RabbitMQ still grants a ticket, which nothing looks at.
    pub(crate) fn access_request(&mut self, number: u16, out: &mut Output) -> Result<(), Exception> {
        self.send(number, &access::RequestOk { ticket: 1 }, out)
    }
}
