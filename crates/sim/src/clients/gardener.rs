//! AMQP: who makes and deletes queues and bindings all the time, and expects to find them as they were left.

use super::{
    Shore,
    amqp::{CHANNEL, Connection, Received, encode_message},
    persist, wrong,
};
use crate::{
    history::{Fate, Place, Repeats},
    message::Id,
};
use bytes::BytesMut;
use posthaste_amqp::wire::{Method, ShortString, basic, confirm, queue};
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};
use tokio::time::timeout;

/// A durable queue of the gardener's own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bed {
    name: String,
    /// The broker has said that it is there.
    planted: bool,
    /// It was asked to go, and may be gone.
    uprooting: bool,
    sent: u32,
    acknowledged: u32,
}

/// What a gardener remembers over its connections.
pub struct Gardener {
    pub number: u32,
    pub sent: Cell<u32>,
    bed: RefCell<Option<Bed>>,
    beds: Cell<u32>,
}

impl Gardener {
    pub fn new(number: u32) -> Gardener {
        Gardener { number, sent: Cell::new(0), bed: RefCell::new(None), beds: Cell::new(0) }
    }

    fn next_id(&self) -> Id {
        self.sent.set(self.sent.get() + 1);
        Id::new(self.number, self.sent.get())
    }
}

/// Works until it has sent `most` messages.
pub async fn gardener(shore: Rc<Shore>, gardener: Rc<Gardener>, most: u32) {
    persist(&shore, "AMQP gardener", || work(&shore, &gardener, most)).await;
}

async fn work(shore: &Shore, gardener: &Gardener, most: u32) -> io::Result<bool> {
    let mut connection = Connection::open(shore).await?;
    let Method::ConfirmSelectOk(_) = connection.call(CHANNEL, &confirm::Select { no_wait: false }).await?
    else {
        return Err(wrong("no confirm.select-ok"));
    };
    while gardener.sent.get() < most && !shore.draining.get() {
        tend_bed(shore, &mut connection, gardener).await?;
        if shore.chance(1, 3) {
            talk_to_oneself(shore, &mut connection, gardener).await?;
            // Its consumer and its queue go with the connection.
            return Ok(false);
        }
        shore.pause(20).await;
    }
    Ok(true)
}

/// Looks after the durable queue: it is there with what was acknowledged, takes more, and goes when told.
async fn tend_bed(shore: &Shore, connection: &mut Connection, gardener: &Gardener) -> io::Result<()> {
    let bed = gardener.bed.borrow_mut().take().unwrap_or_else(|| {
        gardener.beds.set(gardener.beds.get() + 1);
        let name = format!("bed-{}-{}", gardener.number, gardener.beds.get());
        Bed { name, planted: false, uprooting: false, sent: 0, acknowledged: 0 }
    });
    gardener.bed.replace(Some(bed.clone()));
    let declare = queue::Declare {
        queue: ShortString::truncated(&bed.name),
        passive: bed.planted && !bed.uprooting,
        durable: true,
        ..queue::Declare::default()
    };
    let found = match connection.call(CHANNEL, &declare).await? {
        Method::QueueDeclareOk(ok) => ok.message_count,
        other => return Err(wrong(format!("{other:?} instead of queue.declare-ok"))),
    };
    if !bed.uprooting && (found < bed.acknowledged || found > bed.sent) {
        let text = format!(
            "{} holds {found} messages: sent {}, acknowledged {}",
            bed.name, bed.sent, bed.acknowledged
        );
        return Err(wrong(text));
    }
    change(gardener, |bed| bed.planted = true);
    for _ in 0..shore.below(4) {
        change(gardener, |bed| bed.sent += 1);
        if publish(shore, connection, gardener, "", &bed.name, 2).await? {
            change(gardener, |bed| bed.acknowledged += 1);
        }
    }
    if bed.uprooting || shore.chance(1, 4) {
        change(gardener, |bed| bed.uprooting = true);
        let delete = queue::Delete { queue: ShortString::truncated(&bed.name), ..queue::Delete::default() };
        match connection.call(CHANNEL, &delete).await? {
            Method::QueueDeleteOk(_) => gardener.bed.replace(None),
            other => return Err(wrong(format!("{other:?} instead of queue.delete-ok"))),
        };
    }
    Ok(())
}

fn change(gardener: &Gardener, change: impl FnOnce(&mut Bed)) {
    if let Some(bed) = gardener.bed.borrow_mut().as_mut() {
        change(bed);
    }
}

/// Sends one message, and waits for the broker's word; whether that was a yes.
async fn publish(
    shore: &Shore,
    connection: &mut Connection,
    gardener: &Gardener,
    exchange: &str,
    key: &str,
    mode: u8,
) -> io::Result<bool> {
    let id = gardener.next_id();
    // Nobody but the gardener looks for them.
    shore.history.borrow_mut().publishing(id, &[] as &[Place], Repeats::PerAttempt, Fate::Stays);
    let mut octets = BytesMut::new();
    encode_message(&mut octets, exchange, key, mode, id)?;
    connection.stream.write(&octets).await?;
    match connection.next().await? {
        Received::Method(Method::BasicAck(_)) => Ok(true),
        Received::Method(Method::BasicNack(_)) => Ok(false),
        Received::Method(other) => Err(wrong(format!("{other:?} instead of a confirm"))),
        Received::Delivery { .. } => Err(wrong("a delivery instead of a confirm")),
    }
}

/// Binds a queue that only this connection has, and publishes: who has seen bind-ok is sent what comes after.
async fn talk_to_oneself(shore: &Shore, connection: &mut Connection, gardener: &Gardener) -> io::Result<()> {
    let declare = queue::Declare { exclusive: true, ..queue::Declare::default() };
    let name = match connection.call(CHANNEL, &declare).await? {
        Method::QueueDeclareOk(ok) => ok.queue,
        other => return Err(wrong(format!("{other:?} instead of queue.declare-ok"))),
    };
    let key = format!("talk.{}.{}", gardener.number, gardener.sent.get());
    let bind = queue::Bind {
        queue: name.clone(),
        exchange: ShortString::from_static("amq.topic"),
        routing_key: ShortString::truncated(&format!("{key}.#")),
        ..queue::Bind::default()
    };
    let Method::QueueBindOk(_) = connection.call(CHANNEL, &bind).await? else {
        return Err(wrong("no queue.bind-ok"));
    };
    let mode = 1 + shore.below(2) as u8;
    if !publish(shore, connection, gardener, "amq.topic", &key, mode).await? {
        return Ok(());
    }
    let expected = Id::new(gardener.number, gardener.sent.get());
    let consume = basic::Consume { queue: name, no_ack: true, ..basic::Consume::default() };
    let Method::BasicConsumeOk(_) = connection.call(CHANNEL, &consume).await? else {
        return Err(wrong("no basic.consume-ok"));
    };
    match timeout(Duration::from_secs(30), connection.next()).await {
        Err(_) => Err(wrong(format!("{expected} was published behind a binding and never came"))),
        Ok(received) => match received? {
            Received::Delivery { content, .. }
                if Id::of(&content.body.clone().into_bytes()) == Some(expected) =>
            {
                Ok(())
            }
            Received::Delivery { .. } => Err(wrong(format!("something else than {expected} came"))),
            Received::Method(other) => Err(wrong(format!("unexpected {other:?}"))),
        },
    }
}
