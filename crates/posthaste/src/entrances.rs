//! How connections of each listener begin: TLS, trusted proxies, and what clients without credentials may do.

use crate::{
    access::{AnonymousWord, Reach},
    configuration::{CertificatePair, ClientCertificatesWord, File, HttpProxies, ListenerEntry, VersionWord},
    listeners::{SPEAKERS, check_name},
};
use posthaste_broker::{Anonymous, Broker};
use posthaste_http::{Forwarders, ForwardingHeader};
use posthaste_model::Name;
use posthaste_net::{
    CertificateFiles, ClientCertificates, Entrance, Networks, Tls, TlsError, TlsSettings, TlsVersion,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// How one listener's connections begin.
#[derive(Default)]
pub struct Entry {
    /// None for the broker's own rule.
    pub anonymous: Option<Anonymous>,
    /// Where clients are whose protocol knows no namespaces.
    pub namespace: Option<Name>,
    pub entrance: Entrance,
    /// Of the HTTP listener.
    pub forwarders: Forwarders,
}

impl Entry {
    /// Has the broker know what is different about a listener.
    pub fn apply(&self, listener: &str, broker: &Broker) {
        if let Some(policy) = self.anonymous {
            broker.set_anonymous(listener, policy);
        }
        if let Some(namespace) = &self.namespace {
            broker.set_namespace(listener, namespace.clone());
        }
    }
}

/// All listeners' entries, by protocol. Files are read and everything is checked.
///
/// # Errors
/// Names the configuration file, the section and the key.
pub fn entries(file: &File) -> Result<BTreeMap<&'static str, Entry>, String> {
    for name in file.listeners.keys() {
        check_name(name).map_err(|why| file.wrong(name, "[listeners]", &why))?;
    }
    let mut tls = HashMap::new();
    let mut entries = BTreeMap::new();
    for speaker in &SPEAKERS {
        let own = file.listeners.get(speaker.name).cloned().unwrap_or_default();
        let section = format!("[listeners.{}]", speaker.name);
        let trusted = own.trusted_proxies.as_ref().unwrap_or(&file.proxy.trusted);
        let trusted = Networks::new(trusted.iter().map(|network| network.0));
        let header = match file.proxy.http {
            HttpProxies::XForwardedFor if speaker.name == "http" => Some(ForwardingHeader::XForwardedFor),
            HttpProxies::Forwarded if speaker.name == "http" => Some(ForwardingHeader::Forwarded),
            _ => None,
        };
        let (proxies, forwarders) = match header {
            Some(header) => (Networks::default(), Forwarders { trusted, header }),
            None => (trusted, Forwarders::default()),
        };
        let entrance = Entrance { tls: tls_of(file, speaker.name, &own, &mut tls)?, proxies };
        let anonymous = anonymous(file, &own, &section)?;
        let namespace = namespace(file, speaker.name, &own, &section)?;
        entries.insert(speaker.name, Entry { anonymous, namespace, entrance, forwarders });
    }
    Ok(entries)
}

fn namespace(
    file: &File,
    protocol: &str,
    own: &ListenerEntry,
    section: &str,
) -> Result<Option<Name>, String> {
    let Some(namespace) = &own.namespace else { return Ok(None) };
    if !matches!(protocol, "kafka" | "mqtt") {
        let why = "clients of this protocol say themselves in which namespace they are";
        return Err(file.wrong("namespace", section, why));
    }
    let namespace = Name::new(namespace).map_err(|e| file.wrong("namespace", section, &e.to_string()))?;
    Ok(Some(namespace))
}

fn anonymous(file: &File, own: &ListenerEntry, section: &str) -> Result<Option<Anonymous>, String> {
    let (anonymous, anonymous_from) = (file.access.anonymous, file.access.anonymous_from);
    // A listener that says something else than `read` does not mean what is said of reading elsewhere.
    let inherited = anonymous_from.filter(|_| matches!(own.anonymous, None | Some(AnonymousWord::Read)));
    let section = if own.anonymous_from.is_some() { section } else { "[access]" };
    let reach = own.anonymous_from.or(inherited);
    match (own.anonymous.or(anonymous), reach.unwrap_or_default()) {
        (Some(AnonymousWord::Read), reach) => {
            Ok(Some(Anonymous::Read { from_anywhere: reach == Reach::Anywhere }))
        }
        (_, Reach::Anywhere) => {
            let why = "other machines may only read without credentials; set `anonymous = \"read\"`";
            Err(file.wrong("anonymous_from", section, why))
        }
        (Some(AnonymousWord::Off), Reach::Loopback) => Ok(Some(Anonymous::Off)),
        (Some(AnonymousWord::Administrator), Reach::Loopback) => Ok(Some(Anonymous::Administrator)),
        (None, Reach::Loopback) => Ok(None),
    }
}

/// Listeners that speak TLS in the same way share what was read.
fn tls_of(
    file: &File,
    protocol: &str,
    own: &ListenerEntry,
    known: &mut HashMap<TlsSettings, Arc<Tls>>,
) -> Result<Option<Arc<Tls>>, String> {
    let by_default = file.tls.as_ref().filter(|tls| {
        tls.protocols.as_ref().is_none_or(|protocols| protocols.iter().any(|name| name == protocol))
    });
    let section = format!("[listeners.{protocol}]");
    let own_pair = match (&own.certificate, &own.key) {
        (Some(certificate), Some(key)) => {
            Some(CertificatePair { certificate: certificate.clone(), key: key.clone() })
        }
        (None, None) => None,
        (Some(_), None) => return Err(file.wrong("certificate", &section, "it needs its `key` beside it")),
        (None, Some(_)) => return Err(file.wrong("key", &section, "it needs its `certificate` beside it")),
    };
    let wanted = own.tls.unwrap_or(by_default.is_some() || own_pair.is_some());
    let client_certificates =
        own.client_certificates.or(file.tls.as_ref().and_then(|tls| tls.client_certificates));
    if !wanted {
        return match own.client_certificates.unwrap_or_default() {
            ClientCertificatesWord::Off => Ok(None),
            _ => Err(file.wrong("client_certificates", &section, "this listener does not speak TLS")),
        };
    }
    let pairs = match (own_pair, &file.tls) {
        (Some(own), _) => vec![own],
        (None, Some(tls)) => {
            let first = CertificatePair { certificate: tls.certificate.clone(), key: tls.key.clone() };
            [&[first], &tls.certificates[..]].concat()
        }
        (None, None) => {
            return Err(file.wrong("tls", &section, "give `certificate` and `key`, here or under [tls]"));
        }
    };
    let files = |pair: CertificatePair| CertificateFiles { certificate: pair.certificate, key: pair.key };
    let settings = TlsSettings {
        certificates: pairs.into_iter().map(files).collect(),
        client_certificates: client_certificates.unwrap_or_default().into(),
        client_authorities: own
            .client_authorities
            .clone()
            .or(file.tls.as_ref().and_then(|tls| tls.client_authorities.clone())),
        minimum_version: own
            .minimum_version
            .or(file.tls.as_ref().and_then(|tls| tls.minimum_version))
            .unwrap_or_default()
            .into(),
    };
    if let Some(tls) = known.get(&settings) {
        return Ok(Some(tls.clone()));
    }
    let tls = Tls::load(settings.clone()).map(Arc::new);
    let tls = tls.map_err(|error| {
        file.wrong(key_of(&error), if from_own(own, &error) { &section } else { "[tls]" }, &error.to_string())
    })?;
    known.insert(settings, tls.clone());
    Ok(Some(tls))
}

/// The key that names what cannot be used.
fn key_of(error: &TlsError) -> &'static str {
    match error {
        TlsError::Authorities { .. } | TlsError::NoAuthorities => "client_authorities",
        TlsError::Key { .. } => "key",
        _ => "certificate",
    }
}

/// Whether it stands with the listener, not under [tls].
fn from_own(own: &ListenerEntry, error: &TlsError) -> bool {
    match error {
        TlsError::Authorities { .. } => own.client_authorities.is_some(),
        TlsError::NoAuthorities => own.client_certificates.is_some(),
        _ => own.certificate.is_some(),
    }
}

impl From<ClientCertificatesWord> for ClientCertificates {
    fn from(word: ClientCertificatesWord) -> ClientCertificates {
        match word {
            ClientCertificatesWord::Off => ClientCertificates::Off,
            ClientCertificatesWord::Required => ClientCertificates::Required,
            ClientCertificatesWord::Wanted => ClientCertificates::Wanted,
        }
    }
}

impl From<VersionWord> for TlsVersion {
    fn from(word: VersionWord) -> TlsVersion {
        match word {
            VersionWord::V1_2 => TlsVersion::V1_2,
            VersionWord::V1_3 => TlsVersion::V1_3,
        }
    }
}
