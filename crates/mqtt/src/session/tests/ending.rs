use super::*;
use crate::session::{Ending, Fault};
use crate::wire::{Disconnect, DisconnectProperties, Will};

fn with_will(version: ProtocolVersion, delay: u32, session_expiry_interval: u32) -> Session<u32> {
    let will = Will { topic: "last/words".into(), will_delay_interval: delay, ..Will::default() };
    let mut connect = Connect { will: Some(will), ..connect(version) };
    connect.properties.session_expiry_interval = session_expiry_interval;
    accept(connect, Options::default()).0
}

fn disconnect(reason_code: ReasonCode, session_expiry_interval: Option<u32>) -> Packet {
    let properties = DisconnectProperties { session_expiry_interval, ..Default::default() };
    Packet::Disconnect(Box::new(Disconnect { reason_code, properties }))
}

#[test]
fn what_becomes_of_the_will() {
    let closed = Ending::NetworkClosed;
    let resumed = Ending::TakenOver { clean_start: false };
    let replaced = Ending::TakenOver { clean_start: true };
    let normal = Some(ReasonCode::Success);
    let with_message = Some(ReasonCode::DisconnectWithWillMessage);
    let error = Some(ReasonCode::UnspecifiedError);
    // (will delay, session expiry, client's DISCONNECT, ending, seconds until the will is published)
    let cases = [
        (0, 0, None, closed, Some(0)),
        (0, 100, None, closed, Some(0)),
        (30, 100, None, closed, Some(30)),
        (300, 100, None, closed, Some(100)),
        (30, 0, None, closed, Some(0)),
        (30, u32::MAX, None, closed, Some(30)),
        (0, 100, normal, closed, None),
        (30, 100, normal, closed, None),
        (0, 100, with_message, closed, Some(0)),
        (30, 100, with_message, closed, Some(30)),
        (0, 100, error, closed, Some(0)),
        (0, 100, None, resumed, Some(0)),
        (30, 100, None, resumed, None),
        (30, 0, None, resumed, Some(0)),
        (30, 100, None, replaced, Some(0)),
        (30, 100, normal, replaced, None),
    ];
    for (delay, expiry, reason_code, ending, expect) in cases {
        let mut session = with_will(ProtocolVersion::V5, delay, expiry);
        if let Some(reason_code) = reason_code {
            let received = session.receive(disconnect(reason_code, None), 0);
            assert!(matches!(received, Ok(Received::Disconnect(_))));
        }
        let will = session.close(ending).will;
        let context = format!("{delay} {expiry} {reason_code:?} {ending:?}");
        assert_eq!(will.as_ref().map(|will| will.delay), expect, "{context}");
        assert!(will.is_none_or(|will| will.will.topic == "last/words"));
    }
}

#[test]
fn version_3_removes_its_will_with_disconnect() {
    let mut session = with_will(ProtocolVersion::V3_1_1, 0, 0);
    session.receive(disconnect(ReasonCode::Success, None), 0).expect("allowed");
    assert_eq!(session.close(Ending::NetworkClosed).will, None);
    let session = with_will(ProtocolVersion::V3_1_1, 0, 0);
    assert!(session.close(Ending::NetworkClosed).will.is_some());
}

#[test]
fn disconnect_can_change_when_the_session_expires() {
    // (in CONNECT, in DISCONNECT, result)
    let cases = [
        (100, None, Ok(100)),
        (100, Some(0), Ok(0)),
        (100, Some(5000), Ok(5000)),
        (0, Some(0), Ok(0)),
        (0, Some(1), Err(Fault::SessionExpiryRaised)),
    ];
    for (before, change, expect) in cases {
        let mut session = with_will(ProtocolVersion::V5, 0, before);
        let result = session.receive(disconnect(ReasonCode::Success, change), 0);
        assert_eq!(result.err(), expect.err());
        if let Ok(expiry) = expect {
            assert_eq!(session.close(Ending::NetworkClosed).session_expiry_interval, expiry);
        }
    }
    assert_eq!(Fault::SessionExpiryRaised.reason_code(), ReasonCode::ProtocolError);
}

#[test]
fn a_clean_start_elsewhere_ends_the_session() {
    let session = with_will(ProtocolVersion::V5, 0, 100);
    assert_eq!(session.close(Ending::TakenOver { clean_start: true }).session_expiry_interval, 0);
    let session = with_will(ProtocolVersion::V5, 0, 100);
    assert_eq!(session.close(Ending::TakenOver { clean_start: false }).session_expiry_interval, 100);
}

#[test]
fn only_version_5_is_told_why() {
    let (session, _) = accept(connect(ProtocolVersion::V3_1_1), Options::default());
    assert_eq!(session.disconnect(ReasonCode::SessionTakenOver, Some("elsewhere")), None);
    let (session, _) = accept(connect(ProtocolVersion::V5), Options::default());
    let Some(Packet::Disconnect(told)) = session.disconnect(ReasonCode::SessionTakenOver, Some("elsewhere"))
    else {
        panic!("DISCONNECT")
    };
    assert_eq!(told.reason_code, ReasonCode::SessionTakenOver);
    assert_eq!(told.properties.reason_string.as_deref(), Some("elsewhere"));
}

#[test]
fn inbound_identifiers_outlive_the_connection() {
    let mut session = session();
    for n in [4, 2, 9, 7] {
        let receipt = receipt(session.receive(publish(QoS::ExactlyOnce, n), 0));
        if n != 9 {
            session.acknowledge(receipt, ReasonCode::Success);
        }
    }
    session.receive(Packet::Pubrel(ack(4)), 0).expect("allowed");
    let state = session.close(Ending::NetworkClosed).state;
    assert_eq!(state.inbound, [id(2), id(4), id(7)], "4 was not completed");
    assert_eq!(state.unacknowledged, [id(9)]);

    let mut session = resumed(state, 10);
    assert_eq!(session.receive(publish(QoS::ExactlyOnce, 7), 0), Ok(Received::Nothing));
    assert_eq!(session.receive(Packet::Pubrel(ack(4)), 0), Ok(Received::Pubrel(id(4))));
    let _new = receipt(session.receive(publish(QoS::ExactlyOnce, 9), 0));
    session.complete(id(4));
    assert_eq!(sent(&mut session), ["PUBREC 7", "PUBCOMP 4"]);
}
