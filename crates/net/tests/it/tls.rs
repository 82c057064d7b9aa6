//! The same sessions inside TLS.

use crate::support::{Fixture, Talk, in_time};
use posthaste_model::Limits;
use posthaste_net::{
    CertificateFiles, ClientCertificates, Closed, Entrance, Listener, Tls, TlsError, TlsSettings, TlsVersion,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, IsCa, Issuer, KeyPair, generate_simple_self_signed,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use std::{path::PathBuf, sync::Arc};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Certificates in files.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(file);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Makes one for a host, in place of the one before.
    fn make(&self, host: &str) -> (CertificateFiles, CertificateDer<'static>) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([host.to_owned()]).unwrap();
        let certificate = self.write(&format!("{host}.pem"), &cert.pem());
        let key = self.write(&format!("{host}.key"), &signing_key.serialize_pem());
        (CertificateFiles { certificate, key }, cert.der().clone())
    }
}

fn settings(certificates: impl Into<Vec<CertificateFiles>>) -> TlsSettings {
    TlsSettings {
        certificates: certificates.into(),
        client_certificates: ClientCertificates::Off,
        client_authorities: None,
        minimum_version: TlsVersion::V1_2,
    }
}

async fn start(settings: TlsSettings) -> (Fixture, Arc<Tls>) {
    let tls = Arc::new(Tls::load(settings).unwrap());
    let entrance = Entrance { tls: Some(tls.clone()), ..Entrance::default() };
    let listener = Listener::bind("lines", "127.0.0.1:0", entrance).await.unwrap();
    assert!(listener.is_tls());
    let limits = Limits { handshake_ms_max: 500, ..Limits::default() };
    (Fixture::serve(listener, limits), tls)
}

type Own = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Connects to `host`, trusting one certificate, in some versions, perhaps with one of its own.
async fn try_connect(
    fixture: &Fixture,
    (host, trusted): (&'static str, &CertificateDer<'static>),
    versions: &[&'static rustls::SupportedProtocolVersion],
    own: Option<Own>,
) -> std::io::Result<Talk<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(fixture.address).await?;
    let name = ServerName::try_from(host).unwrap();
    Ok(Talk { stream: TlsConnector::from(Arc::new(config)).connect(name, stream).await? })
}

async fn connect(
    fixture: &Fixture,
    host: &'static str,
    trusted: &CertificateDer<'static>,
) -> Talk<TlsStream<TcpStream>> {
    try_connect(fixture, (host, trusted), rustls::ALL_VERSIONS, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_inside_tls() {
    let folder = Files::new();
    let (files, trusted) = folder.make("localhost");
    let (mut fixture, _) = start(settings([files])).await;
    let mut peer = connect(&fixture, "localhost", &trusted).await;
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
    let folder = Files::new();
    let (files, trusted) = folder.make("localhost");
    let (mut fixture, _) = start(settings([files])).await;
    // One that says nothing, one that says something else.
    let mut silent = fixture.connect().await;
    let mut plain = fixture.connect().await;
    plain.stream.write_all(b"echo hello, this is long enough to be no record of TLS\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = in_time(plain.stream.read_to_end(&mut rest)).await;
    silent.expect_end("").await;
    let mut peer = connect(&fixture, "localhost", &trusted).await;
    peer.say("close\n").await;
    peer.expect_end("bye\n").await;
    assert!(matches!(in_time(fixture.closed.recv()).await, Some((_, Closed::BySession))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let folder = Files::new();
    let hosts = ["first.example", "second.example", "*.third.example"];
    let (files, trusted): (Vec<_>, Vec<_>) = hosts.iter().map(|host| folder.make(host)).unzip();
    let (fixture, _) = start(settings(files)).await;
    for (host, certificate) in [("first.example", 0), ("second.example", 1), ("a.third.example", 2)] {
        connect(&fixture, host, &trusted[certificate]).await.say("close\n").await;
    }
    // For any other name it is the first, which is not for that name.
    let other = try_connect(&fixture, ("other.example", &trusted[0]), rustls::ALL_VERSIONS, None).await;
    assert!(other.err().unwrap().to_string().contains("other.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_are_refused_where_that_is_said() {
    let folder = Files::new();
    let (files, trusted) = folder.make("localhost");
    let old: &[_] = &[&rustls::version::TLS12];
    for (minimum_version, works) in [(TlsVersion::V1_2, true), (TlsVersion::V1_3, false)] {
        let (fixture, _) = start(TlsSettings { minimum_version, ..settings([files.clone()]) }).await;
        assert_eq!(try_connect(&fixture, ("localhost", &trusted), old, None).await.is_ok(), works);
        connect(&fixture, "localhost", &trusted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_read_again_and_bad_ones_change_nothing() {
    let folder = Files::new();
    let (files, before) = folder.make("localhost");
    let (mut fixture, tls) = start(settings([files.clone()])).await;
    let mut open = connect(&fixture, "localhost", &before).await;
    assert!(!tls.reload_changed().unwrap());
    let whole = std::fs::read_to_string(&files.certificate).unwrap();
    folder.write("localhost.pem", "half of one");
    assert!(tls.reload_changed().is_err());
    assert!(!tls.reload_changed().unwrap(), "it is said once");
    connect(&fixture, "localhost", &before).await;
    folder.write("localhost.pem", &whole);
    tls.reload().unwrap();
    let (_, after) = folder.make("localhost");
    assert!(tls.reload_changed().unwrap());
    connect(&fixture, "localhost", &after).await.say("close\n").await;
    open.say("echo still here\n").await;
    open.expect("still here\n").await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates() {
    let folder = Files::new();
    let (files, trusted) = folder.make("localhost");
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let authorities = folder.write("authorities.pem", &pem);
    let issuer = Issuer::new(authority, authority_key);
    let own = |signed: bool| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["ann".to_owned()]).unwrap();
        let certificate = if signed { params.signed_by(&key, &issuer) } else { params.self_signed(&key) };
        (certificate.unwrap().der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    for (client_certificates, none, good, bad) in [
        (ClientCertificates::Off, Some("without"), Some("without"), Some("without")),
        (ClientCertificates::Wanted, Some("without"), Some("with"), None),
        (ClientCertificates::Required, None, Some("with"), None),
    ] {
        let client_authorities = Some(authorities.clone());
        let settings = TlsSettings { client_certificates, client_authorities, ..settings([files.clone()]) };
        let (fixture, _) = start(settings).await;
        for (shown, expect) in [(None, none), (Some(own(true)), good), (Some(own(false)), bad)] {
            let server = ("localhost", &trusted);
            let connected = try_connect(&fixture, server, rustls::ALL_VERSIONS, shown).await;
            // In TLS 1.3 a client learns that it is refused when it reads.
            let mut answer = String::new();
            if let Ok(mut talk) = connected {
                let _ = talk.stream.write_all(b"who\nclose\n").await;
                let _ = in_time(talk.stream.read_to_string(&mut answer)).await;
            }
            match expect {
                Some(word) => assert!(answer.contains(&format!(" {word} a certificate\nbye")), "{answer}"),
                None => assert_eq!(answer, "", "{client_certificates:?}"),
            }
        }
    }
    let unjudged = TlsSettings { client_certificates: ClientCertificates::Required, ..settings([files]) };
    assert!(matches!(Tls::load(unjudged).err(), Some(TlsError::NoAuthorities)));
}

#[test]
fn files_that_are_no_certificate_or_key() {
    let folder = Files::new();
    let ((one, _), (other, _)) = (folder.make("one"), folder.make("other"));
    let empty = folder.write("empty", "");
    let text = folder.write("text", "holiday");
    let result = |certificate: &PathBuf, key: &PathBuf| {
        let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
        Tls::load(settings([files])).err()
    };
    let gone = folder.0.path().join("gone");
    assert!(result(&one.certificate, &one.key).is_none());
    assert!(matches!(result(&empty, &one.key), Some(TlsError::Certificate { .. })));
    assert!(matches!(result(&text, &one.key), Some(TlsError::Certificate { .. })));
    assert!(matches!(result(&one.certificate, &empty), Some(TlsError::Key { .. })));
    assert!(matches!(result(&one.certificate, &one.certificate), Some(TlsError::Key { .. })));
    assert!(matches!(result(&one.certificate, &other.key), Some(TlsError::Mismatch { .. })));
    assert!(matches!(result(&one.certificate, &gone), Some(TlsError::Key { .. })));
    assert!(matches!(Tls::load(settings([])).err(), Some(TlsError::NoCertificate)));
}
