//! CONNECT: who the client is, whose session it takes over, what it resumes.

use std::sync::Arc;

use posthaste_broker::{Client, Credentials, Error, Holder, Readable, right};
use posthaste_engine::Position;
use posthaste_engine::catalog::{Action, Queue, Resource};
use posthaste_engine::command::Mode;
use posthaste_engine::effect::HandleState;
use posthaste_model::{Name, Subject};
use posthaste_net::{Close, Mailbox, Output};

use super::connection::{Event, EventKind, From};
use super::conversation::Conversation;
use super::deliver::Delivering;
use super::namespaces::Namespaces;
use super::publish::Incoming;
use super::sessions::{Handle, Link, Occupancy, Sessions, remember};
use super::{names, reply, stored_will};
use crate::convert::is_shallow;
use crate::session::{Acceptance, Handshake, InFlight, OutboundPhase, Refusal, SessionState};
use crate::wire::{ByteString, Connect, Packet, PacketIdentifier, ReasonCode, check_topic_name};

/// Messages fetched in one go when a session is resumed.
const PULLED: u32 = 256;

/// Answers a CONNECT: with a conversation, or by closing the connection.
pub(crate) async fn connect(
    namespaces: &Arc<Namespaces>,
    from: &From,
    mailbox: Mailbox<Event>,
    connect: Connect,
    now_ms: u64,
    out: &mut Output,
) -> Result<Conversation, Close> {
    let version = connect.version;
    match accept(namespaces, from, mailbox, connect, now_ms).await {
        Ok((conversation, connack)) => {
            let encoded = connack.encode(version, out.bytes());
            encoded.map_err(|error| Close::Error(error.to_string()))?;
            Ok(conversation)
        }
        Err(refusal) => {
            if let Some(connack) = refusal.connack {
                // What cannot be encoded is not sent.
                let _ = Packet::Connack(connack).encode(refusal.version, out.bytes());
            }
            Err(Close::Error(format!("refused: {:?}", refusal.reason_code)))
        }
    }
}

async fn accept(
    namespaces: &Arc<Namespaces>,
    from: &From,
    mailbox: Mailbox<Event>,
    connect: Connect,
    now_ms: u64,
) -> Result<(Conversation, Packet), Refusal> {
    let mut handshake = Handshake::new(connect, namespaces.settings.options.clone())?;
    if handshake.authentication_method().is_some() {
        let reason = "no method of enhanced authentication is available";
        return Err(handshake.refuse(ReasonCode::BadAuthenticationMethod, Some(reason)));
    }
    let (sessions, client, system) = match authenticate(namespaces, from, &handshake).await {
        Ok(clients) => clients,
        Err((reason, text)) => return Err(handshake.refuse(reason, Some(&text))),
    };
    if handshake.needs_client_identifier() {
        // The epoch rises with each start, and no connection is given an id twice after one.
        let identifier = format!("auto-{}-{}", sessions.broker.epoch(), from.connection);
        handshake.assign_client_identifier(identifier);
    }
    let name = names::session(handshake.client_identifier());
    let mut occupancy = sessions.occupy(&name).await;
    let foreign = sessions.owner_else(&client, &name, &occupancy);
    if let Some(owner) = foreign.filter(|_| !sessions.settings.shared_client_ids) {
        let why = format_args!(
            "queue '{name}' is the session of '{owner}'; delete it, or allow `[mqtt] shared_client_ids`"
        );
        sessions.broker.log_in_refused(&from.origin, Some(client.principal().name()), &why);
        sessions.counters.foreign_sessions.add(1);
        sessions.vacate(&name, occupancy);
        let reason = "this client identifier is another user's";
        return Err(handshake.refuse(ReasonCode::NotAuthorized, Some(reason)));
    }
    sessions.take_over(&name, &mut occupancy, handshake.clean_start()).await;
    let (queue, state) = match begin(&sessions, (&client, &system), &name, &handshake, &mut occupancy).await {
        Ok(begun) => begun,
        Err(error) => {
            tracing::debug!(session = %name, %error, "a session could not begin");
            let reason = match &error {
                Error::Locked => ReasonCode::ClientIdentifierNotValid,
                error => reply::error(error),
            };
            return Err(handshake.refuse(reason, Some(&error.to_string())));
        }
    };
    let accepted = Accepted { client, system, mailbox, name, queue, now_ms };
    let (mut conversation, connack) =
        converse(sessions, from, handshake, state, accepted, &mut occupancy).await?;
    drop(occupancy);
    if let Err(error) = conversation.resume().await {
        // The session goes on without what it could not have: its client sees nothing of it until it connects
        // anew.
        let session = &conversation.name;
        tracing::warn!(%session, %error, "a session was not resumed completely");
    }
    Ok((conversation, connack))
}

/// What is known of a client that is let in.
struct Accepted {
    client: Client,
    system: Client,
    mailbox: Mailbox<Event>,
    name: Name,
    queue: Option<Readable<Arc<Queue>>>,
    now_ms: u64,
}

/// Makes the conversation, and has it take the session's place.
async fn converse(
    sessions: Arc<Sessions>,
    from: &From,
    handshake: Handshake,
    state: Option<SessionState<Handle>>,
    accepted: Accepted,
    occupancy: &mut Occupancy,
) -> Result<(Conversation, Packet), Refusal> {
    let Accepted { client, system, mailbox, name, queue, now_ms } = accepted;
    let client_identifier = handshake.client_identifier().to_owned();
    let told = mailbox.clone();
    let watched = client.watch_rights(move || told.send(Event(EventKind::Rights)));
    let receive_maximum = handshake.connect().properties.receive_maximum;
    let window = receive_maximum.min(sessions.settings.options.outbound_in_flight_max);
    let expiry = handshake.session_expiry_interval();
    let response_information = response_information(&client_identifier);
    let acceptance = Acceptance { session: state, authentication_data: None, response_information };
    let accepted = match watched {
        Ok(rights) => handshake.accept(acceptance, now_ms).map(|accepted| (rights, accepted)),
        Err(error) => Err(handshake.refuse(reply::error(&error), Some(&error.to_string()))),
    };
    let (rights, (session, connack)) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            if let Some(queue) = &queue {
                sessions.give_up(&system, queue, occupancy, expiry).await;
            }
            return Err(refusal);
        }
    };
    sessions.counters.connections.add(1);
    client.audit_log_in(&from.origin);
    let subscriptions = match &queue {
        Some(queue) => sessions.subscriptions(queue, occupancy),
        None => Default::default(),
    };
    remember(&mut occupancy.connections, from.connection);
    let link = Arc::new(Link::new(mailbox.clone()));
    occupancy.link = Some(link.clone());
    occupancy.owner = Some(client.principal().id());
    let conversation = Conversation {
        broker: sessions.broker.clone(),
        holder: queue.as_ref().map(|queue| system.holder(queue)),
        sessions,
        client,
        system,
        mailbox,
        link,
        session,
        client_identifier,
        name,
        durable: queue.is_some(),
        queue,
        subscriptions,
        judged: None,
        connections: occupancy.connections.clone(),
        consuming: false,
        window: u32::from(window.get()),
        live: None,
        shares: Default::default(),
        incoming: Incoming::default(),
        delivering: Delivering::default(),
        settlements: Vec::new(),
        rights,
    };
    Ok((conversation, connack))
}

/// The sessions of its namespace, the client with its permissions, and the listener's own.
async fn authenticate(
    namespaces: &Arc<Namespaces>,
    from: &From,
    handshake: &Handshake,
) -> Result<(Arc<Sessions>, Client, Client), (ReasonCode, String)> {
    let connect = handshake.connect();
    let credentials = match (&connect.user_name, &connect.password) {
        (None, None) => Credentials::Anonymous,
        (user, password) => Credentials::Password {
            user: user.as_deref().unwrap_or_default(),
            password: password.as_deref().unwrap_or_default(),
        },
    };
    let refused = |error| (reply::authentication(error), error.to_string());
    let broker = &namespaces.broker;
    let principal = broker.log_in(&from.origin, credentials).await.map_err(refused)?;
    let namespace = broker.namespace_of(&from.origin, &principal);
    let namespace = namespace.map_err(|error| (ReasonCode::NotAuthorized, error.to_string()))?;
    let sessions = namespaces.sessions(&namespace);
    let client = broker.client(principal, namespace, from.connection);
    let client = match &*connect.client_identifier {
        "" => client,
        identifier => client.calling_itself(identifier),
    };
    // What was stored is known from here on.
    sessions.system().await;
    let system = sessions.system_for(from.connection);
    if let Some(will) = &connect.will {
        if check_topic_name(&will.topic).is_err() || !is_shallow(&will.topic) {
            return Err((ReasonCode::TopicNameInvalid, "the will's topic is not valid".to_owned()));
        }
        if will.will_delay_interval > 0 && !stored_will::fits(will) {
            let kib = stored_will::BYTES_MAX >> 10;
            return Err((
                ReasonCode::QuotaExceeded,
                format!("a will with a delay may take {kib} KiB in all"),
            ));
        }
        let topic = Subject::slashed(will.topic.as_bytes().clone()).unwrap_or_default();
        if let Err(error) = client.may(Action::Write, Resource::Subject, &topic.to_dotted()) {
            return Err((ReasonCode::NotAuthorized, error.to_string()));
        }
    }
    Ok((sessions, client, system))
}

/// Where replies to this client may go. A client identifier that is no topic level is not put into a topic.
fn response_information(client_identifier: &str) -> Option<ByteString> {
    let topic = format!("reply/{client_identifier}");
    check_topic_name(&topic).ok().map(|()| ByteString::from(topic))
}

/// Finds the session, ends it if the client starts anew, makes one if it is to outlive the connection.
async fn begin(
    sessions: &Sessions,
    (client, system): (&Client, &Client),
    name: &Name,
    handshake: &Handshake,
    occupancy: &mut Occupancy,
) -> Result<(Option<Readable<Arc<Queue>>>, Option<SessionState<Handle>>), Error> {
    let identifier = handshake.client_identifier();
    let expiry = handshake.session_expiry_interval();
    let owner = client.principal().id();
    match sessions.find(system, name, identifier)? {
        Some(queue) if !handshake.clean_start() => {
            sessions.resume(system, &queue, occupancy, owner, expiry).await?;
            let queue = system.queue_to::<right::Read>(name)?;
            let state = resumed_state(system, &queue, occupancy.state.take()).await?;
            return Ok((Some(queue), Some(state)));
        }
        Some(queue) => sessions.end(system, &queue, occupancy).await,
        None => {}
    }
    // A clean session leaves nothing.
    *occupancy = Occupancy::default();
    if expiry == 0 {
        return Ok((None, None));
    }
    let queue = sessions.create((client, system), name, identifier, expiry).await?;
    Ok((Some(system.allow::<right::Read, _>(queue)?), None))
}

/// What has to be sent again. The engine knows best about QoS 2; of QoS 1 only the last connection knows, and
/// after a restart the messages come again with new packet identifiers.
async fn resumed_state(
    system: &Client,
    queue: &Readable<Arc<Queue>>,
    left: Option<SessionState<Handle>>,
) -> Result<SessionState<Handle>, Error> {
    let (handles, received) = system.session_state(system.holder(queue)).await?;
    let identifier = |id: u32| u16::try_from(id).ok().and_then(PacketIdentifier::new);
    let mut stored: std::collections::BTreeMap<PacketIdentifier, HandleState> =
        handles.into_iter().filter_map(|state| Some((identifier(state.handle)?, state))).collect();
    let mut outbound = Vec::new();
    for in_flight in left.map(|state| state.outbound).unwrap_or_default() {
        match in_flight.phase {
            OutboundPhase::AtLeastOnce => outbound.push(in_flight),
            // Not stored, it was not sent.
            OutboundPhase::ExactlyOnce | OutboundPhase::Pubrel => {
                outbound.extend(stored.remove(&in_flight.packet_identifier).and_then(exactly_once));
            }
        }
    }
    // First what only waits for PUBCOMP, then messages in the order of the queue.
    let mut others: Vec<InFlight<Handle>> = stored.into_values().filter_map(exactly_once).collect();
    others.sort_by_key(|in_flight| match in_flight.handle {
        Handle::Own { lane, position } => Some((std::cmp::Reverse(lane), position)),
        Handle::Share { .. } | Handle::Settled => None,
    });
    outbound.extend(others);
    let inbound = received.into_iter().filter_map(identifier).collect();
    Ok(SessionState { outbound, inbound, unacknowledged: Vec::new() })
}

fn exactly_once(state: HandleState) -> Option<InFlight<Handle>> {
    let packet_identifier = PacketIdentifier::new(u16::try_from(state.handle).ok()?)?;
    let (phase, handle) = match state.delivery {
        Some((lane, position)) => (OutboundPhase::ExactlyOnce, Handle::Own { lane, position }),
        None => (OutboundPhase::Pubrel, Handle::Settled),
    };
    Some(InFlight { packet_identifier, phase, handle })
}

impl Conversation {
    /// Goes on with a session that has been there before.
    async fn resume(&mut self) -> Result<(), Error> {
        let Some(holder) = self.holder else { return Ok(()) };
        self.fetch_resumed(holder).await?;
        self.judge().await;
        let subscriptions: Vec<_> = self.subscriptions.iter().cloned().collect();
        for subscription in subscriptions {
            if self.subscriptions.is_suspended(subscription.filter.as_str()) {
                continue;
            }
            match &subscription.share {
                Some(share) => self.join(share, &subscription).await?,
                None if subscription.options.qos == crate::wire::QoS::AtMostOnce => self.listen().await?,
                None => {}
            }
        }
        // Also without a subscription: something may be left from before, or be sent to the queue directly.
        self.consume().await
    }

    /// Takes messages out of the queue until all those that were sent before are among them, or known to be
    /// gone.
    async fn fetch_resumed(&mut self, holder: Holder) -> Result<(), Error> {
        let mut wanted: std::collections::HashSet<(u8, Position)> =
            self.session.unsent().filter_map(own).collect();
        let Some(last) = wanted.iter().map(|(_, position)| *position).max() else { return Ok(()) };
        loop {
            let (deliveries, _) = self.system.pull(holder, PULLED, Mode::Lease).await?;
            let beyond = deliveries.last().is_none_or(|delivery| delivery.position > last);
            for delivery in deliveries {
                let at = (delivery.lane, delivery.position);
                if wanted.remove(&at) {
                    self.delivering.resumed.insert(at, delivery);
                } else {
                    self.delivering.backlog.push_back(delivery);
                }
            }
            if beyond || wanted.is_empty() {
                return Ok(());
            }
        }
    }
}

fn own(handle: &Handle) -> Option<(u8, Position)> {
    match handle {
        Handle::Own { lane, position } => Some((*lane, *position)),
        Handle::Share { .. } | Handle::Settled => None,
    }
}
