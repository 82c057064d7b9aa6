//! The same sessions inside TLS.

use crate::support::{Fixture, Talk, in_time};
use posthaste_model::Limits;
use posthaste_net::{Closed, Listener, TlsError, acceptor};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

fn certificate() -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

async fn start() -> (Fixture, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = certificate();
    let acceptor = acceptor(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes()).unwrap();
    let listener = Listener::bind("lines", "127.0.0.1:0", Some(acceptor)).await.unwrap();
    assert!(listener.is_tls());
    let limits = Limits { handshake_ms_max: 500, ..Limits::default() };
    (Fixture::serve(listener, limits), cert.der().clone())
}

async fn connect(fixture: &Fixture, trusted: CertificateDer<'static>) -> Talk<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(fixture.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    Talk { stream: TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_inside_tls() {
    let (mut fixture, trusted) = start().await;
    let mut peer = connect(&fixture, trusted).await;
    let size = 8 << 20;
    peer.say(&format!("echo small\nbig {size}\necho last\n")).await;
    peer.expect("small\n").await;
    let mut big = vec![0; size];
    in_time(peer.stream.read_exact(&mut big)).await.unwrap();
    assert!(big.iter().zip(0u32..).all(|(byte, at)| *byte == at.to_le_bytes()[0]));
    peer.expect("last\n").await;
    fixture.stop().await;
    peer.expect_end("stopping\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_ends_its_connection_only() {
    let (mut fixture, trusted) = start().await;
    // One that says nothing, one that says something else.
    let mut silent = fixture.connect().await;
    let mut plain = fixture.connect().await;
    plain.stream.write_all(b"echo hello, this is long enough to be no record of TLS\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = in_time(plain.stream.read_to_end(&mut rest)).await;
    silent.expect_end("").await;
    let mut peer = connect(&fixture, trusted).await;
    peer.say("close\n").await;
    peer.expect_end("bye\n").await;
    assert_eq!(in_time(fixture.closed.recv()).await, Some((0, Closed::BySession)));
}

#[test]
fn files_that_are_no_certificate_or_key() {
    let (one, other) = (certificate(), certificate());
    let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
    let stranger = other.signing_key.serialize_pem();
    let result = |chain: &str, key: &str| acceptor(chain.as_bytes(), key.as_bytes()).err();
    assert!(result(&chain, &key).is_none());
    assert!(matches!(result("", &key), Some(TlsError::Certificate(_))));
    assert!(matches!(result("holiday", &key), Some(TlsError::Certificate(_))));
    assert!(matches!(result(&chain, ""), Some(TlsError::Key(_))));
    assert!(matches!(result(&chain, &chain), Some(TlsError::Key(_))));
    assert!(matches!(result(&chain, &stranger), Some(TlsError::Mismatch(_))));
}
