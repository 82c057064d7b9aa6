//! A peer that sends without end, beside others of the same thread.

use crate::support::serving_alone;
use bytes::BytesMut;
use posthaste_net::{Close, Closed, Mailbox, Output, Peer, Protocol, Session, serve_stream};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
    time::Instant,
};

/// All that the peer sends, as fast as it is read.
const BYTES: usize = 64 << 20;

/// A peer that always has more, and counts what was taken.
struct Torrent(Arc<AtomicUsize>);

impl AsyncRead for Torrent {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.0.load(Ordering::Relaxed);
        let count = into.remaining().min(BYTES - taken);
        into.put_slice(&vec![0; count]);
        self.0.store(taken + count, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Torrent {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Takes everything and says nothing.
struct Sink;

impl Protocol for Sink {
    type Session = Sink;
    const NAME: &'static str = "sink";

    fn open(&self, _: Peer, _: Mailbox<()>) -> Sink {
        Sink
    }
}

impl Session for Sink {
    type Event = ();

    async fn input(&mut self, input: &mut BytesMut, _: &mut Output) -> Result<(), Close> {
        input.clear();
        Ok(())
    }

    async fn event(&mut self, (): (), _: &mut Output) -> Result<(), Close> {
        Ok(())
    }

    fn is_admitted(&self) -> bool {
        true
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    async fn timeout(&mut self, _: &mut Output) -> Result<(), Close> {
        Ok(())
    }

    async fn closed(self, _: Closed) {}
}

#[tokio::test]
async fn a_peer_that_sends_without_end_leaves_others_their_turn() {
    let (_running, peer, shared) = serving_alone();
    let taken = Arc::new(AtomicUsize::new(0));
    let torrent = Torrent(taken.clone());
    let serving = tokio::spawn(async move { serve_stream(torrent, peer, &Sink, shared).await });
    let mut turns = 0;
    while taken.load(Ordering::Relaxed) < BYTES {
        yield_now().await;
        turns += 1;
    }
    serving.await.unwrap();
    assert!(turns >= 10, "{turns} turns while {BYTES} bytes came");
}
