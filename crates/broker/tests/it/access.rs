//! What a user may do, asked of the broker itself, as every protocol does.

use crate::support::*;
use posthaste_broker::{
    AuthenticationError, Client, Credentials, Error, QueueDeclaration, hash_password, right,
};
use posthaste_engine::catalog::{
    Action, Binding, DeadLetter, ExchangeKind, ExchangeSpec, NamePattern, NoHeaders, Permission, QueueConfig,
    Resource, Rule, Target, TopicConfig, User, UserGroup,
};
use posthaste_model::{Pattern, Subject, pattern::Syntax};
use std::net::IpAddr;

type Allowed = (Resource, &'static str, Action);

/// Adds or replaces the user `clerk`.
async fn allow(f: &Fixture, permissions: &[Allowed]) {
    let permission = |(resource, name, action): &Allowed| Permission::allow(&[*action], *resource, name);
    let user = User {
        password: hash_password(b"secret").unwrap(),
        permissions: permissions.iter().map(permission).collect(),
        ..User::new(name("clerk"))
    };
    f.client.put_user(user).await.unwrap();
}

async fn clerk(f: &Fixture) -> Client {
    let credentials = Credentials::Password { user: "clerk", password: b"secret" };
    let principal = f.broker.authenticate(credentials, IpAddr::from([192, 0, 2, 1])).await.unwrap();
    f.broker.client(principal, name("default"), f.broker.next_connection())
}

fn refused<T>(result: Result<T, Error>) -> (Action, Resource, String) {
    match result {
        Err(Error::Denied { action, resource, name, .. }) => (action, resource, name),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was allowed"),
    }
}

fn subjects(texts: &[&'static str]) -> Vec<Subject> {
    texts.iter().map(|text| Subject::dotted(*text).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_published_under_all_its_subjects_or_not_at_all() {
    let f = Fixture::new().await;
    allow(&f, &[(Resource::Subject, "open.*", Action::Write)]).await;
    let clerk = clerk(&f).await;
    f.client.create_topic(&name("open.b"), 1, TopicConfig::default()).await.unwrap();
    for queue in ["open", "secret"] {
        f.client.create_queue(&name(queue), QueueDeclaration::default()).await.unwrap();
        let key = format!("{queue}.*");
        let binding = Binding {
            target: Target::Queue(name(queue)),
            rule: Rule::Pattern(Pattern::parse(&key, Syntax::DOTTED).unwrap()),
            key: key.into(),
            arguments: Default::default(),
            durable: false,
            transient: false,
        };
        f.client.bind(&name("amq.topic"), binding).await.unwrap();
    }
    let mut batch = clerk.batch();
    let (envelope, payload) = message("open.a", b"x");
    let further = subjects(&["open.b", "secret.a"]);
    let denied =
        batch.publish_under(Some("amq.topic"), envelope.clone(), payload.clone(), &NoHeaders, &further);
    assert_eq!(refused(denied), (Action::Write, Resource::Subject, "secret.a".into()));
    let further = subjects(&["open.b", "open.c"]);
    let routed = batch.publish_under(Some("amq.topic"), envelope, payload, &NoHeaders, &further).unwrap();
    assert_eq!((routed.queues, routed.topics), (1, 1), "each place once");
    // The right to one subject is not that to the next one in the same batch.
    let (envelope, payload) = message("secret.b", b"x");
    let denied = batch.retain(envelope.clone(), payload.clone());
    assert_eq!(refused(denied), (Action::Write, Resource::Subject, "secret.b".into()));
    assert!(batch.publish(Some("amq.topic"), envelope, payload, &NoHeaders).is_err());
    assert!(submit(batch).await.refused.is_empty());
    assert_eq!((ready(&f.client, "open").await, ready(&f.client, "secret").await), (1, 0));
    assert_eq!(log_of(&f.client, &f.client.topic("open.b").unwrap(), 0).end(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proof_needs_its_own_right_and_its_own_namespace() {
    let f = Fixture::new().await;
    f.client.create_namespace(&name("other")).await.unwrap();
    let there = f.client.in_namespace(name("other"));
    for client in [&f.client, &there] {
        client.create_queue(&name("q"), QueueDeclaration::default()).await.unwrap();
        client.create_topic(&name("t"), 1, TopicConfig::default()).await.unwrap();
    }
    allow(&f, &[(Resource::Queue, "q", Action::Read), (Resource::Topic, "t", Action::Write)]).await;
    let clerk = clerk(&f).await;
    let (queue, topic) = (f.client.queue("q").unwrap(), f.client.topic("t").unwrap());
    assert!(clerk.allow::<right::Read, _>(queue.clone()).is_ok());
    assert!(clerk.allow::<right::Write, _>(topic.clone()).is_ok());
    assert!(clerk.allow::<right::See, _>(topic.clone()).is_ok());
    let of_queue = |action| (action, Resource::Queue, "q".to_owned());
    assert_eq!(refused(clerk.allow::<right::Write, _>(queue.clone())), of_queue(Action::Write));
    assert_eq!(refused(clerk.allow::<right::Configure, _>(queue)), of_queue(Action::Configure));
    assert_eq!(
        refused(clerk.allow::<right::Read, _>(topic)),
        (Action::Read, Resource::Topic, "t".to_owned())
    );
    assert_eq!(clerk.queue_state("q").await.unwrap().ready, 0);
    // What is not there and what may not be known look alike, and the right that helps most is named.
    for unknown in ["x", "amq.gen"] {
        assert_eq!(
            refused(clerk.queue_state(unknown).await),
            (Action::Read, Resource::Queue, unknown.into())
        );
    }
    let elsewhere = there.queue("q").unwrap();
    assert!(matches!(clerk.allow::<right::Read, _>(elsewhere), Err(Error::NotFound(..))));
    let exclusive = QueueDeclaration { exclusive: true, ..QueueDeclaration::default() };
    let exclusive = f.client.create_queue(&name("mine"), exclusive).await.unwrap();
    let another = client_of(&f.broker).await;
    assert!(matches!(another.allow::<right::Read, _>(exclusive), Err(Error::Locked)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_messages_by_itself_needs_the_right_to_both_ends() {
    let f = Fixture::new().await;
    allow(
        &f,
        &[
            (Resource::Queue, "*", Action::Configure),
            (Resource::Topic, "*", Action::Configure),
            (Resource::Exchange, "*", Action::Configure),
            (Resource::Exchange, "own", Action::Read),
            (Resource::Subject, "mine.#", Action::Read),
        ],
    )
    .await;
    let clerk = clerk(&f).await;
    let pattern = |text: &str| Pattern::parse(text, Syntax::DOTTED).unwrap();
    let capturing = |text| TopicConfig { captures: vec![pattern(text)], ..TopicConfig::default() };
    clerk.create_topic(&name("t"), 1, capturing("mine.#")).await.unwrap();
    let denied = clerk.create_topic(&name("u"), 1, capturing("#")).await;
    assert_eq!(refused(denied), (Action::Read, Resource::Subject, "#".into()));
    assert!(clerk.configure_topic(&name("t"), capturing("secret.*")).await.is_err());
    let dead = DeadLetter { exchange: Some(name("amq.fanout")), subject: None };
    let config = QueueConfig { dead_letter: Some(dead), ..QueueConfig::default() };
    let declaration = QueueDeclaration { config: config.clone(), ..QueueDeclaration::default() };
    let denied = clerk.create_queue(&name("q"), declaration).await;
    assert_eq!(refused(denied), (Action::Read, Resource::Queue, "q".into()));
    clerk.create_queue(&name("q"), QueueDeclaration::default()).await.unwrap();
    assert!(clerk.configure_queue(&name("q"), config).await.is_err());
    let spec = ExchangeSpec {
        namespace: name("default"),
        name: name("own"),
        kind: ExchangeKind::Fanout,
        durable: false,
        auto_delete: false,
        internal: false,
        alternate: Some(name("amq.fanout")),
        created_by: None,
        options: Default::default(),
    };
    let denied = clerk.create_exchange(spec).await;
    assert_eq!(refused(denied), (Action::Write, Resource::Exchange, "amq.fanout".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_count_as_they_are_now() {
    let f = Fixture::new().await;
    let write = (Resource::Subject, "a", Action::Write);
    allow(&f, &[write]).await;
    let clerk = clerk(&f).await;
    let publish = || {
        let (envelope, payload) = message("a", b"x");
        clerk.batch().publish(Some("amq.topic"), envelope, payload, &NoHeaders).map(|_| ())
    };
    let before = clerk.rights();
    assert!(publish().is_ok() && clerk.rights() == before);
    allow(&f, &[]).await;
    assert!(publish().is_err() && clerk.rights() != before);
    allow(&f, &[write]).await;
    assert!(publish().is_ok());
    f.client.delete_user(&name("clerk")).await.unwrap();
    assert!(publish().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_log_ins_at_once_take_turns_and_none_is_lost() {
    let f = Fixture::new().await;
    allow(&f, &[]).await;
    let log_in = |password: &'static [u8]| {
        let broker = f.broker.clone();
        async move {
            let credentials = Credentials::Password { user: "clerk", password };
            broker.authenticate(credentials, IpAddr::from([192, 0, 2, 1])).await.map(|_| ())
        }
    };
    let many: Vec<_> = (0..100).map(|_| tokio::spawn(log_in(b"secret"))).collect();
    for one in many {
        assert_eq!(one.await.unwrap(), Ok(()));
    }
    // A failure is answered late, and keeps nobody else waiting whose password is known.
    let wrong = tokio::spawn(log_in(b"wrong"));
    assert_eq!(log_in(b"secret").await, Ok(()));
    assert_eq!(wrong.await.unwrap(), Err(AuthenticationError::Wrong));
    assert_eq!(f.broker.metrics().authentication_failures.value(), 1);
}

/// The asking client: a name, and an address.
async fn log_in(f: &Fixture, user: &str, from: [u8; 4]) -> Client {
    let credentials = Credentials::Password { user, password: b"secret" };
    let principal = f.broker.authenticate(credentials, IpAddr::from(from)).await.unwrap();
    f.broker.client(principal, name("default"), f.broker.next_connection())
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_allow_and_deny_by_kind_of_pattern_address_group_and_client() {
    use Action::{Configure, Describe, Read, Write};
    let f = Fixture::new().await;
    let topic = |actions: &[Action], text: &str| Permission::allow(actions, Resource::Topic, text);
    let with = |permission: Permission, name: NamePattern| Permission { name, ..permission };
    let staff = UserGroup {
        permissions: vec![
            topic(&[Read], "news.*"),
            topic(&[Read], "news.secret").denied(),
            with(topic(&[Read], ""), NamePattern::Prefix("p*".to_owned())),
            with(topic(&[Read], ""), NamePattern::regex("^r[0-9]+$").unwrap()),
        ],
        ..UserGroup::new(name("staff"))
    };
    f.client.put_user_group(staff.clone()).await.unwrap();
    let near = Permission::parse_network("192.0.2.0/24").ok();
    let user = User {
        password: hash_password(b"secret").unwrap(),
        groups: vec![name("staff")],
        permissions: vec![
            topic(&[Read, Write], "of.%u.*"),
            topic(&[Write], "devices.%c"),
            topic(&[Describe], "seen"),
            Permission { from: near, ..topic(&[Write], "local") },
            topic(&[Read], "*").within("other"),
            topic(&[Write], "news.*"),
            topic(&[Write], "news.old").denied(),
        ],
        ..User::new(name("ann"))
    };
    f.client.put_user(user.clone()).await.unwrap();
    let near = log_in(&f, "ann", [192, 0, 2, 1]).await;
    let far = log_in(&f, "ann", [198, 51, 100, 1]).await;
    let device = near.clone().calling_itself("d*1");
    for (client, action, topic, expect) in [
        (&near, Read, "news.today", true),
        (&near, Read, "news.secret", false),
        (&near, Write, "news.secret", true),
        (&near, Write, "news.old", false),
        (&near, Configure, "news.today", false),
        (&near, Read, "p*x", true),
        (&near, Read, "px", false),
        (&near, Read, "r12", true),
        (&near, Read, "r12x", false),
        (&near, Read, "of.ann.x", true),
        (&near, Read, "of.eve.x", false),
        (&near, Read, "of.%u.x", false),
        (&near, Write, "devices.d*1", false),
        (&device, Write, "devices.d*1", true),
        (&device, Write, "devices.dx1", false),
        (&near, Write, "local", true),
        (&far, Write, "local", false),
        (&near, Read, "seen", false),
        (&near, Read, "elsewhere", false),
    ] {
        assert_eq!(client.may(action, Resource::Topic, topic).is_ok(), expect, "{action:?} {topic}");
    }
    f.client.create_topic(&name("seen"), 1, TopicConfig::default()).await.unwrap();
    assert!(near.topic_to::<right::See>("seen").is_ok() && near.topic_to::<right::Read>("seen").is_err());
    // A group's permissions count as they are now, and administrators are denied nothing.
    let before = near.rights();
    f.client.put_user_group(UserGroup { administrator: true, ..staff.clone() }).await.unwrap();
    assert!(near.may(Read, Resource::Topic, "news.secret").is_ok() && near.is_administrator());
    assert!(near.rights() != before);
    f.client.put_user_group(UserGroup { permissions: Vec::new(), ..staff }).await.unwrap();
    assert!(near.may(Read, Resource::Topic, "news.today").is_err() && !near.is_administrator());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_administrators_do_can_be_given_one_by_one() {
    let f = Fixture::new().await;
    let broker = |text: &str| Permission::allow(&[Action::Administer], Resource::Broker, text);
    let every =
        Permission { resource: None, ..Permission::allow(&[Action::Administer], Resource::Topic, "*") };
    for (permission, users, groups) in [
        (broker("users"), true, false),
        (broker("*"), true, true),
        (broker("user-groups"), false, true),
        // The broker itself has to be named.
        (every, false, false),
    ] {
        let user = User {
            password: hash_password(b"secret").unwrap(),
            permissions: vec![permission],
            ..User::new(name("ann"))
        };
        f.client.put_user(user).await.unwrap();
        let ann = log_in(&f, "ann", [192, 0, 2, 1]).await;
        assert_eq!(ann.put_user(User::new(name("bob"))).await.is_ok(), users);
        assert_eq!(ann.put_user_group(UserGroup::new(name("staff"))).await.is_ok(), groups);
        assert_eq!(ann.delete_user(&name("bob")).await.is_ok(), users);
        assert_eq!(ann.delete_user_group(&name("staff")).await.is_ok(), groups);
    }
}

/// As topic permissions of brokers with exchanges have it.
#[tokio::test(flavor = "multi_thread")]
async fn subjects_pass_through_exchanges_as_permissions_say() {
    let f = Fixture::new().await;
    for exchange in ["orders", "free"] {
        let spec = ExchangeSpec {
            namespace: name("default"),
            name: name(exchange),
            kind: ExchangeKind::Topic,
            durable: false,
            auto_delete: false,
            internal: false,
            alternate: None,
            created_by: None,
            options: Default::default(),
        };
        f.client.create_exchange(spec).await.unwrap();
    }
    f.client.create_queue(&name("q"), QueueDeclaration::default()).await.unwrap();
    let all = [Action::Read, Action::Write];
    let through = |permission: Permission, exchange: &str| Permission {
        exchange: Some(NamePattern::glob(exchange)),
        ..permission
    };
    let put = async |more: Vec<Permission>| {
        let known = f.broker.catalog().user("clerk").map(|user| user.password.clone());
        let everything = [Resource::Exchange, Resource::Queue, Resource::Subject]
            .map(|resource| Permission::allow(&all, resource, "*"));
        let user = User {
            password: known.unwrap_or_else(|| hash_password(b"secret").unwrap()),
            permissions: everything.into_iter().chain(more).collect(),
            ..User::new(name("clerk"))
        };
        f.client.put_user(user).await.unwrap();
    };
    let may = async |exchange: &'static str, subject: &'static str| {
        let clerk = clerk(&f).await;
        let (envelope, payload) = message(subject, b"x");
        let published = clerk.batch().publish(Some(exchange), envelope, payload, &NoHeaders).map(drop);
        let binding = Binding {
            target: Target::Queue(name("q")),
            rule: Rule::Pattern(Pattern::parse(subject, Syntax::DOTTED).unwrap()),
            key: subject.into(),
            arguments: Default::default(),
            durable: false,
            transient: false,
        };
        let bound = clerk.bind(&name(exchange), binding).await;
        let check = |result: Result<(), Error>| match result {
            Ok(()) => true,
            refused => {
                let (_, resource, named) = self::refused(refused);
                assert_eq!((resource, named.as_str()), (Resource::Subject, subject));
                false
            }
        };
        (check(published), check(bound))
    };
    put(vec![]).await;
    assert_eq!(may("orders", "us.1").await, (true, true), "nothing is said of the exchange");
    let write = Permission::allow(&[Action::Write], Resource::Subject, "eu.*");
    put(vec![through(write.clone(), "ord*")]).await;
    for (exchange, subject, expect) in
        [("orders", "eu.1", (true, true)), ("orders", "us.1", (false, true)), ("free", "us.1", (true, true))]
    {
        assert_eq!(may(exchange, subject).await, expect, "{exchange} {subject}");
    }
    let read = Permission::allow(&[Action::Read], Resource::Subject, "us.*");
    let secret = Permission::allow(&all, Resource::Subject, "*.secret").denied();
    put(vec![through(write, "orders"), through(read, "orders"), through(secret, "*")]).await;
    for (exchange, subject, expect) in [
        ("orders", "eu.1", (true, false)),
        ("orders", "us.1", (false, true)),
        ("orders", "eu.secret", (false, false)),
        ("free", "eu.secret", (false, false)),
        ("free", "us.1", (true, true)),
    ] {
        assert_eq!(may(exchange, subject).await, expect, "{exchange} {subject}");
    }
    // The bus is an exchange like any other, for those too who read subjects without binding.
    let clerk = clerk(&f).await;
    assert!(clerk.may(Action::Read, Resource::Subject, "us.secret").is_err());
    assert!(clerk.may(Action::Read, Resource::Subject, "us.1").is_ok());
}
