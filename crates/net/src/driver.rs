//! The connection driver: one loop for every protocol.

use crate::{
    output::{Output, SLICES_MAX},
    session::{Close, Closed, Session},
};
use bytes::BytesMut;
use posthaste_model::Limits;
use std::{
    future::{pending, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

/// Reads begin small, so that an idle connection costs little, and grow with what comes.
const READ_BYTES: std::ops::RangeInclusive<usize> = 1_024..=262_144;
/// Events taken from the mailbox at a time.
const EVENTS: usize = 256;
/// How long a stopping broker waits for a peer to take what is left.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Why the loop ends, and whether what waits to be written is still to be sent.
struct End {
    why: Closed,
    error: Option<String>,
    flush: bool,
}

struct Driver<S: Session, R, W> {
    session: S,
    reader: R,
    writer: W,
    input: BytesMut,
    out: Output,
    mailbox: mpsc::UnboundedReceiver<S::Event>,
    mailbox_open: bool,
    events: Vec<S::Event>,
    read_bytes: usize,
    /// The last time that the peer took something, or that there was nothing to take.
    progress: Instant,
}

/// Runs a conversation to its end.
pub(crate) async fn drive<S, R, W>(
    session: S,
    reader: R,
    writer: W,
    mailbox: mpsc::UnboundedReceiver<S::Event>,
    stopping: watch::Receiver<bool>,
    limits: &Limits,
) -> (Closed, Option<String>)
where
    S: Session,
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut driver = Driver {
        session,
        reader,
        writer,
        input: BytesMut::new(),
        out: Output::new(),
        mailbox,
        mailbox_open: true,
        events: Vec::new(),
        read_bytes: *READ_BYTES.start(),
        progress: Instant::now(),
    };
    let end = driver.run(stopping, limits).await;
    if end.flush {
        // Whoever is gone by now does not need it.
        let _ = timeout(LAST_WRITE, flush(&mut driver.writer, &mut driver.out)).await;
        let _ = timeout(LAST_WRITE, shutdown(&mut driver.writer)).await;
    }
    drop((driver.reader, driver.writer));
    driver.session.closed(end.why).await;
    (end.why, end.error)
}

impl<S, R, W> Driver<S, R, W>
where
    S: Session,
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    async fn run(&mut self, mut stopping: watch::Receiver<bool>, limits: &Limits) -> End {
        let slow = Duration::from_millis(limits.slow_reader_ms_max);
        loop {
            let writing = !self.out.is_empty();
            if !writing {
                self.progress = Instant::now();
            }
            // A peer that does not take its answers is given no more of them.
            let roomy = self.out.len() < limits.connection_output_bytes_max;
            let reading = roomy && self.session.wants_input();
            let deadline = self.session.deadline();
            let too_slow = self.progress + slow;
            self.input.reserve(if reading { self.read_bytes } else { 0 });
            let result = tokio::select! {
                biased;
                () = stopped(&mut stopping) => {
                    self.last_events().await;
                    self.session.stopping(&mut self.out).await;
                    return End { why: Closed::Stopping, error: None, flush: true };
                }
                written = write_some(&mut self.writer, &mut self.out), if writing => match written {
                    Ok(()) => {
                        self.progress = Instant::now();
                        Ok(())
                    }
                    Err(error) => return failed(&error),
                },
                count = self.mailbox.recv_many(&mut self.events, EVENTS), if roomy && self.mailbox_open => {
                    self.events(count).await
                }
                read = self.reader.read_buf(&mut self.input), if reading => match read {
                    Ok(0) => return End { why: Closed::ByPeer, error: None, flush: false },
                    Ok(count) => {
                        self.adapt(count);
                        self.session.input(&mut self.input, &mut self.out).await
                    }
                    Err(error) => return failed(&error),
                },
                () = at(deadline) => self.session.timeout(&mut self.out).await,
                () = sleep_until(too_slow), if writing => {
                    let error = format!("the peer took nothing for {} ms", limits.slow_reader_ms_max);
                    return End { why: Closed::Error, error: Some(error), flush: false };
                }
            };
            match result {
                Ok(()) => {}
                Err(Close::Done) => return End { why: Closed::BySession, error: None, flush: true },
                Err(Close::Error(error)) => {
                    return End { why: Closed::Error, error: Some(error), flush: true };
                }
            }
        }
    }

    /// What is answered already is sent before the end.
    async fn last_events(&mut self) {
        while let Ok(event) = self.mailbox.try_recv() {
            if self.session.event(event, &mut self.out).await.is_err() {
                return;
            }
        }
    }

    async fn events(&mut self, count: usize) -> Result<(), Close> {
        // The session gave its mailbox away: nothing will come any more.
        self.mailbox_open = count > 0;
        let held_back = !self.session.wants_input();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.session.event(event, &mut self.out).await?;
        }
        self.events = events;
        if held_back && self.session.wants_input() && !self.input.is_empty() {
            self.session.input(&mut self.input, &mut self.out).await?;
        }
        Ok(())
    }

    /// Reads more at a time while the peer fills what it is given.
    fn adapt(&mut self, count: usize) {
        let (min, max) = (*READ_BYTES.start(), *READ_BYTES.end());
        if count >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 4).min(max);
        } else if count < self.read_bytes / 8 {
            self.read_bytes = (self.read_bytes / 2).max(min);
        }
    }
}

fn failed(error: &io::Error) -> End {
    let by_peer = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    let why = if by_peer { Closed::ByPeer } else { Closed::Error };
    End { why, error: Some(error.to_string()), flush: false }
}

/// Returns once the broker is stopping, or gone.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn write_some<W: AsyncWrite + Unpin>(writer: &mut W, out: &mut Output) -> io::Result<()> {
    let written = poll_fn(|context| {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = out.slices(&mut slices);
        let slices = slices.get(..count).unwrap_or_default();
        Pin::new(&mut *writer).poll_write_vectored(context, slices)
    });
    let written = written.await?;
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    out.advance(written);
    if out.is_empty() {
        // TLS keeps records back until it is told.
        poll_fn(|context| Pin::new(&mut *writer).poll_flush(context)).await?;
    }
    Ok(())
}

async fn flush<W: AsyncWrite + Unpin>(writer: &mut W, out: &mut Output) -> io::Result<()> {
    while !out.is_empty() {
        write_some(writer, out).await?;
    }
    Ok(())
}

async fn shutdown<W: AsyncWrite + Unpin>(writer: &mut W) -> io::Result<()> {
    poll_fn(|context| Pin::new(&mut *writer).poll_shutdown(context)).await
}
