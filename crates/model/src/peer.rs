//! The other end of a connection.

use crate::ConnectionId;
use std::{net::SocketAddr, sync::Arc};

/// Where a connection comes from, and how.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address, as a trusted proxy told it if there is one.
    pub address: SocketAddr,
    /// Whether the client runs on this machine. A proxy that does is no reason to believe so of its clients.
    pub is_local: bool,
    /// The name of the listener that took the connection.
    pub listener: Arc<str>,
    /// None where the connection is in the clear.
    pub tls: Option<Arc<TlsPeer>>,
    pub connection: ConnectionId,
}

/// What a TLS handshake has told.
#[derive(Clone, Debug, Default)]
pub struct TlsPeer {
    /// The client's certificate, DER, issued by an authority that the listener trusts.
    pub certificate: Option<Arc<[u8]>>,
}

impl Peer {
    /// A connection in the clear without a proxy in between.
    pub fn plain(listener: Arc<str>, address: SocketAddr, connection: ConnectionId) -> Peer {
        let is_local = address.ip().to_canonical().is_loopback();
        Peer { address, is_local, listener, tls: None, connection }
    }
}
