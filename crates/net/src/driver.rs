//! The connection driver: one loop for every protocol.

use crate::{
    loops,
    output::{Output, SLICES_MAX},
    session::{Close, Closed, Session},
};
use bytes::BytesMut;
use posthaste_model::Limits;
use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::{mpsc, watch},
    task,
    time::{Instant, sleep_until, timeout},
};

/// Reads begin small, so that an idle connection costs little, and grow with what comes.
const READ_BYTES: std::ops::RangeInclusive<usize> = 1_024..=262_144;
/// After so many bytes from one peer the others of its thread have their turn.
const READ_IN_A_ROW_MAX: usize = 262_144;
/// Events taken from the mailbox at a time.
const EVENTS: usize = 256;
/// With less output than this, more events are taken before it is written: one write for many answers.
const GATHERED_BYTES: usize = 65_536;
/// After this long without anything to do, a connection gives its buffers back.
const IDLE: Duration = Duration::from_secs(1);
/// An alarm that is not needed goes off this much later, to no effect.
const FAR: Duration = Duration::from_secs(86_400);
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
    writing: Writing<W>,
    input: BytesMut,
    mailbox: mpsc::UnboundedReceiver<S::Event>,
    mailbox_open: bool,
    events: Vec<S::Event>,
    read_bytes: usize,
    /// Since others had their turn.
    read_in_a_row: usize,
    /// The last time that the peer took something, or that there was nothing to take.
    progress: Instant,
    /// When the buffers are given back; none when they have been.
    idle_from: Option<Instant>,
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
        writing: Writing { writer, out: Output::new(), unflushed: false },
        input: BytesMut::new(),
        mailbox,
        mailbox_open: true,
        events: Vec::new(),
        read_bytes: *READ_BYTES.start(),
        read_in_a_row: 0,
        progress: Instant::now(),
        idle_from: None,
    };
    let end = contained(driver.run(stopping, limits)).await.unwrap_or_else(|Panicked| End {
        why: Closed::Error,
        error: Some("its session panicked".to_owned()),
        flush: false,
    });
    if end.flush {
        // Whoever is gone by now does not need it.
        let _ = timeout(LAST_WRITE, driver.writing.finish()).await;
    }
    drop((driver.reader, driver.writing));
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
        let admitted_by = Instant::now() + Duration::from_millis(limits.handshake_ms_max);
        // One timer for everything. It is set anew only for something earlier, so that a busy connection, whose
        // deadlines only ever move away, does not touch it.
        let mut alarm = pin!(sleep_until(Instant::now() + FAR));
        // Whether it has yet to be heard. That it has elapsed does not tell: set to a moment that has
        // passed, it does so at once.
        let mut armed = false;
        loop {
            let now = Instant::now();
            let writing = self.writing.is_wanted();
            if !writing {
                self.progress = now;
            }
            // A peer that does not take its answers is given no more of them.
            let roomy = self.writing.out.len() < limits.connection_output_bytes_max;
            let pause = self.session.input_pause().map(|pause| now + pause);
            let reading = roomy && pause.is_none() && self.session.wants_input();
            let deadline = self.session.deadline();
            let too_slow = writing.then_some(self.progress + slow);
            let stranger_until = (!self.session.is_admitted()).then_some(admitted_by);
            let next =
                [deadline, too_slow, stranger_until, self.idle_from, pause].into_iter().flatten().min();
            if let Some(next) = next
                && (next < alarm.deadline() || !armed)
            {
                alarm.as_mut().reset(next);
                armed = true;
            }
            self.input.reserve(if reading { self.read_bytes } else { 0 });
            let taking = roomy && self.mailbox_open;
            let gathering = self.writing.out.len() < GATHERED_BYTES;
            let result = tokio::select! {
                biased;
                () = stopped(&mut stopping) => {
                    self.last_events().await;
                    self.session.stopping(&mut self.writing.out).await;
                    return End { why: Closed::Stopping, error: None, flush: true };
                }
                step = traffic(
                    &mut self.mailbox, &mut self.events, &mut self.writing, taking, gathering
                ), if taking || writing => match step {
                    Step::Events(count) => self.events(count).await,
                    Step::Written(Ok(())) => {
                        self.progress = Instant::now();
                        Ok(())
                    }
                    Step::Written(Err(error)) => return failed(&error),
                },
                read = self.reader.read_buf(&mut self.input), if reading => match read {
                    Ok(0) => return End { why: Closed::ByPeer, error: None, flush: false },
                    Ok(count) => {
                        self.adapt(count);
                        let result = self.session.input(&mut self.input, &mut self.writing.out).await;
                        self.read_in_a_row += count;
                        if self.read_in_a_row >= READ_IN_A_ROW_MAX {
                            self.read_in_a_row = 0;
                            task::yield_now().await;
                        }
                        result
                    }
                    Err(error) => return failed(&error),
                },
                () = alarm.as_mut(), if armed => {
                    armed = false;
                    let now = Instant::now();
                    if too_slow.is_some_and(|at| at <= now) {
                        let error = format!("the peer took nothing for {} ms", limits.slow_reader_ms_max);
                        return End { why: Closed::Error, error: Some(error), flush: false };
                    }
                    if stranger_until.is_some_and(|at| at <= now) {
                        let error = format!("nobody logged in within {} ms", limits.handshake_ms_max);
                        return End { why: Closed::Error, error: Some(error), flush: true };
                    }
                    if self.idle_from.is_some_and(|at| at <= now) {
                        self.give_back();
                    }
                    match deadline {
                        Some(at) if at <= now => self.session.timeout(&mut self.writing.out).await,
                        _ => Ok(()),
                    }
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
            if self.session.event(event, &mut self.writing.out).await.is_err() {
                return;
            }
        }
    }

    async fn events(&mut self, count: usize) -> Result<(), Close> {
        self.idle_from = Some(Instant::now() + IDLE);
        // The session gave its mailbox away: nothing will come any more.
        self.mailbox_open = count > 0;
        let held_back = !self.session.wants_input();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.session.event(event, &mut self.writing.out).await?;
        }
        self.events = events;
        if held_back && self.session.wants_input() && !self.input.is_empty() {
            self.session.input(&mut self.input, &mut self.writing.out).await?;
        }
        Ok(())
    }

    /// Nothing has happened for a while: what is empty is let go.
    fn give_back(&mut self) {
        self.idle_from = None;
        self.read_bytes = *READ_BYTES.start();
        self.events = Vec::new();
        self.writing.out.give_back();
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Reads more at a time while the peer fills what it is given.
    fn adapt(&mut self, count: usize) {
        self.idle_from = Some(Instant::now() + IDLE);
        loops::has_read(count);
        let (min, max) = (*READ_BYTES.start(), *READ_BYTES.end());
        if count >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 4).min(max);
        } else if count < self.read_bytes / 8 {
            self.read_bytes = (self.read_bytes / 2).max(min);
        }
    }
}

/// The session panicked. The default hook has printed where.
struct Panicked;

/// Runs `future`; a panic in it ends with it.
async fn contained<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
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

/// What moved.
enum Step {
    /// So many events came.
    Events(usize),
    Written(io::Result<()>),
}

/// Takes events or writes, whatever is possible; events first while `gathering` them for one write.
async fn traffic<E, W: AsyncWrite + Unpin>(
    mailbox: &mut mpsc::UnboundedReceiver<E>,
    events: &mut Vec<E>,
    writing: &mut Writing<W>,
    taking: bool,
    gathering: bool,
) -> Step {
    poll_fn(|cx| {
        if taking
            && gathering
            && let Poll::Ready(count) = mailbox.poll_recv_many(cx, events, EVENTS)
        {
            return Poll::Ready(Step::Events(count));
        }
        if writing.is_wanted()
            && let Poll::Ready(written) = writing.poll_some(cx)
        {
            return Poll::Ready(Step::Written(written));
        }
        if taking && !gathering {
            return mailbox.poll_recv_many(cx, events, EVENTS).map(Step::Events);
        }
        Poll::Pending
    })
    .await
}

/// The way out.
struct Writing<W> {
    writer: W,
    out: Output,
    /// TLS keeps records back until it is told.
    unflushed: bool,
}

impl<W: AsyncWrite + Unpin> Writing<W> {
    fn is_wanted(&self) -> bool {
        self.unflushed || !self.out.is_empty()
    }

    /// Ready once some of it, or the last of it, is on its way. Nothing is lost when it is not polled to the end.
    fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.out.slices(&mut slices);
            let slices = slices.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.writer).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.unflushed = true;
            if !self.out.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        ready!(Pin::new(&mut self.writer).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    async fn finish(&mut self) -> io::Result<()> {
        while self.is_wanted() {
            poll_fn(|cx| self.poll_some(cx)).await?;
        }
        poll_fn(|cx| Pin::new(&mut self.writer).poll_shutdown(cx)).await
    }
}
