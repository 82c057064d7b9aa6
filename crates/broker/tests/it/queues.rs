use crate::support::*;
use posthaste_broker::{ConsumeOptions, Error, QueueDeclaration};
use posthaste_engine::{
    catalog::{DeadLetter, QueueConfig, Rule, Target},
    command::{Mode, Outcome},
};
use posthaste_model::{DeathReason, Pattern, Syntax};

const OPTIONS: ConsumeOptions =
    ConsumeOptions { credit: 10, mode: Mode::Lease, exclusive: false, priority: 0 };

fn durable() -> QueueDeclaration {
    QueueDeclaration { durable: true, ..QueueDeclaration::default() }
}

pub fn pattern_binding(queue: &str, pattern: &str) -> posthaste_engine::catalog::Binding {
    posthaste_engine::catalog::Binding {
        target: Target::Queue(name(queue)),
        key: pattern.to_owned().into(),
        rule: Rule::Pattern(Pattern::parse(pattern, Syntax::DOTTED).unwrap()),
        arguments: Default::default(),
        durable: true,
        transient: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_delivered_in_order_and_settled() {
    let f = Fixture::new().await;
    let queue = f.client.create_queue(&name("work"), durable()).await.unwrap();
    assert_eq!(f.client.create_queue(&name("work"), durable()).await.unwrap_err(), Error::Exists);
    for n in 0..25 {
        assert!(publish(&f.client, None, "work", format!("{n}").as_bytes()).await.refused.is_empty());
    }
    let (sink, mut mailbox) = sink();
    let holder = hold(&f.client, &queue);
    f.client.consume(holder, OPTIONS, sink).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 25 {
        let got = receive(&f.broker, &mut mailbox, 1).await;
        assert!(got.iter().all(|r| !r.delivery.redelivered));
        seen.extend(bodies(&got));
        let settled = got.iter().map(|r| (r.delivery.lane, r.delivery.position)).collect();
        f.client.settle_durably(holder, settled, Outcome::Accept).await.unwrap();
    }
    assert_eq!(seen, (0..25).map(|n| n.to_string()).collect::<Vec<_>>());
    let state = f.client.queue_state("work").await.unwrap();
    assert_eq!((state.ready, state.leased, state.consumers), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_seen_by_the_next_publish_and_fan_out_reaches_all() {
    let f = Fixture::new().await;
    for n in 0..100 {
        let queue = format!("q{n}");
        f.client.create_queue(&name(&queue), durable()).await.unwrap();
        f.client.bind(&name("amq.topic"), pattern_binding(&queue, "orders.#")).await.unwrap();
    }
    let body = vec![7u8; 10_000];
    let mut batch = f.client.batch();
    let (envelope, payload) = message("orders.eu", &body);
    let routed =
        batch.publish(Some("amq.topic"), envelope, payload, &posthaste_engine::catalog::NoHeaders).unwrap();
    assert_eq!((routed.queues, routed.topics, routed.live), (100, 0, 0));
    assert!(submit(batch).await.refused.is_empty());
    let stored = f.broker.commit_stats().unwrap().bytes;
    assert!(stored < 200_000, "a hundred queues store a body once per thread, not {stored} bytes");
    let f = f.restart().await;
    for n in 0..100 {
        let queue = f.client.queue(&format!("q{n}")).unwrap();
        let (deliveries, left) = f.client.pull(hold(&f.client, &queue), 10, Mode::Settled).await.unwrap();
        let got = f.broker.resolve(deliveries).await;
        assert_eq!((got.len(), left), (1, 0));
        assert_eq!(got[0].payload.body, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_messages_reach_the_dead_letter_queue_with_their_story() {
    let f = Fixture::new().await;
    let dead_letter = Some(DeadLetter { exchange: None, subject: Some(subject("graveyard")) });
    let config = QueueConfig { dead_letter, ..QueueConfig::default() };
    let work = f.client.create_queue(&name("work"), QueueDeclaration { config, ..durable() }).await.unwrap();
    let graveyard = f.client.create_queue(&name("graveyard"), durable()).await.unwrap();
    publish(&f.client, None, "work", b"bad").await;
    let holder = hold(&f.client, &work);
    let (deliveries, _) = f.client.pull(holder, 1, Mode::Lease).await.unwrap();
    let settled = deliveries.iter().map(|d| (d.lane, d.position)).collect();
    let reject = Outcome::Reject(DeathReason::Rejected);
    f.client.settle_durably(holder, settled, reject).await.unwrap();
    let (sink, mut mailbox) = sink();
    f.client.consume(hold(&f.client, &graveyard), OPTIONS, sink).await.unwrap();
    let got = receive(&f.broker, &mut mailbox, 1).await;
    assert_eq!(bodies(&got), ["bad"]);
    let death = &got[0].envelope.deaths[0];
    assert_eq!((&*death.queue, death.reason, death.count), ("work", DeathReason::Rejected, 1));
}

pub fn subject(text: &str) -> posthaste_model::Subject {
    posthaste_model::Subject::dotted(text.to_owned()).unwrap()
}

/// Many make the same queue at once, and delete it: each that is told that it is there finds it, and each
/// that is told that it is gone does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_tells_of_a_queue_leaves_when_all_see_it() {
    let f = Fixture::new().await;
    for round in 0..20 {
        let of = format!("q{round}");
        let mut tasks = tokio::task::JoinSet::new();
        let all_made = std::sync::Arc::new(tokio::sync::Barrier::new(8));
        for _ in 0..8 {
            let (client, of, all_made) = (client_of(&f.broker).await, of.clone(), all_made.clone());
            tasks.spawn(async move {
                match client.create_queue(&name(&of), durable()).await {
                    Ok(_) | Err(posthaste_broker::Error::Exists) => {}
                    Err(error) => panic!("{error}"),
                }
                assert!(client.queue(&of).is_ok(), "it was said to be there");
                all_made.wait().await;
                match client.delete_queue(&of, false, false).await {
                    Ok(_) | Err(posthaste_broker::Error::NotFound(..)) => {}
                    Err(error) => panic!("{error}"),
                }
                assert!(client.queue(&of).is_err(), "it was said to be gone");
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }
}
