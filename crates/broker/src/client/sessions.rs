//! What a queue keeps for a reader whose handles and ids outlive its connections.

use super::Client;
use crate::{access::rights::Holder, error::Error};
use posthaste_engine::{
    Command, Position, Reply,
    command::Relay,
    effect::{HandleState, Refusal},
};
use posthaste_model::{Envelope, Name, Payload};

impl Client {
    /// Takes a message with an id of the publisher's choice exactly once; false when it had been taken
    /// before. The broker publishes it itself. Durable when it returns.
    pub async fn receive(
        &self,
        session: Holder,
        id: u32,
        exchange: Option<Name>,
        mut envelope: Envelope,
        payload: Payload,
    ) -> Result<bool, Error> {
        let catalog = self.0.broker.catalog();
        self.may_publish(&catalog, exchange.as_deref().unwrap_or_default(), &envelope.subject)?;
        envelope.origin = self.0.connection;
        let (to, live) = crate::outbox::destinations(
            &self.0.broker,
            &self.0.namespace,
            exchange.as_deref(),
            &envelope,
            &payload,
        );
        self.charge_published(1, payload.body.len() as u64);
        if self.shared().usages.is_any_full(&to) {
            // A message that was taken before is no second one.
            let (_, received) = self.session_state(session).await?;
            return if received.contains(&id) { Ok(false) } else { Err(Refusal::StorageLimit.into()) };
        }
        let relay = Box::new(Relay { to, live, envelope, payload });
        let reply = self.ask(session, Command::Receive { queue: session.queue(), id, relay }).await?;
        Ok(!matches!(reply, Reply::Duplicate { .. }))
    }

    pub async fn forget(&self, session: Holder, id: u32) -> Result<(), Error> {
        self.ask(session, Command::Forget { queue: session.queue(), id }).await.map(|_| ())
    }

    /// Gives deliveries handles that outlive the connection. Durable when it returns.
    pub async fn assign_handles(
        &self,
        session: Holder,
        handles: Vec<(u8, Position, u32)>,
    ) -> Result<(), Error> {
        let (queue, consumer) = (session.queue(), session.consumer());
        self.ask(session, Command::AssignHandles { queue, consumer, handles }).await.map(|_| ())
    }

    /// The reader has the message; the handle is still taken. Durable when it returns.
    pub async fn settle_handle(&self, session: Holder, handle: u32) -> Result<(), Error> {
        self.ask(session, Command::SettleHandle { queue: session.queue(), handle }).await.map(|_| ())
    }

    pub async fn free_handle(&self, session: Holder, handle: u32) -> Result<(), Error> {
        self.ask(session, Command::FreeHandle { queue: session.queue(), handle }).await.map(|_| ())
    }

    /// The handles in use and the ids received.
    pub async fn session_state(&self, session: Holder) -> Result<(Vec<HandleState>, Vec<u32>), Error> {
        match self.ask(session, Command::SessionState { queue: session.queue() }).await? {
            Reply::Session { handles, received } => Ok((handles, received)),
            _ => Err(Error::Gone),
        }
    }
}
