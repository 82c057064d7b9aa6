//! Publishing: one message, or many in one request. Answered when all of it is as durable as promised.

use crate::{
    call::{Answer, Call, Reply, within},
    failure::{Failure, FailureView},
    message::{HeadersOf, Publication},
    partition,
    server::stopped,
    v1::topic_messages::find_partition,
};
use hyper::StatusCode;
use posthaste_broker::{AppendBatch, Batch, Outcome, Routed, encode_message, right};
use posthaste_engine::catalog::{Action, BUS, Resource, Topic};
use posthaste_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// The body of a request.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Many(Vec<serde_json::Value>),
    One(serde_json::Value),
}

/// What came of one message.
#[derive(Serialize)]
#[serde(untagged)]
enum Done {
    Appended { partition: usize, offset: u64 },
    Routed { queues: usize, topics: usize, live: usize },
}

#[derive(Serialize)]
#[serde(untagged)]
enum DoneOrNot<'a> {
    Done(&'a Done),
    Not { error: FailureView<'a> },
}

#[derive(Serialize)]
struct Results<'a> {
    results: Vec<DoneOrNot<'a>>,
}

/// Messages in one request.
const MESSAGES_MAX: usize = 10_000;

/// `POST /v1/exchanges/{name}/messages`
pub async fn to_exchange(call: &Call) -> Answer {
    let (publications, many) = publications(call)?;
    if call.text() != BUS {
        // Of the bus it is each message's subject that counts.
        call.client.may(Action::Write, Resource::Exchange, call.text())?;
    }
    let exchange = call.client.exchange(call.text())?;
    if exchange.spec.internal {
        return Err(Failure::invalid(format!(
            "exchange '{}' takes messages from exchanges only",
            call.text()
        )));
    }
    let mut batch = call.client.batch();
    let mut done = Vec::with_capacity(publications.len());
    let (now, max) = now_and_max(call);
    for publication in publications {
        check_absent(publication.partition.is_some(), "partition", "topics")?;
        let mandatory = publication.mandatory.unwrap_or(false);
        let subject = publication.subject.clone().unwrap_or_default();
        let (envelope, message) = publication.into_message(&subject, now, max)?;
        let headers = message.headers.clone();
        let payload = encode_message(message);
        let routed = batch.publish(Some(call.text()), envelope, payload, &HeadersOf(&headers))?;
        if mandatory && routed.nowhere() {
            let message = format!("no queue, topic or reader takes '{subject}' from this exchange");
            return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "unroutable", message));
        }
        let Routed { queues, topics, live } = routed;
        done.push(Done::Routed { queues, topics, live });
    }
    let outcome = submit(call, batch).await?;
    results(done, outcome, many)
}

/// `POST /v1/queues/{name}/messages`
pub async fn to_queue(call: &Call) -> Answer {
    let (publications, many) = publications(call)?;
    let queue = call.client.queue_to::<right::Write>(call.text())?;
    let mut batch = call.client.batch();
    let (now, max) = now_and_max(call);
    let mut done = Vec::with_capacity(publications.len());
    for publication in publications {
        check_absent(publication.subject.is_some(), "subject", "exchanges")?;
        check_absent(publication.mandatory.is_some(), "mandatory", "exchanges")?;
        check_absent(publication.partition.is_some(), "partition", "topics")?;
        let (mut envelope, message) = publication.into_message(&queue.name, now, max)?;
        envelope.origin = call.client.connection();
        batch.enqueue(&queue, envelope, encode_message(message));
        done.push(Done::Routed { queues: 1, topics: 0, live: 0 });
    }
    let outcome = submit(call, batch).await?;
    results(done, outcome, many)
}

/// `POST /v1/topics/{name}/messages`
pub async fn to_topic(call: &Call) -> Answer {
    let (publications, many) = publications(call)?;
    let topic = call.client.topic_to::<right::Write>(call.text())?;
    let mut batch = call.client.batch();
    let (now, max) = now_and_max(call);
    let max =
        topic.config.message_bytes_max.and_then(|m| usize::try_from(m).ok()).map_or(max, |m| m.min(max));
    let mut partitions = Vec::with_capacity(publications.len());
    for publication in publications {
        check_absent(publication.subject.is_some(), "subject", "exchanges")?;
        check_absent(publication.mandatory.is_some(), "mandatory", "exchanges")?;
        check_absent(publication.delay_ms.is_some(), "delay_ms", "queues and exchanges")?;
        check_absent(publication.priority.is_some(), "priority", "queues and exchanges")?;
        let wanted = publication.partition;
        let (_, mut message) = publication.into_message(&topic.name, now, max)?;
        if topic.config.broker_timestamps {
            message.timestamp = Some(now);
        }
        let index = wanted.unwrap_or_else(|| choose(call, &topic, message.key.as_deref()));
        let partition = find_partition(&topic, index)?;
        let timestamp = message.timestamp.unwrap_or(now);
        let append = AppendBatch { span: 1, timestamp, sequence: None, payload: encode_message(message) };
        batch.append(partition, append);
        partitions.push(index);
    }
    let outcome = submit(call, batch).await?;
    // What was refused got no offset, and is told so by its refusal.
    let offset_of = |at: usize| {
        let found = outcome.appended.binary_search_by_key(&at, |(index, _, _)| *index as usize).ok();
        found.and_then(|found| outcome.appended.get(found)).map_or(0, |(_, offset, _)| *offset)
    };
    let done = partitions.into_iter().enumerate();
    let done = done.map(|(at, partition)| Done::Appended { partition, offset: offset_of(at) }).collect();
    results(done, outcome, many)
}

/// By the key, else one after the other.
fn choose(call: &Call, topic: &Topic, key: Option<&[u8]>) -> usize {
    let count = topic.partitions.len().max(1);
    match key {
        Some(key) => partition::of_key(key, count),
        None => call.server.next_partition.fetch_add(1, Ordering::Relaxed) % count,
    }
}

fn check_absent(given: bool, field: &str, whose: &str) -> Result<(), Failure> {
    if given { Err(Failure::invalid(format!("{field} is for messages to {whose}"))) } else { Ok(()) }
}

fn now_and_max(call: &Call) -> (Timestamp, usize) {
    (call.broker().now(), call.broker().limits().message_bytes_max)
}

/// The messages in the body, and whether they came as a list.
fn publications(call: &Call) -> Result<(Vec<Publication>, bool), Failure> {
    if call.broker().overloaded() {
        return Err(Failure::unavailable("overloaded", "the broker has enough to do; try again in a moment"));
    }
    if let Some(pause) = call.client.publish_pause() {
        return Err(Failure::rate_limited(pause));
    }
    let parse = |json| {
        serde_json::from_value::<Publication>(json)
            .map_err(|e| Failure::invalid(format!("a message in the request body: {e}")))
    };
    match call.json()? {
        Given::One(one) => Ok((vec![parse(one)?], false)),
        Given::Many(many) => {
            within("the number of messages in a request", many.len(), 1, MESSAGES_MAX)?;
            Ok((many.into_iter().map(parse).collect::<Result<_, _>>()?, true))
        }
    }
}

async fn submit(call: &Call, batch: Batch) -> Result<Outcome, Failure> {
    let (sender, outcome) = oneshot::channel();
    batch.submit(move |outcome| drop(sender.send(outcome)));
    let unknown =
        || Failure::unavailable("stopping", "the broker is stopping; it may have the message or not");
    let mut stopping = call.stopping();
    tokio::select! {
        // What is durable is answered also while stopping.
        biased;
        outcome = outcome => outcome.map_err(|_| unknown()),
        () = async { stopped(&mut stopping).await; tokio::time::sleep(LAST_CHANCE).await } => Err(unknown()),
    }
}

/// What is on its way when the broker stops gets this long.
const LAST_CHANCE: std::time::Duration = std::time::Duration::from_secs(3);

fn results(done: Vec<Done>, outcome: Outcome, many: bool) -> Answer {
    let mut failures: Vec<Option<Failure>> = done.iter().map(|_| None).collect();
    for (index, refusal) in outcome.refused {
        if let Some(slot) = failures.get_mut(index as usize) {
            slot.get_or_insert_with(|| refusal.into());
        }
    }
    if !many {
        if let Some(failure) = failures.pop().flatten() {
            return Err(failure);
        }
        return match done.first() {
            Some(done) => Reply::json(done),
            None => Ok(Reply::Nothing),
        };
    }
    let results = done.iter().zip(&failures).map(|(done, failure)| match failure {
        None => DoneOrNot::Done(done),
        Some(failure) => DoneOrNot::Not { error: failure.view() },
    });
    Reply::json(&Results { results: results.collect() })
}
