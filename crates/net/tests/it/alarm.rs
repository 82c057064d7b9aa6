//! The deadline of a session that is busy while it passes.

use crate::support::serving_alone;
use bytes::BytesMut;
use posthaste_net::{Close, Closed, Mailbox, Output, Peer, Protocol, Session, serve_stream};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::{Instant, sleep},
};

const EVERY: Duration = Duration::from_millis(500);

/// Says something after every half second, like a heartbeat; input keeps it busy for longer than that.
struct Beating(Instant);

struct Heart;

impl Protocol for Heart {
    type Session = Beating;
    const NAME: &'static str = "heart";

    fn open(&self, _: Peer, _: Mailbox<()>) -> Beating {
        Beating(Instant::now() + EVERY)
    }
}

impl Session for Beating {
    type Event = ();

    async fn input(&mut self, input: &mut BytesMut, _: &mut Output) -> Result<(), Close> {
        input.clear();
        sleep(2 * EVERY).await;
        Ok(())
    }

    async fn event(&mut self, (): (), _: &mut Output) -> Result<(), Close> {
        Ok(())
    }

    fn is_admitted(&self) -> bool {
        true
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.0)
    }

    async fn timeout(&mut self, out: &mut Output) -> Result<(), Close> {
        out.bytes().extend_from_slice(b"x");
        self.0 = Instant::now() + EVERY;
        Ok(())
    }

    async fn closed(self, _: Closed) {}
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_input_is_worked_on_is_still_met() {
    let (mut client, server) = duplex(1024);
    let (_running, peer, shared) = serving_alone();
    tokio::spawn(async move { serve_stream(server, peer, &Heart, shared).await });
    let started = Instant::now();
    client.write_all(b"busy").await.unwrap();
    let mut beats = [0; 6];
    client.read_exact(&mut beats).await.unwrap();
    assert!(started.elapsed() <= 10 * EVERY, "{:?}", started.elapsed());
}

/// A protocol whose peers talk and talk, and never say who they are.
struct Talk;
struct Talking;

impl Protocol for Talk {
    type Session = Talking;
    const NAME: &'static str = "talk";

    fn open(&self, _: Peer, _: Mailbox<()>) -> Talking {
        Talking
    }
}

impl Session for Talking {
    type Event = ();

    async fn input(&mut self, input: &mut BytesMut, out: &mut Output) -> Result<(), Close> {
        out.bytes().extend_from_slice(&input.split());
        Ok(())
    }

    async fn event(&mut self, (): (), _: &mut Output) -> Result<(), Close> {
        Ok(())
    }

    fn is_admitted(&self) -> bool {
        false
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    async fn timeout(&mut self, _: &mut Output) -> Result<(), Close> {
        Ok(())
    }

    async fn closed(self, _: Closed) {}
}

#[tokio::test(start_paused = true)]
async fn who_does_not_log_in_is_let_go_however_much_it_says() {
    let (mut client, server) = duplex(1024);
    let (_running, peer, shared) = serving_alone();
    let limit = std::time::Duration::from_millis(shared.limits.handshake_ms_max);
    tokio::spawn(async move { serve_stream(server, peer, &Talk, shared).await });
    let started = Instant::now();
    let mut echo = [0; 4];
    while client.write_all(b"word").await.is_ok() && client.read_exact(&mut echo).await.is_ok() {
        assert!(started.elapsed() <= limit, "it may go on for ever");
        sleep(limit / 50).await;
    }
    assert!(started.elapsed() >= limit, "{:?}", started.elapsed());
}
