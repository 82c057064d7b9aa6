//! Connections: accepted, counted, read with patience that ends, and ended in order.

use crate::{body::ResponseBody, patience::Patience};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use posthaste_broker::Broker;
use posthaste_net::{Listener, Shared, Stream};
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// Bytes of a request's head, and of what is read ahead.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Serves HTTP/1.1 until everything stops and the last connection is closed.
pub async fn serve(listener: Listener, broker: Broker, shared: Shared) {
    let mut stopping = shared.stopping.clone();
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
                let (broker, shared) = (broker.clone(), shared.clone());
                conversations.spawn(async move {
                    let _open = open;
                    let Some(stream) = secure.handshake(stream, peer).await else { return };
                    converse(stream, peer, broker, shared).await;
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

async fn converse(stream: Stream, peer: SocketAddr, broker: Broker, shared: Shared) {
    let limits = shared.limits.clone();
    let stream = Patience::new(stream, Duration::from_millis(limits.slow_reader_ms_max));
    let service = service_fn(move |request| answer(request, broker.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.handshake_ms_max))
        .max_buf_size(BUFFER_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut stopping = shared.stopping;
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(protocol = "http", %peer, %error, "connection closed");
    }
}

async fn answer(request: Request<Incoming>, broker: Broker) -> Result<Response<ResponseBody>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/healthz" => (200, "ok\n".to_owned()),
        "/metrics" => (200, crate::metrics::text(&broker).await),
        _ => (404, "not found\n".to_owned()),
    };
    let mut response = Response::new(ResponseBody::Full(Some(text.into())));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}
