//! TLS by rustls: certificates from files, chosen by name, read again when the files change; and the stream
//! that may or may not be inside it.

use parking_lot::{Mutex, RwLock};
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{
        ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsSettings {
    /// The first is for clients that name nothing that another one is for. There is at least one.
    pub certificates: Vec<CertificateFiles>,
    pub client_certificates: ClientCertificates,
    /// The authorities whose clients are let in, a PEM file. Needed unless client certificates are off.
    pub client_authorities: Option<PathBuf>,
    pub minimum_version: TlsVersion,
}

/// A certificate chain and its private key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    #[default]
    Off,
    /// A client without one is not let in.
    Required,
    /// A client may have none.
    Wanted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

/// Why a certificate, key or authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no certificate could be read from the PEM file {}: {why}", file.display())]
    Certificate { file: PathBuf, why: String },
    #[error("no private key could be read from the PEM file {}: {why}", file.display())]
    Key { file: PathBuf, why: String },
    #[error(
        "the certificate {} and the key {} cannot be used together: {error}",
        files.certificate.display(), files.key.display()
    )]
    Mismatch { files: CertificateFiles, error: rustls::Error },
    #[error("there is no certificate; name one with `certificate` and `key`")]
    NoCertificate,
    #[error(
        "client certificates are judged by authorities; name a PEM file of them with `client_authorities`"
    )]
    NoAuthorities,
    #[error("the client authorities in {} cannot be used: {why}", file.display())]
    Authorities { file: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Other(#[from] rustls::Error),
}

/// TLS as a listener speaks it at the moment.
pub struct Tls {
    settings: TlsSettings,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Vec<Stamp>>,
}

/// What tells that a file has changed; none for one that is not there.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read or used.
    pub fn load(settings: TlsSettings) -> Result<Tls, TlsError> {
        let seen = Mutex::new(settings.stamps());
        let config = RwLock::new(Arc::new(settings.read()?));
        Ok(Tls { settings, config, seen })
    }

    /// Reads the files again. Connections that are open stay as they are.
    ///
    /// # Errors
    /// One of them cannot be read or used; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.seen.lock() = self.settings.stamps();
        let config = Arc::new(self.settings.read()?);
        *self.config.write() = config;
        Ok(())
    }

    /// As [`Tls::reload`] if a file has changed since it was read last; whether one has.
    ///
    /// # Errors
    /// As [`Tls::reload`]; said once for each change.
    pub fn reload_changed(&self) -> Result<bool, TlsError> {
        if *self.seen.lock() == self.settings.stamps() {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.read().clone())
    }
}

impl TlsSettings {
    fn stamps(&self) -> Vec<Stamp> {
        let files = self.certificates.iter().flat_map(|files| [&files.certificate, &files.key]);
        let stamp = |file: &PathBuf| {
            let metadata = fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        files.chain(&self.client_authorities).map(stamp).collect()
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let keys = self.certificates.iter().map(|files| files.read(&provider));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let versions = match self.minimum_version {
            TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let builder = match self.client_certificates {
            ClientCertificates::Off => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(self.verifier(provider)?),
        };
        Ok(builder.with_cert_resolver(Arc::new(ByName { keys })))
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let file = self.client_authorities.as_deref().ok_or(TlsError::NoAuthorities)?;
        let wrong = |why: String| TlsError::Authorities { file: file.to_owned(), why };
        let mut roots = RootCertStore::empty();
        for authority in certificates(file).map_err(|error| wrong(error.to_string()))? {
            roots.add(authority).map_err(|error| wrong(error.to_string()))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.client_certificates {
            ClientCertificates::Wanted => builder.allow_unauthenticated(),
            ClientCertificates::Off | ClientCertificates::Required => builder,
        };
        builder.build().map_err(|error| wrong(error.to_string()))
    }
}

impl CertificateFiles {
    fn read(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
        let chain = certificates(&self.certificate)?;
        let wrong = |why| TlsError::Key { file: self.key.clone(), why };
        let key = fs::read(&self.key).map_err(|error| wrong(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| wrong(error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, provider);
        key.map(Arc::new).map_err(|error| TlsError::Mismatch { files: self.clone(), error })
    }
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why| TlsError::Certificate { file: file.to_owned(), why };
    let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() { Err(wrong("it holds none".to_owned())) } else { Ok(chain) }
}

/// The certificates, of which a client gets the one for the name that it asks for.
#[derive(Debug)]
struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_for = |key: &CertifiedKey, name: &ServerName<'_>| {
            let certificate =
                key.end_entity_cert().ok().and_then(|der| ParsedCertificate::try_from(der).ok());
            certificate.is_some_and(|certificate| verify_server_name(&certificate, name).is_ok())
        };
        // One for elliptic curves and one for RSA may have the same name.
        let usable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = name.and_then(|name| self.keys.iter().find(|key| usable(key) && is_for(key, &name)));
        named.or_else(|| self.keys.iter().find(|key| usable(key))).or(self.keys.first()).cloned()
    }
}

/// What to tell an operator of a handshake that failed.
pub(crate) fn reason(error: &io::Error) -> String {
    use rustls::{CertificateError, Error, InvalidMessage};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the client does not speak TLS".to_owned()
        }
        Some(Error::NoCertificatesPresented) => "the client showed no certificate".to_owned(),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the client's certificate is of none of the client authorities".to_owned()
        }
        Some(Error::AlertReceived(alert)) => {
            let alert = alert.as_str().unwrap_or("of an unknown kind");
            format!("the client refused with the alert {alert}")
        }
        Some(other) => other.to_string(),
        None => format!("the connection broke: {error}"),
    }
}

/// A connection, with or without TLS.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
