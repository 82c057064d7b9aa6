use crate::{
    connection::Connection,
    reply,
    wire::{Exception, ReplyCode, queue},
};
use posthaste_broker::Error;
use posthaste_net::Output;

impl Connection {
    /// `queue.delete`; succeeds with no messages when there is none (RabbitMQ).
    pub(crate) async fn queue_delete(
        &mut self,
        number: u16,
        delete: queue::Delete,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let name = self.queue_name(number, &delete.queue)?;
        let deleted = match self.find_queue(&name) {
            Ok(queue) => self.client.delete_queue(&queue.name, delete.if_unused, delete.if_empty).await,
            Err(error) if error.reply_code == ReplyCode::NotFound => Ok(0),
            Err(error) => return Err(error),
        };
        let deleted = match deleted {
            Ok(deleted) => deleted,
            Err(Error::NotFound(..) | Error::Gone) => 0,
            Err(error) => return Err(reply::exception(&error, self.queue_resource(&name))),
        };
        let message_count = u32::try_from(deleted).unwrap_or(u32::MAX);
        self.answer(number, delete.no_wait, &queue::DeleteOk { message_count }, out)
    }
}
