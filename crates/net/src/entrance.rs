//! From an accepted connection to the stream that a protocol is spoken on: whose a proxy says it is, TLS, and
//! a line in the log for a connection that does not get as far.

use crate::{
    networks::Networks,
    proxy::{self, HeaderError, Told},
    tls::{self, Stream, Tls},
};
use parking_lot::Mutex;
use posthaste_model::{ConnectionId, Peer, TlsPeer};
use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// How connections of a listener begin.
#[derive(Clone, Default)]
pub struct Entrance {
    pub tls: Option<Arc<Tls>>,
    /// Proxies that tell with the PROXY protocol whose a connection is.
    pub proxies: Networks,
}

/// How a listener's connections begin; can be taken along to a task.
#[derive(Clone)]
pub struct Secure {
    pub(crate) listener: Arc<str>,
    pub(crate) entrance: Entrance,
    pub(crate) limit: Duration,
}

/// Why a connection was not served.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("no TLS handshake: {}", tls::reason(.0))]
    Tls(io::Error),
    #[error("the beginning took too long (limit handshake_ms_max)")]
    TooLong,
}

impl Secure {
    /// The stream to talk over, and with which peer; none when that did not come about.
    pub async fn handshake(
        self,
        stream: TcpStream,
        address: SocketAddr,
        connection: ConnectionId,
    ) -> Option<(Stream, Peer)> {
        let mut peer = Peer::plain(self.listener, address, connection);
        let begun = timeout(self.limit, begin(&self.entrance, stream, &mut peer)).await;
        match begun.unwrap_or(Err(Failure::TooLong)) {
            Ok(stream) => Some((stream, peer)),
            Err(failure) => {
                refused(&peer, &failure);
                None
            }
        }
    }
}

async fn begin(entrance: &Entrance, mut stream: TcpStream, peer: &mut Peer) -> Result<Stream, Failure> {
    if entrance.proxies.contains(peer.address.ip()) {
        match proxy::read(&mut stream).await? {
            Told::Client(told) => *peer = Peer::plain(peer.listener.clone(), told, peer.connection),
            // It keeps its own address, but a proxy on this machine is no client of this machine.
            Told::Nobody => peer.is_local = false,
        }
    }
    let Some(tls) = &entrance.tls else { return Ok(Stream::Plain(stream)) };
    let stream = tls.acceptor().accept(stream).await.map_err(Failure::Tls)?;
    let (_, session) = stream.get_ref();
    // Only one that the authorities vouch for gets as far as here.
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    peer.tls = Some(Arc::new(TlsPeer { certificate: certificate.map(|der| Arc::from(&**der)) }));
    Ok(Stream::Tls(Box::new(stream)))
}

/// Lines that are written within a minute: strangers fill no disk.
const LINES_MAX: u32 = 60;
const LINES_WITHIN: Duration = Duration::from_secs(60);

/// Lines written in the minute that began then, and those left out since the last one.
struct Lines {
    since: Option<Instant>,
    written: u32,
    unwritten: u64,
}

static LINES: Mutex<Lines> = Mutex::new(Lines { since: None, written: 0, unwritten: 0 });

impl Lines {
    /// Whether a line may be written, and how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= LINES_WITHIN) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written >= LINES_MAX {
            self.unwritten += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

fn refused(peer: &Peer, reason: &dyn Display) {
    let line = LINES.lock().take(Instant::now());
    let Some(unwritten) = line else { return };
    let Peer { listener, address, .. } = peer;
    tracing::info!(%listener, peer = %address, %reason, unwritten, "a connection was not served");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_fill_the_log() {
        let mut lines = Lines { since: None, written: 0, unwritten: 0 };
        let start = Instant::now();
        let written = (0..100).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(lines.take(start + LINES_WITHIN), Some(40));
        assert_eq!(lines.take(start + LINES_WITHIN), Some(0));
    }
}
