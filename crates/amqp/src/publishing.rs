//! Publishes of one read, on their way to the broker.

use crate::{
    convert::Copies,
    deliveries::Inbox,
    session::Event,
    state::{Confirms, Run},
    wire::ShortString,
};
use posthaste_broker::{Batch, Client};
use posthaste_engine::Catalog;
use posthaste_model::Timestamp;
use std::sync::Arc;

pub(crate) struct Publishing {
    pub batch: Batch,
    pub catalog: Arc<Catalog>,
    pub now: Timestamp,
    /// Those that are to be confirmed.
    pub runs: Vec<Run>,
    /// Of bodies.
    pub bytes: usize,
    pub copies: Copies,
    /// The exchange that was published to last: mostly it is the next one too.
    exchange: Option<(ShortString, Traits)>,
}

/// What publishing has to know of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Not for publishing by clients.
    pub internal: bool,
    /// The header `x-delay` is heeded.
    pub delaying: bool,
}

/// The exchange type of the delayed message plugin.
pub(crate) const DELAYED_TYPE: &str = "x-delayed-message";

impl Publishing {
    pub fn new(client: &Client) -> Publishing {
        let broker = client.broker();
        Publishing {
            batch: client.batch(),
            catalog: broker.catalog(),
            now: broker.now(),
            runs: Vec::new(),
            bytes: 0,
            copies: Copies::default(),
            exchange: None,
        }
    }

    /// None when there is no such exchange.
    pub fn traits(&mut self, client: &Client, exchange: &ShortString) -> Option<Traits> {
        if exchange.is_empty() {
            return Some(Traits::default());
        }
        if let Some((known, traits)) = &self.exchange
            && known == exchange
        {
            return Some(*traits);
        }
        let name = exchange.as_str().ok()?;
        let found = self.catalog.namespace(client.namespace())?.exchanges.get(name)?;
        let delaying = found.spec.options.get("type").is_some_and(|kind| kind == DELAYED_TYPE);
        let traits = Traits { internal: found.spec.internal, delaying };
        self.exchange = Some((exchange.clone(), traits));
        Some(traits)
    }

    pub fn submit(self, confirms: &mut Confirms, inbox: &Inbox) {
        if self.batch.is_empty() {
            return;
        }
        let number = confirms.begin(self.runs, self.batch.len(), self.bytes);
        let mailbox = inbox.mailbox();
        self.batch.submit(move |outcome| mailbox.send(Event::Published(number, outcome)));
    }
}
