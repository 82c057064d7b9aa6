//! Sessions over real sockets, as a peer meets them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod alarm;
mod proxies;
mod support;
mod tls;
mod turns;

use posthaste_model::Limits;
use posthaste_net::{BindError, Closed, Entrance, Listener};
use std::time::Duration;
use support::{Fixture, SLOW_MS, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_may_come_byte_by_byte() {
    let fixture = Fixture::start(Limits::default()).await;
    let mut peer = fixture.connect().await;
    for byte in b"echo one\necho two\n" {
        peer.stream.write_all(&[*byte]).await.unwrap();
        peer.stream.flush().await.unwrap();
    }
    peer.expect("one\ntwo\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_frames_may_come_at_once() {
    let fixture = Fixture::start(Limits::default()).await;
    let mut peer = fixture.connect().await;
    let numbers = 0..20_000;
    let all: String = numbers.clone().map(|n| format!("echo {n}\n")).collect();
    let expect: String = numbers.map(|n| format!("{n}\n")).collect();
    let (mut reader, mut writer) = peer.stream.split();
    let mut answer = vec![0; expect.len()];
    let both = async { tokio::join!(writer.write_all(all.as_bytes()), reader.read_exact(&mut answer)) };
    let (written, read) = in_time(both).await;
    written.unwrap();
    read.unwrap();
    assert!(answer == expect.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn big_output_arrives_whole_between_small() {
    let fixture = Fixture::start(Limits::default()).await;
    let mut peer = fixture.connect().await;
    let size = 32 << 20;
    peer.say(&format!("echo before\nbig {size}\necho after\n")).await;
    peer.expect("before\n").await;
    let mut big = vec![0; size];
    in_time(peer.stream.read_exact(&mut big)).await.unwrap();
    assert!(big.iter().zip(0u32..).all(|(byte, at)| *byte == at.to_le_bytes()[0]));
    peer.expect("after\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mailbox_keeps_its_order() {
    let fixture = Fixture::start(Limits::default()).await;
    let mut peer = fixture.connect().await;
    peer.say("mail 50000\n").await;
    let expect: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    peer.expect(&expect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_not_wanted_waits() {
    let fixture = Fixture::start(Limits::default()).await;
    let mut peer = fixture.connect().await;
    // What came together with `hold` is kept back too, and so is what comes later.
    peer.say("echo ready\nhold\necho 1\n").await;
    peer.expect("ready\n").await;
    peer.say("echo 2\n").await;
    let mut other = fixture.connect().await;
    other.say("release 0\n").await;
    other.expect("released\n").await;
    peer.expect("1\n2\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_is_closed_and_hurts_nobody() {
    let mut fixture = Fixture::start(Limits { slow_reader_ms_max: SLOW_MS, ..Limits::default() }).await;
    let mut slow = fixture.connect().await;
    slow.say("echo ready\nbig 67108864\n").await;
    slow.expect("ready\n").await;
    let mut other = fixture.connect().await;
    let mut said = 0;
    let closed = loop {
        // The other conversation goes on all the time.
        other.say(&format!("echo {said}\n")).await;
        other.expect(&format!("{said}\n")).await;
        said += 1;
        if let Ok(closed) = tokio::time::timeout(Duration::from_millis(20), fixture.closed.recv()).await {
            break closed;
        }
    };
    assert_eq!(closed, Some((0, Closed::Error)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_little_but_steadily_is_served() {
    let fixture = Fixture::start(Limits { slow_reader_ms_max: SLOW_MS, ..Limits::default() }).await;
    let mut peer = fixture.connect().await;
    let size = 24 << 20;
    peer.say(&format!("big {size}\n")).await;
    let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
    while taken < size {
        tokio::time::sleep(Duration::from_millis(SLOW_MS / 10)).await;
        let count = in_time(peer.stream.read(&mut buffer)).await.unwrap();
        assert_ne!(count, 0, "closed after {taken} bytes");
        taken += count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_not_read_while_its_output_is_full() {
    let limits =
        Limits { connection_output_bytes_max: 1_000, slow_reader_ms_max: 60_000, ..Limits::default() };
    let fixture = Fixture::start(limits).await;
    let mut peer = fixture.connect().await;
    // More than fits into the buffers of both sockets.
    let size = 64 << 20;
    peer.say(&format!("big {size}\n")).await;
    let mut rest = vec![0; size];
    let (first, rest) = rest.split_at_mut(size / 4);
    // Once some of it is here, the read that brought the command is over: what follows is for a later one.
    in_time(peer.stream.read_exact(&mut first[..1])).await.unwrap();
    peer.say("flag\nflag\n").await;
    // Each write that the peer makes room for would be a chance to read, too.
    in_time(peer.stream.read_exact(&mut first[1..])).await.unwrap();
    let mut other = fixture.connect().await;
    other.say("echo on\n").await;
    other.expect("on\n").await;
    assert_eq!(fixture.flags(), 0);
    in_time(peer.stream.read_exact(rest)).await.unwrap();
    peer.expect("flag\nflag\n").await;
    assert_eq!(fixture.flags(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_apart() {
    for (said, answer, expect) in [
        ("close\n", "bye\n", Closed::BySession),
        ("wrong\n", "no\n", Closed::Error),
        ("panic\n", "", Closed::Error),
    ] {
        let mut fixture = Fixture::start(Limits::default()).await;
        let mut peer = fixture.connect().await;
        peer.say(said).await;
        peer.expect_end(answer).await;
        assert_eq!(in_time(fixture.closed.recv()).await, Some((0, expect)), "{said}");
        // Nobody else is hurt, and the place is free again.
        let mut other = fixture.connect().await;
        other.say("echo still here\n").await;
        other.expect("still here\n").await;
        fixture.connections_become(1).await;
    }
    let mut fixture = Fixture::start(Limits::default()).await;
    drop(fixture.connect().await);
    assert_eq!(in_time(fixture.closed.recv()).await, Some((0, Closed::ByPeer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_kept() {
    let fixture = Fixture::start(Limits::default()).await;
    let mut peer = fixture.connect().await;
    peer.say("echo busy\ntimeout 300\n").await;
    peer.expect("busy\n").await;
    peer.expect_end("late\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_connections_than_allowed() {
    let mut fixture = Fixture::start(Limits { connections_max: 2, ..Limits::default() }).await;
    let (mut one, two) = (fixture.connect().await, fixture.connect().await);
    one.say("echo in\n").await;
    one.expect("in\n").await;
    fixture.connect().await.expect_end("").await;
    drop(two);
    assert_eq!(in_time(fixture.closed.recv()).await.map(|(_, why)| why), Some(Closed::ByPeer));
    fixture.connections_become(1).await;
    let mut three = fixture.connect().await;
    three.say("echo in\n").await;
    three.expect("in\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_says_goodbye_to_everyone() {
    let mut fixture = Fixture::start(Limits::default()).await;
    let (mut one, mut two) = (fixture.connect().await, fixture.connect().await);
    one.say("echo a\n").await;
    one.expect("a\n").await;
    two.say("echo b\n").await;
    two.expect("b\n").await;
    fixture.stop().await;
    one.expect_end("stopping\n").await;
    two.expect_end("stopping\n").await;
    let mut ends = [in_time(fixture.closed.recv()).await, in_time(fixture.closed.recv()).await];
    ends.sort_by_key(|end| end.map(|(number, _)| number));
    assert_eq!(ends, [Some((0, Closed::Stopping)), Some((1, Closed::Stopping))]);
    assert!(tokio::net::TcpStream::connect(fixture.address).await.is_err(), "it still listens");
}

#[tokio::test]
async fn addresses_that_cannot_be_listened_on() {
    let taken = Listener::bind("lines", "127.0.0.1:0", Entrance::default()).await.unwrap();
    let address = taken.address().to_string();
    let error = Listener::bind("lines", &address, Entrance::default()).await.err().unwrap();
    assert!(matches!(error, BindError::InUse { .. }) && error.to_string().contains(&address), "{error}");
    for wrong in ["localhost", "127.0.0.1:notaport", "127.0.0.1:99999", ""] {
        let error = Listener::bind("lines", wrong, Entrance::default()).await.err().unwrap();
        assert!(matches!(error, BindError::Address { .. }), "{wrong}: {error}");
        assert!(error.to_string().contains("HOST:PORT"), "{error}");
    }
}
