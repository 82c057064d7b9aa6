//! A protocol of lines, made to be tested with, and a peer that speaks it.

use bytes::{Buf, Bytes, BytesMut};
use posthaste_model::{ConnectionId, Limits};
use posthaste_net::{
    Close, Closed, Entrance, Listener, Loops, Mailbox, Output, Peer, Protocol, Session, Shared, serve,
};
use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

/// Long enough that only a peer that really takes nothing is slow, even on a busy machine.
pub const SLOW_MS: u64 = 1_500;

/// Fails a test that hangs.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("an answer in time")
}

/// What serves one connection, as its peer; it goes on until the sender is dropped or says so.
pub fn serving_alone() -> (watch::Sender<bool>, Peer, Shared) {
    let (running, stopping) = watch::channel(false);
    let shared = Shared {
        limits: Arc::new(Limits::default()),
        stopping,
        connections: Arc::default(),
        loops: Default::default(),
        next_connection: Arc::new(|| ConnectionId(1)),
        leave: Default::default(),
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    (running, Peer::plain(Arc::from("lines"), address, ConnectionId(1)), shared)
}

/// What the sessions of a test share.
#[derive(Clone)]
pub struct Lines {
    mailboxes: Arc<Mutex<HashMap<u64, Mailbox<Event>>>>,
    closed: mpsc::UnboundedSender<(u64, Closed)>,
    flags: Arc<AtomicUsize>,
}

pub enum Event {
    Number(u64),
    Release,
}

/// A session numbered from 0.
pub struct Line {
    number: u64,
    lines: Lines,
    mailbox: Mailbox<Event>,
    /// As `who` is answered.
    peer: String,
    held: bool,
    deadline: Option<Instant>,
}

impl Protocol for Lines {
    type Session = Line;
    const NAME: &'static str = "lines";

    fn open(&self, peer: Peer, mailbox: Mailbox<Event>) -> Line {
        let number = peer.connection.0;
        self.mailboxes.lock().unwrap().insert(number, mailbox.clone());
        let place = if peer.is_local { "here" } else { "elsewhere" };
        let certificate = match peer.tls.map(|tls| tls.certificate.is_some()) {
            None => "in the clear",
            Some(false) => "without a certificate",
            Some(true) => "with a certificate",
        };
        let peer = format!("{} {place} {certificate}", peer.address);
        Line { number, lines: self.clone(), mailbox, peer, held: false, deadline: None }
    }
}

impl Line {
    fn obey(&mut self, line: &str, out: &mut Output) -> Result<(), Close> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = || rest.parse::<u64>().unwrap();
        match word {
            "echo" => out.bytes().extend_from_slice(format!("{rest}\n").as_bytes()),
            "big" => {
                let all: Vec<u8> =
                    (0..u32::try_from(number()).unwrap()).map(|n| n.to_le_bytes()[0]).collect();
                out.chunk(Bytes::from(all));
            }
            "mail" => (0..number()).for_each(|n| self.mailbox.send(Event::Number(n))),
            "hold" => self.held = true,
            "release" => {
                self.lines.mailboxes.lock().unwrap()[&number()].send(Event::Release);
                out.bytes().extend_from_slice(b"released\n");
            }
            "who" => out.bytes().extend_from_slice(format!("{}\n", self.peer).as_bytes()),
            "flag" => {
                self.lines.flags.fetch_add(1, Ordering::Relaxed);
                out.bytes().extend_from_slice(b"flag\n");
            }
            "timeout" => self.deadline = Some(Instant::now() + Duration::from_millis(number())),
            "close" => {
                out.bytes().extend_from_slice(b"bye\n");
                return Err(Close::Done);
            }
            "wrong" => {
                out.bytes().extend_from_slice(b"no\n");
                return Err(Close::Error("asked to be wrong".to_owned()));
            }
            "panic" => panic!("asked to panic"),
            other => panic!("no such word: {other}"),
        }
        Ok(())
    }
}

impl Session for Line {
    type Event = Event;

    async fn input(&mut self, input: &mut BytesMut, out: &mut Output) -> Result<(), Close> {
        while !self.held
            && let Some(end) = input.iter().position(|byte| *byte == b'\n')
        {
            let line = input.split_to(end);
            input.advance(1);
            self.obey(std::str::from_utf8(&line).unwrap(), out)?;
        }
        Ok(())
    }

    async fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Close> {
        match event {
            Event::Number(n) => out.bytes().extend_from_slice(format!("{n}\n").as_bytes()),
            Event::Release => self.held = false,
        }
        Ok(())
    }

    fn is_admitted(&self) -> bool {
        true
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    async fn timeout(&mut self, out: &mut Output) -> Result<(), Close> {
        out.bytes().extend_from_slice(b"late\n");
        Err(Close::Done)
    }

    fn wants_input(&self) -> bool {
        !self.held
    }

    async fn stopping(&mut self, out: &mut Output) {
        out.bytes().extend_from_slice(b"stopping\n");
    }

    async fn closed(self, why: Closed) {
        let _ = self.lines.closed.send((self.number, why));
    }
}

/// A listener with its protocol.
pub struct Fixture {
    pub address: SocketAddr,
    /// The sessions that ended, by number.
    pub closed: mpsc::UnboundedReceiver<(u64, Closed)>,
    lines: Lines,
    connections: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

impl Fixture {
    pub async fn start(limits: Limits) -> Fixture {
        let listener = Listener::bind("lines", "127.0.0.1:0", Entrance::default()).await.unwrap();
        Fixture::serve(listener, limits)
    }

    pub fn serve(listener: Listener, limits: Limits) -> Fixture {
        let address = listener.address();
        let (sender, closed) = mpsc::unbounded_channel();
        let lines = Lines { mailboxes: Arc::default(), closed: sender, flags: Arc::default() };
        let (stop, stopping) = watch::channel(false);
        let connections = Arc::new(AtomicUsize::new(0));
        let next = AtomicU64::new(0);
        let shared = Shared {
            limits: Arc::new(limits),
            stopping,
            connections: connections.clone(),
            loops: Loops::start(NonZeroUsize::MIN.saturating_add(1)).unwrap(),
            next_connection: Arc::new(move || ConnectionId(next.fetch_add(1, Ordering::Relaxed))),
            leave: Default::default(),
        };
        let serving = tokio::spawn(serve(listener, Arc::new(lines.clone()), shared));
        Fixture { address, closed, lines, connections, stop, serving: Some(serving) }
    }

    pub async fn connect(&self) -> Talk<TcpStream> {
        Talk { stream: TcpStream::connect(self.address).await.unwrap() }
    }

    /// Waits until so many connections count as open, which follows the end of their sessions.
    pub async fn connections_become(&self, count: usize) {
        in_time(async {
            while self.connections.load(Ordering::Relaxed) != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub fn flags(&self) -> usize {
        self.lines.flags.load(Ordering::Relaxed)
    }

    /// Returns once the last session has ended.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        in_time(self.serving.take().unwrap()).await.unwrap();
    }
}

/// The peer's side of a connection.
pub struct Talk<S> {
    pub stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub async fn expect(&mut self, text: &str) {
        let mut answer = vec![0; text.len()];
        in_time(self.stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), text);
    }

    /// `text`, and then nothing any more.
    pub async fn expect_end(&mut self, text: &str) {
        let mut answer = Vec::new();
        match in_time(self.stream.read_to_end(&mut answer)).await {
            Ok(_) => {}
            // A connection that was closed with unread input is reset.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
        assert_eq!(String::from_utf8_lossy(&answer), text);
    }
}
