//! What is sent back: all at once, or as it comes.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::mpsc;

/// A response's body.
pub enum ResponseBody {
    Full(Option<Bytes>),
    /// Ends when the sender is dropped. Whoever sends sees when the connection has gone.
    Stream(mpsc::Receiver<Bytes>),
}

impl ResponseBody {
    /// For `HEAD`, which has the headers of the body only.
    pub fn empty(&mut self) {
        if let ResponseBody::Full(bytes) = self {
            *bytes = None;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            ResponseBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResponseBody::Stream(chunks) => {
                chunks.poll_recv(cx).map(|c| c.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            ResponseBody::Stream(_) => SizeHint::default(),
        }
    }
}
