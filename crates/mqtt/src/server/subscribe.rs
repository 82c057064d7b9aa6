//! SUBSCRIBE and UNSUBSCRIBE.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use posthaste_broker::{ConsumeOptions, DeliverySink, Error, LiveSink, QueueDeclaration, Readable, right};
use posthaste_engine::catalog::{Action, BUS, Binding, Queue, QueueConfig, Resource, Rule, Target};
use posthaste_engine::{Delivery, command::Mode};
use posthaste_model::{ConsumerId, Name, Subject};
use posthaste_net::Mailbox;
use tokio::task::JoinSet;

use super::connection::{Ended, Event, EventKind};
use super::conversation::{Conversation, Share};
use super::live::LiveReader;
use super::subscriptions::Subscription;
use super::{names, reply};
use crate::convert;
use crate::session::Fault;
use crate::wire::{
    Packet, QoS, ReasonCode, ReasonProperties, RetainHandling, Suback, Subscribe, SubscriptionOptions,
    TopicFilter, Unsuback, Unsubscribe,
};

/// Puts deliveries into a mailbox.
pub(crate) struct Deliveries(pub Mailbox<Event>);

impl DeliverySink for Deliveries {
    fn deliver(&self, _: ConsumerId, deliveries: Vec<Delivery>) {
        self.0.send(Event(EventKind::Deliveries(deliveries)));
    }

    fn cancelled(&self, consumer: ConsumerId) {
        self.0.send(Event(EventKind::Cancelled(consumer)));
    }
}

/// What becomes of one filter of a SUBSCRIBE.
enum Wanted {
    /// Refused, or there is nothing to change.
    Answered(ReasonCode),
    /// To be bound.
    New(Subscription),
}

impl Conversation {
    pub async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Ended> {
        let identifier = subscribe.subscription_identifier;
        let mut answers = Vec::with_capacity(subscribe.topic_filters.len());
        let mut binding = JoinSet::new();
        // If a filter is there twice, the last one counts, as if it had come in a SUBSCRIBE of its own.
        let filters = subscribe.topic_filters.iter().enumerate();
        let last: HashMap<&str, usize> =
            filters.map(|(index, (filter, _))| (filter.as_str(), index)).collect();
        for (index, (filter, options)) in subscribe.topic_filters.iter().enumerate() {
            if last.get(filter.as_str()) != Some(&index) {
                answers.push(Wanted::Answered(granted(options.qos)));
                continue;
            }
            let share = filter.share_name().map(|name| names::share(name, filter.filter()));
            // A copy: a slice would keep the whole packet alive as long as the subscription.
            let filter = TopicFilter::parse(filter.as_str().into());
            let filter = filter.map_err(Fault::from)?;
            let subscription = Subscription { filter, options: *options, identifier, share };
            let wanted = self.prepare(subscription).await;
            if let Wanted::New(subscription) = &wanted
                && let Some(request) = self.bind(subscription)
            {
                binding.spawn(async move { (index, request.await) });
            }
            answers.push(wanted);
        }
        while let Some(bound) = binding.join_next().await {
            let Ok((index, Err(error))) = bound else { continue };
            if let Some(answer) = answers.get_mut(index) {
                *answer = Wanted::Answered(reply::error(&error));
            }
        }
        let mut reason_codes = Vec::with_capacity(answers.len());
        for answer in answers {
            reason_codes.push(match answer {
                Wanted::Answered(reason) => reason,
                Wanted::New(subscription) => self.subscribed(subscription).await,
            });
        }
        let suback = Suback {
            packet_identifier: subscribe.packet_identifier,
            properties: ReasonProperties::default(),
            reason_codes,
        };
        Ok(self.session.send(Packet::Suback(suback))?)
    }

    /// Checks a subscription, and has the queue that it needs.
    async fn prepare(&mut self, subscription: Subscription) -> Wanted {
        let filter = &subscription.filter;
        if Subject::slashed(filter.filter().to_owned()).is_err() || !convert::is_shallow(filter.filter()) {
            return Wanted::Answered(ReasonCode::TopicFilterInvalid);
        }
        if self.client.may(Action::Read, Resource::Subject, &subscription.named()).is_err() {
            return Wanted::Answered(ReasonCode::NotAuthorized);
        }
        let known = self.subscriptions.get(filter.as_str());
        if known.is_none() && self.subscriptions.len() >= self.sessions.settings.subscriptions_max {
            return Wanted::Answered(ReasonCode::QuotaExceeded);
        }
        let result = match &subscription.share {
            Some(share) => self.join(&share.clone(), &subscription).await,
            None if subscription.options.qos == QoS::AtMostOnce => self.listen().await,
            None => self.consume().await,
        };
        match result {
            Ok(()) => Wanted::New(subscription),
            Err(error) => {
                tracing::debug!(client = %self.client_identifier, %error, "a subscription was refused");
                Wanted::Answered(reply::error(&error))
            }
        }
    }

    /// The request that binds a subscription to the session's queue. A shared one is bound for the record
    /// only, and only if there is a later to remember it for.
    fn bind(
        &self,
        subscription: &Subscription,
    ) -> Option<impl Future<Output = Result<(), Error>> + Send + 'static> {
        let queue = self.queue.as_ref()?;
        let rule = match &subscription.share {
            Some(_) if !self.durable => return None,
            // The bus looks at patterns, so nothing matches this one.
            Some(_) => Rule::All,
            None => Rule::Pattern(subscription.pattern()?),
        };
        let binding = Binding {
            target: Target::Queue(queue.name.clone()),
            key: Bytes::copy_from_slice(subscription.filter.as_str().as_bytes()),
            rule,
            arguments: subscription.arguments(),
            durable: self.durable,
            transient: subscription.share.is_some() || subscription.options.qos == QoS::AtMostOnce,
        };
        let client = self.system.clone();
        Some(async move { client.bind(&Name::constant(BUS), binding).await })
    }

    fn unbind(
        &self,
        subscription: &Subscription,
    ) -> Option<impl Future<Output = Result<(), Error>> + Send + 'static> {
        let queue = self.queue.as_ref()?;
        let target = Target::Queue(queue.name.clone());
        let key = Bytes::copy_from_slice(subscription.filter.as_str().as_bytes());
        let (client, arguments) = (self.system.clone(), subscription.arguments());
        Some(async move { client.unbind(&Name::constant(BUS), target, key, arguments).await })
    }

    /// A subscription is bound: it replaces an older one with its filter, and gets retained messages.
    async fn subscribed(&mut self, subscription: Subscription) -> ReasonCode {
        let replaced = self.subscriptions.insert(subscription.clone());
        let is_new = replaced.is_none();
        if let Some(old) = replaced.filter(|old| old.arguments() != subscription.arguments())
            && let Some(unbind) = self.unbind(&old)
        {
            // Bound before, so that no message is missed between the two.
            if let Err(error) = unbind.await {
                tracing::warn!(%error, "a replaced subscription could not be unbound");
            }
        }
        let SubscriptionOptions { qos, retain_handling, .. } = subscription.options;
        let retained = match retain_handling {
            _ if subscription.share.is_some() => false, // Section 4.8.2.
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNewSubscription => is_new,
            RetainHandling::DoNotSend => false,
        };
        if retained && let Err(reason) = self.send_retained(&subscription).await {
            return reason;
        }
        granted(qos)
    }

    pub async fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), Ended> {
        let mut reason_codes = Vec::with_capacity(unsubscribe.topic_filters.len());
        let mut unbinding = JoinSet::new();
        for (index, filter) in unsubscribe.topic_filters.iter().enumerate() {
            let Some(removed) = self.subscriptions.remove(filter.as_str()) else {
                reason_codes.push(ReasonCode::NoSubscriptionExisted);
                continue;
            };
            reason_codes.push(ReasonCode::Success);
            if let Some(unbind) = self.unbind(&removed) {
                unbinding.spawn(async move { (index, unbind.await) });
            }
            self.forget(&removed.filter).await;
        }
        while let Some(unbound) = unbinding.join_next().await {
            let Ok((index, Err(error))) = unbound else { continue };
            if let Some(reason) = reason_codes.get_mut(index) {
                *reason = reply::error(&error);
            }
        }
        if self.session.version() != crate::wire::ProtocolVersion::V5 {
            reason_codes.clear();
        }
        let unsuback = Unsuback {
            packet_identifier: unsubscribe.packet_identifier,
            properties: ReasonProperties::default(),
            reason_codes,
        };
        Ok(self.session.send(Packet::Unsuback(unsuback))?)
    }

    /// What goes on for a subscription besides its binding ends.
    async fn forget(&mut self, filter: &TopicFilter) {
        self.delivering.sweeps.retain(|sweep| !sweep.is_for(filter));
        let left = self.stop_share(filter).await;
        // A suspended one is a member without a consumer.
        let share = filter.share_name().map(|name| names::share(name, filter.filter()));
        if let (Some(share), Some(queue)) = (left.or(share), &self.queue) {
            self.sessions.shares.leave(&self.system, &share, &queue.name).await;
        }
    }

    /// Takes nothing more from a share, if it does; the share's queue. The session stays a member.
    async fn stop_share(&mut self, filter: &TopicFilter) -> Option<Name> {
        let consumer = self.shares.iter().find(|(_, share)| share.subscription.filter == *filter);
        let consumer = consumer.map(|(consumer, _)| *consumer)?;
        let share = self.shares.remove(&consumer)?;
        // What is in flight is still acknowledged; what is not goes to others.
        let (ours, others): (Vec<_>, Vec<_>) =
            self.delivering.backlog.drain(..).partition(|delivery| delivery.consumer != consumer);
        self.delivering.backlog.extend(ours);
        let waiting: Vec<_> = others.iter().map(|delivery| (delivery.lane, delivery.position)).collect();
        self.system.cancel(share.holder).await;
        if !waiting.is_empty() {
            let outcome = posthaste_engine::command::Outcome::Release { attempted: false };
            self.system.settle(share.holder, waiting, outcome);
        }
        Some(share.queue.name.clone())
    }

    /// Suspends the subscriptions that the client may not read any more, and goes on with those that it may
    /// again, if its rights have changed.
    pub async fn judge(&mut self) {
        let rights = self.client.rights();
        if self.judged.as_ref() == Some(&rights) {
            return;
        }
        self.judged = Some(rights);
        let client = self.client.clone();
        let before = self.subscriptions.suspended();
        self.subscriptions
            .judge(|subscription| client.may(Action::Read, Resource::Subject, &subscription.named()).is_ok());
        let suspended = self.subscriptions.suspended();
        if suspended == 0 && before == 0 {
            return;
        }
        let (client, user) = (&self.client_identifier, client.principal().name().to_owned());
        tracing::warn!(%client, user, suspended, "subscriptions that their user may not read are suspended");
        let shared: Vec<_> = self.subscriptions.iter().filter(|s| s.share.is_some()).cloned().collect();
        for subscription in shared {
            let joined = self.shares.values().any(|share| share.subscription.filter == subscription.filter);
            match (self.subscriptions.is_suspended(subscription.filter.as_str()), &subscription.share) {
                (true, _) if joined => drop(self.stop_share(&subscription.filter).await),
                (false, Some(share)) if !joined => {
                    if let Err(error) = self.join(share, &subscription).await {
                        let client = &self.client_identifier;
                        tracing::warn!(%client, %error, "a share is not taken from again");
                    }
                }
                _ => {}
            }
        }
    }

    /// The session's queue.
    async fn queue(&mut self) -> Result<Readable<Arc<Queue>>, Error> {
        if let Some(queue) = &self.queue {
            return Ok(queue.clone());
        }
        let name = names::clean_session(self.client.connection(), &self.client_identifier);
        let config = QueueConfig {
            length_max: Some(self.sessions.settings.clean_session_messages_max),
            ..QueueConfig::default()
        };
        let owner = self.client.user();
        let declaration = QueueDeclaration { config, owner, ..QueueDeclaration::default() };
        let queue = self.system.create_queue(&name, declaration).await?;
        let queue = self.system.allow::<right::Read, _>(queue)?;
        self.holder = Some(self.system.holder(&queue));
        Ok(self.queue.insert(queue).clone())
    }

    /// Has messages delivered that come at QoS 0.
    pub async fn listen(&mut self) -> Result<(), Error> {
        let queue = self.queue().await?;
        if self.live.is_none() {
            let reader = Arc::new(LiveReader::new(self.mailbox.clone()));
            let sink: Arc<dyn LiveSink> = reader.clone();
            self.system.attach_live(&queue, sink);
            self.live = Some(reader);
        }
        Ok(())
    }

    /// Has messages delivered that come through the session's queue.
    pub async fn consume(&mut self) -> Result<(), Error> {
        self.queue().await?;
        let Some(holder) = self.holder.filter(|_| !self.consuming) else { return Ok(()) };
        let held = self.delivering.backlog.len() + self.delivering.resumed.len();
        let credit = self.window.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        let options = ConsumeOptions { credit, mode: Mode::Lease, exclusive: false, priority: 0 };
        let sink = Arc::new(Deliveries(self.mailbox.clone()));
        self.link.consumers.lock().push(holder);
        self.system.consume(holder, options, sink).await?;
        self.consuming = true;
        Ok(())
    }

    /// Becomes a member of a shared subscription.
    pub async fn join(&mut self, name: &Name, subscription: &Subscription) -> Result<(), Error> {
        let member = self.queue().await?.name.clone();
        if let Some(share) = self.shares.values_mut().find(|share| share.queue.name == *name) {
            share.subscription = subscription.clone();
            return Ok(());
        }
        if self.durable {
            // For what it takes from the share at QoS 2.
            self.consume().await?;
        }
        if self.link.consumers.lock().len() > 2 * self.sessions.settings.subscriptions_max {
            // Each time that it subscribed, what it had not acknowledged may have stayed with it.
            return Err(Error::TooMany);
        }
        let queue = self.sessions.shares.join(&self.system, name, subscription, &member).await?;
        let holder = self.system.holder(&queue);
        let credit = self.window.min(self.sessions.settings.share_in_flight_max);
        let options = ConsumeOptions { credit, mode: Mode::Lease, exclusive: false, priority: 0 };
        let sink = Arc::new(Deliveries(self.mailbox.clone()));
        self.link.consumers.lock().push(holder);
        self.system.consume(holder, options, sink).await?;
        let share = Share { queue: Arc::clone(&queue), holder, subscription: subscription.clone() };
        self.shares.insert(holder.consumer(), share);
        Ok(())
    }
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
