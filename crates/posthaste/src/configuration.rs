//! What the broker is started with: defaults, under the file, under the environment, under the flags.

use crate::{
    access::{Access, AnonymousWord, Reach},
    users::{UserEntry, UserGroupEntry},
};
use posthaste_model::Limits;
use posthaste_net::Network;
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// The configuration file, TOML. Every key may be left out; an unknown one is an error.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The data directory.
    pub data: Option<PathBuf>,
    /// What to log, as in `--log`.
    pub log: Option<String>,
    /// Listen on addresses of other machines without TLS.
    pub allow_plaintext: Option<bool>,
    /// Protocol name to HOST:PORT, or `off`.
    pub listen: BTreeMap<String, String>,
    /// Protocol name to the HOST:PORT that clients are told.
    pub advertise: BTreeMap<String, String>,
    pub access: Access,
    pub proxy: Proxy,
    pub tls: Option<Tls>,
    /// What is different about one listener, by protocol.
    pub listeners: BTreeMap<String, ListenerEntry>,
    pub mqtt: Mqtt,
    pub limits: Limits,
    /// Users that are to be there, by name.
    pub users: BTreeMap<String, UserEntry>,
    /// Groups of users that are to be there, by name.
    pub user_groups: BTreeMap<String, UserGroupEntry>,
    /// Where all this was read.
    #[serde(skip)]
    path: PathBuf,
}

/// Proxies in front of the listeners.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    pub trusted: Vec<NetworkText>,
    /// How they tell the HTTP listener whose a request is.
    pub http: HttpProxies,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpProxies {
    Forwarded,
    Protocol,
    #[default]
    XForwardedFor,
}

/// An address or a network.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct NetworkText(pub Network);

impl TryFrom<String> for NetworkText {
    type Error = String;

    fn try_from(text: String) -> Result<NetworkText, String> {
        text.parse().map(NetworkText).map_err(|error| format!("'{text}': {error}"))
    }
}

/// What is different about one listener.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerEntry {
    /// Where clients are whose protocol knows no namespaces, and who say nothing else.
    pub namespace: Option<String>,
    pub anonymous: Option<AnonymousWord>,
    pub anonymous_from: Option<Reach>,
    pub trusted_proxies: Option<Vec<NetworkText>>,
    /// Whether it speaks TLS.
    pub tls: Option<bool>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub client_certificates: Option<ClientCertificatesWord>,
    /// The authorities whose clients are let in, a PEM file.
    pub client_authorities: Option<PathBuf>,
    pub minimum_version: Option<VersionWord>,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificatesWord {
    #[default]
    Off,
    Required,
    Wanted,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub enum VersionWord {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// A certificate chain and its private key, PEM files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What can be set about the MQTT listener.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// A client may have the session of another user that has used its client identifier.
    pub shared_client_ids: bool,
}

/// TLS for the listeners named in `protocols`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, a PEM file.
    pub certificate: PathBuf,
    /// Its private key, a PEM file.
    pub key: PathBuf,
    /// More of them, for clients that ask for a name that they are for.
    #[serde(default)]
    pub certificates: Vec<CertificatePair>,
    /// Protocols whose listeners speak TLS; all of them when left out.
    #[serde(default)]
    pub protocols: Option<Vec<String>>,
    pub client_certificates: Option<ClientCertificatesWord>,
    /// The authorities whose clients are let in, a PEM file.
    pub client_authorities: Option<PathBuf>,
    pub minimum_version: Option<VersionWord>,
}

impl File {
    /// Reads a configuration file. The error names the file, the place in it and the key.
    pub fn read(path: &std::path::Path) -> Result<File, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("cannot read the configuration file {}: {e}", path.display()))?;
        let file: File = toml::from_str(&text)
            .map_err(|e| format!("in the configuration file {}:\n{e}", path.display()))?;
        Ok(File { path: path.to_owned(), ..file })
    }

    /// What to say of a value that cannot be used.
    pub fn wrong(&self, key: &str, section: &str, why: &str) -> String {
        format!("in the configuration file {}, `{key}` under {section}: {why}", self.path.display())
    }
}

/// `PROTOCOL=VALUE`, as flags and environment variables give it.
pub fn pairs<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    flag: &str,
) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    for text in texts.into_iter().map(str::trim).filter(|text| !text.is_empty()) {
        let (name, value) =
            text.split_once('=').ok_or_else(|| format!("{flag} {text}: write PROTOCOL=HOST:PORT"))?;
        pairs.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_what_is_wrong_with_them() {
        let good = "data = 'd'\n[listen]\nkafka = 'off'\n[limits]\nconnections_max = 5\n";
        let file: File = toml::from_str(good).unwrap();
        assert_eq!((file.listen["kafka"].as_str(), file.limits.connections_max), ("off", 5));
        for (text, names) in [
            ("dat = 'd'", "dat"),
            ("[limits]\nconnection_max = 5", "connection_max"),
            ("[limits]\nconnections_max = 'many'", "connections_max"),
            ("[tls]\nkey = 'k'", "certificate"),
            ("[users.ann]\npasswort = 'k'", "passwort"),
        ] {
            let error = toml::from_str::<File>(text).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
    }

    #[test]
    fn pairs_of_protocol_and_address() {
        let found = pairs(["kafka=127.0.0.1:0", " mqtt = off "], "--listen").unwrap();
        assert_eq!(found["kafka"], "127.0.0.1:0");
        assert_eq!(found["mqtt"], "off");
        assert!(pairs(["kafka"], "--listen").unwrap_err().contains("PROTOCOL=HOST:PORT"));
    }
}
