use std::num::NonZeroU32;

use super::*;
use crate::session::{Fault, malformed_connect_reply};
use crate::wire::{Auth, AuthProperties, DecodeError, Disconnect, PacketType, Will};

const V3_1: ProtocolVersion = ProtocolVersion::V3_1;
const V3_1_1: ProtocolVersion = ProtocolVersion::V3_1_1;
const V5: ProtocolVersion = ProtocolVersion::V5;

#[test]
fn an_empty_client_identifier() {
    let invalid = Some(ReasonCode::ClientIdentifierNotValid);
    let cases = [
        (V3_1, true, invalid),
        (V3_1_1, true, None),
        (V3_1_1, false, invalid),
        (V5, true, None),
        (V5, false, None),
    ];
    for (version, clean_start, refusal) in cases {
        let connect = Connect { clean_start, ..Connect::new(version, "") };
        let handshake = Handshake::new(connect, Options::default());
        assert_eq!(handshake.as_ref().err().map(|r| r.reason_code), refusal, "{version:?} {clean_start}");
        let Ok(mut handshake) = handshake else { continue };
        assert!(handshake.needs_client_identifier());
        handshake.assign_client_identifier("auto-7");
        assert_eq!(handshake.client_identifier(), "auto-7");
        let (_, packet) = handshake.accept(Acceptance::<u32>::default(), 0).expect("accepted");
        let Packet::Connack(connack) = packet else { panic!("CONNACK") };
        let assigned = connack.properties.assigned_client_identifier;
        assert_eq!(assigned.as_deref(), (version == V5).then_some("auto-7"));
    }
    let unnamed = Handshake::new(Connect::new(V5, ""), Options::default()).expect("good");
    let refused = unnamed.accept(Acceptance::<u32>::default(), 0).map(|_| ()).expect_err("no name");
    assert_eq!(refused.reason_code, ReasonCode::ClientIdentifierNotValid);
}

#[test]
fn session_present_is_told_exactly_when_a_session_is_resumed() {
    for (clean_start, exists, present) in
        [(false, true, true), (false, false, false), (true, true, false), (true, false, false)]
    {
        for version in [V3_1_1, V5] {
            let state = SessionState { inbound: vec![id(1)], ..SessionState::default() };
            let acceptance = Acceptance { session: exists.then_some(state), ..Acceptance::default() };
            let connect = Connect { clean_start, ..connect(version) };
            let (mut session, connack) = accept_with(connect, Options::default(), acceptance);
            assert_eq!(connack.session_present, present, "{clean_start} {exists}");
            // And only then what was received before is still known.
            let duplicate = session.receive(publish(QoS::ExactlyOnce, 1), 0).expect("allowed");
            assert_eq!(duplicate == Received::Nothing, present);
        }
    }
}

#[test]
fn session_expiry() {
    let never = u32::MAX;
    // (version, clean start, asked, longest allowed, used, told in CONNACK)
    let cases = [
        (V3_1, true, 0, never, 0, None),
        (V3_1_1, true, 0, never, 0, None),
        (V3_1_1, false, 0, never, never, None),
        (V3_1_1, false, 0, 3600, 3600, None),
        (V5, true, 0, never, 0, None),
        (V5, false, 0, never, 0, None),
        (V5, true, 60, 3600, 60, None),
        (V5, false, never, 3600, 3600, Some(3600)),
    ];
    for (version, clean_start, asked, session_expiry_interval_max, used, told) in cases {
        let mut connect = Connect { clean_start, ..connect(version) };
        connect.properties.session_expiry_interval = asked;
        let options = Options { session_expiry_interval_max, ..Options::default() };
        let (session, connack) = accept(connect, options);
        assert_eq!(connack.properties.session_expiry_interval, told);
        let closed = session.close(crate::session::Ending::NetworkClosed);
        assert_eq!(closed.session_expiry_interval, used, "{version:?} {clean_start} {asked}");
    }
}

#[test]
fn connack_tells_what_differs_from_the_defaults_and_nothing_to_version_3() {
    let options = Options {
        receive_maximum: id(7),
        maximum_packet_size: 1000,
        topic_alias_maximum: 3,
        keep_alive_max: Some(id(30)),
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        shared_subscription_available: false,
        ..Options::default()
    };
    let (_, connack) = accept(connect(V5), options.clone());
    let told = connack.properties;
    assert_eq!(told.receive_maximum, Some(id(7)));
    assert_eq!(told.maximum_packet_size, NonZeroU32::new(1000));
    assert_eq!(told.topic_alias_maximum, Some(3));
    assert_eq!(told.server_keep_alive, Some(30));
    assert_eq!(told.maximum_qos, Some(QoS::AtLeastOnce));
    assert_eq!(told.retain_available, Some(false));
    assert_eq!(told.shared_subscription_available, Some(false));
    assert_eq!(told.wildcard_subscription_available, None);
    let (_, connack) = accept(connect(V3_1_1), options);
    assert_eq!(connack, Connack::refused(ReasonCode::Success));
}

#[test]
fn response_information_only_for_who_asks() {
    for asked in [false, true] {
        let mut connect = connect(V5);
        connect.properties.request_response_information = asked;
        let acceptance = Acceptance { response_information: Some("replies".into()), ..Acceptance::default() };
        let (_, connack) = accept_with(connect, Options::default(), acceptance);
        assert_eq!(connack.properties.response_information.is_some(), asked);
    }
}

#[test]
fn keep_alive_ends_after_one_and_a_half_times_its_length() {
    // (version, asked, longest allowed, deadline)
    let cases = [
        (V3_1_1, 10, None, Some(15_000)),
        (V3_1_1, 0, None, None),
        (V3_1_1, 100, Some(30), Some(150_000)),
        (V5, 10, Some(30), Some(15_000)),
        (V5, 100, Some(30), Some(45_000)),
        (V5, 0, Some(30), Some(45_000)),
        (V5, 0, None, None),
        (V5, 65_535, None, Some(98_302_500)),
    ];
    for (version, keep_alive, longest, deadline) in cases {
        let options = Options { keep_alive_max: longest.map(id), ..Options::default() };
        let (mut session, _) = accept(Connect { keep_alive, ..connect(version) }, options);
        assert_eq!(session.deadline_ms(), deadline);
        let Some(deadline) = deadline else {
            assert_eq!(session.check_deadline(u64::MAX), Ok(()));
            continue;
        };
        assert_eq!(session.check_deadline(deadline - 1), Ok(()));
        assert_eq!(session.check_deadline(deadline), Err(Fault::KeepAliveTimeout));
        session.receive(Packet::Pingreq, 1000).expect("allowed");
        assert_eq!(sent(&mut session), ["PINGRESP"]);
        assert_eq!(session.check_deadline(deadline), Ok(()));
        assert_eq!(session.deadline_ms(), Some(deadline + 1000));
    }
}

#[test]
fn a_will_that_the_server_cannot_keep_is_refused() {
    let will = Will { qos: QoS::ExactlyOnce, retain: true, topic: "t".into(), ..Will::default() };
    let connect = Connect { will: Some(will), ..connect(V5) };
    let cases = [
        (Options { maximum_qos: QoS::AtLeastOnce, ..Options::default() }, Some(ReasonCode::QoSNotSupported)),
        (Options { retain_available: false, ..Options::default() }, Some(ReasonCode::RetainNotSupported)),
        (Options::default(), None),
    ];
    for (options, refusal) in cases {
        let handshake = Handshake::new(connect.clone(), options);
        assert_eq!(handshake.err().map(|refusal| refusal.reason_code), refusal);
    }
}

#[test]
fn a_refusal_has_the_form_of_its_version() {
    let refuse = |version, code| {
        let handshake = Handshake::new(connect(version), Options::default()).expect("good");
        handshake.refuse(code, Some("why")).connack
    };
    let connack = refuse(V5, ReasonCode::NotAuthorized).expect("a CONNACK");
    assert_eq!(connack.properties.reason_string.as_deref(), Some("why"));
    assert!(refuse(V3_1_1, ReasonCode::NotAuthorized).is_some());
    assert!(refuse(V3_1_1, ReasonCode::UnspecifiedError).is_none(), "no return code says that");

    let mut small = connect(V5);
    small.properties.maximum_packet_size = NonZeroU32::new(5);
    let handshake = Handshake::new(small.clone(), Options::default()).expect("good");
    let connack = handshake.refuse(ReasonCode::NotAuthorized, Some("too long")).connack;
    assert_eq!(connack.expect("fits").properties.reason_string, None);
    // And CONNACK with its properties does not fit at all.
    let handshake = Handshake::new(small, Options::default()).expect("good");
    let refusal = handshake.accept(Acceptance::<u32>::default(), 0).map(|_| ()).expect_err("too small");
    assert_eq!((refusal.reason_code, refusal.connack), (ReasonCode::PacketTooLarge, None));
}

#[test]
fn a_connect_that_does_not_decode() {
    let unsupported = DecodeError::UnsupportedProtocolVersion;
    let cases = [
        (unsupported(6), None, Some((V5, ReasonCode::UnsupportedProtocolVersion))),
        (unsupported(3), None, Some((V3_1_1, ReasonCode::UnsupportedProtocolVersion))),
        (unsupported(0x84), None, Some((V3_1_1, ReasonCode::UnsupportedProtocolVersion))),
        (DecodeError::Truncated, Some(V5), Some((V5, ReasonCode::MalformedPacket))),
        (DecodeError::DuplicateProperty(0x11), Some(V5), Some((V5, ReasonCode::ProtocolError))),
        (DecodeError::Truncated, Some(V3_1_1), None),
        (DecodeError::ProtocolName, None, None),
        (DecodeError::NotConnect, None, None),
    ];
    for (error, version, reply) in cases {
        let refusal = malformed_connect_reply(&error, version);
        assert_eq!(refusal.as_ref().map(|r| (r.version, r.reason_code)), reply, "{error}");
        assert!(refusal.is_none_or(|refusal| refusal.connack.is_some()));
    }
}

#[test]
fn extended_authentication() {
    let auth = |method: &'static str, reason_code| {
        let authentication_method = Some(method.into());
        let properties = AuthProperties { authentication_method, ..AuthProperties::default() };
        Packet::Auth(Box::new(Auth { reason_code, properties }))
    };
    let start = || {
        let mut connect = connect(V5);
        connect.properties.authentication_method = Some("M".into());
        Handshake::new(connect, Options::default()).expect("good")
    };
    let going_on = ReasonCode::ContinueAuthentication;
    let mut handshake = start();
    assert_eq!(handshake.authentication_method(), Some("M"));
    assert!(handshake.receive(auth("M", going_on)).is_err(), "nothing was asked");
    assert_eq!(describe(&handshake.challenge(Some(Bytes::from_static(b"1")))), "AUTH");
    assert!(handshake.receive(auth("M", going_on)).is_ok());
    assert!(handshake.receive(auth("M", going_on)).is_err(), "one answer for each challenge");
    let acceptance =
        Acceptance { authentication_data: Some(Bytes::from_static(b"2")), ..Acceptance::default() };
    let (mut session, packet) = handshake.accept::<u32>(acceptance, 0).expect("accepted");
    let Packet::Connack(connack) = packet else { panic!("CONNACK") };
    assert_eq!(connack.properties.authentication_method.as_deref(), Some("M"));
    assert_eq!(connack.properties.authentication_data.as_deref(), Some(&b"2"[..]));

    for (packet, fault) in [
        (auth("N", going_on), Fault::AuthenticationMethodChanged),
        (auth("M", ReasonCode::ReAuthenticate), Fault::AuthenticationNotStarted),
        (Packet::Pingreq, Fault::UnexpectedPacket(PacketType::Pingreq)),
        (
            Packet::Disconnect(Box::new(Disconnect::new(ReasonCode::Success))),
            Fault::UnexpectedPacket(PacketType::Disconnect),
        ),
    ] {
        let mut handshake = start();
        handshake.challenge(None);
        assert_eq!(handshake.receive(packet), Err(fault));
    }

    // Later, to authenticate again.
    let again = session.receive(auth("M", ReasonCode::ReAuthenticate), 0);
    assert!(matches!(again, Ok(Received::Auth(_))));
    let changed = session.receive(auth("N", ReasonCode::ReAuthenticate), 0);
    assert_eq!(changed, Err(Fault::AuthenticationMethodChanged));
    let never_started = super::session().receive(auth("M", ReasonCode::ReAuthenticate), 0);
    assert_eq!(never_started, Err(Fault::AuthenticationNotStarted));
}
