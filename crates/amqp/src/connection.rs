//! An open connection: its channels, its consumers, and what is on its way to and from the broker.

use crate::{
    channel::{Channel, Channels, Consumer, Deliveries, Lease},
    deliveries::{Inbox, Waiting, take_of},
    handshake::Opened,
    properties::Capabilities,
    publishing::Publishing,
    session::Event,
    state::{Confirms, Verdict},
    wire::{
        AssembleError, Command, ContentMethod, EncodeMethod, Exception, Frame, FrameMax, Method, ReplyCode,
        Resource, ResourceKind, ShortString, basic, channel, connection, encode_ack, encode_method,
        encode_nack,
    },
};
use posthaste_broker::{Broker, Client, Error, Holder, Outcome as Published, RightsWatch};
use posthaste_engine::{Position, command::Outcome, effect::Refusal};
use posthaste_model::{ConnectionId, ConsumerId};
use posthaste_net::Output;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::time::Instant;

/// How often it is looked whether a full disk has room again.
const ROOM_POLL: Duration = Duration::from_millis(250);
/// How long a publisher is not listened to when consumers do not keep up: about one read each time.
const SLOWED: Duration = Duration::from_millis(5);
/// Bytes of unfinished bodies over all channels, besides one message of the largest size.
const ASSEMBLING_BYTES_MAX: usize = 32 << 20;

/// Something went wrong on a channel; 0 is the connection.
#[derive(Debug)]
pub(crate) struct Fault {
    pub channel: u16,
    pub exception: Exception,
}

/// What a frame leaves behind.
pub(crate) enum Flow {
    Goes,
    /// The client closed the connection.
    Ends,
    /// [`Connection::method`] is to be done with this one.
    Asks(Method),
}

pub(crate) struct Connection {
    pub broker: Broker,
    pub client: Client,
    pub vhost: String,
    pub frame_max: FrameMax,
    pub channels: Channels,
    pub consumers: HashMap<ConsumerId, Consumer>,
    /// Cancelled consumers with deliveries in the mailbox, for all that is known.
    pub cancelled: HashSet<Holder>,
    pub inbox: Inbox,
    pub waiting: Waiting,
    pub publishing: Option<Publishing>,
    capabilities: Capabilities,
    channel_max: u16,
    settlements: Settlements,
    confirms: Confirms,
    /// Octets of unfinished bodies.
    assembling: usize,
    blocked: Option<Blocked>,
    /// Nothing is read until then, as consumers do not keep up with what is published here.
    slowed_until: Option<Instant>,
    /// Nothing is delivered until then, as the client's rate is limited.
    paced_until: Option<Instant>,
    /// It has published: only then does it pause for its user's rate. A connection that consumes goes on.
    pub publishes: bool,
    /// It has used `basic.get`, whose rate only reading less can limit.
    pub gets: bool,
    released: bool,
    _rights: RightsWatch,
}

/// The disk is full.
struct Blocked {
    look_again: Instant,
    /// Something was published without confirms: nobody would learn that it was refused, so nothing more is
    /// read.
    hold_back: bool,
}

impl Connection {
    /// # Errors
    /// The user or the namespace has as many connections as it may.
    pub fn new(broker: &Broker, opened: Opened, id: ConnectionId, inbox: Inbox) -> Result<Connection, Error> {
        let Opened { tuned, vhost, namespace } = opened;
        let client = broker.client(tuned.client.principal, namespace, id);
        let mailbox = inbox.mailbox();
        let rights = client.watch_rights(move || mailbox.send(Event::Rights))?;
        Ok(Connection {
            broker: broker.clone(),
            client,
            vhost,
            frame_max: tuned.frame_max,
            channels: Channels::new(),
            consumers: HashMap::new(),
            cancelled: HashSet::new(),
            inbox,
            waiting: Waiting::new(),
            publishing: None,
            capabilities: tuned.client.capabilities,
            channel_max: tuned.channel_max,
            settlements: Settlements::default(),
            confirms: Confirms::default(),
            assembling: 0,
            blocked: None,
            slowed_until: None,
            paced_until: None,
            publishes: false,
            gets: false,
            released: false,
            _rights: rights,
        })
    }

    pub fn wants_input(&self) -> bool {
        let limits = self.broker.limits();
        let (publishes, bytes) = (self.confirms.publishes(), self.confirms.bytes());
        publishes < limits.publishes_in_flight_max
            && bytes < limits.publish_bytes_in_flight_max
            && !(publishes > 0 && self.broker.overloaded())
            && self.slowed_until.is_none()
            && !self.blocked.as_ref().is_some_and(|blocked| blocked.hold_back)
    }

    /// How long nothing is read, as the client's rate is limited.
    pub fn input_pause(&self) -> Option<Duration> {
        self.client.pause(self.publishes, self.gets)
    }

    /// Does at once what need not wait: publishes and settlements above all. They are so many that even
    /// handing them through futures would show.
    ///
    /// # Errors
    /// What closes the channel or the connection.
    pub fn frame(&mut self, number: u16, frame: Frame, out: &mut Output) -> Result<Flow, Fault> {
        if number == 0 {
            return self.connection_frame(frame).map_err(|exception| Fault { channel: 0, exception });
        }
        let Some(channel) = self.channels.get_mut(number) else {
            return self.frame_without_channel(number, frame, out);
        };
        if channel.closing {
            self.frame_while_closing(number, &frame, out);
            return Ok(Flow::Goes);
        }
        let before = channel.assembler.buffered_octets();
        let command = channel.assembler.push(frame);
        let octets = channel.assembler.buffered_octets();
        self.assembling = (self.assembling + octets).saturating_sub(before);
        let result = match command {
            Ok(Some(command)) => self.command(number, command, out),
            Ok(None) => self.check_assembling().map(|()| Flow::Goes),
            Err(error) => Err(assemble_exception(error)),
        };
        result.map_err(|exception| Fault { channel: number, exception })
    }

    fn check_assembling(&self) -> Result<(), Exception> {
        let max = ASSEMBLING_BYTES_MAX + self.broker.limits().message_bytes_max;
        if self.assembling <= max {
            return Ok(());
        }
        let text = format!("unfinished messages on all channels take more than {max} octets");
        Err(Exception::new(ReplyCode::ResourceError, text))
    }

    fn connection_frame(&self, frame: Frame) -> Result<Flow, Exception> {
        match frame {
            Frame::Heartbeat => Ok(Flow::Goes),
            Frame::Command(Command::Method(Method::ConnectionClose(_))) => Ok(Flow::Ends),
            Frame::Command(Command::Method(Method::ConnectionUpdateSecret(update))) => {
                Ok(Flow::Asks(update.into()))
            }
            Frame::Command(Command::Method(method)) => {
                let text = format!("unexpected {}", method.name());
                Err(Exception::new(ReplyCode::CommandInvalid, text).caused_by(method.method_id()))
            }
            _ => Err(Exception::new(ReplyCode::UnexpectedFrame, "content frame on channel 0")),
        }
    }

    fn frame_without_channel(&mut self, number: u16, frame: Frame, out: &mut Output) -> Result<Flow, Fault> {
        let result = match frame {
            Frame::Command(Command::Method(Method::ChannelOpen(_))) => self.open_channel(number, out),
            // A client may settle, or close, what it does not know to be closed yet (LavinMQ 2.9.0).
            Frame::Command(Command::Method(
                Method::BasicAck(_)
                | Method::BasicNack(_)
                | Method::BasicReject(_)
                | Method::ChannelCloseOk(_),
            )) if self.channels.was_open(number) => Ok(()),
            Frame::Command(Command::Method(Method::ChannelClose(_))) if self.channels.was_open(number) => {
                self.send(number, &channel::CloseOk {}, out)
            }
            _ => Err(Exception::new(ReplyCode::ChannelError, "expected 'channel.open'")),
        };
        result.map(|()| Flow::Goes).map_err(|exception| Fault { channel: number, exception })
    }

    fn frame_while_closing(&mut self, number: u16, frame: &Frame, out: &mut Output) {
        match frame {
            Frame::Command(Command::Method(Method::ChannelCloseOk(_))) => {
                self.channels.remove(number);
            }
            // The client closes it too, and gets no other answer to that.
            Frame::Command(Command::Method(Method::ChannelClose(_))) => {
                self.channels.remove(number);
                // Too small to fail.
                let _ = self.send(number, &channel::CloseOk {}, out);
            }
            _ => {}
        }
    }

    fn open_channel(&mut self, number: u16, out: &mut Output) -> Result<(), Exception> {
        if self.channels.len() >= usize::from(self.channel_max) || number > self.channel_max {
            let (open, max) = (self.channels.len(), self.channel_max);
            let text =
                format!("number of channels opened ({open}) has reached the negotiated channel_max ({max})");
            return Err(Exception::new(ReplyCode::NotAllowed, text));
        }
        self.channels.open(number, self.broker.limits().message_bytes_max as u64);
        self.send(number, &channel::OpenOk {}, out)
    }

    fn command(&mut self, number: u16, command: Command, out: &mut Output) -> Result<Flow, Exception> {
        let (method, done) = match command {
            Command::Content(ContentMethod::Publish(publish), content) => {
                (publish.method_id(), self.basic_publish(number, &publish, content, out))
            }
            Command::Content(method, _) => {
                let text = format!("{} is for clients to receive", method.name());
                return Err(Exception::new(ReplyCode::CommandInvalid, text).caused_by(method.method_id()));
            }
            // Settlements need not wait for publishes before them; all else sees their effect.
            Command::Method(Method::BasicAck(ack)) => (ack.method_id(), self.basic_ack(number, ack)),
            Command::Method(Method::BasicNack(nack)) => (nack.method_id(), self.basic_nack(number, nack)),
            Command::Method(Method::BasicReject(reject)) => {
                (reject.method_id(), self.basic_reject(number, reject))
            }
            Command::Method(method) => return Ok(Flow::Asks(method)),
        };
        done.map(|()| Flow::Goes).map_err(|exception| caused_by(exception, method))
    }

    /// Does what [`Flow::Asks`] for.
    pub async fn method(&mut self, number: u16, method: Method, out: &mut Output) -> Result<(), Fault> {
        self.hand_over();
        let id = method.method_id();
        let done = self.dispatch(number, method, out).await;
        done.map_err(|exception| Fault { channel: number, exception: caused_by(exception, id) })
    }

    async fn dispatch(&mut self, number: u16, method: Method, out: &mut Output) -> Result<(), Exception> {
        match method {
            Method::ChannelClose(_) => self.channel_close(number, out).await,
            Method::ChannelFlow(flow) => self.channel_flow(number, &flow, out),
            Method::ChannelOpen(_) => {
                Err(Exception::new(ReplyCode::ChannelError, "second 'channel.open' seen"))
            }
            Method::AccessRequest(_) => self.access_request(number, out),
            Method::ExchangeDeclare(declare) => self.exchange_declare(number, declare, out).await,
            Method::ExchangeDelete(delete) => self.exchange_delete(number, delete, out).await,
            Method::ExchangeBind(bind) => self.exchange_bind(number, bind, out).await,
            Method::ExchangeUnbind(unbind) => self.exchange_unbind(number, unbind, out).await,
            Method::QueueDeclare(declare) => self.queue_declare(number, declare, out).await,
            Method::QueueBind(bind) => self.queue_bind(number, bind, out).await,
            Method::QueueUnbind(unbind) => self.queue_unbind(number, unbind, out).await,
            Method::QueuePurge(purge) => self.queue_purge(number, purge, out).await,
            Method::QueueDelete(delete) => self.queue_delete(number, delete, out).await,
            Method::BasicQos(qos) => self.basic_qos(number, &qos, out),
            Method::BasicConsume(consume) => self.basic_consume(number, consume, out).await,
            Method::BasicCancel(cancel) => self.basic_cancel(number, cancel, out).await,
            Method::BasicGet(get) => self.basic_get(number, get, out).await,
            Method::BasicRecover(recover) => self.basic_recover(number, recover.requeue, true, out),
            Method::BasicRecoverAsync(recover) => self.basic_recover(number, recover.requeue, false, out),
            Method::ConfirmSelect(select) => self.confirm_select(number, &select, out),
            Method::TxSelect(_) | Method::TxCommit(_) | Method::TxRollback(_) => {
                let text = "transactions are not supported; use publisher confirms and acknowledgements";
                Err(Exception::new(ReplyCode::NotImplemented, text))
            }
            // RabbitMQ's clients answer basic.cancel only if they feel like it.
            Method::BasicCancelOk(_) | Method::ChannelFlowOk(_) | Method::ChannelCloseOk(_) => Ok(()),
            other => {
                Err(Exception::new(ReplyCode::CommandInvalid, format_args!("unexpected {}", other.name())))
            }
        }
    }

    /// What was published and settled goes to the broker, ahead of what follows.
    pub fn hand_over(&mut self) {
        if let Some(publishing) = self.publishing.take() {
            publishing.submit(&mut self.confirms, &self.inbox);
        }
        self.settlements.send(&self.client);
    }

    /// All that one read contained was looked at.
    pub async fn settle(&mut self, out: &mut Output) -> Result<(), Fault> {
        if self.released {
            return Ok(());
        }
        self.hand_over();
        if self.waiting.is_worth_a_look() { self.deliver_waiting(out).await } else { Ok(()) }
    }

    pub async fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Fault> {
        if self.released {
            return Ok(());
        }
        match event {
            Event::Deliver(holder, deliveries) => {
                self.receive(holder, deliveries);
                self.deliver_waiting(out).await
            }
            Event::Published(number, outcome) => self.published(number, outcome, out),
            Event::Drained(holder) => {
                self.cancelled.remove(&holder);
                Ok(())
            }
            Event::Room => {
                self.inbox.looked();
                self.deliver_waiting(out).await
            }
            Event::Cancelled(consumer) => {
                self.cancelled(consumer, out);
                Ok(())
            }
            Event::Rights => self.judge_again(out).await,
        }
    }

    fn published(&mut self, number: u64, outcome: Published, out: &mut Output) -> Result<(), Fault> {
        if outcome.crowded {
            self.slowed_until.get_or_insert_with(|| Instant::now() + SLOWED);
        }
        let refused = |why| outcome.refused.iter().any(|(_, refusal)| *refusal == why);
        let (full, limited) = (refused(Refusal::NoSpace), refused(Refusal::StorageLimit));
        self.confirms.finish(number, outcome.refused.into_iter().map(|(index, _)| index).collect());
        for verdict in self.confirms.release() {
            let Verdict { channel, serial, first, last, refused } = verdict;
            if self.channels.get(channel).is_none_or(|c| c.serial != serial || c.closing) {
                continue;
            }
            match refused {
                true => encode_nack(out.bytes(), channel, last, false, false),
                false => encode_ack(out.bytes(), channel, last, last > first),
            }
        }
        if full {
            self.block(out);
        }
        if limited && self.publishes_unconfirmed() {
            // There is no other way to say that messages were refused.
            let text = Error::from(Refusal::StorageLimit).to_string();
            return Err(Fault { channel: 0, exception: Exception::new(ReplyCode::ResourceError, text) });
        }
        Ok(())
    }

    /// Whether there is a channel without confirms.
    fn publishes_unconfirmed(&self) -> bool {
        let numbers = self.channels.numbers();
        let mut open = numbers.iter().filter_map(|n| self.channels.get(*n)).filter(|c| !c.closing);
        open.any(|c| c.next_publish_tag.is_none())
    }

    fn block(&mut self, out: &mut Output) {
        let hold_back = self.publishes_unconfirmed();
        let newly = self.blocked.is_none();
        self.blocked = Some(Blocked { look_again: Instant::now() + ROOM_POLL, hold_back });
        if newly && self.capabilities.connection_blocked {
            let reason = ShortString::from_static("low on disk");
            let _ = self.send(0, &connection::Blocked { reason }, out);
        }
    }

    /// Delivers nothing for as long.
    pub fn pace(&mut self, pause: Duration) {
        self.paced_until = Some(Instant::now() + pause);
    }

    pub fn deadline(&self) -> Option<Instant> {
        let look_again = self.blocked.as_ref().map(|blocked| blocked.look_again);
        [look_again, self.slowed_until, self.paced_until].into_iter().flatten().min()
    }

    pub fn timeout(&mut self, now: Instant, out: &mut Output) {
        self.slowed_until = self.slowed_until.filter(|until| now < *until);
        if self.paced_until.is_some_and(|until| now >= until) {
            self.paced_until = None;
            self.inbox.look_again();
        }
        let Some(blocked) = &mut self.blocked else { return };
        if now < blocked.look_again {
            return;
        }
        if self.broker.no_space() {
            blocked.look_again = now + ROOM_POLL;
            return;
        }
        self.blocked = None;
        if self.capabilities.connection_blocked {
            let _ = self.send(0, &connection::Unblocked {}, out);
        }
    }

    /// The consumer's queue is gone.
    fn cancelled(&mut self, id: ConsumerId, out: &mut Output) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        self.forget_waiting(consumer.holder);
        let Some(channel) = self.channels.get_mut(consumer.channel) else { return };
        channel.consumers.remove(&consumer.tag);
        let is_open = !channel.closing;
        let deliveries = take_of(&mut channel.held, consumer.holder);
        self.forget_held([Deliveries { holder: consumer.holder, deliveries }]);
        if self.capabilities.consumer_cancel_notify && is_open {
            let cancel = basic::Cancel { consumer_tag: consumer.tag, no_wait: true };
            let _ = self.send(consumer.channel, &cancel, out);
        }
    }

    /// The fate of deliveries, to be told to the broker.
    pub fn settle_leases(&mut self, leases: impl IntoIterator<Item = Lease>, outcome: Outcome) {
        for lease in leases {
            if let Some(consumer) = self.consumers.get_mut(&lease.holder.consumer()) {
                consumer.window.settled(1);
            }
            self.settlements.add(lease.holder, outcome, (lease.lane, lease.position));
        }
    }

    /// Closes a channel from this side: what it holds goes back, and the client is told why.
    pub async fn close_channel(&mut self, number: u16, exception: Exception, out: &mut Output) {
        self.hand_over();
        self.release_channel(number).await;
        if let Some(channel) = self.channels.get_mut(number) {
            channel.closing = true;
        }
        let (on, close) = exception.into_close(number);
        // Its text is cut to 255 octets, so it fits any frame.
        let _ = self.send(on, &close, out);
    }

    /// Everything that the channel holds goes back to where it came from, in order.
    pub async fn release_channel(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        self.assembling = self.assembling.saturating_sub(channel.assembler.buffered_octets());
        channel.assembler = crate::wire::Assembler::new(0);
        let mut holders: Vec<Holder> = channel.unsettled.iter().map(|lease| lease.holder).collect();
        let _ = channel.unsettled.take_through(0);
        channel.consumers_unsettled = 0;
        let consumers: Vec<ConsumerId> = channel.consumers.drain().map(|(_, id)| id).collect();
        let reply_queue = channel.reply_queue.take();
        let held = std::mem::take(&mut channel.held);
        self.forget_held(held);
        let mut ended = Vec::new();
        for id in consumers {
            if let Some(consumer) = self.consumers.remove(&id) {
                self.forget_waiting(consumer.holder);
                holders.push(consumer.holder);
                ended.push(consumer.queue);
            }
        }
        holders.sort_unstable();
        holders.dedup();
        for holder in holders {
            self.client.detach(holder).await;
        }
        for queue in ended {
            self.delete_if_unused(&queue).await;
        }
        if let Some(queue) = reply_queue {
            // It is nobody else's, and goes with the connection at the latest.
            let _ = self.client.delete_queue(&queue.name, false, false).await;
        }
    }

    /// The connection is over, or as good as that. Once it was released, nothing else is asked of it.
    pub async fn release(&mut self) {
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        self.hand_over();
        for number in self.channels.numbers() {
            self.release_channel(number).await;
            self.channels.remove(number);
        }
        for holder in std::mem::take(&mut self.cancelled) {
            self.client.detach(holder).await;
        }
        self.client.close().await;
    }

    /// # Errors
    /// NOT_FOUND for a channel that is gone, which cannot happen while one of its methods is carried out.
    pub fn channel(&mut self, number: u16) -> Result<&mut Channel, Exception> {
        let missing = || Exception::new(ReplyCode::ChannelError, "expected 'channel.open'");
        self.channels.get_mut(number).ok_or_else(missing)
    }

    /// # Errors
    /// The method does not fit a frame.
    pub fn send(&self, number: u16, method: &impl EncodeMethod, out: &mut Output) -> Result<(), Exception> {
        encode_method(out.bytes(), number, method, self.frame_max)
            .map_err(|error| Exception::new(ReplyCode::FrameError, error))
    }

    /// Answers a method, unless the client does not want to wait for it.
    pub fn answer(
        &self,
        number: u16,
        no_wait: bool,
        method: &impl EncodeMethod,
        out: &mut Output,
    ) -> Result<(), Exception> {
        if no_wait { Ok(()) } else { self.send(number, method, out) }
    }

    pub fn queue_resource<'a>(&'a self, name: &'a ShortString) -> Resource<'a> {
        Resource { kind: ResourceKind::Queue, name, vhost: &self.vhost }
    }

    pub fn exchange_resource<'a>(&'a self, name: &'a ShortString) -> Resource<'a> {
        Resource { kind: ResourceKind::Exchange, name, vhost: &self.vhost }
    }
}

fn caused_by(exception: Exception, method: crate::wire::MethodId) -> Exception {
    if exception.method == crate::wire::MethodId::NONE { exception.caused_by(method) } else { exception }
}

fn assemble_exception(error: AssembleError) -> Exception {
    error.exception()
}

/// Settlements of one read, by what they have in common.
#[derive(Default)]
struct Settlements {
    groups: Vec<Group>,
}

struct Group {
    holder: Holder,
    outcome: Outcome,
    deliveries: Vec<(u8, Position)>,
}

/// Groups that are looked through for the one that a settlement belongs to.
const GROUPS_SEARCHED: usize = 8;

impl Settlements {
    fn add(&mut self, holder: Holder, outcome: Outcome, delivery: (u8, Position)) {
        let fits = |group: &&mut Group| (group.holder, group.outcome) == (holder, outcome);
        match self.groups.iter_mut().rev().take(GROUPS_SEARCHED).find(fits) {
            Some(group) => group.deliveries.push(delivery),
            None => self.groups.push(Group { holder, outcome, deliveries: vec![delivery] }),
        }
    }

    fn send(&mut self, client: &Client) {
        for Group { holder, outcome, deliveries } in self.groups.drain(..) {
            client.settle(holder, deliveries, outcome);
        }
    }
}
