//! What the log says of who came and who changed what; and what it never says.

use crate::support::Broker;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

const PASSWORD: &str = "planted-secret-1";
const WRONG: &str = "planted-secret-2";
/// Words of what is kept of passwords, too.
const SECRETS: [&str; 4] = ["planted-secret", "argon2", "stored_key", "salt"];

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// Sends each request, and reads until something comes or the peer has closed.
fn talk(address: &str, requests: &[Vec<u8>]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for request in requests {
        stream.write_all(request).unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
    }
}

fn kafka(address: &str, user: &str, password: &str) {
    let request = |key: u16, body: Vec<u8>| {
        let head = [&key.to_be_bytes()[..], &1u16.to_be_bytes(), &[0; 4], &text("test")].concat();
        let all = [head, body].concat();
        [&u32::try_from(all.len()).unwrap().to_be_bytes()[..], &all].concat()
    };
    let token = format!("\0{user}\0{password}");
    let token = [&u32::try_from(token.len()).unwrap().to_be_bytes()[..], token.as_bytes()].concat();
    talk(address, &[request(17, text("PLAIN")), request(36, token)]);
}

fn mqtt(address: &str, user: &str, password: &str) {
    let connect =
        [&text("MQTT")[..], &[4, 0b1100_0010, 0, 0], &text("client"), &text(user), &text(password)].concat();
    talk(address, &[[&[0x10, u8::try_from(connect.len()).unwrap()][..], &connect].concat()]);
}

fn amqp(address: &str, user: &str, password: &str) {
    let response = format!("\0{user}\0{password}");
    let start_ok = [
        &[0, 10, 0, 11, 0, 0, 0, 0, 5][..],
        b"PLAIN",
        &u32::try_from(response.len()).unwrap().to_be_bytes(),
        response.as_bytes(),
        b"\x05en_US",
    ]
    .concat();
    let size = u32::try_from(start_ok.len()).unwrap().to_be_bytes();
    let frame = [&[1, 0, 0][..], &size, &start_ok, &[0xce]].concat();
    talk(address, &[b"AMQP\0\0\x09\x01".to_vec(), frame]);
}

/// As the administrator.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let authorization = STANDARD.encode(format!("ann:{PASSWORD}"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Basic {authorization}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// No file of the data directory has a secret in the clear.
fn nothing_is_stored(folder: &Path) {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            nothing_is_stored(&path);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let secret = b"planted-secret";
        assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{}", path.display());
        files += 1;
    }
    assert!(files > 0 || folder.ends_with("segments") || folder.ends_with("checkpoints"), "{folder:?}");
}

#[test]
fn refused_log_ins_and_changes_with_who_did_it_and_never_a_secret() {
    let all = ["kafka=127.0.0.1:0", "amqp=127.0.0.1:0", "mqtt=127.0.0.1:0", "http=127.0.0.1:0"];
    let (broker, path) = Broker::start_logged(&all.map(|listen| ["--listen", listen]).concat());
    broker.run(&["user", "create", "ann", "--administrator", "--new-password", PASSWORD]);
    let as_ann = ["--user", "ann", "--password", PASSWORD];
    let create_key = ["user", "create-access-key", "ann", "--id", "planted-key"];
    broker.feed(&[&create_key[..], &as_ann].concat(), b"planted-secret-3\n");
    for secret in ["planted-secret-3", "planted-secret-4"] {
        let (user, password) = ("planted-key", secret);
        kafka(&broker.addresses["kafka"], user, password);
        amqp(&broker.addresses["amqp"], user, password);
        mqtt(&broker.addresses["mqtt"], user, password);
    }
    broker.run(&["status", "--user", "planted-key", "--password", "planted-secret-3"]);
    for arguments in [
        &["topic", "create", "t"][..],
        &["topic", "alter", "t", "--retention-ms", "5"],
        &["topic", "delete", "t"],
        &["queue", "create", "q"],
        &["queue", "purge", "q"],
        &["queue", "delete", "q"],
        &["exchange", "create", "e"],
        &["exchange", "delete", "e"],
        &["namespace", "create", "n"],
        &["user", "create", "bob", "--new-password", WRONG],
        &["user-group", "create", "staff", "--deny", "read:topic:secret*"],
        &["user", "alter", "bob", "--administrator", "--group", "staff"],
        &["user", "describe", "bob", "--json"],
        &["user", "list", "--json"],
        &["user", "delete-access-key", "ann", "planted-key"],
        &["user", "delete", "bob"],
    ] {
        let shown = broker.run(&[arguments, &as_ann].concat());
        assert!(!SECRETS.iter().any(|secret| shown.contains(secret)), "{shown}");
    }
    broker.refused(&["status", "--user", "ann", "--password", WRONG]);
    kafka(&broker.addresses["kafka"], "ann", WRONG);
    amqp(&broker.addresses["amqp"], "ann", WRONG);
    mqtt(&broker.addresses["mqtt"], "ann", WRONG);
    // A password that looks like a token and is none.
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJwbGFudGVkLXNlY3JldCI6MX0.planted-secret-5";
    mqtt(&broker.addresses["mqtt"], "ann", token);
    broker.refused(&["status", "--user", "ann", "--password", token]);
    let trail = get(&broker.addresses["http"], "/v1/topics/audit/messages?namespace=posthaste");
    assert!(trail.contains("access-key") && !SECRETS.iter().any(|secret| trail.contains(secret)), "{trail}");
    nothing_is_stored(&broker.folder().join("data"));
    let log = std::fs::read_to_string(path).unwrap();
    let has = |parts: &[&str]| {
        let line = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(line, "{parts:?} in\n{log}");
    };
    for protocol in ["http", "kafka", "amqp", "mqtt"] {
        let protocol = format!("protocol=\"{protocol}\"");
        has(&["WARN", "log-in refused", &protocol, "user=\"ann\"", "peer=127.0.0.1", "password is wrong"]);
    }
    has(&["created", "by=\"anonymous\"", "kind=\"user\"", "name=\"ann\""]);
    for (done, kind, name) in [
        ("created", "topic", "t"),
        ("changed", "topic", "t"),
        ("deleted", "topic", "t"),
        ("created", "queue", "q"),
        ("purged", "queue", "q"),
        ("deleted", "queue", "q"),
        ("created", "exchange", "e"),
        ("deleted", "exchange", "e"),
        ("created", "namespace", "n"),
        ("created", "user", "bob"),
        ("changed", "user", "bob"),
        ("created", "user group", "staff"),
        ("deleted", "user", "bob"),
        ("created", "access key", "ann/planted-key"),
        ("deleted", "access key", "ann/planted-key"),
    ] {
        has(&[done, "by=\"ann\"", &format!("kind=\"{kind}\""), &format!("name=\"{name}\"")]);
    }
    assert!(!SECRETS.iter().any(|secret| log.contains(secret)), "{log}");
}
