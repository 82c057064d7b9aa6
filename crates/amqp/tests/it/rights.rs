//! Rights by table: every method of a client times every person has a stated answer. A method that nobody has
//! thought of does not compile (`kind`), one without a row fails.

use crate::client::{Client, World, persistent, plain, publish_octets, refusal, short, to};
use crate::support::methods;
use posthaste_amqp::wire::{
    Command, ContentMethod, FieldTable, Method, PROTOCOL_HEADER, basic, confirm, connection, exchange, queue,
};
use posthaste_broker::QueueDeclaration;
use posthaste_engine::catalog::{Action, ExchangeKind, ExchangeSpec, Permission, Resource, User};
use posthaste_model::Name;

/// In the order of a row's answers. The owner may do everything with `mine*` of every kind, the reader only
/// read, the writer only write. A stranger's permissions match nothing; the revoked one was an owner until
/// after it had opened its channel.
const PERSONS: [&str; 5] = ["owner", "reader", "writer", "stranger", "revoked"];

#[derive(Debug)]
enum Request {
    Method(Method),
    Publish(basic::Publish),
}

/// A request, and for each person the right that is missing; nothing where it is done.
type Row = (Request, [&'static str; 5]);

/// How a client's methods are judged.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// By rights to what is named: `rows` has them.
    Rights,
    /// By nothing but being let in: it is about the connection, a channel, or what they were given.
    Own,
    /// Only servers send it.
    Server,
}

fn kind(method: &Method) -> Kind {
    use Method as M;
    match method {
        M::ExchangeDeclare(_)
        | M::ExchangeDelete(_)
        | M::ExchangeBind(_)
        | M::ExchangeUnbind(_)
        | M::QueueDeclare(_)
        | M::QueueBind(_)
        | M::QueuePurge(_)
        | M::QueueDelete(_)
        | M::QueueUnbind(_)
        | M::BasicConsume(_)
        | M::BasicGet(_) => Kind::Rights,
        M::ConnectionStartOk(_)
        | M::ConnectionSecureOk(_)
        | M::ConnectionTuneOk(_)
        | M::ConnectionOpen(_)
        | M::ConnectionClose(_)
        | M::ConnectionCloseOk(_)
        | M::ConnectionUpdateSecret(_)
        | M::ChannelOpen(_)
        | M::ChannelFlow(_)
        | M::ChannelFlowOk(_)
        | M::ChannelClose(_)
        | M::ChannelCloseOk(_)
        | M::AccessRequest(_)
        | M::BasicQos(_)
        | M::BasicCancel(_)
        | M::BasicCancelOk(_)
        | M::BasicAck(_)
        | M::BasicReject(_)
        | M::BasicRecoverAsync(_)
        | M::BasicRecover(_)
        | M::BasicNack(_)
        | M::ConfirmSelect(_)
        | M::TxSelect(_)
        | M::TxCommit(_)
        | M::TxRollback(_) => Kind::Own,
        M::ConnectionStart(_)
        | M::ConnectionSecure(_)
        | M::ConnectionTune(_)
        | M::ConnectionOpenOk(_)
        | M::ConnectionBlocked(_)
        | M::ConnectionUnblocked(_)
        | M::ConnectionUpdateSecretOk(_)
        | M::ChannelOpenOk(_)
        | M::AccessRequestOk(_)
        | M::ExchangeDeclareOk(_)
        | M::ExchangeDeleteOk(_)
        | M::ExchangeBindOk(_)
        | M::ExchangeUnbindOk(_)
        | M::QueueDeclareOk(_)
        | M::QueueBindOk(_)
        | M::QueuePurgeOk(_)
        | M::QueueDeleteOk(_)
        | M::QueueUnbindOk(_)
        | M::BasicQosOk(_)
        | M::BasicConsumeOk(_)
        | M::BasicGetEmpty(_)
        | M::BasicRecoverOk(_)
        | M::ConfirmSelectOk(_)
        | M::TxSelectOk(_)
        | M::TxCommitOk(_)
        | M::TxRollbackOk(_) => Kind::Server,
    }
}

fn rows() -> Vec<Row> {
    let mut rows = queue_rows();
    rows.extend(exchange_rows());
    rows.extend(message_rows());
    rows
}

fn queue_rows() -> Vec<Row> {
    const CONFIGURE: &str = "configure access to queue 'mine'";
    const CONFIGURE_NEW: &str = "configure access to queue 'mine.new'";
    const READ: &str = "read access to queue 'mine'";
    const WRITE: &str = "write access to queue 'mine'";
    const SOURCE: &str = "read access to exchange 'mine'";
    const DEAD: &str = "write access to exchange 'secret'";
    let declare = |name| queue::Declare { queue: short(name), ..Default::default() };
    let dead = |exchange| queue::Declare {
        arguments: arguments("x-dead-letter-exchange", exchange),
        ..declare("mine.new")
    };
    let bind = |name, exchange| queue::Bind {
        queue: short(name),
        exchange: short(exchange),
        routing_key: short("k"),
        ..Default::default()
    };
    let unbind = |name, exchange| queue::Unbind {
        queue: short(name),
        exchange: short(exchange),
        routing_key: short("k"),
        ..Default::default()
    };
    let purge = queue::Purge { queue: short("mine"), no_wait: false };
    let delete = queue::Delete { queue: short("mine"), ..Default::default() };
    vec![
        row(declare("mine.new"), ["", CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW]),
        row(declare("mine"), ["", CONFIGURE, CONFIGURE, CONFIGURE, CONFIGURE]),
        row(queue::Declare { passive: true, ..declare("mine") }, ["", "", "", READ, READ]),
        row(dead("mine"), ["", CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW]),
        row(dead("secret"), [DEAD, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW]),
        row(bind("mine", "mine"), ["", WRITE, SOURCE, SOURCE, SOURCE]),
        row(bind("mine", "secret"), ["read access to exchange 'secret'"; 5]),
        row(bind("mine", "amq.topic"), ["read access to exchange 'amq.topic'"; 5]),
        row(unbind("mine", "mine"), ["", WRITE, SOURCE, SOURCE, SOURCE]),
        row(purge, ["", "", READ, READ, READ]),
        row(delete, ["", CONFIGURE, CONFIGURE, CONFIGURE, CONFIGURE]),
    ]
}

fn exchange_rows() -> Vec<Row> {
    const CONFIGURE: &str = "configure access to exchange 'mine'";
    const CONFIGURE_NEW: &str = "configure access to exchange 'mine.new'";
    const SOURCE: &str = "read access to exchange 'mine'";
    const TARGET: &str = "write access to exchange 'mine.two'";
    const ALTERNATE: &str = "write access to exchange 'secret'";
    let declare = |name| exchange::Declare {
        exchange: short(name),
        r#type: short("topic"),
        durable: true,
        ..Default::default()
    };
    let alternate = |exchange| exchange::Declare {
        arguments: arguments("alternate-exchange", exchange),
        ..declare("mine.new")
    };
    let (destination, source, routing_key) = (short("mine.two"), short("mine"), short("k"));
    let bind = exchange::Bind {
        destination: destination.clone(),
        source: source.clone(),
        routing_key: routing_key.clone(),
        ..Default::default()
    };
    let unbind = exchange::Unbind { destination, source, routing_key, ..Default::default() };
    let delete = exchange::Delete { exchange: short("mine"), ..Default::default() };
    vec![
        row(declare("mine.new"), ["", CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW]),
        row(declare("mine"), ["", CONFIGURE, CONFIGURE, CONFIGURE, CONFIGURE]),
        // As RabbitMQ: to look whether an exchange is there needs no right.
        row(exchange::Declare { passive: true, ..declare("mine") }, [""; 5]),
        row(alternate("mine"), ["", CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW]),
        row(alternate("secret"), [ALTERNATE, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW, CONFIGURE_NEW]),
        row(bind, ["", TARGET, SOURCE, SOURCE, SOURCE]),
        row(unbind, ["", TARGET, SOURCE, SOURCE, SOURCE]),
        row(delete, ["", CONFIGURE, CONFIGURE, CONFIGURE, CONFIGURE]),
    ]
}

fn message_rows() -> Vec<Row> {
    const READ: &str = "read access to queue 'mine'";
    const WRITE: &str = "write access to exchange 'mine'";
    const SUBJECT: &str = "write access to topic 'mine.x' in exchange 'amq.topic'";
    let publish = |exchange, key| Request::Publish(to(exchange, key));
    let mandatory = Request::Publish(basic::Publish { mandatory: true, ..to("mine", "any") });
    let consume = |no_ack| basic::Consume { queue: short("mine"), no_ack, ..Default::default() };
    let get = |no_ack| basic::Get { queue: short("mine"), no_ack };
    vec![
        (publish("", "mine"), ["write access to exchange 'amq.default'"; 5]),
        (publish("mine", "any"), ["", WRITE, "", WRITE, WRITE]),
        (mandatory, ["", WRITE, "", WRITE, WRITE]),
        (publish("secret", "mine"), ["write access to exchange 'secret'"; 5]),
        (publish("amq.topic", "mine.x"), ["", SUBJECT, "", SUBJECT, SUBJECT]),
        (publish("amq.topic", "secret"), ["write access to topic 'secret' in exchange 'amq.topic'"; 5]),
        row(consume(true), ["", "", READ, READ, READ]),
        row(consume(false), ["", "", READ, READ, READ]),
        row(get(true), ["", "", READ, READ, READ]),
        row(get(false), ["", "", READ, READ, READ]),
    ]
}

fn row(method: impl Into<Method>, answers: [&'static str; 5]) -> Row {
    (Request::Method(method.into()), answers)
}

fn arguments(name: &'static str, value: &'static str) -> FieldTable {
    let mut arguments = FieldTable::new();
    arguments.push(short(name), value);
    arguments
}

#[test]
fn no_method_is_missing() {
    let rows = rows();
    for method in methods().iter().filter(|method| kind(method) == Kind::Rights) {
        let name = method.name();
        let stated =
            rows.iter().any(|(request, _)| matches!(request, Request::Method(m) if m.name() == name));
        assert!(stated, "{name} has no row");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_by_every_person() {
    let world = world().await;
    for (request, answers) in rows() {
        for (person, missing) in PERSONS.into_iter().zip(answers) {
            reset(&world).await;
            let mut client = log_in(&world, person).await;
            match &request {
                Request::Method(method) => client.send(1, method).await,
                Request::Publish(publish) => {
                    client.send_octets(&publish_octets(1, publish, &persistent(), b"x")).await;
                }
            }
            let expect = (!missing.is_empty())
                .then(|| format!("403 ACCESS_REFUSED - {missing} in vhost '/' refused for user '{person}'"));
            assert_eq!(answer(&mut client).await, expect, "{person}: {request:?}");
            client.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_another_namespace_and_anybody_from_afar_are_not_let_in() {
    let world = world().await;
    let mut tenant = world.connect();
    start(&mut tenant, plain("tenant", "guest")).await;
    tenant.send(0, &connection::TuneOk { channel_max: 1, frame_max: 4096, heartbeat: 0 }).await;
    let refused = tenant.call(0, &connection::Open { virtual_host: short("/") }).await;
    assert_eq!(
        refusal(&refused).unwrap(),
        "! 530 NOT_ALLOWED - access to vhost '/' refused for user 'tenant'"
    );
    let anonymous = connection::StartOk { mechanism: short("ANONYMOUS"), ..plain("", "") };
    for (start_ok, expect) in [
        (plain("guest", "guest"), "PLAIN login refused: user 'guest' can only connect via localhost"),
        (
            anonymous,
            "Login was refused using authentication mechanism ANONYMOUS. For details see the broker logfile.",
        ),
    ] {
        let mut afar = world.connect_from("203.0.113.7:40000");
        let refused = start(&mut afar, start_ok).await;
        assert_eq!(refusal(&refused), Some(format!("! 403 ACCESS_REFUSED - {expect}")));
    }
}

async fn start(client: &mut Client, start_ok: connection::StartOk) -> Method {
    client.send_octets(&PROTOCOL_HEADER).await;
    assert!(matches!(client.method().await, Method::ConnectionStart(_)));
    client.call(0, &start_ok).await
}

/// The refusal that answered a request, if there was one.
async fn answer(client: &mut Client) -> Option<String> {
    loop {
        match client.next().await.1 {
            Command::Content(ContentMethod::Return(_), _) => {}
            Command::Content(..) => return None,
            Command::Method(method) => return refusal(&method),
        }
    }
}

/// A broker with all persons, and things that are nobody's.
async fn world() -> World {
    let world = World::new();
    let admin = admin(&world);
    admin.create_namespace(&Name::constant("other")).await.unwrap();
    make(&admin, &["secret"], &["secret"]).await;
    let all = &[Action::Configure, Action::Read, Action::Write];
    for (person, namespace, name, actions) in [
        ("owner", "*", "mine*", &all[..]),
        ("reader", "*", "mine*", &all[1..2]),
        ("writer", "*", "mine*", &all[2..]),
        ("stranger", "*", "nothing*", all),
        ("tenant", "other", "*", all),
    ] {
        set(&world, person, namespace, name, actions).await;
    }
    world
}

fn admin(world: &World) -> posthaste_broker::Client {
    world.broker.system_client("test", Name::constant("default"), world.broker.next_connection())
}

/// Restores the objects that each request finds, whatever the last one did.
async fn reset(world: &World) {
    let admin = admin(world);
    // They are there, or they are not.
    let _ = admin.delete_queue("mine.new", false, false).await;
    let _ = admin.delete_exchange(&Name::constant("mine.new"), false).await;
    make(&admin, &["mine"], &["mine", "mine.two"]).await;
}

async fn make(admin: &posthaste_broker::Client, queues: &[&'static str], exchanges: &[&'static str]) {
    for name in queues {
        let _ = admin.create_queue(&Name::constant(name), QueueDeclaration::default()).await;
    }
    for name in exchanges {
        let spec = ExchangeSpec {
            namespace: Name::constant("default"),
            name: Name::constant(name),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
            internal: false,
            alternate: None,
            created_by: None,
            options: Default::default(),
        };
        let _ = admin.create_exchange(spec).await;
    }
}

/// A user with the first user's password and one permission.
async fn set(world: &World, person: &str, namespace: &str, name: &str, actions: &[Action]) {
    let guest = User::clone(world.broker.catalog().user("guest").unwrap());
    let permission = Permission { resource: None, ..Permission::allow(actions, Resource::Topic, name) };
    let permission = if namespace == "*" { permission } else { permission.within(namespace) };
    let user = User {
        name: Name::new(person).unwrap(),
        administrator: false,
        permissions: vec![permission],
        ..guest
    };
    admin(world).put_user(user).await.unwrap();
}

/// A connection of a person with a channel that confirms; the revoked one has lost its rights since.
async fn log_in(world: &World, person: &str) -> Client {
    let all = &[Action::Configure, Action::Read, Action::Write];
    if person == "revoked" {
        set(world, person, "*", "mine*", all).await;
    }
    let mut client = world.connect();
    client.handshake("/", plain(person, "guest"), 0).await;
    client.open_channel(1).await;
    assert!(matches!(client.call(1, &confirm::Select { no_wait: false }).await, Method::ConfirmSelectOk(_)));
    if person == "revoked" {
        set(world, person, "*", "nothing*", all).await;
    }
    client
}
