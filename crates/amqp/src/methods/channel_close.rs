use crate::{
    connection::Connection,
    wire::{Exception, channel},
};
use posthaste_net::Output;

impl Connection {
    /// `channel.close` from the client: what the channel holds is back in its queues when the answer leaves.
    pub(crate) async fn channel_close(&mut self, number: u16, out: &mut Output) -> Result<(), Exception> {
        self.release_channel(number).await;
        self.channels.remove(number);
        self.send(number, &channel::CloseOk {}, out)
    }
}
