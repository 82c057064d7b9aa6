//! Whether peers may be told anything at the moment.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Ends when peers may be told something again.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Asked before each write; nothing to wait for means that peers may be told.
pub type Ask = Arc<dyn Fn() -> Option<Wait> + Send + Sync>;

/// Leave to write, which a broker has as long as it knows that its data is its own. By default always.
#[derive(Clone, Default)]
pub struct Leave(Option<Ask>);

impl Leave {
    /// As `ask` says; without it, always.
    pub fn new(ask: Option<Ask>) -> Leave {
        Leave(ask)
    }

    /// A stream that writes with leave only.
    pub fn guard<S>(&self, stream: S) -> Guarded<S> {
        Guarded { stream, leave: self.clone(), waiting: None }
    }
}

/// A stream whose writes wait for leave.
pub struct Guarded<S> {
    stream: S,
    leave: Leave,
    waiting: Option<Wait>,
}

impl<S> Guarded<S> {
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ask) = &self.leave.0 else { return Poll::Ready(()) };
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
            }
            // Asked also when a wait is over: that may have been some time ago.
            self.waiting = ask();
            if self.waiting.is_none() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_leave(cx));
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_leave(cx));
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// TLS may have kept something back.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_leave(cx));
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
