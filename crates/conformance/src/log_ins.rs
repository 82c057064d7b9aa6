//! Real clients log in by every mechanism that their protocol has, over TLS, against the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::Serialize;

use crate::broker::{Broker, Environment};
use crate::programs::LOG_INS;
use crate::scratch::Scratch;
use crate::suite::{self, Target};
use crate::tools::Tools;

const ISSUER: &str = "https://id.example";
const SECRET: &str = "a secret that issuer and broker share";
const WRONG_SECRET: &str = "a secret that the broker does not know";
const TOKEN_HOURS: u64 = 1;
/// Each user may do all with what begins with its name, and nothing else: so it is known who was let in.
const USERS: &str = "
[users.ann]
password = 'ann-password'
allow = ['configure,describe,read,write:any:ann*']
[users.mia]
without_password = true
certificate_names = ['CN=mia']
allow = ['configure,describe,read,write:any:mia*']
[user_groups.staff]
allow = ['configure,describe,read,write:any:tom*']
";

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    groups: [&'a str; 1],
    exp: u64,
}

/// Starts a broker that asks for certificates and knows an issuer of tokens, and runs the programs.
pub fn run(tools: &Tools, binary: &Path, work: &Path) -> Result<()> {
    tools.install(&LOG_INS)?;
    let mut scratch = Scratch::new(work, "log-ins")?;
    let folder = scratch.path().join("credentials");
    fs::create_dir_all(&folder)?;
    let configuration = prepare(&folder).context("make certificates, tokens and the configuration")?;
    let path = |path: &Path| path.display().to_string();
    let environment = Environment::from([
        ("POSTHASTE_CONFIG".to_owned(), path(&configuration)),
        // For the programs; the broker does not know it.
        ("CONFORMANCE_CREDENTIALS".to_owned(), path(&folder)),
    ]);
    let log = scratch.path().join("broker.log");
    let mut broker = Broker::start_with(binary, &scratch.path().join("data"), &log, &environment)?;
    let logs = work.with_file_name("logs");
    let mut outcome = Ok(());
    for program in LOG_INS {
        // A new process has forgotten how often somebody failed, and answers at once again.
        outcome = outcome.and(suite::run(tools, &[program], &mut Target::Broker(&mut broker), &logs));
        broker.stop()?;
        broker.restart()?;
    }
    if outcome.is_err() {
        scratch.keep();
        println!("   data and log of the broker are in {}", scratch.path().display());
    }
    outcome
}

/// Writes everything that clients show, and the broker's configuration; returns its path.
fn prepare(folder: &Path) -> Result<PathBuf> {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text);
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "the authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    write("authority.pem", &authority.self_signed(&authority_key)?.pem())?;
    let issuer = Issuer::new(authority, authority_key);
    for (name, hosts, usage) in [
        ("broker", &["localhost", "127.0.0.1"][..], ExtendedKeyUsagePurpose::ServerAuth),
        ("mia", &[], ExtendedKeyUsagePurpose::ClientAuth),
        // Vouched for, and no user's.
        ("stranger", &[], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &issuer)?.pem();
        write(&format!("{name}.pem"), &certificate)?;
        write(&format!("{name}.key"), &key.serialize_pem())?;
        // As some clients want it.
        write(&format!("{name}.both.pem"), &(key.serialize_pem() + &certificate))?;
    }
    write("secret", SECRET)?;
    write("token", &token(SECRET)?)?;
    write("wrong.token", &token(WRONG_SECRET)?)?;
    let file = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "{USERS}\n[tls]\ncertificate = '{}'\nkey = '{}'\nclient_certificates = 'wanted'\n\
         client_authorities = '{}'\n[[access.token_issuers]]\nissuer = '{ISSUER}'\naudience = 'posthaste'\n\
         keys = '{}'\nalgorithms = ['HS256']\ngroups_claim = 'groups'\n",
        file("broker.pem"),
        file("broker.key"),
        file("authority.pem"),
        file("secret"),
    );
    write("posthaste.toml", &text)?;
    Ok(folder.join("posthaste.toml"))
}

/// Of tom, who has no entry, in the group of the staff.
fn token(secret: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let exp = (now + Duration::from_hours(TOKEN_HOURS)).as_secs();
    let claims = Claims { iss: ISSUER, aud: "posthaste", sub: "tom", groups: ["staff"], exp };
    Ok(jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )?)
}
