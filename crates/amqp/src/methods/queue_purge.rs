use crate::{
    connection::Connection,
    reply,
    wire::{Exception, queue},
};
use posthaste_net::Output;

impl Connection {
    /// `queue.purge`: drops what is ready; what consumers hold stays.
    pub(crate) async fn queue_purge(
        &mut self,
        number: u16,
        purge: queue::Purge,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let name = self.queue_name(number, &purge.queue)?;
        let queue = self.find_queue(&name)?;
        let purged = self.client.purge_queue(&queue.name).await;
        let purged = purged.map_err(|error| reply::exception(&error, self.queue_resource(&name)))?;
        let message_count = u32::try_from(purged).unwrap_or(u32::MAX);
        self.answer(number, purge.no_wait, &queue::PurgeOk { message_count }, out)
    }
}
