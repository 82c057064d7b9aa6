//! Who changes the topology while it is in use: adds partitions and a binding, makes topics and namespaces
//! and deletes them, and expects to find all of it as it was left.

use super::{
    Shore,
    kafka::{Connection, PRODUCE_VERSION, batch, records_of, request},
};
use crate::{
    history::{Fate, Repeats},
    message::Id,
    network::Weather,
    topology,
};
use posthaste_broker::{Client, right};
use posthaste_engine::catalog::TopicConfig;
use posthaste_kafka::wire::ErrorCode;
use posthaste_model::{Name, TopicId};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io,
    ops::Range,
    rc::Rc,
    time::Duration,
};
use tokio::time::sleep;

const MEADOW: &str = "meadow";
const FIELD: &str = "field";
const SENSOR_PARTITIONS_MAX: u32 = 12;

/// Whether an object is there, as far as the broker has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    Absent,
    Present,
    /// A change of it was not answered.
    Unknown,
}

/// What a surveyor remembers over the broker's starts.
#[derive(Default)]
pub struct Surveyor {
    sent: Cell<u32>,
    meadow: Cell<Presence>,
    /// The one that it was last.
    current: Cell<Option<TopicId>>,
    /// All that the topic was ever given.
    ids: RefCell<BTreeSet<TopicId>>,
    /// Of this topic: what was sent to its one partition, and how many records were acknowledged.
    held: RefCell<BTreeSet<Id>>,
    acknowledged: Cell<u64>,
    /// Offsets of this topic that were found to lack their record.
    lacking: RefCell<BTreeSet<i64>>,
    field: Cell<Presence>,
}

impl Surveyor {
    /// There is another meadow now.
    fn begin_anew(&self) {
        self.held.take();
        self.acknowledged.set(0);
        self.lacking.take();
    }

    /// Acknowledged records are missing, or others that had been stored: each is told once.
    fn lacks(&self, shore: &Shore, offsets: Range<i64>) {
        let mut lacking = self.lacking.borrow_mut();
        for offset in offsets.filter(|offset| lacking.insert(*offset)) {
            shore.history.borrow_mut().lacks(MEADOW, 0, offset);
        }
    }
}

/// Works for as long as this start of the broker goes on.
pub async fn surveyor(shore: Rc<Shore>, surveyor: Rc<Surveyor>, most: u32) {
    let Ok(client) = shore.client().await else { return };
    // A start without faults is the last one: what it holds is to be counted.
    while !shore.draining.get() && shore.weather.get() != Weather::CALM && surveyor.sent.get() < most {
        match shore.below(9) {
            0 | 4 => add_partition(&shore, &client).await,
            1 => {
                if topology::bind_comer(&client).await.is_ok() {
                    shore.comer_is_bound.set(true);
                }
            }
            2 => tend_field(&shore, &surveyor, &client).await,
            3 => {
                // Whether it was there nobody knows.
                let _ = topology::tend_vault(&client).await;
            }
            _ => {
                // The network may fail; that is no news.
                let _ = tend_meadow(&shore, &surveyor, &client).await;
            }
        }
        shore.pause(40).await;
        sleep(Duration::from_millis(1)).await;
    }
}

async fn add_partition(shore: &Shore, client: &Client) {
    let Ok(topic) = client.topic("sensors-log") else { return };
    let total = topic.partitions.len() as u32 + 1;
    if total <= SENSOR_PARTITIONS_MAX && client.add_partitions(&topic.name, total).await.is_ok() {
        shore.sensor_partitions.set(total as i32);
    }
}

/// A namespace with a topic in it comes and goes as a whole.
async fn tend_field(shore: &Shore, surveyor: &Surveyor, client: &Client) {
    let (namespace, topic) = (Name::constant(FIELD), Name::constant("furrow"));
    let within = client.in_namespace(namespace.clone());
    let has = within.topic(&topic).is_ok();
    match surveyor.field.replace(Presence::Unknown) {
        Presence::Absent if has => shore.broken("a deleted namespace is there again"),
        Presence::Present if !has => shore.broken("a namespace is gone"),
        _ => {}
    }
    if has {
        if client.delete_namespace(&namespace).await.is_ok() {
            surveyor.field.set(Presence::Absent);
        }
        return;
    }
    // It may be there without its topic.
    let _ = client.create_namespace(&namespace).await;
    if within.create_topic(&topic, 1, TopicConfig::default()).await.is_ok() {
        surveyor.field.set(Presence::Present);
    }
}

/// A topic comes, is written, and goes; the next one of its name knows nothing of it.
async fn tend_meadow(shore: &Shore, surveyor: &Surveyor, client: &Client) -> io::Result<()> {
    let name = Name::constant(MEADOW);
    let found = client.topic(&name).ok();
    match (surveyor.meadow.get(), &found) {
        (Presence::Absent, Some(_)) => shore.broken("a deleted topic is there again"),
        (Presence::Present, None) => shore.broken("a topic is gone"),
        _ => {}
    }
    let Some(topic) = found else {
        surveyor.meadow.set(Presence::Unknown);
        let Ok(topic) = client.create_topic(&name, 1, TopicConfig::default()).await else { return Ok(()) };
        surveyor.meadow.set(Presence::Present);
        surveyor.current.set(Some(topic.id));
        surveyor.begin_anew();
        return check_fresh(shore, surveyor, topic.id, client);
    };
    let was = surveyor.meadow.replace(Presence::Present);
    if surveyor.current.replace(Some(topic.id)) != Some(topic.id) {
        let is_new = surveyor.ids.borrow_mut().insert(topic.id);
        // Made, and nobody was told.
        if was != Presence::Unknown || !is_new {
            shore.broken("a topic is another one than before");
        }
        surveyor.begin_anew();
    }
    if shore.chance(1, 3) {
        surveyor.meadow.set(Presence::Unknown);
        if client.delete_topic(&name).await.is_ok() {
            surveyor.meadow.set(Presence::Absent);
        }
        return Ok(());
    }
    let mut connection = Connection::open(shore)?;
    produce(shore, surveyor, &mut connection).await?;
    read(shore, surveyor, &mut connection).await
}

fn check_fresh(shore: &Shore, surveyor: &Surveyor, id: TopicId, client: &Client) -> io::Result<()> {
    if !surveyor.ids.borrow_mut().insert(id) {
        shore.broken(&format!("{MEADOW} was made anew and has the id of before, {id:?}"));
    }
    let Ok(topic) = client.topic_to::<right::See>(MEADOW) else { return Ok(()) };
    for partition in (0..topic.partitions.len()).filter_map(|at| topic.partition(at)) {
        let bounds = client.extent(partition).map(|log| (log.start(), log.end()));
        if bounds.as_ref().is_ok_and(|bounds| *bounds != (0, 0)) {
            shore.broken(&format!("{MEADOW} was made anew and has offsets {bounds:?}"));
        }
    }
    Ok(())
}

async fn produce(shore: &Shore, surveyor: &Surveyor, connection: &mut Connection) -> io::Result<()> {
    let mut ids = Vec::new();
    for _ in 0..=shore.below(4) {
        surveyor.sent.set(surveyor.sent.get() + 1);
        let id = Id::new(topology::SURVEYOR, surveyor.sent.get());
        shore.history.borrow_mut().publishing(id, &[], Repeats::PerAttempt, Fate::Apart);
        surveyor.held.borrow_mut().insert(id);
        ids.push(id);
    }
    let answer = connection.call(PRODUCE_VERSION, &request(MEADOW, 0, batch(&ids, None, 0))).await?;
    let answer = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    let Some(answer) = answer.filter(|answer| answer.error_code == ErrorCode::None) else { return Ok(()) };
    surveyor.acknowledged.set(surveyor.acknowledged.get() + ids.len() as u64);
    let end = answer.base_offset + ids.len() as i64;
    if end > surveyor.held.borrow().len() as i64 || end < surveyor.acknowledged.get() as i64 {
        shore.broken(&format!(
            "{MEADOW} took {ids:?} at offset {}, {} were sent to it and {} acknowledged",
            answer.base_offset,
            surveyor.held.borrow().len(),
            surveyor.acknowledged.get()
        ));
    }
    Ok(())
}

/// All of it, which is never much.
async fn read(shore: &Shore, surveyor: &Surveyor, connection: &mut Connection) -> io::Result<()> {
    let acknowledged = surveyor.acknowledged.get();
    let mut next = 0;
    loop {
        let records = records_of(connection, MEADOW, 0, next).await?;
        if records.is_empty() {
            break;
        }
        for (offset, body) in records {
            let id = Id::of(&body);
            if offset < next {
                shore.broken(&format!("{MEADOW}@{offset} comes behind {next}"));
            }
            surveyor.lacks(shore, next..offset);
            if !id.is_some_and(|id| surveyor.held.borrow().contains(&id)) {
                let what = id.map_or("nobody's".to_owned(), |id| id.to_string());
                shore.broken(&format!("{MEADOW}@{offset} is {what}, which this topic was not given"));
            }
            next = offset + 1;
        }
    }
    surveyor.lacks(shore, next..acknowledged as i64);
    Ok(())
}
