//! Which user a client certificate stands for.

use crate::support::*;
use posthaste_broker::{Anonymous, AuthenticationError, CertificateUser, Credentials, Origin, Revoked};
use posthaste_engine::catalog::User;
use posthaste_model::{ConnectionId, Peer};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

/// A client from afar with a certificate of this subject and these names.
fn origin(f: &Fixture, common: &[&str], organization: Option<&str>, names: Vec<SanType>) -> Origin {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    for name in common {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    params.subject_alt_names = names;
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let address = "192.0.2.1:1".parse().unwrap();
    let origin = f.broker.origin("test", &Peer::plain("x".into(), address, ConnectionId(1)));
    Origin { certificate: Some(certificate.der().to_vec().into()), anonymous: Anonymous::Off, ..origin }
}

async fn who(f: &Fixture, origin: &Origin) -> Result<String, AuthenticationError> {
    let mut known = None;
    for credentials in [Credentials::Certificate, Credentials::Anonymous] {
        let principal = f.broker.log_in(origin, credentials).await;
        let name = principal.map(|principal| principal.name().to_owned());
        assert!(known.is_none_or(|known| known == name), "with and without saying so");
        known = Some(name);
    }
    known.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_stands_for_the_user_that_has_its_name_or_the_rule_names() {
    let f = Fixture::new().await;
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let email = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    for (user, names) in [
        ("ann", vec![]),
        ("bob", vec!["CN=robert\\, jr,O=shop".to_owned(), "dns:bob.example".to_owned()]),
        ("eve@shop.example", vec![]),
        ("host.example", vec![]),
        ("CN=carl,O=shop", vec![]),
    ] {
        f.client.put_user(User { certificate_names: names, ..User::new(name(user)) }).await.unwrap();
    }
    use CertificateUser::{CommonName, Dns, Email, None as Nobody, Subject};
    for (rule, common, organization, names, expect) in [
        (CommonName, "ann", None, vec![], Some("ann")),
        (CommonName, "robert, jr", Some("shop"), vec![], Some("bob")),
        (CommonName, "robert, jr", None, vec![], None),
        (CommonName, "ann", None, vec![dns("bob.example")], Some("bob")),
        (CommonName, "nobody", None, vec![dns("host.example")], None),
        (Dns, "ann", None, vec![dns("host.example")], Some("host.example")),
        (Dns, "ann", None, vec![dns("host.example"), dns("other.example")], None),
        (Email, "ann", None, vec![email("eve@shop.example")], Some("eve@shop.example")),
        (Subject, "carl", Some("shop"), vec![], Some("CN=carl,O=shop")),
        (Nobody, "ann", None, vec![], None),
        (Nobody, "x", None, vec![dns("bob.example")], Some("bob")),
    ] {
        f.broker.set_certificate_user(rule);
        let origin = origin(&f, &[common], organization, names);
        let expect = expect.map(str::to_owned).ok_or(AuthenticationError::UnknownCertificate);
        assert_eq!(who(&f, &origin).await, expect, "{rule:?} {common}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_certificate_lets_nobody_in_and_a_name_taken_away_ends_what_it_opened() {
    let f = Fixture::new().await;
    let user = |names: &[&str]| User {
        certificate_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..User::new(name("ann"))
    };
    f.client.put_user(user(&["CN=a"])).await.unwrap();
    let good = origin(&f, &["a"], None, vec![]);
    let broken = Origin { certificate: Some(b"nothing".to_vec().into()), ..good.clone() };
    let without = Origin { certificate: None, ..good.clone() };
    let local = Origin { is_local: true, ..good.clone() };
    let broker = &f.broker;
    let refused =
        |origin: Origin| async move { broker.log_in(&origin, Credentials::Certificate).await.err() };
    assert_eq!(refused(broken).await, Some(AuthenticationError::UnknownCertificate));
    assert_eq!(refused(without).await, Some(AuthenticationError::NoCertificate));
    let principal = f.broker.log_in(&good, Credentials::Certificate).await.unwrap();
    let client = f.broker.client(principal, name("default"), f.broker.next_connection());
    assert_eq!(client.standing(), Ok(()));
    f.client.put_user(User { loopback_only: true, ..user(&["CN=a"]) }).await.unwrap();
    assert_eq!(refused(good.clone()).await, Some(AuthenticationError::LoopbackOnly));
    assert_eq!(refused(local).await, None);
    f.client.put_user(user(&["CN=b"])).await.unwrap();
    assert_eq!(client.standing(), Err(Revoked::Certificate("ann".to_owned())));
    assert_eq!(refused(good).await, Some(AuthenticationError::UnknownCertificate));
}
