//! Listeners, what a proxy tells, TLS, and the one driver of all connections.
//!
//! A protocol is a [`Session`]: it is given what has arrived, what its mailbox holds and when its deadline passes, and
//! writes to an [`Output`]. The driver reads, writes, holds back a peer that sends too much, and lets go of one
//! that takes nothing. It knows no protocol and no broker.
#![forbid(unsafe_code)]

mod driver;
mod entrance;
mod leave;
mod listener;
mod loops;
mod networks;
mod output;
mod proxy;
mod session;
mod tls;

pub use entrance::{Entrance, Secure};
pub use leave::{Ask, Guarded, Leave, Wait};
pub use listener::{BindError, Listener, Shared, serve, serve_stream};
pub use loops::Loops;
pub use networks::{Network, Networks, NotANetwork};
pub use output::Output;
pub use posthaste_model::{Peer, TlsPeer};
pub use session::{Close, Closed, Mailbox, Protocol, Session};
pub use tls::{CertificateFiles, ClientCertificates, Stream, Tls, TlsError, TlsSettings, TlsVersion};
