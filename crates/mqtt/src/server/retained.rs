//! Retained messages for a new subscription.

use std::sync::Arc;

use posthaste_broker::{Error, right};
use posthaste_model::{Envelope, Pattern, Payload, Subject};

use super::conversation::Conversation;
use super::sessions::{Handle, submitted};
use super::subscriptions::Subscription;
use crate::convert::{self, Head};
use crate::wire::{QoS, ReasonCode, TopicFilter};

/// Retained messages that a subscription matches and that are to be sent, page by page.
pub(crate) struct Sweep {
    subscription: Subscription,
    pattern: Pattern,
    /// The subject of the last message that was sent.
    after: Option<Subject>,
}

impl Sweep {
    pub fn is_for(&self, filter: &TopicFilter) -> bool {
        self.subscription.filter == *filter
    }
}

/// Retained messages looked up in one go.
const PAGE: usize = 64;
/// What a page is widened to when it is empty: its messages may all have expired, and others come behind.
const PAGES: [usize; 3] = [PAGE, 64 * PAGE, usize::MAX];

impl Conversation {
    /// Sends the retained messages of a new subscription.
    ///
    /// A session that outlives its connection gets them into its queue, durably, before the SUBACK: they are
    /// part of what it must not lose. To others they are sent as the client takes them.
    pub async fn send_retained(&mut self, subscription: &Subscription) -> Result<(), ReasonCode> {
        let Some(pattern) = subscription.pattern() else { return Ok(()) };
        let mut sweep = Sweep { subscription: subscription.clone(), pattern, after: None };
        if !self.durable || subscription.options.qos == QoS::AtMostOnce {
            // Subscribing again before all are sent begins anew.
            self.delivering.sweeps.retain(|other| !other.is_for(&subscription.filter));
            self.delivering.sweeps.push_back(sweep);
            return Ok(());
        }
        let Some(queue) = &self.queue else { return Ok(()) };
        let queue = self.system.allow::<right::Write, _>(Arc::clone(queue));
        let queue = queue.map_err(|error| super::reply::error(&error))?;
        loop {
            let page = self.page(&mut sweep, PAGE);
            if page.is_empty() {
                return Ok(());
            }
            let mut batch = self.system.batch();
            for (envelope, payload) in page {
                if let Some((envelope, payload)) = directed(subscription, envelope, payload) {
                    batch.enqueue(&queue, envelope, payload);
                }
            }
            let outcome = submitted(batch).await.ok_or(ReasonCode::UnspecifiedError)?;
            // Only a message without durability finds no memory, and may be lost.
            let refused =
                outcome.refused.iter().find(|(_, refusal)| super::reply::concerns_publisher(*refusal));
            if let Some((_, refusal)) = refused {
                tracing::debug!(error = %Error::Refused(*refusal), "retained messages were refused");
                return Err(super::reply::refused(*refusal));
            }
        }
    }

    /// Sends a page of retained messages; false when there is none, or no room.
    pub fn sweep(&mut self) -> bool {
        let Some(mut sweep) = self.delivering.sweeps.pop_front() else { return false };
        let room = match sweep.subscription.options.qos {
            QoS::AtMostOnce => PAGE,
            QoS::AtLeastOnce | QoS::ExactlyOnce => PAGE.min(usize::from(self.session.credit())),
        };
        if room == 0 {
            self.delivering.sweeps.push_front(sweep);
            return false;
        }
        let page = self.page(&mut sweep, room);
        if page.is_empty() {
            return true;
        }
        let (version, now) = (self.session.version(), self.broker.now());
        let options = sweep.subscription.options;
        let identifiers: Vec<_> = sweep.subscription.identifier.into_iter().collect();
        for (envelope, payload) in page {
            let outgoing = convert::outgoing(self.broker.formats(), &envelope, &payload, version, now);
            let Ok(outgoing) = outgoing else { continue };
            let mut publish = outgoing.publish;
            publish.qos = outgoing.qos.min(options.qos);
            publish.retain = true; // [MQTT-3.3.1-8]
            publish.properties.subscription_identifiers.clone_from(&identifiers);
            self.send(publish, Handle::Settled);
        }
        self.delivering.sweeps.push_front(sweep);
        true
    }

    /// The next messages of a sweep; none at its end.
    fn page(&self, sweep: &mut Sweep, count: usize) -> Vec<(Envelope, Payload)> {
        for widened in PAGES {
            let (named, after) = (sweep.subscription.named(), sweep.after.as_ref());
            // Whoever may not read it any more is sent nothing more.
            let Ok(mut page) = self.client.retained(&named, &sweep.pattern, after, widened.max(count)) else {
                return Vec::new();
            };
            page.truncate(count);
            if let Some((envelope, _)) = page.last() {
                sweep.after = Some(envelope.subject.clone());
                return page;
            }
        }
        Vec::new()
    }
}

/// A copy of a retained message for one session.
fn directed(
    subscription: &Subscription,
    envelope: Envelope,
    payload: Payload,
) -> Option<(Envelope, Payload)> {
    let head = Head::decode(&payload.head).filter(|_| payload.format == convert::FORMAT)?;
    let qos = head.qos.min(subscription.options.qos);
    let directed = Some(subscription.identifier.into_iter().collect());
    let head = Head { qos, retain: true, directed, forwarded: head.forwarded };
    let envelope = Envelope { durable: qos != QoS::AtMostOnce, ..envelope };
    Some((envelope, Payload { head: head.encode(), ..payload }))
}
