use crate::{
    connection::Connection,
    wire::{Exception, ReplyCode, channel},
};
use posthaste_net::Output;

impl Connection {
    /// `channel.flow`: a client limits what it is sent by `basic.qos`, as with RabbitMQ.
    pub(crate) fn channel_flow(
        &mut self,
        number: u16,
        flow: &channel::Flow,
        out: &mut Output,
    ) -> Result<(), Exception> {
        match flow.active {
            true => self.send(number, &channel::FlowOk { active: true }, out),
            false => Err(Exception::new(ReplyCode::NotImplemented, "active=false")),
        }
    }
}
