use std::num::NonZeroU32;

use super::*;
use crate::session::{Ending, Fault, InFlight, OutboundPhase, Settled};

fn settled(handle: u32, packet_identifier: u16, qos: QoS, reason_code: ReasonCode) -> Received<u32> {
    Received::Settled(Settled { packet_identifier: id(packet_identifier), handle, qos, reason_code })
}

fn in_flight(packet_identifier: u16, phase: OutboundPhase, handle: u32) -> InFlight<u32> {
    InFlight { packet_identifier: id(packet_identifier), phase, handle }
}

#[test]
fn at_most_once_is_done_when_it_is_sent() {
    let mut session = session();
    assert_eq!(session.deliver(message(QoS::AtMostOnce), 1), Delivery::Done(1));
    assert_eq!(sent(&mut session), ["PUBLISH 0"]);
}

#[test]
fn at_least_once_is_settled_by_puback() {
    let mut session = session();
    assert_eq!(session.deliver(message(QoS::AtLeastOnce), 7), Delivery::InFlight(id(1)));
    assert_eq!(sent(&mut session), ["PUBLISH 1"]);
    let expect = settled(7, 1, QoS::AtLeastOnce, ReasonCode::Success);
    assert_eq!(session.receive(Packet::Puback(ack(1)), 0), Ok(expect));
    assert_eq!(session.receive(Packet::Puback(ack(1)), 0), Ok(Received::Nothing), "late and unknown");
}

#[test]
fn exactly_once_is_stored_before_each_step() {
    let mut session = session();
    assert_eq!(session.deliver(message(QoS::ExactlyOnce), 7), Delivery::Store(id(1)));
    assert!(sent(&mut session).is_empty());
    session.stored(id(1));
    assert_eq!(sent(&mut session), ["PUBLISH 1"]);
    let recorded = Received::Pubrec { packet_identifier: id(1), handle: 7 };
    assert_eq!(session.receive(Packet::Pubrec(ack(1)), 0), Ok(recorded));
    assert_eq!(session.receive(Packet::Pubrec(ack(1)), 0), Ok(Received::Nothing), "being stored");
    assert!(sent(&mut session).is_empty());
    session.stored(id(1));
    assert_eq!(sent(&mut session), ["PUBREL 1"]);
    assert_eq!(session.receive(Packet::Pubrec(ack(1)), 0), Ok(Received::Nothing));
    assert_eq!(sent(&mut session), ["PUBREL 1"], "repeated for a repeated PUBREC");
    let expect = settled(7, 1, QoS::ExactlyOnce, ReasonCode::Success);
    assert_eq!(session.receive(Packet::Pubcomp(ack(1)), 0), Ok(expect));
    assert_eq!(session.credit(), Options::default().outbound_in_flight_max.get());
}

#[test]
fn what_is_stored_out_of_order_leaves_in_order() {
    let mut session = session();
    for handle in 1..=3 {
        assert!(matches!(session.deliver(message(QoS::ExactlyOnce), handle), Delivery::Store(_)));
    }
    session.stored(id(3));
    session.stored(id(2));
    assert!(sent(&mut session).is_empty());
    session.stored(id(1));
    assert_eq!(sent(&mut session), ["PUBLISH 1", "PUBLISH 2", "PUBLISH 3"]);
    for n in [2, 3, 1] {
        session.receive(Packet::Pubrec(ack(n)), 0).expect("allowed");
    }
    session.stored(id(1));
    session.stored(id(3));
    session.stored(id(2));
    assert_eq!(sent(&mut session), ["PUBREL 2", "PUBREL 3", "PUBREL 1"]);
}

#[test]
fn a_refusal_by_the_client_settles() {
    let mut session = session();
    session.deliver(message(QoS::AtLeastOnce), 1);
    deliver_exactly_once(&mut session, 2);
    let refusal = |n| Ack::new(id(n), ReasonCode::QuotaExceeded);
    let expect = settled(1, 1, QoS::AtLeastOnce, ReasonCode::QuotaExceeded);
    assert_eq!(session.receive(Packet::Puback(refusal(1)), 0), Ok(expect));
    let expect = settled(2, 2, QoS::ExactlyOnce, ReasonCode::QuotaExceeded);
    assert_eq!(session.receive(Packet::Pubrec(refusal(2)), 0), Ok(expect));
    transmitted(&mut session);
    assert_eq!(session.receive(Packet::Pubrec(ack(2)), 0), Ok(Received::Nothing));
    assert_eq!(sent(&mut session), ["PUBREL 2 0x92"], "an unknown identifier is answered");
}

#[test]
fn acknowledgements_that_do_not_fit_are_protocol_errors() {
    let cases = [
        (Packet::Pubrec(ack(1)), 1),
        (Packet::Pubcomp(ack(1)), 1),
        (Packet::Puback(ack(2)), 2),
        (Packet::Pubcomp(ack(2)), 2),
        (Packet::Puback(ack(3)), 3),
        (Packet::Pubrec(ack(3)), 3),
    ];
    for (packet, packet_identifier) in cases {
        let mut session = session();
        session.deliver(message(QoS::AtLeastOnce), 1);
        deliver_exactly_once(&mut session, 2);
        session.deliver(message(QoS::ExactlyOnce), 3);
        let fault = session.receive(packet.clone(), 0);
        assert_eq!(fault, Err(Fault::UnexpectedAcknowledgement(id(packet_identifier))), "{packet:?}");
    }
}

#[test]
fn the_window_is_the_smaller_of_both_limits() {
    for (theirs, ours, window) in [(2, 10, 2), (10, 3, 3), (65_535, 65_535, 65_535)] {
        let mut connect = connect(ProtocolVersion::V5);
        connect.properties.receive_maximum = id(theirs);
        let options = Options { outbound_in_flight_max: id(ours), ..Options::default() };
        let (mut session, _) = accept(connect, options);
        assert_eq!(session.credit(), window);
        for handle in 0..u32::from(window) {
            assert!(matches!(session.deliver(message(QoS::AtLeastOnce), handle), Delivery::InFlight(_)));
        }
        assert_eq!(session.credit(), 0);
        let Delivery::Full(message_back, 99) = session.deliver(message(QoS::AtLeastOnce), 99) else {
            panic!("the window is full")
        };
        assert_eq!(*message_back, message(QoS::AtLeastOnce));
        assert_eq!(session.deliver(message(QoS::AtMostOnce), 5), Delivery::Done(5), "QoS 0 needs no room");
        session.receive(Packet::Puback(ack(2)), 0).expect("allowed");
        assert_eq!(session.deliver(message(QoS::AtLeastOnce), 99), Delivery::InFlight(next_free(window)));
    }
}

/// Which identifier is free when all up to `window` were used and 2 was acknowledged.
fn next_free(window: u16) -> PacketIdentifier {
    window.checked_add(1).map_or(id(2), id)
}

#[test]
fn a_message_larger_than_the_client_accepts_is_not_sent() {
    let mut connect = connect(ProtocolVersion::V5);
    let exactly = Packet::Publish(message(QoS::AtMostOnce)).encoded_len(ProtocolVersion::V5).expect("small");
    // CONNACK must fit too; the payload decides which message does.
    connect.properties.maximum_packet_size = NonZeroU32::new(exactly + 30);
    let (mut session, _) = accept(connect, Options::default());
    let message = |payload_len: usize, qos| Publish {
        payload: vec![0; b"payload".len() + payload_len].into(),
        ..message(qos)
    };
    assert_eq!(session.deliver(message(30, QoS::AtMostOnce), 1), Delivery::Done(1));
    assert_eq!(session.deliver(message(31, QoS::AtMostOnce), 2), Delivery::TooLarge(2));
    assert_eq!(session.deliver(message(28, QoS::AtLeastOnce), 3), Delivery::InFlight(id(1)));
    assert_eq!(session.deliver(message(29, QoS::AtLeastOnce), 4), Delivery::TooLarge(4));
    assert_eq!(session.deliver(message(29, QoS::ExactlyOnce), 5), Delivery::TooLarge(5));
    for packet in transmitted(&mut session) {
        assert!(packet.encoded_len(ProtocolVersion::V5).expect("fits") <= exactly + 30);
    }
}

#[test]
fn topic_aliases_of_the_server() {
    let mut connect = connect(ProtocolVersion::V5);
    connect.properties.topic_alias_maximum = 1;
    let (mut session, _) = accept(connect, Options::default());
    let mut deliver = |topic: &'static str| {
        let publish = Publish { topic_name: topic.into(), ..message(QoS::AtMostOnce) };
        session.deliver(publish, 0);
        match session.poll_transmit() {
            Some(Packet::Publish(publish)) => {
                let alias = publish.properties.topic_alias.map(|alias| alias.get());
                (publish.topic_name.to_string(), alias)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(deliver("sensors/1"), ("sensors/1".into(), Some(1)));
    assert_eq!(deliver("sensors/1"), (String::new(), Some(1)));
    assert_eq!(deliver("sensors/2"), ("sensors/2".into(), Some(1)));
    assert_eq!(deliver("sensors/1"), ("sensors/1".into(), Some(1)));
    assert_eq!(deliver("abc"), ("abc".into(), None), "an alias would not be shorter");
}

#[test]
fn a_client_that_allows_no_aliases_gets_none() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let (mut session, _) = accept(connect(version), Options::default());
        session.deliver(Publish { topic_name: "sensors/1".into(), ..message(QoS::AtMostOnce) }, 0);
        let Some(Packet::Publish(publish)) = session.poll_transmit() else { panic!("PUBLISH") };
        assert_eq!(publish.properties.topic_alias, None);
    }
}

#[test]
fn an_alias_that_does_not_fit_any_more_is_not_introduced() {
    let mut connect = connect(ProtocolVersion::V5);
    connect.properties.topic_alias_maximum = 1;
    let publish =
        || Publish { topic_name: "sensors/1".into(), payload: vec![0; 50].into(), ..Default::default() };
    let exactly = Packet::Publish(publish()).encoded_len(ProtocolVersion::V5).expect("small");
    connect.properties.maximum_packet_size = NonZeroU32::new(exactly);
    let (mut session, _) = accept(connect, Options::default());
    for _ in 0..2 {
        assert_eq!(session.deliver(publish(), 1), Delivery::Done(1));
        assert_eq!(session.poll_transmit(), Some(Packet::Publish(publish())), "topic name, no alias");
    }
}

#[test]
fn a_resumed_session_sends_again_what_was_not_acknowledged() {
    let mut session = session();
    deliver_exactly_once(&mut session, 10);
    session.deliver(message(QoS::AtLeastOnce), 20);
    session.deliver(message(QoS::AtLeastOnce), 30);
    deliver_exactly_once(&mut session, 40);
    session.deliver(message(QoS::ExactlyOnce), 50);
    session.receive(Packet::Puback(ack(2)), 0).expect("allowed");
    session.receive(Packet::Pubrec(ack(4)), 0).expect("allowed");
    session.receive(Packet::Pubrec(ack(1)), 0).expect("allowed");
    let state = session.close(Ending::NetworkClosed).state;
    assert_eq!(
        state.outbound,
        [
            in_flight(3, OutboundPhase::AtLeastOnce, 30),
            in_flight(5, OutboundPhase::ExactlyOnce, 50),
            in_flight(4, OutboundPhase::Pubrel, 40),
            in_flight(1, OutboundPhase::Pubrel, 10),
        ]
    );

    let mut session = resumed(state, 10);
    assert_eq!(session.credit(), 0, "what is new waits for what is old");
    assert!(matches!(session.deliver(message(QoS::AtLeastOnce), 60), Delivery::Full(_, 60)));
    while let Some(resend) = session.next_resend() {
        let qos = resend.qos;
        assert_eq!(session.resend(resend, message(qos)), None);
    }
    assert_eq!(sent(&mut session), ["PUBLISH 3 dup", "PUBLISH 5 dup", "PUBREL 4", "PUBREL 1"]);
    assert_eq!(session.deliver(message(QoS::AtLeastOnce), 60), Delivery::InFlight(id(2)));
    let expect = settled(40, 4, QoS::ExactlyOnce, ReasonCode::Success);
    assert_eq!(session.receive(Packet::Pubcomp(ack(4)), 0), Ok(expect));
    let expect = settled(30, 3, QoS::AtLeastOnce, ReasonCode::Success);
    assert_eq!(session.receive(Packet::Puback(ack(3)), 0), Ok(expect));
    let recorded = Received::Pubrec { packet_identifier: id(5), handle: 50 };
    assert_eq!(session.receive(Packet::Pubrec(ack(5)), 0), Ok(recorded));
}

#[test]
fn new_identifiers_avoid_those_of_the_resumed_session() {
    let old = [1, 2, 3, 65_535].map(|n| in_flight(n, OutboundPhase::Pubrel, u32::from(n)));
    let mut session = resumed(SessionState { outbound: old.into(), ..SessionState::default() }, 10);
    assert!(session.next_resend().is_none());
    assert_eq!(session.deliver(message(QoS::AtLeastOnce), 9), Delivery::InFlight(id(4)));
}

#[test]
fn sending_again_respects_a_smaller_window() {
    let old = (1..=5).map(|n| in_flight(n, OutboundPhase::AtLeastOnce, u32::from(n))).collect();
    let mut session = resumed(SessionState { outbound: old, ..SessionState::default() }, 2);
    let mut order = Vec::new();
    loop {
        while let Some(resend) = session.next_resend() {
            session.resend(resend, message(QoS::AtLeastOnce));
        }
        let packets = transmitted(&mut session);
        assert!(packets.len() <= 2);
        let Some(Packet::Publish(first)) = packets.first() else { break };
        order.extend(packets.iter().map(describe));
        let acknowledged = first.packet_identifier.expect("QoS 1");
        let puback = Packet::Puback(Ack::new(acknowledged, ReasonCode::Success));
        assert!(matches!(session.receive(puback, 0), Ok(Received::Settled(_))));
    }
    let expect: Vec<_> = (1..=5).map(|n| format!("PUBLISH {n} dup")).collect();
    assert_eq!(order, expect);
}

#[test]
fn pubcomp_for_an_old_exchange_makes_no_room_beyond_the_window() {
    let old = vec![in_flight(1, OutboundPhase::Pubrel, 1)];
    let mut session = resumed(SessionState { outbound: old, ..SessionState::default() }, 1);
    assert!(session.next_resend().is_none());
    assert_eq!(session.deliver(message(QoS::AtLeastOnce), 2), Delivery::InFlight(id(2)));
    session.receive(Packet::Pubcomp(ack(1)), 0).expect("allowed");
    assert_eq!(session.credit(), 0);
}

#[test]
fn a_message_that_is_gone_is_not_sent_again() {
    let old =
        vec![in_flight(1, OutboundPhase::AtLeastOnce, 10), in_flight(2, OutboundPhase::ExactlyOnce, 20)];
    let mut session = resumed(SessionState { outbound: old, ..SessionState::default() }, 10);
    let first = session.next_resend().expect("QoS 1");
    let settled_now = session.discard(first).expect("settled");
    assert_eq!((settled_now.handle, settled_now.qos), (10, QoS::AtLeastOnce));
    let second = session.next_resend().expect("QoS 2");
    assert_eq!(session.discard(second), None, "the client may hold its identifier");
    assert_eq!(sent(&mut session), ["PUBREL 2"]);
    let not_found = Packet::Pubcomp(Ack::new(id(2), ReasonCode::PacketIdentifierNotFound));
    let expect = settled(20, 2, QoS::ExactlyOnce, ReasonCode::PacketIdentifierNotFound);
    assert_eq!(session.receive(not_found, 0), Ok(expect));
    assert_eq!(session.credit(), 10);
}

#[test]
fn an_acknowledgement_that_comes_before_the_message_is_sent_again() {
    let old =
        vec![in_flight(1, OutboundPhase::AtLeastOnce, 10), in_flight(2, OutboundPhase::ExactlyOnce, 20)];
    let mut session = resumed(SessionState { outbound: old, ..SessionState::default() }, 10);
    let loading = session.next_resend().expect("QoS 1");
    assert!(matches!(session.receive(Packet::Puback(ack(1)), 0), Ok(Received::Settled(_))));
    assert!(matches!(session.receive(Packet::Pubrec(ack(2)), 0), Ok(Received::Pubrec { .. })));
    assert_eq!(session.resend(loading, message(QoS::AtLeastOnce)), None);
    assert_eq!(session.next_resend(), None);
    session.stored(id(2));
    assert_eq!(sent(&mut session), ["PUBREL 2"]);
    assert_eq!(session.credit(), 10);
}
