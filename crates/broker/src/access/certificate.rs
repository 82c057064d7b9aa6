//! Client certificates: which user one stands for. The listener sees to it that an authority vouches for it.

use crate::{
    access::{
        authentication::{AuthenticationError, Principal, Shown},
        origin::Origin,
    },
    broker::Broker,
};
use serde::Deserialize;
use std::fmt::Write;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};

/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 100;
/// Characters that stand behind a backslash in a subject (RFC 4514).
const ESCAPED: &str = ",+\"\\<>;";

/// How a certificate that no user's entry names stands for a user: by a name of which it has only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateUser {
    /// The user is called like the subject's common name.
    #[default]
    CommonName,
    /// Like the DNS name.
    Dns,
    /// Like the address of electronic mail.
    Email,
    /// It stands for nobody.
    None,
    /// Like the whole subject, as in RFC 4514: `CN=ann,O=shop`.
    Subject,
}

/// The names in a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    subject: String,
    common: Vec<String>,
    dns: Vec<String>,
    email: Vec<String>,
    uri: Vec<String>,
}

impl Names {
    fn read(der: &[u8]) -> Option<Names> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let text =
            |part: &x509_parser::x509::AttributeTypeAndValue<'_>| part.as_str().ok().map(str::to_owned);
        let common = subject.iter_common_name().filter_map(text).take(NAMES_MAX).collect();
        let mut names = Names { subject: subject_text(subject)?, common, ..Names::default() };
        let alternatives =
            certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            });
        for alternative in alternatives.into_iter().flatten().take(NAMES_MAX) {
            match alternative {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => names.email.push((*name).to_owned()),
                GeneralName::URI(name) => names.uri.push((*name).to_owned()),
                _ => {}
            }
        }
        Some(names)
    }

    /// As entries of users name them.
    fn all(&self) -> impl Iterator<Item = String> {
        let with = |kind: &'static str, names: &[String]| -> Vec<String> {
            names.iter().map(|name| format!("{kind}:{name}")).collect()
        };
        let alternatives = [with("dns", &self.dns), with("email", &self.email), with("uri", &self.uri)];
        std::iter::once(self.subject.clone()).chain(alternatives.into_iter().flatten())
    }

    fn by_rule(&self, rule: CertificateUser) -> Option<&str> {
        let names = match rule {
            CertificateUser::CommonName => &self.common,
            CertificateUser::Dns => &self.dns,
            CertificateUser::Email => &self.email,
            CertificateUser::None => return None,
            CertificateUser::Subject => return Some(&self.subject),
        };
        match names.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }
}

/// The last part first, as in RFC 4514.
fn subject_text(subject: &X509Name<'_>) -> Option<String> {
    let parts: Vec<_> = subject.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.iter().rev() {
        for (at, attribute) in part.iter().enumerate() {
            if !text.is_empty() {
                text.push(if at == 0 { ',' } else { '+' });
            }
            let registry = x509_parser::objects::oid_registry();
            let kind = x509_parser::objects::oid2abbrev(attribute.attr_type(), registry).ok();
            let kind = kind.map_or_else(|| attribute.attr_type().to_id_string(), str::to_owned);
            let _ = write!(text, "{kind}=");
            let value = attribute.as_str().ok()?;
            for (at, character) in value.char_indices() {
                let at_an_end = at == 0 || at + character.len_utf8() == value.len();
                if ESCAPED.contains(character) || at == 0 && character == '#' || at_an_end && character == ' '
                {
                    text.push('\\');
                }
                text.push(character);
            }
        }
    }
    Some(text)
}

impl Broker {
    /// Says how certificates that no user's entry names stand for users.
    pub fn set_certificate_user(&self, rule: CertificateUser) {
        *self.shared.certificate_user.write() = rule;
    }

    /// The user that the client's certificate stands for: the one whose entry has a name in it, else by the
    /// rule.
    pub(crate) fn by_certificate(&self, origin: &Origin) -> Result<Principal, AuthenticationError> {
        let der = origin.certificate.as_deref().ok_or(AuthenticationError::NoCertificate)?;
        let names = Names::read(der).ok_or(AuthenticationError::UnknownCertificate)?;
        let catalog = self.shared.catalog_now();
        for name in names.all() {
            if let Some(user) = catalog.user_by_certificate_name(&name) {
                return Principal::admit(user, origin, Shown::Certificate(Some(name)));
            }
        }
        let rule = *self.shared.certificate_user.read();
        let user = names.by_rule(rule).and_then(|name| catalog.user(name));
        let user = user.ok_or(AuthenticationError::UnknownCertificate)?;
        Principal::admit(user, origin, Shown::Certificate(None))
    }
}
