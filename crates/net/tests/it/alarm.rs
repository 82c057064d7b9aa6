//! The deadline of a session that is busy while it passes, or may not say anything.

use crate::support::serving_alone;
use bytes::BytesMut;
use posthaste_net::{Close, Closed, Leave, Mailbox, Output, Peer, Protocol, Session, Wait, serve_stream};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::watch,
    time::{Instant, sleep, timeout},
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

/// What was said waits, in order, and leaves when it may; what is said while it may not waits, too.
#[tokio::test(start_paused = true)]
async fn nothing_leaves_without_leave() {
    let (mut client, server) = duplex(1024);
    let (_running, peer, mut shared) = serving_alone();
    let (may, asked) = watch::channel(true);
    let ask = move || {
        let mut asked = asked.clone();
        if *asked.borrow() {
            return None;
        }
        let wait: Wait = Box::pin(async move { drop(asked.wait_for(|may| *may).await) });
        Some(wait)
    };
    shared.leave = Leave::new(Some(Arc::new(ask)));
    tokio::spawn(async move { serve_stream(server, peer, &Heart, shared).await });
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    for _ in 0..3 {
        may.send_replace(false);
        assert!(timeout(10 * EVERY, client.read_u8()).await.is_err(), "something was said");
        let before = Instant::now();
        may.send_replace(true);
        let mut beats = vec![0; 10];
        client.read_exact(&mut beats).await.unwrap();
        assert!(before.elapsed() < EVERY, "what was said meanwhile was there at once");
    }
}
