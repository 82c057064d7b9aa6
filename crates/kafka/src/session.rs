//! The conversation on one connection.
//!
//! Kafka promises that the requests of a connection are handled one after the other and answered in that
//! order. Here a Produce may start while others before it still wait for the disk; any other request starts
//! when all before it are answered, and what follows waits for it. So pipelined producers share syncs, and
//! nobody sees another order than with Kafka.
//!
//! A request that cannot be answered at once goes on in a task of its own, and its answer comes back as an
//! event: the driver goes on reading and notices when the client leaves.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use posthaste_broker::{Batch, Broker, Error, Origin, Outcome, Principal, RightsWatch};
use posthaste_model::ConnectionId;
use posthaste_net::{Close, Closed, Mailbox, Output, Peer, Protocol, Session};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api::produce::{self, Dispatched};
use crate::api::{self, api_versions, sasl};
use crate::context::{Context, throttle_time_ms};
use crate::inflate::Inflating;
use crate::limits::{
    IDLE_CONNECTION_MAX, REQUEST_BYTES_MAX, STRANGERS_REQUEST_BYTES_MAX, WAITING_BYTES_MAX,
    WAITING_REQUESTS_MAX,
};
use crate::names::TopicIds;
use crate::wire::{
    ApiKey, EncodeError, ErrorCode, Frame, FrameError, Request, RequestError, RequestHeader, ResponseBody,
    decode_request, encode_response, split_frame,
};

/// Pieces of a response shorter than this are written together, in bytes.
const COALESCE_BELOW_BYTES: usize = 4096;

/// Kafka on a listener.
pub struct Kafka {
    broker: Broker,
    topic_ids: TopicIds,
    inflating: Inflating,
}

impl Kafka {
    pub fn new(broker: Broker) -> Self {
        let topic_ids = TopicIds::new(broker.cluster_id());
        Self { broker, topic_ids, inflating: Inflating::default() }
    }
}

impl Protocol for Kafka {
    type Session = Conversation;
    const NAME: &'static str = "kafka";

    fn open(&self, peer: Peer, mailbox: Mailbox<Event>) -> Conversation {
        let inflating = self.inflating.clone();
        Conversation::new(self.broker.clone(), self.topic_ids, inflating, &peer, mailbox)
    }
}

/// What comes back to a session.
pub enum Event {
    /// A request that went on in its own task is done; none when its task died.
    Answered { slot: u64, response: Option<Result<Frame, EncodeError>> },
    /// The batches of some Produce requests are as safe as promised, or refused.
    Produced { batch: u64, outcome: Outcome },
    /// The client's rights have changed.
    Rights,
}

/// The state of one connection.
pub struct Conversation {
    broker: Broker,
    topic_ids: TopicIds,
    inflating: Inflating,
    connection: ConnectionId,
    origin: Origin,
    mailbox: Mailbox<Event>,
    access: Access,
    /// It has produced, or fetched: only then does it pause for its user's rates. A connection that keeps a
    /// group's member alive must not wait for others.
    produces: bool,
    fetches: bool,
    /// A client that is let in shows a further token next.
    renewing: Option<sasl::Dialogue>,
    /// Requests that have arrived and not started.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Responses in the order of their requests; the last one has number `next_slot - 1`.
    pending: VecDeque<Option<Frame>>,
    next_slot: u64,
    /// The one request that goes on in a task.
    running: Option<AbortHandle>,
    /// Produce requests that are not on their way yet.
    gathered: Option<(Batch, Vec<Dispatched>)>,
    /// Those on their way, by number of their batch.
    submitted: HashMap<u64, Vec<Dispatched>>,
    next_batch: u64,
    /// Of requests in `gathered` and `submitted`.
    produce_bytes: usize,
    produce_requests: usize,
    last_request: Instant,
}

/// How far a client has come in being let in.
enum Access {
    /// Nothing was said yet.
    Stranger,
    /// A mechanism is agreed on; a token of it comes next.
    Handshaken(sasl::Dialogue),
    Admitted {
        context: Context,
        by_password: bool,
        _rights: RightsWatch,
    },
}

impl Conversation {
    fn new(
        broker: Broker,
        topic_ids: TopicIds,
        inflating: Inflating,
        peer: &Peer,
        mailbox: Mailbox<Event>,
    ) -> Self {
        Self {
            origin: broker.origin(Kafka::NAME, peer),
            broker,
            topic_ids,
            inflating,
            connection: peer.connection,
            mailbox,
            access: Access::Stranger,
            produces: false,
            fetches: false,
            renewing: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            pending: VecDeque::new(),
            next_slot: 0,
            running: None,
            gathered: None,
            submitted: HashMap::new(),
            next_batch: 0,
            produce_bytes: 0,
            produce_requests: 0,
            last_request: Instant::now(),
        }
    }

    fn has_context(&self) -> bool {
        matches!(self.access, Access::Admitted { .. })
    }

    /// Starts as many waiting requests as may start.
    async fn advance(&mut self, out: &mut Output) -> Result<(), Close> {
        while let Some(frame) = self.waiting.front() {
            let is_produce = frame.starts_with(&(ApiKey::Produce as i16).to_be_bytes());
            let busy = self.running.is_some()
                || !(is_produce && self.has_context()
                    || self.pending.is_empty() && self.produce_requests == 0)
                || self.produces_enough()
                || self.pause().is_some();
            if busy {
                break;
            }
            let Some(frame) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= frame.len();
            self.last_request = Instant::now();
            match self.access {
                Access::Handshaken(sasl::Dialogue { framing: sasl::Framing::Bare, .. }) => {
                    self.bare_token(&frame, out).await?;
                }
                _ => self.start(frame, out).await?,
            }
        }
        self.submit();
        Ok(())
    }

    /// Whether as much is on its way as one connection may have.
    fn produces_enough(&self) -> bool {
        let limits = self.broker.limits();
        self.produce_requests >= limits.publishes_in_flight_max.max(1)
            || self.produce_requests > 0 && self.produce_bytes >= limits.publish_bytes_in_flight_max
    }

    async fn start(&mut self, frame: Bytes, out: &mut Output) -> Result<(), Close> {
        let (header, request) = match decode_request(frame) {
            Ok(decoded) => decoded,
            Err(error) => return self.refuse(error, out),
        };
        match request {
            Request::ApiVersions(request) => {
                let response = api_versions::handle(header.api_version, &request);
                self.respond(&header, &response, out)
            }
            Request::SaslHandshake(request) => self.sasl_handshake(&header, &request, out),
            Request::SaslAuthenticate(request) => {
                self.sasl_authenticate(&header, &request.auth_bytes, out).await
            }
            Request::Produce(request) => {
                let context = self.context().await?;
                self.produces = true;
                let checked = self.inflating.check(&self.broker, &request).await;
                let (batch, dispatched) =
                    self.gathered.get_or_insert_with(|| (context.client.batch(), Vec::new()));
                let mut produce = produce::dispatch(&context, &header, request, checked, batch);
                if !produce.acks.is_none() {
                    produce.slot = Some(self.next_slot);
                    self.next_slot += 1;
                    self.pending.push_back(None);
                }
                if produce.is_done() {
                    return self.produced(produce, out);
                }
                self.produce_bytes += produce.bytes;
                self.produce_requests += 1;
                dispatched.push(produce);
                Ok(())
            }
            request => {
                self.fetches |= matches!(request, Request::Fetch(_));
                self.run(header, request, out).await
            }
        }
    }

    /// Runs a request up to its first wait, and lets it go on in a task if it has one.
    async fn run(&mut self, header: RequestHeader, request: Request, out: &mut Output) -> Result<(), Close> {
        let context = self.context().await?;
        let slot = self.next_slot;
        self.next_slot += 1;
        self.pending.push_back(None);
        let mut answer: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(api::answer(context, header, request));
        let first = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        match first {
            Poll::Ready(response) => self.fill(slot, Some(response), out),
            Poll::Pending => {
                let unanswered = Unanswered { slot, mailbox: self.mailbox.clone(), response: None };
                let task = tokio::spawn(unanswered.answer(answer));
                self.running = Some(task.abort_handle());
                Ok(())
            }
        }
    }

    /// What the client may do; without credentials, whatever the broker allows to those who have none.
    async fn context(&mut self) -> Result<Context, Close> {
        match &self.access {
            Access::Admitted { context, .. } => Ok(context.clone()),
            Access::Handshaken(_) => {
                Err(Close::Error("a request came where the credentials were expected".to_owned()))
            }
            Access::Stranger => {
                let principal = sasl::anonymous(&self.broker, &self.origin).await;
                let principal = principal.map_err(|error| Close::Error(error.to_string()))?;
                self.admit(principal, false).map_err(|error| Close::Error(error.to_string()))
            }
        }
    }

    fn address(&self) -> IpAddr {
        self.origin.peer.ip()
    }

    /// # Errors
    /// There is no such namespace, or it or the user has as many connections as it may.
    fn admit(&mut self, principal: Principal, by_password: bool) -> Result<Context, Error> {
        let namespace = self.broker.namespace_of(&self.origin, &principal)?;
        let context = Context {
            client: self.broker.client(principal, namespace, self.connection),
            peer: self.address(),
            topic_ids: self.topic_ids,
            fetches: Arc::new(Mutex::default()),
        };
        let mailbox = self.mailbox.clone();
        let rights = context.client.watch_rights(move || mailbox.send(Event::Rights))?;
        context.client.audit_log_in(&self.origin);
        self.access = Access::Admitted { context: context.clone(), by_password, _rights: rights };
        Ok(context)
    }

    /// How long nothing more is done for the client, whose rate is limited.
    fn pause(&self) -> Option<Duration> {
        match &self.access {
            Access::Admitted { context, .. } => context.client.pause(self.produces, self.fetches),
            Access::Stranger | Access::Handshaken(_) => None,
        }
    }

    fn sasl_handshake(
        &mut self,
        header: &RequestHeader,
        request: &crate::wire::messages::sasl_handshake::SaslHandshakeRequest,
        out: &mut Output,
    ) -> Result<(), Close> {
        let tokens = self.broker.accepts_tokens();
        // A client whose token runs out comes with another one (KIP-368).
        let renews = self.lifetime().is_some();
        let authenticated = matches!(self.access, Access::Admitted { by_password: true, .. }) && !renews;
        let (response, framing) = sasl::handshake(header.api_version, request, (authenticated, tokens));
        self.respond(header, &response, out)?;
        match framing {
            Some(dialogue) if renews => self.renewing = Some(dialogue),
            Some(dialogue) => self.access = Access::Handshaken(dialogue),
            // Who is let in already stays so, as in Kafka; anybody else has nothing more to say.
            None if authenticated => {}
            None => return Err(Close::Done),
        }
        Ok(())
    }

    /// How long the client may go on, in milliseconds, if it has shown a token.
    fn lifetime(&self) -> Option<u64> {
        match &self.access {
            Access::Admitted { context, .. } => self.broker.milliseconds_left(context.client.principal()),
            Access::Stranger | Access::Handshaken(_) => None,
        }
    }

    async fn sasl_authenticate(
        &mut self,
        header: &RequestHeader,
        token: &[u8],
        out: &mut Output,
    ) -> Result<(), Close> {
        let result = self.token(token).await.map(|answer| (answer, self.lifetime()));
        let response = sasl::response(&result);
        self.respond(header, &response, out)?;
        if result.is_err() { Err(Close::Done) } else { Ok(()) }
    }

    /// Judges a token of the mechanism that is agreed on, and returns the answer. A refusal ends the
    /// connection.
    async fn token(&mut self, token: &[u8]) -> Result<String, sasl::Refusal> {
        if let Some(dialogue) = self.renewing.take() {
            return self.renew(dialogue, token).await;
        }
        let step = match std::mem::replace(&mut self.access, Access::Stranger) {
            Access::Handshaken(dialogue) => {
                sasl::authenticate(&self.broker, &self.origin, dialogue, token).await
            }
            other => {
                self.access = other;
                return Err((ErrorCode::IllegalSaslState, "SaslHandshake comes first".to_owned()));
            }
        };
        match step? {
            sasl::Step::Challenge(dialogue, answer) => {
                self.access = Access::Handshaken(dialogue);
                Ok(answer)
            }
            sasl::Step::Done(principal, answer) => {
                self.admit(principal, true).map_err(|error| sasl::refused(&error.to_string()))?;
                Ok(answer)
            }
        }
    }

    /// Has a client that is let in go on with what it shows now, as the same user with the same groups.
    async fn renew(&mut self, dialogue: sasl::Dialogue, token: &[u8]) -> Result<String, sasl::Refusal> {
        let step = sasl::authenticate(&self.broker, &self.origin, dialogue, token).await?;
        match (step, &self.access) {
            (sasl::Step::Done(principal, answer), Access::Admitted { context, .. })
                if context.client.renew(&principal) =>
            {
                Ok(answer)
            }
            _ => Err(sasl::refused("a client authenticates anew with a token of the same user and groups")),
        }
    }

    /// SaslHandshake v0 is followed by the mechanism's own tokens, in frames without headers.
    async fn bare_token(&mut self, token: &[u8], out: &mut Output) -> Result<(), Close> {
        match self.token(token).await {
            Ok(answer) => {
                let length = i32::try_from(answer.len()).unwrap_or_default();
                out.bytes().extend_from_slice(&length.to_be_bytes());
                out.bytes().extend_from_slice(answer.as_bytes());
                Ok(())
            }
            // There is no way to say why; Kafka closes, too.
            Err((_, why)) => Err(Close::Error(why)),
        }
    }

    /// Kafka closes the connection on anything that is no request it knows, with one exception.
    fn refuse(&mut self, error: RequestError, out: &mut Output) -> Result<(), Close> {
        if let RequestError::UnsupportedVersion { api: ApiKey::ApiVersions, correlation_id, .. } = error {
            // KIP-511: answered in version 0, which every client reads.
            let header =
                RequestHeader { api: ApiKey::ApiVersions, api_version: 0, correlation_id, client_id: None };
            return self.respond(&header, &api_versions::unsupported(), out);
        }
        Err(Close::Error(error.to_string()))
    }

    /// Answers a request that started alone.
    fn respond(
        &mut self,
        header: &RequestHeader,
        response: &impl ResponseBody,
        out: &mut Output,
    ) -> Result<(), Close> {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.pending.push_back(None);
        self.fill(slot, Some(encode_response(header.correlation_id, header.api_version, response)), out)
    }

    /// Puts a response in its place, and writes all that are next.
    fn fill(
        &mut self,
        slot: u64,
        response: Option<Result<Frame, EncodeError>>,
        out: &mut Output,
    ) -> Result<(), Close> {
        let response = match response {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(Close::Error(format!("a response cannot be written: {error}"))),
            None => return Err(Close::Error("a request could not be answered".to_owned())),
        };
        let first = self.next_slot - self.pending.len() as u64;
        let place = slot.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(place) = place.and_then(|at| self.pending.get_mut(at)) {
            *place = Some(response);
        }
        while let Some(Some(_)) = self.pending.front() {
            let frame = self.pending.pop_front().flatten().unwrap_or_default();
            for piece in frame.into_pieces() {
                if piece.len() < COALESCE_BELOW_BYTES {
                    out.bytes().extend_from_slice(&piece);
                } else {
                    out.chunk(piece);
                }
            }
        }
        Ok(())
    }

    /// Sends on what Produce requests brought since the last time.
    fn submit(&mut self) {
        let Some((batch, dispatched)) = self.gathered.take() else { return };
        if dispatched.is_empty() {
            return;
        }
        let number = self.next_batch;
        self.next_batch += 1;
        self.submitted.insert(number, dispatched);
        let mailbox = self.mailbox.clone();
        batch.submit(move |outcome| mailbox.send(Event::Produced { batch: number, outcome }));
    }

    fn produced(&mut self, dispatched: Dispatched, out: &mut Output) -> Result<(), Close> {
        match dispatched.slot {
            Some(slot) => {
                let response = dispatched.encode(throttle_time_ms(self.pause()));
                self.fill(slot, Some(response), out)
            }
            // Nobody waits for an answer; closing the connection is how Kafka tells that something failed.
            None => match dispatched.first_error() {
                Some(error) => Err(Close::Error(format!("Produce with acks=0 failed: {error}"))),
                None => Ok(()),
            },
        }
    }
}

impl Session for Conversation {
    type Event = Event;

    async fn input(&mut self, input: &mut BytesMut, out: &mut Output) -> Result<(), Close> {
        loop {
            let limit = if self.has_context() { REQUEST_BYTES_MAX } else { STRANGERS_REQUEST_BYTES_MAX };
            match split_frame(input, limit) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    self.waiting_bytes += frame.len();
                    self.waiting.push_back(frame);
                }
                // Who is let in without credentials may begin with more than a stranger may send.
                Err(FrameError::TooLong { length, .. })
                    if length <= REQUEST_BYTES_MAX && matches!(self.access, Access::Stranger) =>
                {
                    self.context().await?;
                    continue;
                }
                Err(error) => return Err(Close::Error(error.to_string())),
            }
            // The next frame may be larger once the client is let in.
            if !self.has_context() {
                self.advance(out).await?;
            }
        }
        self.advance(out).await
    }

    async fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Close> {
        match event {
            // Each request is judged by itself; only what belongs to nobody any more ends.
            Event::Rights => match &self.access {
                Access::Admitted { context, .. } => {
                    context.client.standing().map_err(|revoked| Close::Error(revoked.to_string()))?;
                }
                Access::Stranger | Access::Handshaken(_) => {}
            },
            Event::Answered { slot, response } => {
                self.running = None;
                self.fill(slot, response, out)?;
            }
            Event::Produced { batch, mut outcome } => {
                outcome.refused.sort_unstable_by_key(|(index, _)| *index);
                outcome.appended.sort_unstable_by_key(|(index, ..)| *index);
                for mut dispatched in self.submitted.remove(&batch).unwrap_or_default() {
                    self.produce_bytes -= dispatched.bytes;
                    self.produce_requests -= 1;
                    dispatched.complete(&outcome);
                    self.produced(dispatched, out)?;
                }
            }
        }
        self.advance(out).await
    }

    fn deadline(&self) -> Option<Instant> {
        if self.pending.is_empty() && self.waiting.is_empty() && self.produce_requests == 0 {
            return Some(self.last_request + IDLE_CONNECTION_MAX);
        }
        // Requests that wait for the end of a pause only.
        let pause = if self.waiting.is_empty() { None } else { self.pause() };
        pause.map(|pause| Instant::now() + pause)
    }

    fn is_admitted(&self) -> bool {
        match self.access {
            Access::Admitted { .. } => true,
            // Whoever needs no credentials need not say more than ApiVersions.
            Access::Stranger => self.next_slot > 0 && self.broker.admits_anonymous(&self.origin),
            Access::Handshaken(_) => false,
        }
    }

    async fn timeout(&mut self, out: &mut Output) -> Result<(), Close> {
        if !self.waiting.is_empty() {
            return self.advance(out).await;
        }
        match self.deadline() {
            Some(deadline) if deadline <= Instant::now() => Err(Close::Done),
            _ => Ok(()),
        }
    }

    fn wants_input(&self) -> bool {
        let held_back = self.produce_requests > 0 && (self.produces_enough() || self.broker.overloaded());
        !held_back && self.waiting.len() < WAITING_REQUESTS_MAX && self.waiting_bytes < WAITING_BYTES_MAX
    }

    fn input_pause(&self) -> Option<Duration> {
        self.pause()
    }

    async fn closed(self, _why: Closed) {
        if let Some(running) = self.running {
            running.abort();
        }
        if let Access::Admitted { context, .. } = self.access {
            context.client.close().await;
        }
    }
}

/// Sends the response when it goes, also when the task that was to make it died.
struct Unanswered {
    slot: u64,
    mailbox: Mailbox<Event>,
    response: Option<Result<Frame, EncodeError>>,
}

impl Unanswered {
    async fn answer(mut self, answer: impl Future<Output = Result<Frame, EncodeError>>) {
        self.response = Some(answer.await);
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.mailbox.send(Event::Answered { slot: self.slot, response: self.response.take() });
    }
}
