//! AMQP: who makes queues whose messages die, has them die, and deletes the queue while they are on their
//! way.

use super::{
    Shore,
    amqp::{CHANNEL, Connection, Received, encode_message},
    persist, wrong,
};
use crate::{
    history::{Fate, Place, Repeats},
    message::Id,
    topology,
};
use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::{FieldTable, FieldValue, Method, ReplyCode, ShortString, basic, confirm, queue};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
    time::Duration,
};
use tokio::time::timeout;

/// What the messages of a plot die of, besides being rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rejected,
    Expired,
    /// Given back once too often.
    Returned,
    /// The queue holds few, and the oldest goes.
    Crowded,
    /// The queue goes with its last consumer.
    AutoDelete,
    /// The queue goes when nobody uses it.
    Unused,
}

/// A durable queue of the undertaker's own.
#[derive(Clone, Debug)]
struct Plot {
    name: String,
    kind: Kind,
    /// Where the dead go: a queue of the topology, or one that does not exist.
    target: &'static str,
    /// The broker has said that it is there.
    dug: bool,
    /// Told to go, or left to go by itself, in this incarnation; it may be gone.
    closing: Option<u32>,
    /// Nobody knows whether it is going by itself just now.
    may_vanish: bool,
    sent: BTreeSet<Id>,
    acknowledged: BTreeSet<Id>,
    /// A consumer has sent that it has them.
    accepted: BTreeSet<Id>,
    /// A consumer has sent that it rejects them.
    rejected: BTreeSet<Id>,
    /// In which incarnation the undertaker was there the last time.
    visited_in: u32,
    /// The broker has surely taken the rejection, in this incarnation.
    dead: BTreeSet<Id>,
    dead_in: u32,
    /// A consumer was begun and did not end in order.
    consumes: bool,
    /// Given back when the consumer had ended, so that nothing proves that the broker has heard of it.
    late: BTreeSet<Id>,
    /// What earlier connections of this incarnation may hold, until the broker knows that they are gone.
    loose: BTreeSet<Id>,
    loose_in: u32,
}

impl Plot {
    /// Whether it may go at any moment, without having been used.
    fn vanishes(&self) -> bool {
        self.kind == Kind::Unused || self.may_vanish
    }

    /// There is a new connection, and the ones before may not be over for the broker.
    fn connected(&mut self, incarnation: u32) {
        if std::mem::replace(&mut self.loose_in, incarnation) != incarnation {
            (self.loose, self.late, self.consumes) = Default::default();
        }
        self.loose.append(&mut self.late);
        if std::mem::take(&mut self.consumes) {
            // Also what was on its way to it, and it never saw.
            self.loose.extend(&self.sent);
        }
    }
}

/// What an undertaker remembers over its connections.
pub struct Undertaker {
    pub number: u32,
    pub sent: Cell<u32>,
    plot: RefCell<Option<Plot>>,
    plots: Cell<u32>,
    /// The last plot's end was answered: its name is free.
    name_is_free: Cell<bool>,
    /// Of plots that were surely deleted; none may be seen in another one.
    gone: RefCell<BTreeSet<Id>>,
}

impl Undertaker {
    pub fn new(number: u32) -> Undertaker {
        let (sent, plots, name_is_free) = Default::default();
        let (plot, gone) = Default::default();
        Undertaker { number, sent, plot, plots, name_is_free, gone }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Plot) -> T) -> io::Result<T> {
        self.plot.borrow_mut().as_mut().map(change).ok_or_else(|| wrong("no plot"))
    }

    /// The plot of before, or a new one, often under the name of the last.
    fn take_plot(&self, shore: &Shore) -> Plot {
        let known = self.plot.borrow().clone();
        let plot = known.unwrap_or_else(|| {
            if !self.name_is_free.take() || shore.chance(1, 2) {
                self.plots.set(self.plots.get() + 1);
            }
            let kinds = [
                Kind::Rejected,
                Kind::Rejected,
                Kind::Rejected,
                Kind::Expired,
                Kind::Returned,
                Kind::Crowded,
                Kind::AutoDelete,
                Kind::Unused,
            ];
            Plot {
                name: format!("plot-{}-{}", self.number, self.plots.get()),
                kind: kinds[shore.below(kinds.len() as u64) as usize],
                target: topology::GRAVES[shore.below(topology::GRAVES.len() as u64) as usize],
                dug: false,
                closing: None,
                may_vanish: false,
                sent: BTreeSet::new(),
                acknowledged: BTreeSet::new(),
                accepted: BTreeSet::new(),
                rejected: BTreeSet::new(),
                visited_in: 0,
                dead: BTreeSet::new(),
                dead_in: 0,
                consumes: false,
                late: BTreeSet::new(),
                loose: BTreeSet::new(),
                loose_in: 0,
            }
        });
        self.plot.replace(Some(plot.clone()));
        plot
    }

    /// It is there, and holds so many messages: all that nobody took or rejected, if it loses none by itself.
    /// When the broker has just started nobody else holds any.
    fn found(&self, shore: &Shore, count: u64) -> io::Result<()> {
        let mut history = shore.history.borrow_mut();
        let incarnation = history.incarnation;
        self.change(|plot| {
            let most = plot.sent.len() as u64;
            if count > most {
                history.broken(format!("{} holds {count} messages, {most} were sent", plot.name));
            }
            let is_left = |id: &&Id| !plot.accepted.contains(id) && !plot.rejected.contains(id);
            let left = plot.acknowledged.iter().filter(is_left).count() as u64;
            let keeps_all = matches!(plot.kind, Kind::Rejected | Kind::AutoDelete | Kind::Unused);
            if keeps_all && std::mem::replace(&mut plot.visited_in, incarnation) != incarnation {
                for _ in count..left {
                    history.is_missing(format!("{} holds {count} messages, {left} are left", plot.name));
                }
            }
        })
    }

    /// The plot is gone; `told` is how many messages were deleted with it, if that was answered.
    fn close_plot(&self, shore: &Shore, told: Option<u64>) {
        let Some(plot) = self.plot.take() else { return };
        self.name_is_free.set(told.is_some());
        let mut history = shore.history.borrow_mut();
        // What is with a consumer is deleted and not counted.
        let told = told.filter(|_| !history.reads_fail);
        let same_life = plot.closing == Some(history.incarnation) && plot.dead_in == history.incarnation;
        history.buried(Buried {
            name: plot.name,
            target: plot.target,
            // After a crash they may have been back in the plot when it was deleted.
            dead: if same_life { plot.dead } else { BTreeSet::new() },
            acknowledged: plot.acknowledged,
            accepted: plot.accepted,
            loose: plot.loose,
            told,
        });
        self.gone.borrow_mut().extend(plot.sent);
    }
}

/// A plot that was deleted, for the history to judge.
pub struct Buried {
    pub name: String,
    pub target: &'static str,
    /// To be found at the target.
    pub dead: BTreeSet<Id>,
    pub acknowledged: BTreeSet<Id>,
    pub accepted: BTreeSet<Id>,
    /// An earlier connection may have held them: then they were deleted and not counted.
    pub loose: BTreeSet<Id>,
    /// How many messages were deleted with it; none if nobody was told.
    pub told: Option<u64>,
}

/// Works until it has sent `most` messages, and leaves nothing behind.
pub async fn undertaker(shore: Rc<Shore>, undertaker: Rc<Undertaker>, most: u32) {
    persist(&shore, "AMQP undertaker", || work(&shore, &undertaker, most)).await;
}

async fn work(shore: &Shore, undertaker: &Undertaker, most: u32) -> io::Result<bool> {
    let ended = undertaker.sent.get() >= most || shore.draining.get();
    if ended && undertaker.plot.borrow().is_none() {
        return Ok(true);
    }
    let mut connection = Connection::open(shore).await?;
    connection.tolerates = &[ReplyCode::NotFound, ReplyCode::PreconditionFailed];
    let Method::ConfirmSelectOk(_) = connection.call(CHANNEL, &confirm::Select { no_wait: false }).await?
    else {
        return Err(wrong("no confirm.select-ok"));
    };
    let mut plot = undertaker.take_plot(shore);
    let incarnation = shore.history.borrow().incarnation;
    undertaker.change(|plot| plot.connected(incarnation))?;
    if plot.closing.is_some() {
        if !settle_closing(shore, &mut connection, undertaker, &plot).await? {
            return Ok(false);
        }
        plot = undertaker.take_plot(shore);
    }
    if !declare(shore, &mut connection, undertaker, &plot).await? {
        return Ok(false);
    }
    if !ended {
        publish(shore, &mut connection, undertaker, &plot).await?;
    }
    if plot.kind == Kind::Expired && shore.chance(1, 2) {
        shore.pause(60).await;
    } else {
        consume(shore, &mut connection, undertaker, &plot, ended).await?;
    }
    if ended || shore.chance(3, 4) {
        close(shore, &mut connection, undertaker, &plot).await?;
    }
    // Its consumer goes with the connection.
    Ok(false)
}

/// Nobody has heard what became of the end of a plot. True if it is still there, and stays.
async fn settle_closing(
    shore: &Shore,
    connection: &mut Connection,
    undertaker: &Undertaker,
    plot: &Plot,
) -> io::Result<bool> {
    let declare =
        queue::Declare { queue: ShortString::truncated(&plot.name), passive: true, ..Default::default() };
    let answer = connection.call(CHANNEL, &declare).await?;
    if matches!(plot.kind, Kind::AutoDelete | Kind::Unused) {
        return match answer {
            Method::QueueDeclareOk(_) => {
                shore.pause(20).await;
                let same_life = plot.closing == Some(shore.history.borrow().incarnation);
                // It may be about to go; after a crash it stays until somebody has used it.
                let stays = !same_life || shore.chance(1, 3);
                if stays {
                    undertaker.change(|plot| (plot.closing, plot.may_vanish) = (None, same_life))?;
                }
                Ok(stays)
            }
            Method::ChannelClose(_) => {
                undertaker.close_plot(shore, None);
                Ok(false)
            }
            other => Err(wrong(format!("{other:?} instead of queue.declare-ok"))),
        };
    }
    match answer {
        Method::QueueDeclareOk(ok) => undertaker.found(shore, ok.message_count.into())?,
        Method::ChannelClose(_) => {
            undertaker.close_plot(shore, None);
            return Ok(false);
        }
        other => return Err(wrong(format!("{other:?} instead of queue.declare-ok"))),
    }
    let delete = queue::Delete { queue: ShortString::truncated(&plot.name), ..Default::default() };
    match connection.call(CHANNEL, &delete).await? {
        // The count of the first time was lost.
        Method::QueueDeleteOk(_) | Method::ChannelClose(_) => undertaker.close_plot(shore, None),
        other => return Err(wrong(format!("{other:?} instead of queue.delete-ok"))),
    }
    Ok(false)
}

/// False when the plot is not there any more, as it may be.
async fn declare(
    shore: &Shore,
    connection: &mut Connection,
    undertaker: &Undertaker,
    plot: &Plot,
) -> io::Result<bool> {
    let mut arguments = FieldTable::new();
    let text = |text: &'static str| FieldValue::LongString(Bytes::from_static(text.as_bytes()));
    arguments.push(ShortString::from_static("x-dead-letter-exchange"), text(""));
    arguments.push(ShortString::from_static("x-dead-letter-routing-key"), text(plot.target));
    let limit = match plot.kind {
        Kind::Expired => Some(("x-message-ttl", 20)),
        Kind::Returned => Some(("x-delivery-limit", 1)),
        Kind::Crowded => Some(("x-max-length", 3)),
        Kind::Unused => Some(("x-expires", 30)),
        Kind::Rejected | Kind::AutoDelete => None,
    };
    if let Some((name, value)) = limit {
        arguments.push(ShortString::from_static(name), FieldValue::LongInt(value));
    }
    let declare = queue::Declare {
        queue: ShortString::truncated(&plot.name),
        passive: plot.dug,
        durable: true,
        auto_delete: plot.kind == Kind::AutoDelete,
        arguments,
        ..queue::Declare::default()
    };
    let found = match connection.call(CHANNEL, &declare).await? {
        Method::QueueDeclareOk(ok) => u64::from(ok.message_count),
        // Nobody uses it any more.
        Method::ChannelClose(_) if matches!(plot.kind, Kind::AutoDelete | Kind::Unused) && plot.dug => {
            undertaker.plot.take();
            return Ok(false);
        }
        other => {
            return Err(wrong(format!(
                "{other:?} instead of queue.declare-ok of {} ({:?})",
                plot.name, plot.kind
            )));
        }
    };
    undertaker.found(shore, found)?;
    undertaker.change(|plot| plot.dug = true)?;
    Ok(true)
}

async fn publish(
    shore: &Shore,
    connection: &mut Connection,
    undertaker: &Undertaker,
    plot: &Plot,
) -> io::Result<()> {
    let mut octets = BytesMut::new();
    let mut waiting = BTreeMap::new();
    for tag in 1..=1 + shore.below(10) {
        undertaker.sent.set(undertaker.sent.get() + 1);
        let id = Id::new(undertaker.number, undertaker.sent.get());
        let places = [Place::Queue(plot.target)];
        shore.history.borrow_mut().publishing(id, &places, Repeats::PerAttempt, Fate::Apart);
        encode_message(&mut octets, "", &plot.name, 2, id)?;
        undertaker.change(|plot| plot.sent.insert(id))?;
        waiting.insert(tag, id);
    }
    connection.stream.write(&octets).await?;
    while !waiting.is_empty() {
        let (tag, multiple, taken) = match connection.next().await? {
            Received::Method(Method::BasicAck(ack)) => (ack.delivery_tag, ack.multiple, true),
            Received::Method(Method::BasicNack(nack)) => (nack.delivery_tag, nack.multiple, false),
            Received::Method(Method::ConnectionBlocked(_) | Method::ConnectionUnblocked(_)) => continue,
            Received::Method(Method::ChannelClose(close)) if !plot.vanishes() => {
                return Err(wrong(format!("channel.close {close:?}")));
            }
            Received::Method(Method::ChannelClose(_)) => return Err(io::ErrorKind::ConnectionReset.into()),
            Received::Method(other) => return Err(wrong(format!("unexpected {other:?}"))),
            Received::Delivery { .. } => return Err(wrong("a delivery to a publisher")),
        };
        let ids: Vec<Id> = match multiple {
            true => {
                let rest = waiting.split_off(&(tag + 1));
                std::mem::replace(&mut waiting, rest).into_values().collect()
            }
            false => waiting.remove(&tag).into_iter().collect(),
        };
        if taken {
            undertaker.change(|plot| plot.acknowledged.extend(ids))?;
        }
    }
    Ok(())
}

/// Takes what the plot holds; most of it is rejected, or given back where that kills.
async fn consume(
    shore: &Shore,
    connection: &mut Connection,
    undertaker: &Undertaker,
    plot: &Plot,
    ended: bool,
) -> io::Result<()> {
    let qos = basic::Qos { prefetch_size: 0, prefetch_count: 20, global: false };
    let Method::BasicQosOk(_) = connection.call(CHANNEL, &qos).await? else {
        return Err(wrong("no basic.qos-ok"));
    };
    let tag = ShortString::from_static("undertaker");
    let incarnation = shore.history.borrow().incarnation;
    // It goes with its consumer, and the consumer with the connection.
    if plot.kind == Kind::AutoDelete {
        undertaker.change(|plot| plot.closing = Some(incarnation))?;
    }
    undertaker.change(|plot| plot.consumes = true)?;
    let consume = basic::Consume {
        queue: ShortString::truncated(&plot.name),
        consumer_tag: tag.clone(),
        ..Default::default()
    };
    match connection.call(CHANNEL, &consume).await? {
        Method::BasicConsumeOk(_) => undertaker.change(|plot| plot.may_vanish = false)?,
        Method::ChannelClose(_) if plot.vanishes() => {
            undertaker.plot.take();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        other => return Err(wrong(format!("{other:?} instead of basic.consume-ok"))),
    }
    let mut rejected = Vec::new();
    let mut left = if ended { u64::MAX } else { 1 + shore.below(20) };
    while left > 0 {
        let Ok(received) = timeout(Duration::from_millis(10 + shore.below(20)), connection.next()).await
        else {
            break;
        };
        let Received::Delivery { tag, content, .. } = received? else {
            return Err(wrong("something else than a delivery"));
        };
        left -= 1;
        let body = content.body.into_bytes();
        let id = seen(shore, undertaker, plot, &body)?;
        if plot.kind == Kind::Returned && !ended {
            let nack = basic::Nack { delivery_tag: tag, multiple: false, requeue: true };
            connection.send(CHANNEL, &nack).await?;
        } else if shore.chance(3, 4) {
            rejected.push(id);
            undertaker.change(|plot| plot.rejected.insert(id))?;
            connection.send(CHANNEL, &basic::Reject { delivery_tag: tag, requeue: false }).await?;
        } else {
            undertaker.change(|plot| plot.accepted.insert(id))?;
            connection.send(CHANNEL, &basic::Ack { delivery_tag: tag, multiple: false }).await?;
        }
    }
    cancel(shore, connection, undertaker, plot, tag).await?;
    undertaker.change(|plot| {
        plot.consumes = false;
        plot.dead.extend(rejected);
        plot.dead_in = incarnation;
    })?;
    Ok(())
}

/// Ends the consumer. The answer proves that what it said before was taken.
async fn cancel(
    shore: &Shore,
    connection: &mut Connection,
    undertaker: &Undertaker,
    plot: &Plot,
    tag: ShortString,
) -> io::Result<()> {
    connection.send(CHANNEL, &basic::Cancel { consumer_tag: tag, no_wait: false }).await?;
    loop {
        match connection.next().await? {
            // Given back, they count as held when the queue is deleted.
            Received::Delivery { tag, content, .. } => {
                let id = seen(shore, undertaker, plot, &content.body.into_bytes())?;
                undertaker.change(|plot| plot.late.insert(id))?;
                let nack = basic::Nack { delivery_tag: tag, multiple: false, requeue: true };
                connection.send(CHANNEL, &nack).await?;
            }
            Received::Method(Method::BasicCancelOk(_)) => return Ok(()),
            Received::Method(other) => return Err(wrong(format!("{other:?} instead of basic.cancel-ok"))),
        }
    }
}

/// A message is in the plot, so it has not died, or its death was not durable.
fn seen(shore: &Shore, undertaker: &Undertaker, plot: &Plot, body: &[u8]) -> io::Result<Id> {
    let id = shore.history.borrow_mut().seen(&plot.name, body);
    let id = id.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))?;
    let known = undertaker.change(|plot| {
        plot.dead.remove(&id);
        // Whichever connection had it has given it back.
        plot.loose.remove(&id);
        plot.sent.contains(&id)
    })?;
    if !known {
        let of =
            if undertaker.gone.borrow().contains(&id) { "of a queue that was deleted" } else { "of nobody" };
        shore.history.borrow_mut().broken(format!("{} holds {id} {of}", plot.name));
    }
    Ok(id)
}

/// Deletes the plot, or lets it go by itself.
async fn close(
    shore: &Shore,
    connection: &mut Connection,
    undertaker: &Undertaker,
    plot: &Plot,
) -> io::Result<()> {
    let incarnation = shore.history.borrow().incarnation;
    undertaker.change(|plot| plot.closing = Some(incarnation))?;
    if matches!(plot.kind, Kind::AutoDelete | Kind::Unused) {
        shore.pause(60).await;
        return Ok(());
    }
    let condition = shore.below(4);
    let delete = queue::Delete {
        queue: ShortString::truncated(&plot.name),
        if_empty: condition == 1,
        if_unused: condition == 2,
        ..queue::Delete::default()
    };
    match connection.call(CHANNEL, &delete).await? {
        Method::QueueDeleteOk(ok) => {
            let (told, sent) = (u64::from(ok.message_count), plot_sent(undertaker)?);
            if told > sent || (condition == 1 && told > 0) {
                return Err(wrong(format!("{} was deleted with {told} of {sent} messages", plot.name)));
            }
            undertaker.close_plot(shore, Some(told));
            Ok(())
        }
        // It is not empty, or what was cancelled counts as a consumer for a moment: it stays.
        Method::ChannelClose(close)
            if close.reply_code == ReplyCode::PreconditionFailed as u16 && condition > 0 =>
        {
            undertaker.change(|plot| plot.closing = None)?;
            Ok(())
        }
        other => Err(wrong(format!("{other:?} instead of queue.delete-ok"))),
    }
}

/// What may be there: also what was accepted, if the broker has not heard of that or forgot it in a crash.
fn plot_sent(undertaker: &Undertaker) -> io::Result<u64> {
    undertaker.change(|plot| plot.sent.len() as u64)
}
