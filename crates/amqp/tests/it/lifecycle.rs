//! From the protocol header to the end of a connection.

use crate::{
    client::{Client, World, method_octets, plain, publish_octets, refusal, short, to},
    support::Random,
};
use posthaste_amqp::wire::{
    BasicProperties, FieldTable, Frame, FrameMax, FrameReader, Method, PROTOCOL_HEADER, basic, channel,
    confirm, connection, encode_heartbeat, queue,
};
use posthaste_net::{Close, Session as _};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_speaks_otherwise_is_told_what_is_spoken_here() {
    let world = World::new();
    for octets in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"AMQP\x03\x01\x00\x00",
        b"AMQP\x00\x00\x09\x02",
        b"\x10\x10\0\x04MQTT",
    ] {
        let mut client = world.connect();
        client.send_octets(octets).await;
        assert_eq!(&client.received[..], PROTOCOL_HEADER, "{octets:?}");
        assert!(matches!(client.end, Some(Close::Error(_))), "{octets:?}");
    }
    let mut patient = world.connect();
    patient.send_octets(b"AMQ").await;
    assert!(patient.end.is_none() && patient.received.is_empty());
}

/// The answer to a login.
async fn login(client: &mut Client, start_ok: connection::StartOk) -> Option<Method> {
    client.send_octets(&PROTOCOL_HEADER).await;
    assert!(matches!(client.method().await, Method::ConnectionStart(_)));
    client.send(0, &start_ok).await;
    if client.end.is_some() { None } else { Some(client.method().await) }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins() {
    let world = World::new();
    let incapable = |user, password| connection::StartOk {
        client_properties: FieldTable::new(),
        ..plain(user, password)
    };
    let with = |mechanism: &'static str, response: &'static [u8]| connection::StartOk {
        mechanism: short(mechanism),
        response: response.into(),
        ..plain("", "")
    };
    let refused = "! 403 ACCESS_REFUSED - Login was refused using authentication mechanism";
    for (address, start_ok, expect) in [
        ("127.0.0.1:1", plain("guest", "guest"), Some("tune")),
        ("[::ffff:127.0.0.1]:1", plain("guest", "guest"), Some("tune")),
        ("[::1]:1", with("AMQPLAIN", b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest"), Some("tune")),
        ("127.0.0.1:1", with("ANONYMOUS", b""), Some("tune")),
        ("192.0.2.1:1", with("ANONYMOUS", b""), Some(refused)),
        ("127.0.0.1:1", plain("guest", "wrong"), Some(refused)),
        ("127.0.0.1:1", plain("nobody", "guest"), Some(refused)),
        (
            "192.0.2.1:1",
            plain("guest", "guest"),
            Some("! 403 ACCESS_REFUSED - PLAIN login refused: user 'guest' can only"),
        ),
        ("127.0.0.1:1", incapable("guest", "wrong"), None),
        ("127.0.0.1:1", with("PLAIN", b"guest"), Some("! 502 SYNTAX_ERROR - malformed PLAIN response")),
        // There is no certificate.
        (
            "127.0.0.1:1",
            with("EXTERNAL", b""),
            Some("! 403 ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL"),
        ),
        (
            "127.0.0.1:1",
            with("GSSAPI", b""),
            Some("! 503 COMMAND_INVALID - unknown authentication mechanism"),
        ),
    ] {
        let mut client = world.connect_from(address);
        let answer = login(&mut client, start_ok).await;
        let shown = answer.as_ref().map(|answer| match answer {
            Method::ConnectionTune(_) => "tune".to_owned(),
            other => refusal(other).unwrap_or_else(|| format!("{other:?}")),
        });
        let fits = shown.as_ref().is_some_and(|shown| expect.is_some_and(|expect| shown.starts_with(expect)));
        assert!(fits || (shown.is_none() && expect.is_none()), "{shown:?} is not {expect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agreements_and_vhosts() {
    let world = World::new();
    for (channel_max, frame_max, vhost, expect) in [
        (0, 0, "/", None),
        (2_047, 131_072, "default", None),
        (1, 4_096, "/", None),
        (0, 4_095, "/", Some("! 530 NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum")),
        (
            0,
            131_073,
            "/",
            Some("! 530 NOT_ALLOWED - negotiated frame_max = 131073 is higher than the maximum"),
        ),
        (2_048, 0, "/", Some("! 530 NOT_ALLOWED - negotiated channel_max = 2048 is higher than the maximum")),
        (0, 0, "nowhere", Some("! 530 NOT_ALLOWED - vhost nowhere not found")),
        (0, 0, "", Some("! 530 NOT_ALLOWED - vhost  not found")),
    ] {
        let mut client = world.connect();
        login(&mut client, plain("guest", "guest")).await;
        client.send(0, &connection::TuneOk { channel_max, frame_max, heartbeat: 0 }).await;
        client.send(0, &connection::Open { virtual_host: short(vhost) }).await;
        let answer = client.method().await;
        match (expect, refusal(&answer)) {
            (None, None) => assert_eq!(answer, connection::OpenOk {}.into()),
            (Some(expect), Some(found)) => assert!(found.starts_with(expect), "{found}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_close() {
    let world = World::new();
    let mut client = world.open().await;
    client.send(0, &connection::Close::default()).await;
    assert_eq!(
        client.said().unwrap().1,
        posthaste_amqp::wire::Command::Method(connection::CloseOk {}.into())
    );
    assert_eq!(client.end, Some(Close::Done));

    let mut client = world.open().await;
    let answer = client.call(9, &basic::Qos::default()).await;
    assert_eq!(refusal(&answer).unwrap(), "! 504 CHANNEL_ERROR - expected 'channel.open'");
    // Until the client agrees, whatever it had sent is not looked at.
    client.send(1, &queue::Declare::default()).await;
    client.send_octets(&publish_octets(1, &to("", "x"), &BasicProperties::default(), b"x")).await;
    assert!(client.said().is_none() && client.end.is_none());
    client.send(0, &connection::CloseOk {}).await;
    assert_eq!(client.end, Some(Close::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_error_leaves_the_other_channels_alone() {
    let world = World::new();
    let mut client = world.open().await;
    client.open_channel(2).await;
    let answer = client.call(1, &queue::Purge { queue: short("none"), no_wait: false }).await;
    assert_eq!(refusal(&answer).unwrap(), "404 NOT_FOUND - no queue 'none' in vhost '/'");
    // Discarded, also content, until the client agrees.
    client.send(1, &basic::Qos::default()).await;
    client.send_octets(&publish_octets(1, &to("", "x"), &BasicProperties::default(), &[0; 300_000])).await;
    assert_eq!(client.call(2, &basic::Qos::default()).await, basic::QosOk {}.into());
    client.send(1, &channel::CloseOk {}).await;
    // What was on its way when the channel closed is no error.
    client.send(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    client.send(1, &basic::Nack { delivery_tag: 1, multiple: false, requeue: true }).await;
    client.open_channel(1).await;
    let answer = client.call(1, &channel::Open {}).await;
    assert_eq!(refusal(&answer).unwrap(), "! 504 CHANNEL_ERROR - second 'channel.open' seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_are_limited() {
    let world = World::new();
    let mut client = world.connect();
    login(&mut client, plain("guest", "guest")).await;
    client.send(0, &connection::TuneOk { channel_max: 2, frame_max: 0, heartbeat: 0 }).await;
    client.call(0, &connection::Open { virtual_host: short("/") }).await;
    client.open_channel(1).await;
    client.open_channel(2).await;
    let answer = client.call(3, &channel::Open {}).await;
    let expect =
        "! 530 NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    assert_eq!(refusal(&answer).unwrap(), expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_frames_close_the_connection_with_their_code() {
    let world = World::new();
    let mut short_frame = method_octets(1, &basic::Qos::default());
    if let Some(end) = short_frame.last_mut() {
        *end = 0;
    }
    for (octets, expect) in [
        (&b"\x01\0\x01\xff\xff\xff\xff"[..], "! 501 FRAME_ERROR"),
        (b"\x07\0\0\0\0\0\0\xce", "! 501 FRAME_ERROR"),
        (&short_frame, "! 501 FRAME_ERROR"),
        (b"\x08\0\x01\0\0\0\0\xce", "! 505 UNEXPECTED_FRAME"),
        (b"\x03\0\x01\0\0\0\x01x\xce", "! 505 UNEXPECTED_FRAME"),
        (b"\x01\0\x01\0\0\0\x04\0\x3c\0\xff\xce", "! 503 COMMAND_INVALID"),
    ] {
        let mut client = world.open().await;
        client.send_octets(octets).await;
        let answer = client.method().await;
        assert!(refusal(&answer).is_some_and(|found| found.starts_with(expect)), "{answer:?} for {octets:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats() {
    let world = World::new();
    let mut client = world.connect();
    let before = tokio::time::Instant::now();
    client.handshake("/", plain("guest", "guest"), 2).await;
    let first = client.session.deadline().unwrap();
    assert!(
        first >= before + Duration::from_secs(1)
            && first <= tokio::time::Instant::now() + Duration::from_secs(1)
    );
    // The driver calls when the deadline has passed.
    tokio::time::sleep_until(first).await;
    assert_eq!(client.session.timeout(&mut client.out).await, Ok(()));
    let mut said = bytes::BytesMut::from(&client.out.take()[..]);
    let frame = FrameReader::default().read(&mut said, FrameMax::DEFAULT).unwrap();
    assert_eq!(frame, Some((0, Frame::Heartbeat)));
    let mut beat = bytes::BytesMut::new();
    encode_heartbeat(&mut beat);
    client.send_octets(&beat).await;
    let silent_since = tokio::time::Instant::now();
    let mut result = Ok(());
    while result.is_ok() {
        tokio::time::sleep_until(client.session.deadline().unwrap()).await;
        result = client.session.timeout(&mut client.out).await;
    }
    assert!(matches!(&result, Err(Close::Error(why)) if why.contains("missed heartbeats")), "{result:?}");
    assert!(silent_since.elapsed() >= Duration::from_millis(3_900));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_broker_says_so() {
    let world = World::new();
    let mut client = world.open().await;
    client.session.stopping(&mut client.out).await;
    client.received.extend_from_slice(&client.out.take());
    let answer = client.method().await;
    assert!(refusal(&answer).unwrap().starts_with("! 320 CONNECTION_FORCED"), "{answer:?}");
    client.close().await;
}

/// Everything that a client says in a short life.
fn conversation() -> Vec<u8> {
    let mut octets = PROTOCOL_HEADER.to_vec();
    let mut say = |channel, method: Method| octets.extend_from_slice(&method_octets(channel, &method));
    say(0, plain("guest", "guest").into());
    say(0, connection::TuneOk { channel_max: 9, frame_max: 4_096, heartbeat: 10 }.into());
    say(0, connection::Open { virtual_host: short("/") }.into());
    say(1, channel::Open {}.into());
    let arguments = [(short("x-max-length"), 5.into()), (short("x-dead-letter-exchange"), "".into())];
    let arguments = arguments.into_iter().collect();
    say(1, queue::Declare { queue: short("fuzz"), exclusive: true, arguments, ..Default::default() }.into());
    say(1, confirm::Select { no_wait: false }.into());
    let headers = [(short("CC"), vec!["fuzz".into()].into()), (short("n"), 1.into())].into_iter().collect();
    let properties =
        BasicProperties { headers: Some(headers), expiration: Some(short("1000")), ..Default::default() };
    octets.extend_from_slice(&publish_octets(1, &to("", "fuzz"), &properties, &[7; 3_000]));
    let mut say = |channel, method: Method| octets.extend_from_slice(&method_octets(channel, &method));
    say(1, basic::Qos { prefetch_count: 3, global: true, ..Default::default() }.into());
    say(1, basic::Consume { queue: short("fuzz"), consumer_tag: short("c"), ..Default::default() }.into());
    say(1, basic::Get { queue: short("fuzz"), no_ack: false }.into());
    say(1, basic::Nack { delivery_tag: 1, multiple: true, requeue: true }.into());
    say(1, basic::Cancel { consumer_tag: short("c"), no_wait: false }.into());
    say(1, channel::Close::default().into());
    say(0, connection::Close::default().into());
    octets
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_conversations_harm_nobody_else() {
    let world = World::new();
    let mut witness = world.open().await;
    let whole = conversation();
    let mut client = world.connect();
    client.send_octets(&whole).await;
    assert_eq!(client.end, Some(Close::Done), "undamaged, it comes to its end");
    let mut random = Random(7);
    for _ in 0..400 {
        let mut octets = whole.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(octets.len());
            match random.below(4) {
                0 => octets.truncate(at.max(1)),
                1 => octets[at] = 0xff,
                2 => drop(octets.splice(at..at, [0; 3])),
                _ => octets[at] ^= 1 << random.below(8),
            }
        }
        let mut client = world.connect();
        while !octets.is_empty() && client.end.is_none() {
            let rest = octets.split_off(octets.len().min(1 + random.below(2_000)));
            client.send_octets(&octets).await;
            octets = rest;
            while let Ok(event) = client.events.try_recv() {
                if client.session.event(event, &mut client.out).await.is_err() {
                    break;
                }
            }
        }
        client.close().await;
    }
    assert_eq!(witness.call(1, &basic::Qos::default()).await, basic::QosOk {}.into());
    let answer =
        witness.call(1, &queue::Declare { queue: short("fuzz"), passive: true, ..Default::default() }).await;
    assert!(
        refusal(&answer).unwrap().starts_with("404"),
        "an exclusive queue outlived its connection: {answer:?}"
    );
}
