//! Connections: accepted, counted, read with patience that ends, and ended in order.

use crate::{
    answer::{Connection, answer},
    call::Server,
    forwarded::Forwarders,
    patience::Patience,
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use posthaste_broker::Broker;
use posthaste_net::{Listener, Peer, Shared, Stream};
use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// Bytes of a request's head, and of what is read ahead.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// In KiB; what a semaphore can count.
const BODY_ROOM_MAX: usize = u32::MAX as usize >> 3;

/// Serves HTTP/1.1 until everything stops and the last connection is closed.
pub async fn serve(listener: Listener, broker: Broker, shared: Shared) {
    serve_behind(listener, broker, shared, Forwarders::default()).await;
}

/// As [`serve`], behind proxies that tell whose a request is.
pub async fn serve_behind(listener: Listener, broker: Broker, shared: Shared, forwarders: Forwarders) {
    let mut stopping = shared.stopping.clone();
    let server = new_server(broker, shared.clone(), forwarders);
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            (stream, peer) = listener.accept() => {
                if shared.connections.load(Ordering::Relaxed) >= shared.limits.connections_max {
                    tracing::warn!(%peer, protocol = "http", "too many connections (limit connections_max)");
                    continue;
                }
                let open = Open::new(shared.connections.clone());
                let secure = listener.secure(Duration::from_millis(shared.limits.handshake_ms_max));
                let server = server.clone();
                conversations.spawn(async move {
                    let _open = open;
                    let id = (server.shared.next_connection)();
                    let Some((stream, peer)) = secure.handshake(stream, peer, id).await else { return };
                    converse(stream, &peer, server).await;
                });
            }
            Some(ended) = conversations.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(protocol = "http", %error, "a request panicked; its connection was closed");
                }
            }
            () = stopped(&mut stopping) => break,
        }
    }
    drop(listener);
    while conversations.join_next().await.is_some() {}
}

/// Serves one connection that comes from `peer`: for tests, which have one machine.
#[doc(hidden)]
pub async fn serve_one(stream: TcpStream, peer: &Peer, broker: Broker, shared: Shared) {
    converse(Stream::Plain(stream), peer, new_server(broker, shared, Forwarders::default())).await;
}

fn new_server(broker: Broker, shared: Shared, forwarders: Forwarders) -> Arc<Server> {
    let body_room_kib = (shared.limits.inbox_bytes_max >> 10).clamp(1, BODY_ROOM_MAX);
    Arc::new(Server {
        body_room: Arc::new(Semaphore::new(body_room_kib)),
        body_room_kib,
        broker,
        forwarders,
        started: Instant::now(),
        next_partition: AtomicUsize::new(0),
        shared,
    })
}

/// Returns once everything is to end.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Nobody left to say stop means the same.
    let _ = stopping.wait_for(|stop| *stop).await;
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

async fn converse(stream: Stream, peer: &Peer, server: Arc<Server>) {
    let limits = server.shared.limits.clone();
    let stream = server.shared.leave.guard(stream);
    let stream = Patience::new(stream, Duration::from_millis(limits.slow_reader_ms_max));
    let origin = server.broker.origin("http", peer);
    let connection = Arc::new(Connection { origin, id: peer.connection, noted: Mutex::default() });
    let mut stopping = server.shared.stopping.clone();
    let service = service_fn(move |request| {
        let (server, connection) = (server.clone(), connection.clone());
        async move { Ok::<_, Infallible>(answer(server, &connection, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.handshake_ms_max))
        .max_buf_size(BUFFER_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(protocol = "http", peer = %peer.address, %error, "connection closed");
    }
}
