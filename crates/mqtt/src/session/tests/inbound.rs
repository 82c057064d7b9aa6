use super::*;
use crate::session::Fault;
use crate::wire::{
    ByteString, ReasonProperties, Suback, Subscribe, SubscriptionIdentifier, SubscriptionOptions,
    TopicFilter, UserProperties,
};

#[test]
fn acknowledgements_leave_in_the_order_of_the_messages() {
    let mut session = session();
    assert!(matches!(
        session.receive(publish(QoS::AtMostOnce, 0), 0),
        Ok(Received::Publish { receipt: None, .. })
    ));
    let first = receipt(session.receive(publish(QoS::AtLeastOnce, 5), 0));
    let second = receipt(session.receive(publish(QoS::ExactlyOnce, 3), 0));
    let third = receipt(session.receive(publish(QoS::AtLeastOnce, 9), 0));
    session.acknowledge(third, ReasonCode::NoMatchingSubscribers);
    session.acknowledge(second, ReasonCode::Success);
    assert!(sent(&mut session).is_empty());
    session.acknowledge(first, ReasonCode::Success);
    assert_eq!(sent(&mut session), ["PUBACK 5", "PUBREC 3", "PUBACK 9 0x10"]);
}

#[test]
fn an_exactly_once_exchange() {
    let mut session = session();
    let first = receipt(session.receive(publish(QoS::ExactlyOnce, 3), 0));
    session.acknowledge(first, ReasonCode::Success);
    assert_eq!(sent(&mut session), ["PUBREC 3"]);
    // Sent again: not published again.
    assert_eq!(session.receive(publish(QoS::ExactlyOnce, 3), 0), Ok(Received::Nothing));
    assert_eq!(sent(&mut session), ["PUBREC 3"]);
    assert_eq!(session.receive(Packet::Pubrel(ack(3)), 0), Ok(Received::Pubrel(id(3))));
    assert!(sent(&mut session).is_empty(), "PUBCOMP waits until the identifier is forgotten durably");
    assert_eq!(session.receive(Packet::Pubrel(ack(3)), 0), Ok(Received::Nothing));
    session.complete(id(3));
    session.complete(id(3));
    assert_eq!(sent(&mut session), ["PUBCOMP 3"]);
    // The identifier is free for a new message.
    receipt(session.receive(publish(QoS::ExactlyOnce, 3), 0)).packet_identifier();
}

#[test]
fn a_repeated_message_that_is_still_being_published_gets_one_acknowledgement() {
    let mut session = session();
    let first = receipt(session.receive(publish(QoS::ExactlyOnce, 3), 0));
    assert_eq!(session.receive(publish(QoS::ExactlyOnce, 3), 0), Ok(Received::Nothing));
    assert!(sent(&mut session).is_empty());
    session.acknowledge(first, ReasonCode::Success);
    assert_eq!(sent(&mut session), ["PUBREC 3"]);
}

#[test]
fn repeating_one_message_without_end_queues_nothing_without_end() {
    let mut session = session();
    let known = receipt(session.receive(publish(QoS::ExactlyOnce, 1), 0));
    session.acknowledge(known, ReasonCode::Success);
    let blocking = receipt(session.receive(publish(QoS::AtLeastOnce, 2), 0));
    transmitted(&mut session);
    for _ in 0..1000 {
        assert_eq!(session.receive(publish(QoS::ExactlyOnce, 1), 0), Ok(Received::Nothing));
    }
    session.acknowledge(blocking, ReasonCode::Success);
    assert_eq!(sent(&mut session), ["PUBACK 2", "PUBREC 1"]);
}

#[test]
fn a_refused_exactly_once_message_frees_its_identifier() {
    let mut session = session();
    let refused = receipt(session.receive(publish(QoS::ExactlyOnce, 3), 0));
    session.acknowledge_with(refused, ReasonCode::QuotaExceeded, Some("full"));
    let packets = transmitted(&mut session);
    let [Packet::Pubrec(pubrec)] = &packets[..] else { panic!("PUBREC") };
    assert_eq!(pubrec.reason_code, ReasonCode::QuotaExceeded);
    let reason = pubrec.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
    assert_eq!(reason, Some("full"));
    let _new = receipt(session.receive(publish(QoS::ExactlyOnce, 3), 0));
}

#[test]
fn version_3_cannot_refuse_a_message() {
    let (mut session, _) = accept(connect(ProtocolVersion::V3_1_1), Options::default());
    let refused = receipt(session.receive(publish(QoS::ExactlyOnce, 3), 0));
    session.acknowledge(refused, ReasonCode::NotAuthorized);
    assert_eq!(sent(&mut session), ["PUBREC 3"]);
    assert_eq!(session.receive(Packet::Pubrel(ack(3)), 0), Ok(Received::Pubrel(id(3))));
}

#[test]
fn pubrel_for_an_unknown_identifier() {
    let mut session = session();
    assert_eq!(session.receive(Packet::Pubrel(ack(3)), 0), Ok(Received::Nothing));
    assert_eq!(sent(&mut session), ["PUBCOMP 3 0x92"]);
    let _pending = receipt(session.receive(publish(QoS::ExactlyOnce, 4), 0));
    let too_early = session.receive(Packet::Pubrel(ack(4)), 0);
    assert_eq!(too_early, Err(Fault::UnexpectedAcknowledgement(id(4))));
}

#[test]
fn receive_maximum_counts_until_the_exchange_is_complete() {
    let options = Options { receive_maximum: id(2), ..Options::default() };
    let (mut session, _) = accept(connect(ProtocolVersion::V5), options);
    let first = receipt(session.receive(publish(QoS::AtLeastOnce, 1), 0));
    let second = receipt(session.receive(publish(QoS::ExactlyOnce, 2), 0));
    assert!(!session.accepts_input());
    session.acknowledge(first, ReasonCode::Success);
    session.acknowledge(second, ReasonCode::Success);
    assert!(session.accepts_input());
    // One is complete, one waits for PUBREL.
    let third = receipt(session.receive(publish(QoS::AtLeastOnce, 3), 0));
    session.acknowledge(third, ReasonCode::Success);
    session.receive(Packet::Pubrel(ack(2)), 0).expect("allowed");
    let fourth = receipt(session.receive(publish(QoS::ExactlyOnce, 4), 0));
    assert_eq!(fourth.qos(), QoS::ExactlyOnce);
    let excess = session.receive(publish(QoS::AtLeastOnce, 5), 0).expect_err("one too many");
    assert_eq!(excess, Fault::ReceiveMaximumExceeded);
    assert_eq!(excess.reason_code(), ReasonCode::ReceiveMaximumExceeded);
    // QoS 0 is never counted.
    assert!(session.receive(publish(QoS::AtMostOnce, 0), 0).is_ok());
    session.complete(id(2));
    let _room_again = receipt(session.receive(publish(QoS::AtLeastOnce, 5), 0));
}

#[test]
fn version_3_knows_no_receive_maximum() {
    let options = Options { receive_maximum: id(2), ..Options::default() };
    let (mut session, _) = accept(connect(ProtocolVersion::V3_1_1), options);
    let receipts: Vec<_> =
        (1..=10).map(|n| receipt(session.receive(publish(QoS::AtLeastOnce, n), 0))).collect();
    assert!(!session.accepts_input(), "it is slowed down instead");
    for receipt in receipts {
        session.acknowledge(receipt, ReasonCode::Success);
    }
    assert!(session.accepts_input());
}

#[test]
fn topic_aliases_of_the_client() {
    let alias = |topic: &'static str, alias: u16| {
        let mut publish = Publish { topic_name: ByteString::from_static(topic), ..message(QoS::AtMostOnce) };
        publish.properties.topic_alias = Some(id(alias));
        Packet::Publish(publish)
    };
    let options = Options { topic_alias_maximum: 2, ..Options::default() };
    let (mut session, _) = accept(connect(ProtocolVersion::V5), options);
    let mut check = |packet, expect: Result<&str, Fault>| match (session.receive(packet, 0), expect) {
        (Ok(Received::Publish { publish, .. }), Ok(topic)) => {
            assert_eq!(publish.topic_name, topic);
            assert_eq!(publish.properties.topic_alias, None, "it ends at this hop");
        }
        (Err(fault), Err(expected)) => assert_eq!(fault, expected),
        (other, _) => panic!("{other:?}"),
    };
    check(alias("", 1), Err(Fault::TopicAliasUnknown(1)));
    check(alias("a", 1), Ok("a"));
    check(alias("b", 2), Ok("b"));
    check(alias("", 1), Ok("a"));
    check(alias("c", 1), Ok("c"));
    check(alias("", 1), Ok("c"));
    check(alias("", 2), Ok("b"));
    check(alias("d", 3), Err(Fault::TopicAliasInvalid(3)));
    assert_eq!(Fault::TopicAliasInvalid(3).reason_code(), ReasonCode::TopicAliasInvalid);
    assert_eq!(Fault::TopicAliasUnknown(1).reason_code(), ReasonCode::ProtocolError);
}

#[test]
fn what_the_server_does_not_offer_is_refused() {
    let subscribe = |filter: &'static str, identifier| {
        Packet::Subscribe(Subscribe {
            packet_identifier: id(1),
            subscription_identifier: SubscriptionIdentifier::new(identifier),
            user_properties: UserProperties::new(),
            topic_filters: vec![(
                TopicFilter::parse(filter.into()).expect("good"),
                SubscriptionOptions::default(),
            )],
        })
    };
    let retained = Packet::Publish(Publish { retain: true, ..message(QoS::AtMostOnce) });
    let options = Options {
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        wildcard_subscription_available: false,
        subscription_identifiers_available: false,
        shared_subscription_available: false,
        ..Options::default()
    };
    let cases = [
        (publish(QoS::ExactlyOnce, 1), ReasonCode::QoSNotSupported),
        (retained, ReasonCode::RetainNotSupported),
        (subscribe("#", 0), ReasonCode::WildcardSubscriptionsNotSupported),
        (subscribe("a", 1), ReasonCode::SubscriptionIdentifiersNotSupported),
        (subscribe("$share/g/a", 0), ReasonCode::SharedSubscriptionsNotSupported),
    ];
    for (packet, code) in cases {
        let (mut limited, _) = accept(connect(ProtocolVersion::V5), options.clone());
        let fault = limited.receive(packet.clone(), 0).expect_err("not offered");
        assert_eq!(fault.reason_code(), code);
        assert!(session().receive(packet, 0).is_ok(), "offered by default");
    }
}

#[test]
fn explanations_are_left_out_for_who_does_not_want_them_or_has_no_room() {
    let suback = || {
        Packet::Suback(Suback {
            packet_identifier: id(1),
            properties: ReasonProperties {
                reason_string: Some("long explanation".into()),
                ..Default::default()
            },
            reason_codes: vec![ReasonCode::NotAuthorized; 20],
        })
    };
    // (wants explanations, maximum packet size, sent with explanation)
    let cases = [
        (true, None, Some(true)),
        (false, None, Some(false)),
        (true, Some(30), Some(false)),
        (true, Some(20), None),
    ];
    for (wants, maximum, expect) in cases {
        let mut connect = connect(ProtocolVersion::V5);
        connect.properties.request_problem_information = wants;
        connect.properties.maximum_packet_size = maximum.and_then(std::num::NonZeroU32::new);
        let (mut session, _) = accept(connect, Options::default());
        let result = session.send(suback());
        assert_eq!(result, if expect.is_some() { Ok(()) } else { Err(Fault::ReplyTooLarge) });
        let explained = transmitted(&mut session).pop().map(|packet| match packet {
            Packet::Suback(suback) => suback.properties.reason_string.is_some(),
            other => panic!("{other:?}"),
        });
        assert_eq!(explained, expect);
    }
}
