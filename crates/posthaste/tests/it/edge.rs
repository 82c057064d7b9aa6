//! How connections begin: clients without credentials, proxies, TLS.

use crate::support::{Broker, program, refused};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

const LISTEN: &str =
    "[listen]\nkafka = '127.0.0.1:0'\namqp = 'off'\nmqtt = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\n";

/// The path of a configuration file.
fn configuration(folder: &Path, text: &str) -> String {
    let path = folder.join("posthaste.toml");
    fs::write(&path, format!("{LISTEN}{text}")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The status that a request without credentials gets, behind what a proxy says.
fn status(broker: &Broker, start: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(&broker.addresses["http"]).unwrap();
    let request =
        format!("{start}GET /v1/topics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // One that is not served is reset.
    let _ = stream.read_to_string(&mut answer);
    answer.split(' ').nth(1).unwrap_or("none").to_owned()
}

/// The reason code of MQTT 5 that a CONNECT without credentials gets.
fn mqtt(broker: &Broker) -> u8 {
    let mut stream = TcpStream::connect(&broker.addresses["mqtt"]).unwrap();
    stream.write_all(b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01x").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    answer[3]
}

/// Whether Metadata without credentials is answered.
fn kafka(broker: &Broker) -> bool {
    let mut stream = TcpStream::connect(&broker.addresses["kafka"]).unwrap();
    stream.write_all(b"\0\0\0\x0e\0\x03\0\0\0\0\0\x01\xff\xff\0\0\0\0").unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).is_ok()
}

#[test]
fn clients_without_credentials() {
    let folder = tempfile::tempdir().unwrap();
    for (text, http, mqtt_code, kafka_answers) in [
        ("", "200", 0, true),
        ("[access]\nanonymous = 'off'\n", "401", 0x87, false),
        ("[users.ann]\npassword = 'secret'\n", "401", 0x87, false),
        ("[access]\nanonymous = 'administrator'\n[users.ann]\npassword = 'secret'\n", "200", 0, true),
        ("[access]\nanonymous = 'off'\n[listeners.mqtt]\nanonymous = 'read'\n", "401", 0, false),
    ] {
        let file = configuration(folder.path(), text);
        let broker = Broker::start_with(&["--config", &file], &[]);
        let found = (status(&broker, "", ""), mqtt(&broker), kafka(&broker));
        assert_eq!(found, (http.to_owned(), mqtt_code, kafka_answers), "{text}");
    }
    let file = configuration(folder.path(), "[access]\nanonymous = 'read'\n");
    let broker = Broker::start_with(&["--config", &file], &[]);
    broker.run(&["topic", "list"]);
    let (code, text) = broker.refused(&["topic", "create", "t"]);
    assert!(code == 1 && text.contains("may not configure topic 't'"), "{text}");
}

#[test]
fn a_first_user_ends_what_clients_without_credentials_may() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_with(&["--config", &configuration(folder.path(), "")], &[]);
    broker.run(&["user", "create", "ann", "--administrator", "--new-password", "secret"]);
    let (code, text) = broker.refused(&["topic", "list"]);
    assert!(code == 1 && text.contains("log in as a user"), "{text}");
    assert_eq!((mqtt(&broker), kafka(&broker)), (0x87, false));
    broker.run(&["user", "delete", "ann", "--user", "ann", "--password", "secret"]);
    assert_eq!((mqtt(&broker), kafka(&broker)), (0, true));
}

#[test]
fn behind_a_proxy_on_this_machine_nobody_is_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let from = "PROXY TCP4 203.0.113.5 10.0.0.1 7 9\r\n";
    for (text, start, headers, expect) in [
        ("", "", "X-Forwarded-For: 203.0.113.5\r\n", "200"),
        ("[proxy]\ntrusted = ['127.0.0.1']\n", "", "", "401"),
        ("[proxy]\ntrusted = ['127.0.0.1']\n", "", "X-Forwarded-For: 203.0.113.5\r\n", "401"),
        ("[proxy]\ntrusted = ['127.0.0.1']\n", "", "X-Forwarded-For: 127.0.0.1\r\n", "401"),
        ("[proxy]\ntrusted = ['10.0.0.0/8']\nhttp = 'protocol'\n", "", "", "200"),
        ("[proxy]\ntrusted = ['127.0.0.0/8']\nhttp = 'protocol'\n", "", "", "none"),
        ("[proxy]\ntrusted = ['127.0.0.0/8']\nhttp = 'protocol'\n", from, "", "401"),
        (
            "[proxy]\ntrusted = ['127.0.0.0/8']\nhttp = 'protocol'\n",
            "PROXY TCP4 127.0.0.1 127.0.0.1 7 9\r\n",
            "",
            "200",
        ),
        ("[proxy]\nhttp = 'protocol'\n[listeners.http]\ntrusted_proxies = ['127.0.0.1']\n", from, "", "401"),
    ] {
        let file = configuration(folder.path(), text);
        let broker = Broker::start_with(&["--config", &file], &[]);
        assert_eq!(status(&broker, start, headers), expect, "{text} {start} {headers}");
    }
}

/// Writes a certificate for this machine, in place of the one before.
fn certify(folder: &Path) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("chain.pem"), cert.pem()).unwrap();
}

#[test]
fn certificates_are_read_again_and_no_signal_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (chain, key, before) = (path("chain.pem"), path("key.pem"), path("before.pem"));
    fs::copy(&chain, &before).unwrap();
    let text = format!("[tls]\ncertificate = '{chain}'\nkey = '{key}'\nprotocols = ['http']\n");
    let file = configuration(folder.path(), &text);
    let broker = Broker::start_with(&["--config", &file], &[]);
    let server = format!("https://{}", broker.addresses["http"]);
    let asks = |trusted: &str| {
        let mut command = program(&["topic", "list", "--server", &server, "--ca", trusted]);
        command.output().unwrap().status.success()
    };
    assert!(asks(&before));
    assert!(kafka(&broker), "it speaks no TLS");
    certify(folder.path());
    broker.hang_up();
    let patience = Instant::now() + Duration::from_secs(30);
    while !asks(&chain) {
        assert!(Instant::now() < patience, "the new certificate is not used");
    }
    assert!(!asks(&before));
    fs::copy(&chain, &before).unwrap();
    fs::write(&chain, "half of one").unwrap();
    broker.hang_up();
    assert!(kafka(&broker) && asks(&before), "it goes on with what it had");
}

#[test]
fn what_is_wrong_is_said_with_file_and_key() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let pair = format!("certificate = '{0}/chain.pem'\nkey = '{0}/key.pem'\n", folder.path().display());
    let tls = format!("[tls]\n{pair}");
    for (text, names) in [
        ("[access]\nanonymous = 'reed'\n".to_owned(), &["reed", "read", "administrator"][..]),
        ("[access]\nanonymous_from = 'anywhere'\n".to_owned(), &["anonymous_from", "[access]", "\"read\""]),
        (
            "[listeners.kafka]\nanonymous = 'administrator'\nanonymous_from = 'anywhere'\n".to_owned(),
            &["anonymous_from", "[listeners.kafka]"],
        ),
        ("[listeners.ammqp]\nanonymous = 'off'\n".to_owned(), &["ammqp", "[listeners]", "kafka, amqp"]),
        ("[listeners.kafka]\nnamespce = 'x'\n".to_owned(), &["namespce"]),
        ("[proxy]\ntrusted = ['10.0.0.0/33']\n".to_owned(), &["10.0.0.0/33", "10.0.0.0/8"]),
        ("[tls]\ncertificate = '/x.pem'\nkey = '/x.pem'\n".to_owned(), &["/x.pem", "`certificate`", "[tls]"]),
        (format!("{tls}[listeners.kafka]\nkey = '/x'\n"), &["`key`", "[listeners.kafka]", "`certificate`"]),
        (format!("{tls}client_certificates = 'required'\n"), &["`client_authorities`", "[tls]"]),
        (
            format!("{tls}[listeners.kafka]\nclient_certificates = 'wanted'\nclient_authorities = '/x'\n"),
            &["/x", "[listeners.kafka]"],
        ),
        (format!("{tls}minimum_version = '1.1'\n"), &["1.1", "1.2"]),
        ("[listeners.kafka]\ntls = true\n".to_owned(), &["`tls`", "[listeners.kafka]", "`certificate`"]),
    ] {
        let file = configuration(folder.path(), &text);
        let data = folder.path().join("data");
        let mut command = program(&["serve", "--config", &file]);
        command.arg("--data").arg(&data);
        let (code, said) = refused(command);
        let has = |name: &&str| said.contains(*name);
        assert!(code == 1 && names.iter().all(has) && said.contains("posthaste.toml"), "{text}\n{said}");
        assert!(!data.exists(), "it is said before anything is opened");
    }
}
