//! Bearer tokens as the configuration file has them accepted.

use crate::support::{Broker, program, refused};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const LISTEN: &str = "[listen]\nkafka = 'off'\namqp = 'off'\nmqtt = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\n";

fn token(secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://id.example", "aud": ["else", "posthaste"], "sub": "ann", "exp": now + 600,
        "roles": ["staff"],
    });
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

fn http(broker: &Broker, token: &str) -> String {
    let mut stream = TcpStream::connect(&broker.addresses["http"]).unwrap();
    let request = format!(
        "GET /v1/topics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or("none").to_owned()
}

/// The return code of CONNACK to a token as the password of MQTT 3.1.1.
fn mqtt(broker: &Broker, token: &str) -> u8 {
    let mut stream = TcpStream::connect(&broker.addresses["mqtt"]).unwrap();
    let mut body = b"\0\x04MQTT\x04\xc2\0\0\0\x01x\0\x03ann".to_vec();
    body.extend_from_slice(&u16::try_from(token.len()).unwrap().to_be_bytes());
    body.extend_from_slice(token.as_bytes());
    let mut packet = vec![0x10];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    packet.push(u8::try_from(length).unwrap());
    packet.append(&mut body);
    stream.write_all(&packet).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    answer[3]
}

/// An issuer's server, and whether it is to answer with its keys.
fn serve_keys(secret: &str) -> (String, std::sync::mpsc::Sender<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap());
    let secret = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, secret);
    let set = json!({"keys": [{"kty": "oct", "k": secret}]}).to_string();
    let (open, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut is_open = false;
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]).unwrap();
            is_open |= opened.try_recv().is_ok();
            let (status, body) = if is_open { ("200 OK", set.as_str()) } else { ("503 Busy", "") };
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, open)
}

/// A server that is away keeps no broker from starting; its keys are read for the first token, or on SIGHUP.
#[test]
fn keys_from_an_address() {
    let secret = "a secret of the issuer that is long enough";
    let (address, open) = serve_keys(secret);
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{LISTEN}[user_groups.staff]\nallow = ['describe,read:topic:*']\n[[access.token_issuers]]\n\
         issuer = 'https://id.example'\naudience = 'posthaste'\nkeys = '{address}'\nalgorithms = ['HS256']\n\
         groups_claim = 'roles'\n"
    );
    let path = folder.path().join("posthaste.toml");
    fs::write(&path, &text).unwrap();
    let broker = Broker::start_with(&["--config", path.to_str().unwrap()], &[]);
    assert_eq!(http(&broker, &token(secret)), "401");
    open.send(()).unwrap();
    broker.hang_up();
    let begin = Instant::now();
    while http(&broker, &token(secret)) != "200" {
        assert!(begin.elapsed() < Duration::from_secs(30), "the keys are never read");
        std::thread::sleep(Duration::from_millis(100));
    }
    // As Pulsar's tool makes them.
    let key = EncodingKey::from_secret(secret.as_bytes());
    let claims = json!({"sub": "guest"});
    let minimal = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    assert_eq!(http(&broker, &minimal), "401");
    fs::write(&path, text.replace("audience = 'posthaste'\n", "minimal_tokens = true\n")).unwrap();
    let broker = Broker::start_with(&["--config", path.to_str().unwrap()], &[]);
    assert_eq!(http(&broker, &minimal), "200");
    let unsafe_address = text.replace("http://127.0.0.1", "http://192.0.2.1");
    fs::write(&path, unsafe_address).unwrap();
    let (_, said) = refused(program(&["serve", "--config", path.to_str().unwrap()]));
    assert!(said.contains("https only"), "{said}");
}

#[test]
fn issuers_of_the_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = ("an old secret of the issuer, long enough", "a new secret of the issuer, long enough");
    let keys = folder.path().join("keys");
    fs::write(&keys, old).unwrap();
    let text = format!(
        "{LISTEN}[user_groups.staff]\nallow = ['describe,read:topic:*']\n[[access.token_issuers]]\n\
         issuer = 'https://id.example'\naudience = 'posthaste'\nkeys = '{}'\nalgorithms = ['HS256']\n\
         groups_claim = 'roles'\n",
        keys.display()
    );
    let path = folder.path().join("posthaste.toml");
    fs::write(&path, &text).unwrap();
    let broker = Broker::start_with(&["--config", path.to_str().unwrap()], &[]);
    assert_eq!((http(&broker, &token(old)), mqtt(&broker, &token(old))), ("200".to_owned(), 0));
    assert_eq!(http(&broker, &token(new)), "401");
    assert_eq!(mqtt(&broker, &token(new)), 4);
    fs::write(&keys, new).unwrap();
    broker.hang_up();
    let begin = Instant::now();
    while http(&broker, &token(new)) != "200" {
        assert!(begin.elapsed() < Duration::from_secs(30), "the new secret is never read");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(http(&broker, &token(old)), "401");
    // What cannot be used keeps a broker from starting, and is named.
    for (wrong, names) in [
        (text.replace("audience = 'posthaste'\n", "audience = []\n"), "audience"),
        (text.replace("['HS256']", "['HS256', 'RS256']"), "algorithms"),
        (text.replace("keys'\n", "nothing'\n"), "nothing"),
    ] {
        fs::write(&path, wrong).unwrap();
        let data = folder.path().join("data");
        let arguments = ["serve", "--config", path.to_str().unwrap(), "--data", data.to_str().unwrap()];
        let (code, said) = refused(program(&arguments));
        assert_eq!(code, 1);
        assert!(said.contains(names), "{said}");
    }
}
