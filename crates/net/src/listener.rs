//! Listeners: bind, accept, hand each connection to the driver.

use crate::{
    driver::{drive, stopped},
    entrance::{Entrance, Secure},
    leave::Leave,
    loops::{Loops, Place},
    session::{Mailbox, Protocol},
    tls::Stream,
};
use posthaste_model::{ConnectionId, Limits, Peer};
use socket2::{SockRef, TcpKeepalive};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, lookup_host},
    sync::watch,
};

/// A bound port.
pub struct Listener {
    name: Arc<str>,
    listener: TcpListener,
    entrance: Entrance,
    address: SocketAddr,
}

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{address} is not an address to listen on ({error}); write HOST:PORT, such as 127.0.0.1:9092")]
    Address { address: String, error: io::Error },
    #[error("{address} is taken by another program; stop that one or listen on another port")]
    InUse { address: String },
    #[error("listening on {address} is not permitted; ports below 1024 need privileges")]
    NotPermitted { address: String },
    #[error("cannot listen on {address}: {error}")]
    Other { address: String, error: io::Error },
}

/// What all listeners share.
#[derive(Clone)]
pub struct Shared {
    pub limits: Arc<Limits>,
    /// Turns true when everything is to end.
    pub stopping: watch::Receiver<bool>,
    /// Open connections, over all listeners.
    pub connections: Arc<AtomicUsize>,
    /// The threads that serve the connections.
    pub loops: Loops,
    /// Gives each connection its id.
    pub next_connection: Arc<dyn Fn() -> ConnectionId + Send + Sync>,
    /// Whether peers may be told anything at the moment.
    pub leave: Leave,
}

const IDLE_BEFORE_PROBE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(20);
/// After an accept failed for want of file handles or memory.
const BREATH: Duration = Duration::from_millis(50);

impl Listener {
    /// Binds `address`, HOST:PORT; port 0 picks a free one. `name` is the listener's in the configuration.
    pub async fn bind(name: &str, address: &str, entrance: Entrance) -> Result<Listener, BindError> {
        let named = || address.to_owned();
        let mut addresses =
            lookup_host(address).await.map_err(|error| BindError::Address { address: named(), error })?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "no such host");
        let first = addresses.next().ok_or_else(|| BindError::Address { address: named(), error: none() })?;
        let listener = TcpListener::bind(first).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address: named() },
            io::ErrorKind::PermissionDenied => BindError::NotPermitted { address: named() },
            _ => BindError::Other { address: named(), error },
        })?;
        let address = listener.local_addr().map_err(|error| BindError::Other { address: named(), error })?;
        Ok(Listener { name: Arc::from(name), listener, entrance, address })
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn is_tls(&self) -> bool {
        self.entrance.tls.is_some()
    }

    /// The next connection, before any handshake. Waits out errors of the machine.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    prepare(&stream);
                    return (stream, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    /// What comes before the protocol: a proxy's header, the TLS handshake.
    pub fn secure(&self, limit: Duration) -> Secure {
        Secure { listener: self.name.clone(), entrance: self.entrance.clone(), limit }
    }
}

fn prepare(stream: &TcpStream) {
    // Both only make things better; a connection is served without them too.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(IDLE_BEFORE_PROBE).with_interval(PROBE_EVERY);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Serves a protocol on a listener until everything stops and the last connection is closed.
pub async fn serve<P: Protocol>(listener: Listener, protocol: Arc<P>, shared: Shared) {
    let mut stopping = shared.stopping.clone();
    let mut conversations = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            (stream, peer) = listener.accept() => {
                if shared.connections.load(Ordering::Relaxed) >= shared.limits.connections_max {
                    tracing::warn!(%peer, protocol = P::NAME, "too many connections (limit connections_max)");
                    continue;
                }
                let open = Open::new(shared.connections.clone());
                let limit = Duration::from_millis(shared.limits.handshake_ms_max);
                let secure = listener.secure(limit);
                let protocol = protocol.clone();
                match shared.loops.place() {
                    Some(place) => {
                        let Ok(stream) = stream.into_std() else { continue };
                        let handle = place.handle.clone();
                        let moved = moved(secure, stream, peer, protocol, shared.clone(), open, place);
                        conversations.spawn_on(moved, &handle);
                    }
                    None => {
                        conversations.spawn(converse(secure, stream, peer, protocol, shared.clone(), open));
                    }
                }
            }
            Some(ended) = conversations.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(protocol = P::NAME, %error, "a session panicked; its connection was closed");
                }
            }
            () = stopped(&mut stopping) => break,
        }
    }
    drop(listener);
    while conversations.join_next().await.is_some() {}
}

/// Serves one conversation over any stream, as [`serve`] does over its sockets.
pub async fn serve_stream<P: Protocol>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    peer: Peer,
    protocol: &P,
    shared: Shared,
) {
    let _open = Open::new(shared.connections.clone());
    let (mailbox, events) = Mailbox::new();
    let address = peer.address;
    let session = protocol.open(peer, mailbox);
    let (reader, writer) = tokio::io::split(stream);
    let writer = shared.leave.guard(writer);
    let (why, error) = drive(session, reader, writer, events, shared.stopping, &shared.limits).await;
    tracing::debug!(protocol = P::NAME, peer = %address, ?why, error, "connection closed");
}

/// Counts a connection for as long as it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Ordering::Relaxed);
        Open(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As [`converse`], in the loop that the connection was given.
async fn moved<P: Protocol>(
    secure: Secure,
    stream: std::net::TcpStream,
    address: SocketAddr,
    protocol: Arc<P>,
    shared: Shared,
    open: Open,
    _place: Place,
) {
    match TcpStream::from_std(stream) {
        Ok(stream) => converse(secure, stream, address, protocol, shared, open).await,
        Err(error) => tracing::warn!(%error, "a connection could not be served"),
    }
}

async fn converse<P: Protocol>(
    secure: Secure,
    stream: TcpStream,
    address: SocketAddr,
    protocol: Arc<P>,
    shared: Shared,
    _open: Open,
) {
    let mut stopping = shared.stopping.clone();
    let talk = tokio::select! {
        talk = secure.handshake(stream, address, (shared.next_connection)()) => talk,
        () = stopped(&mut stopping) => None,
    };
    let Some((stream, peer)) = talk else { return };
    let (mailbox, events) = Mailbox::new();
    let session = protocol.open(peer, mailbox);
    let limits = shared.limits.clone();
    let (why, error) = match stream {
        Stream::Plain(stream) => {
            let (reader, writer) = stream.into_split();
            let writer = shared.leave.guard(writer);
            drive(session, reader, writer, events, shared.stopping, &limits).await
        }
        Stream::Tls(stream) => {
            let (reader, writer) = tokio::io::split(*stream);
            let writer = shared.leave.guard(writer);
            drive(session, reader, writer, events, shared.stopping, &limits).await
        }
    };
    match error {
        Some(error) => tracing::info!(protocol = P::NAME, peer = %address, ?why, error, "connection closed"),
        None => tracing::debug!(protocol = P::NAME, peer = %address, ?why, "connection closed"),
    }
}
