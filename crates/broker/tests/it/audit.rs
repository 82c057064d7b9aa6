//! The audit trail: what is in it, who may read it, what never is.

use crate::support::*;
use posthaste_broker::{
    AUDIT_TOPIC, Client, Credentials, QueueDeclaration, SYSTEM_NAMESPACE, hash_password, right,
};
use posthaste_engine::catalog::{Action, Permission, Resource, User};
use posthaste_model::Limits;
use serde_json::Value as Json;
use std::net::IpAddr;

const SECRETS: [&str; 2] = ["Tr0ub4dor-planted", "wr0ng-planted"];

/// The first `count` events.
async fn events(f: &Fixture, count: usize) -> Vec<Json> {
    let client = f.client.in_namespace(name(SYSTEM_NAMESPACE));
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let topic = client.topic_to::<right::Read>(AUDIT_TOPIC);
        if let Ok(partition) = topic.map(|topic| topic.partition(0).unwrap()) {
            let log = client.log(partition).unwrap();
            let entries = log.read(0, 1 << 20).await.unwrap();
            let shown = |entry: &posthaste_broker::LogEntry| serde_json::from_slice(&entry.payload.body);
            let events: Vec<Json> = entries.iter().map(|entry| shown(entry).unwrap()).collect();
            if events.len() >= count {
                return events;
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "no {count} events came");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn log_in(f: &Fixture, user: &str, password: &str) -> Option<Client> {
    let credentials = Credentials::Password { user, password: password.as_bytes() };
    let principal = f.broker.authenticate(credentials, IpAddr::from([192, 0, 2, 1])).await.ok()?;
    Some(f.broker.client(principal, name("default"), f.broker.next_connection()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_told_in_order_and_no_secret_with_it() {
    let f = Fixture::new().await;
    let actions = [Action::Configure, Action::Read, Action::Write];
    let user = User {
        password: hash_password(SECRETS[0].as_bytes()).unwrap(),
        permissions: [Resource::Topic, Resource::Queue]
            .map(|kind| Permission::allow(&actions, kind, "*"))
            .into(),
        ..User::new(name("ann"))
    };
    f.client.put_user(user).await.unwrap();
    assert!(log_in(&f, "ann", SECRETS[1]).await.is_none());
    let ann = log_in(&f, "ann", SECRETS[0]).await.unwrap();
    ann.create_topic(&name("orders"), 1, Default::default()).await.unwrap();
    let durable = QueueDeclaration { durable: true, ..Default::default() };
    ann.create_queue(&name("tasks"), durable).await.unwrap();
    ann.delete_queue("tasks", false, false).await.unwrap();
    let events = events(&f, 5).await;
    let told: Vec<[&str; 3]> = events
        .iter()
        .map(|e| [&e["type"], &e["subject"], &e["data"]["by"]].map(|text| text.as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ["posthaste.user.created", "user/ann", "test"],
            ["posthaste.login.refused", "user/ann", "ann"],
            ["posthaste.topic.created", "topic/orders", "ann"],
            ["posthaste.queue.created", "queue/tasks", "ann"],
            ["posthaste.queue.deleted", "queue/tasks", "ann"],
        ]
    );
    for event in &events {
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["source"], format!("/posthaste/{}", f.broker.cluster_id()));
        let text = event.to_string();
        let hidden = SECRETS.iter().all(|secret| !text.contains(secret)) && !text.contains("argon2");
        assert!(hidden, "{text}");
    }
    let mut ids: Vec<&Json> = events.iter().map(|event| &event["id"]).collect();
    ids.dedup();
    assert_eq!(ids.len(), events.len());
    // Whatever a permission matches, the trail is for administrators.
    let ann = ann.in_namespace(name(SYSTEM_NAMESPACE));
    assert!(ann.topic_to::<right::Read>(AUDIT_TOPIC).is_err());
    assert!(!f.broker.may_enter(ann.principal(), SYSTEM_NAMESPACE));
    assert!(ann.may(Action::Configure, Resource::Topic, AUDIT_TOPIC).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_trail_is_kept_where_none_is_wanted() {
    let f = Fixture::with_limits(Limits { audit_bytes_max: 0, ..Limits::default() }).await;
    assert!(log_in(&f, "nobody", "x").await.is_none());
    let f = f.restart().await;
    assert!(f.broker.catalog().namespace(SYSTEM_NAMESPACE).is_none());
}
