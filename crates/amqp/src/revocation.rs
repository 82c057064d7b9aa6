//! After a change of users: the connection ends, or what its user may not read any more does.

use crate::{
    connection::{Connection, Fault},
    reply,
    wire::{Exception, ReplyCode, ShortString},
};
use posthaste_broker::right;
use posthaste_net::Output;
use std::collections::BTreeMap;

impl Connection {
    /// Judges again what is open.
    ///
    /// # Errors
    /// The user may not stay connected.
    pub(crate) async fn judge_again(&mut self, out: &mut Output) -> Result<(), Fault> {
        let ends = |why: String| Fault {
            channel: 0,
            exception: Exception::new(ReplyCode::ConnectionForced, format_args!("{why}")),
        };
        self.client.standing().map_err(|revoked| ends(revoked.to_string()))?;
        if !self.broker.may_enter(self.client.principal(), self.client.namespace()) {
            let (vhost, user) = (&self.vhost, self.client.principal().name());
            return Err(ends(format!("access to vhost '{vhost}' refused for user '{user}'")));
        }
        let mut refused = BTreeMap::new();
        for consumer in self.consumers.values() {
            let Err(error) = self.client.allow::<right::Read, _>(consumer.queue.clone()) else { continue };
            let name = ShortString::truncated(&consumer.queue.name);
            let exception = reply::exception(&error, self.queue_resource(&name));
            refused.entry(consumer.channel).or_insert(exception);
        }
        for (channel, exception) in refused {
            self.close_channel(channel, exception, out).await;
        }
        Ok(())
    }
}
