//! Rights of users, checked.

use crate::client::{Client, World, persistent, plain, publish_octets, refusal, short, to};
use posthaste_amqp::wire::{
    BasicProperties, FieldTable, FieldValue, Method, basic, channel, exchange, queue,
};
use posthaste_broker::hash_password;
use posthaste_engine::catalog::{Action, Permission, Resource, User};
use posthaste_model::Name;

/// A connection of a user with these permissions.
async fn clerk(world: &World, permissions: &[(Resource, &str, &[Action])]) -> Client {
    set_clerk(world, permissions).await;
    let mut client = world.connect();
    client.handshake("/", plain("clerk", "secret"), 0).await;
    client.open_channel(1).await;
    client
}

/// Adds the user with the password `secret`, or gives it other permissions; returns the client that did so.
async fn set_clerk(world: &World, permissions: &[(Resource, &str, &[Action])]) -> posthaste_broker::Client {
    let permission = |(resource, name, actions): &(Resource, &str, &[Action])| {
        Permission::allow(actions, *resource, name).within("default")
    };
    let known = world.broker.catalog().user("clerk").cloned();
    let user = User {
        password: known.map_or_else(|| hash_password(b"secret").unwrap(), |user| user.password.clone()),
        permissions: permissions.iter().map(permission).collect(),
        ..User::new(Name::constant("clerk"))
    };
    let connection = world.broker.next_connection();
    let admin = world.broker.system_client("test", Name::constant("default"), connection);
    admin.put_user(user).await.unwrap();
    admin
}

async fn reopen(client: &mut Client) {
    client.send(1, &channel::CloseOk {}).await;
    client.open_channel(1).await;
}

async fn bound(client: &mut Client, name: &'static str, key: &'static str) {
    client.declare(queue::Declare { queue: short(name), ..Default::default() }).await;
    let bind = queue::Bind {
        queue: short(name),
        exchange: short("amq.topic"),
        routing_key: short(key),
        no_wait: false,
        arguments: FieldTable::new(),
    };
    assert_eq!(client.call(1, &bind).await, queue::BindOk {}.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn further_routing_keys_need_the_right_that_the_first_one_needs() {
    let world = World::new();
    let mut admin = world.open().await;
    bound(&mut admin, "open", "open.*").await;
    bound(&mut admin, "secret", "secret.*").await;
    let mut clerk = clerk(&world, &[(Resource::Subject, "open.*", &[Action::Write])]).await;
    for header in ["CC", "BCC"] {
        let keys = |key: &'static str| {
            let keys: FieldValue = vec![FieldValue::from("open.b"), FieldValue::from(key)].into();
            let headers: FieldTable = [(short(header), keys)].into_iter().collect();
            BasicProperties { headers: Some(headers), ..Default::default() }
        };
        let publish = |key| publish_octets(1, &to("amq.topic", "open.a"), &keys(key), b"x");
        clerk.send_octets(&publish("secret.a")).await;
        let refused = refusal(&clerk.method().await).unwrap();
        assert_eq!(
            refused,
            "403 ACCESS_REFUSED - write access to topic 'secret.a' in exchange 'amq.topic' in vhost '/' \
             refused for user 'clerk'",
            "{header}"
        );
        reopen(&mut clerk).await;
        clerk.confirm_select(1).await;
        clerk.send_octets(&publish("open.c")).await;
        assert!(matches!(clerk.method().await, Method::BasicAck(_)));
        assert!(admin.get("open", true).await.is_some(), "once, and nothing of what was refused");
        assert!(admin.get("open", true).await.is_none());
        assert!(admin.get("secret", true).await.is_none());
        assert_eq!(clerk.call(1, &channel::Close::default()).await, channel::CloseOk {}.into());
        clerk.open_channel(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_declare_what_is_there_is_to_configure_it() {
    let world = World::new();
    let mut admin = world.open().await;
    for name in ["read", "configured", "strange"] {
        admin.declare(queue::Declare { queue: short(name), ..Default::default() }).await;
    }
    let mut clerk = clerk(
        &world,
        &[
            (Resource::Queue, "read", &[Action::Read]),
            (Resource::Queue, "configured", &[Action::Configure]),
            (Resource::Exchange, "*", &[Action::Read, Action::Write]),
        ],
    )
    .await;
    let refused = |right: &str, what: &str| {
        format!("403 ACCESS_REFUSED - {right} access to {what} in vhost '/' refused for user 'clerk'")
    };
    for (name, passive, expect) in [
        ("read", false, Some(refused("configure", "queue 'read'"))),
        ("read", true, None),
        ("configured", false, None),
        ("strange", false, Some(refused("configure", "queue 'strange'"))),
        ("strange", true, Some(refused("read", "queue 'strange'"))),
        ("new", false, Some(refused("configure", "queue 'new'"))),
    ] {
        let declare = queue::Declare { queue: short(name), passive, ..Default::default() };
        let answer = clerk.call(1, &declare).await;
        assert_eq!(refusal(&answer), expect, "{name}, passive: {passive}");
        if expect.is_some() {
            reopen(&mut clerk).await;
        }
    }
    let declare = exchange::Declare {
        exchange: short("amq.topic"),
        r#type: short("topic"),
        durable: true,
        ..Default::default()
    };
    let answer = clerk.call(1, &exchange::Declare { passive: true, ..declare.clone() }).await;
    assert_eq!(answer, exchange::DeclareOk {}.into());
    let answer = clerk.call(1, &declare).await;
    assert_eq!(refusal(&answer), Some(refused("configure", "exchange 'amq.topic'")));
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_and_connections_end_with_the_rights_that_they_rest_on() {
    let world = World::new();
    let mut admin = world.open().await;
    for name in ["orders", "news"] {
        admin.declare(queue::Declare { queue: short(name), ..Default::default() }).await;
    }
    let read = |name: &'static str| (Resource::Queue, name, &[Action::Read][..]);
    let mut clerk = clerk(&world, &[read("orders"), read("news")]).await;
    clerk.open_channel(2).await;
    clerk.consume(1, basic::Consume { queue: short("orders"), ..Default::default() }).await;
    clerk.consume(2, basic::Consume { queue: short("news"), ..Default::default() }).await;
    let administrator = set_clerk(&world, &[read("news")]).await;
    assert_eq!(
        refusal(&clerk.method().await).unwrap(),
        "403 ACCESS_REFUSED - read access to queue 'orders' in vhost '/' refused for user 'clerk'"
    );
    clerk.send(1, &channel::CloseOk {}).await;
    admin.send_octets(&publish_octets(1, &to("", "orders"), &persistent(), b"theirs")).await;
    admin.send_octets(&publish_octets(1, &to("", "news"), &persistent(), b"ours")).await;
    assert_eq!(clerk.delivery().await.body(), "ours");
    assert_eq!(admin.get_soon("orders").await.1.body.into_bytes(), "theirs");
    let known = User::clone(world.broker.catalog().user("clerk").unwrap());
    let password = hash_password(b"another").unwrap();
    administrator.put_user(User { password, ..known }).await.unwrap();
    assert_eq!(
        refusal(&clerk.method().await).unwrap(),
        "! 320 CONNECTION_FORCED - the password of user 'clerk' was changed; log in again"
    );
    let mut clerk = world.connect();
    clerk.handshake("/", plain("clerk", "another"), 0).await;
    administrator.delete_user(&Name::constant("clerk")).await.unwrap();
    assert_eq!(refusal(&clerk.method().await).unwrap(), "! 320 CONNECTION_FORCED - user 'clerk' was deleted");
}
