//! Limits of users, groups and namespaces, asked of the broker itself.

use crate::support::*;
use posthaste_broker::{Client, Credentials, Error, QueueDeclaration, hash_password, right};
use posthaste_engine::{
    catalog::{NoHeaders, TopicConfig, UsageLimits, User, UserGroup},
    effect::Refusal,
};
use std::{net::IpAddr, time::Duration};

async fn put_user(f: &Fixture, user: &str, limits: UsageLimits, groups: &[&str]) {
    let user = User {
        // The same each time, so that a change of limits ends no connection.
        password: f
            .broker
            .catalog()
            .user(user)
            .map_or_else(|| hash_password(b"secret").unwrap(), |known| known.password.clone()),
        administrator: true,
        groups: groups.iter().map(|group| name(group)).collect(),
        limits,
        ..User::new(name(user))
    };
    f.client.put_user(user).await.unwrap();
}

async fn client(f: &Fixture, user: &str, namespace: &str) -> Client {
    let credentials = Credentials::Password { user, password: b"secret" };
    let principal = f.broker.authenticate(credentials, IpAddr::from([192, 0, 2, 1])).await.unwrap();
    f.broker.client(principal, name(namespace), f.broker.next_connection())
}

fn limited<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::LimitReached(text)) => text,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was allowed"),
    }
}

/// Looks again until it is so, at most for ten seconds.
async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never is so");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_by_user_and_namespace() {
    let f = Fixture::new().await;
    f.client.create_namespace(&name("shop")).await.unwrap();
    put_user(&f, "ann", UsageLimits { connections: Some(2), ..UsageLimits::default() }, &[]).await;
    put_user(&f, "bob", UsageLimits::default(), &[]).await;
    let one_there = UsageLimits { connections: Some(1), ..UsageLimits::default() };
    f.client.limit_namespace(&name("shop"), one_there).await.unwrap();
    let first = client(&f, "ann", "default").await.watch_rights(|| {}).unwrap();
    let second = client(&f, "ann", "shop").await.watch_rights(|| {}).unwrap();
    assert!(limited(client(&f, "ann", "default").await.watch_rights(|| {})).contains("user 'ann'"));
    assert!(limited(client(&f, "bob", "shop").await.watch_rights(|| {})).contains("namespace 'shop'"));
    assert_eq!(f.broker.usage_of_user(&name("ann")).connections, 2);
    // What was refused by the namespace does not count for the user.
    assert_eq!(f.broker.usage_of_user(&name("bob")).connections, 0);
    drop(second);
    let _third = client(&f, "bob", "shop").await.watch_rights(|| {}).unwrap();
    let _fourth = client(&f, "ann", "default").await.watch_rights(|| {}).unwrap();
    drop(first);
    assert_eq!(f.broker.usage_of_user(&name("ann")).connections, 1);
    // A limit that changes holds for clients that are there.
    let bob = client(&f, "bob", "default").await;
    put_user(&f, "bob", UsageLimits { connections: Some(1), ..UsageLimits::default() }, &[]).await;
    eventually(|| bob.watch_rights(|| {}).is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_paused_for_and_follow_their_changes() {
    let f = Fixture::new().await;
    let slow = UsageLimits { published_messages_per_second: Some(10), ..UsageLimits::default() };
    f.client.put_user_group(UserGroup { limits: slow, ..UserGroup::new(name("slow")) }).await.unwrap();
    put_user(&f, "ann", UsageLimits::default(), &["slow"]).await;
    let reads = UsageLimits { read_bytes_per_second: Some(1_000), ..UsageLimits::default() };
    put_user(&f, "bob", reads, &[]).await;
    let (ann, bob) = (client(&f, "ann", "default").await, client(&f, "bob", "default").await);
    f.client.create_queue(&name("q"), QueueDeclaration::default()).await.unwrap();
    let publish = async |client: &Client, count: usize| {
        let mut batch = client.batch();
        for _ in 0..count {
            let (envelope, payload) = message("q", b"x");
            batch.publish(None, envelope, payload, &NoHeaders).unwrap();
        }
        assert!(submit(batch).await.refused.is_empty(), "nothing is refused");
    };
    publish(&ann, 10).await;
    assert_eq!(ann.publish_pause(), None, "one second's worth at once");
    publish(&ann, 20).await;
    let pause = ann.publish_pause().unwrap();
    assert!(pause > Duration::from_secs(1) && pause <= Duration::from_secs(2), "{pause:?}");
    // Another connection of the same user pauses, too; others do not.
    assert!(client(&f, "ann", "default").await.publish_pause().is_some());
    publish(&bob, 1_000).await;
    assert_eq!(bob.publish_pause(), None);
    bob.charge_read(1, 1_000);
    assert_eq!(bob.read_pause(), None);
    bob.charge_read(1, 500);
    assert!(bob.read_pause().is_some() && bob.publish_pause().is_none());
    // The user's own limit wins over those of groups; no limit, no pause.
    let faster = UsageLimits { published_messages_per_second: Some(1_000_000), ..UsageLimits::default() };
    put_user(&f, "bob", UsageLimits::default(), &[]).await;
    eventually(|| bob.read_pause().is_none()).await;
    put_user(&f, "ann", faster, &["slow"]).await;
    eventually(|| ann.publish_pause().is_none()).await;
    publish(&ann, 100).await;
    assert_eq!(ann.publish_pause(), None);
    // So has the namespace one, for all of them together.
    let namespace = UsageLimits { published_messages_per_second: Some(10), ..UsageLimits::default() };
    f.client.limit_namespace(&name("default"), namespace).await.unwrap();
    eventually(|| {
        bob.charge_read(0, 0);
        let mut batch = bob.batch();
        for _ in 0..100 {
            let (envelope, payload) = message("q", b"x");
            batch.publish(None, envelope, payload, &NoHeaders).unwrap();
        }
        batch.submit(|_| {});
        ann.publish_pause().is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_counted_by_user_and_namespace() {
    let f = Fixture::new().await;
    put_user(&f, "ann", UsageLimits { objects: Some(1), ..UsageLimits::default() }, &[]).await;
    let ann = client(&f, "ann", "default").await;
    ann.create_queue(&name("q"), QueueDeclaration { durable: true, ..QueueDeclaration::default() })
        .await
        .unwrap();
    assert!(limited(ann.create_topic(&name("t"), 1, TopicConfig::default()).await).contains("this user"));
    f.client
        .limit_namespace(&name("default"), UsageLimits { objects: Some(2), ..UsageLimits::default() })
        .await
        .unwrap();
    f.client.create_topic(&name("t"), 1, TopicConfig::default()).await.unwrap();
    let refused = f.client.create_queue(&name("r"), QueueDeclaration::default()).await;
    assert!(limited(refused).contains("the namespace"));
    // The counts, the limits and who created what survive.
    let f = f.restart().await;
    let ann = client(&f, "ann", "default").await;
    assert_eq!(f.broker.usage_of_user(&name("ann")).objects, 1);
    f.client.delete_topic(&name("t")).await.unwrap();
    assert!(limited(ann.create_topic(&name("t"), 1, TopicConfig::default()).await).contains("this user"));
    ann.delete_queue("q", false, false).await.unwrap();
    ann.create_topic(&name("t"), 1, TopicConfig::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stores_too_much_takes_no_more_until_there_is_room() {
    let f = Fixture::new().await;
    put_user(&f, "ann", UsageLimits { stored_bytes: Some(10_000), ..UsageLimits::default() }, &[]).await;
    let ann = client(&f, "ann", "default").await;
    let durable = || QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    ann.create_queue(&name("anns"), durable()).await.unwrap();
    f.client.create_queue(&name("others"), durable()).await.unwrap();
    put_user(&f, "bob", UsageLimits::default(), &[]).await;
    let bob = client(&f, "bob", "default").await;
    let publish = async |client: &Client, queue: &str| {
        let mut batch = client.batch();
        let (envelope, payload) = message(queue, &[b'x'; 1_000]);
        batch.publish(None, envelope, payload, &NoHeaders).unwrap();
        submit(batch).await.refused.into_iter().map(|(_, refusal)| refusal).collect::<Vec<_>>()
    };
    for _ in 0..12 {
        let _ = publish(&ann, "anns").await;
    }
    eventually(|| f.broker.usage_of_user(&name("ann")).stored_bytes.is_some_and(|bytes| bytes >= 10_000))
        .await;
    // Nobody adds to what ann's queue holds; other queues go on, also for ann.
    assert_eq!(publish(&bob, "anns").await, [Refusal::StorageLimit]);
    assert_eq!(publish(&ann, "others").await, []);
    let queue = ann.queue_to::<right::Write>("anns").unwrap();
    let mut batch = bob.batch();
    let (envelope, payload) = message("anns", b"x");
    batch.enqueue(&queue, envelope, payload);
    assert_eq!(submit(batch).await.refused, [(0, Refusal::StorageLimit)]);
    ann.purge_queue("anns").await.unwrap();
    eventually(|| f.broker.usage_of_user(&name("ann")).stored_bytes == Some(0)).await;
    assert_eq!(publish(&bob, "anns").await, []);
    // A limit that is lifted holds nobody back any more.
    let none = UsageLimits { stored_bytes: Some(0), ..UsageLimits::default() };
    f.client.limit_namespace(&name("default"), none).await.unwrap();
    let full = async || publish(&bob, "others").await == [Refusal::StorageLimit];
    while !full().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    f.client.limit_namespace(&name("default"), UsageLimits::default()).await.unwrap();
    while full().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_of_namespaces_limit_them() {
    let f = Fixture::new().await;
    let user = User { password: hash_password(b"secret").unwrap(), ..User::new(name("clerk")) };
    f.client.put_user(user).await.unwrap();
    let clerk = client(&f, "clerk", "default").await;
    let refused = clerk.limit_namespace(&name("default"), UsageLimits::default()).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let unknown = f.client.limit_namespace(&name("nowhere"), UsageLimits::default()).await;
    assert!(matches!(unknown, Err(Error::NotFound(..))), "{unknown:?}");
}
