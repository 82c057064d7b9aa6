//! Shared subscriptions.

use std::collections::BTreeSet;

use posthaste_mqtt::wire::{Ack, Packet, QoS, ReasonCode, TopicFilter, Unsubscribe};

use crate::support::*;

fn numbers(range: std::ops::Range<u32>) -> BTreeSet<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_leaves_unacknowledged_goes_to_another() {
    for version in VERSIONS {
        let server = Server::start().await;
        let mut one = server.clean(version, "one").await;
        let (mut two, _) = server.lasting(version, "two").await;
        for member in [&mut one, &mut two] {
            assert_eq!(member.subscribe("$share/g/a/+", 1).await, ReasonCode::GrantedQoS1);
        }
        let mut writer = server.clean(version, "writer").await;
        for n in 0..20 {
            writer.publish(&format!("a/{n}"), &n.to_string(), QoS::AtLeastOnce).await;
        }
        let mut got: BTreeSet<String> = two.take(10).await.into_iter().collect();
        assert_eq!(one.message().await.qos, QoS::AtLeastOnce);
        drop(one);
        got.extend(two.take(10).await);
        assert_eq!(got, numbers(0..20));
        // A member that is away gets nothing; the share waits.
        drop(two);
        for n in 20..25 {
            writer.publish(&format!("a/{n}"), &n.to_string(), QoS::AtLeastOnce).await;
        }
        let mut three = server.clean(version, "three").await;
        three.subscribe("$share/g/a/+", 1).await;
        assert_eq!(three.take(5).await.into_iter().collect::<BTreeSet<_>>(), numbers(20..25));
        // Members of another name share among themselves.
        let mut other = server.clean(version, "other").await;
        other.subscribe("$share/h/a/+", 0).await;
        writer.publish("a/x", "x", QoS::AtLeastOnce).await;
        assert_eq!((other.take(1).await, three.take(1).await), (vec!["x".to_owned()], vec!["x".to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_stays_with_the_member_that_may_have_it_over_a_restart() {
    let server = Server::start().await;
    let (mut one, _) = server.lasting(V5, "one").await;
    one.subscribe_as("$share/g/a", 2, 5).await;
    let mut writer = server.clean(V5, "writer").await;
    for n in 0..3 {
        writer.publish("a", &n.to_string(), QoS::ExactlyOnce).await;
    }
    let sent = [one.message().await, one.message().await, one.message().await];
    assert!(sent.iter().all(|publish| publish.properties.subscription_identifiers[0].value() == 5));
    drop(one);
    let mut two = server.clean(V5, "two").await;
    two.subscribe("$share/g/a", 2).await;
    two.silence().await;
    drop(two);
    let server = server.restart().await;
    let (mut one, present) = server.lasting(V5, "one").await;
    assert!(present);
    for expect in &sent {
        let again = one.message().await;
        assert!(again.dup);
        assert_eq!((again.packet_identifier, &again.payload), (expect.packet_identifier, &expect.payload));
        one.acknowledge(&again).await;
    }
    one.silence().await;
    // It is still a member.
    let mut writer = server.clean(V5, "writer").await;
    writer.publish("a", "more", QoS::ExactlyOnce).await;
    assert_eq!(one.take(1).await, ["more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_member_takes_no_more_than_its_window() {
    let server = Server::start().await;
    let mut connect = lasting(V5, "slow");
    connect.properties.receive_maximum = 2.try_into().unwrap();
    let (mut slow, _) = server.connect_with(connect).await;
    slow.subscribe("$share/g/a", 2).await;
    let mut writer = server.clean(V5, "writer").await;
    for n in 0..10 {
        writer.publish("a", &n.to_string(), QoS::ExactlyOnce).await;
    }
    let first = [slow.message().await, slow.message().await];
    let mut quick = server.clean(V5, "quick").await;
    quick.subscribe("$share/g/a", 2).await;
    let got: BTreeSet<String> = quick.take(6).await.into_iter().collect();
    assert_eq!(got, numbers(4..10), "two sent, two leased by the slow one");
    for publish in &first {
        slow.acknowledge(publish).await;
    }
    assert_eq!(slow.take(2).await, ["2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_lives_as_long_as_it_has_members() {
    let server = Server::start().await;
    let (mut one, _) = server.lasting(V5, "one").await;
    let mut two = server.clean(V5, "two").await;
    for member in [&mut one, &mut two] {
        member.subscribe("$share/g/#", 1).await;
    }
    drop(two);
    let share = "mqtt-share-g/#";
    assert!(server.admin.queue(share).is_ok());
    let server = server.restart().await;
    assert!(server.admin.queue(share).is_ok(), "its member is only away");
    let (mut one, _) = server.lasting(V5, "one").await;
    let unsubscribe = Unsubscribe {
        packet_identifier: one.id(),
        user_properties: Default::default(),
        topic_filters: vec![
            TopicFilter::parse("$share/g/#".into()).unwrap(),
            TopicFilter::parse("$share/g/#".into()).unwrap(),
        ],
    };
    one.send(Packet::Unsubscribe(unsubscribe)).await;
    let Packet::Unsuback(unsuback) = one.packet().await else { panic!("no UNSUBACK") };
    assert_eq!(unsuback.reason_codes, [ReasonCode::Success, ReasonCode::NoSubscriptionExisted]);
    assert!(server.admin.queue(share).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_when_a_member_unsubscribed_can_be_acknowledged() {
    let server = Server::start().await;
    let mut one = server.clean(V5, "one").await;
    let mut two = server.clean(V5, "two").await;
    for member in [&mut one, &mut two] {
        member.subscribe("$share/g/a", 1).await;
    }
    let mut writer = server.clean(V5, "writer").await;
    for n in 0..2 {
        writer.publish("a", &n.to_string(), QoS::AtLeastOnce).await;
    }
    let (first, second) = (one.message().await, two.message().await);
    let unsubscribe = Unsubscribe {
        packet_identifier: one.id(),
        user_properties: Default::default(),
        topic_filters: vec![TopicFilter::parse("$share/g/a".into()).unwrap()],
    };
    one.send(Packet::Unsubscribe(unsubscribe)).await;
    assert!(matches!(one.packet().await, Packet::Unsuback(_)));
    let id = first.packet_identifier.unwrap();
    one.send(Packet::Puback(Ack::new(id, ReasonCode::Success))).await;
    one.silence().await;
    drop(one);
    two.acknowledge(&second).await;
    let state = async || server.admin.queue_state("mqtt-share-g/a").await.unwrap();
    until("both to be settled", async || {
        let state = state().await;
        state.ready == 0 && state.leased == 0
    })
    .await;
}
