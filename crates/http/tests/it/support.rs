//! A broker with an HTTP listener in this process, and a client that speaks to it over a real socket.

use base64::{Engine, engine::general_purpose::STANDARD};
use posthaste_broker::{Anonymous, Broker, Config, Formats};
use posthaste_model::Limits;
use posthaste_net::{Entrance, Listener, Peer, Shared};
use serde_json::Value as Json;
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

pub struct Fixture {
    pub broker: Broker,
    pub address: SocketAddr,
    pub serving: JoinHandle<()>,
    shared: Shared,
    directory: tempfile::TempDir,
}

/// What clients are told to connect to.
pub const ADVERTISED: &str = "broker.example:443";
/// Far longer than anything takes; so that a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(30);

impl Fixture {
    pub async fn new() -> Fixture {
        Fixture::with_limits(Limits::default()).await
    }

    /// Without an audit trail, which would come among the objects that tests count.
    pub async fn with_limits(limits: Limits) -> Fixture {
        Fixture::on(tempfile::tempdir().unwrap(), Limits { audit_bytes_max: 0, ..limits }).await
    }

    /// With an audit trail.
    pub async fn audited() -> Fixture {
        Fixture::on(tempfile::tempdir().unwrap(), Limits::default()).await
    }

    /// Stops the broker in an orderly way and starts it again on what it left.
    pub async fn restart(self, limits: Limits) -> Fixture {
        self.broker.announce_stop();
        timeout(PATIENCE, self.serving).await.unwrap().unwrap();
        tokio::task::block_in_place(|| self.broker.stop());
        Fixture::on(self.directory, Limits { audit_bytes_max: 0, ..limits }).await
    }

    async fn on(directory: tempfile::TempDir, limits: Limits) -> Fixture {
        let config = Config {
            data: directory.path().join("data"),
            limits: limits.clone(),
            formats: Formats::new([]),
            advertised: [("http".to_owned(), ADVERTISED.to_owned())].into(),
            threads: Some(2),
        };
        let broker = tokio::task::block_in_place(|| Broker::open(config)).unwrap();
        broker.set_anonymous("http", Anonymous::Administrator);
        let listener = Listener::bind("http", "127.0.0.1:0", Entrance::default()).await.unwrap();
        let address = listener.address();
        let connections = Arc::new(AtomicUsize::new(0));
        broker.watch_connections(connections.clone());
        let ids = broker.clone();
        let shared = Shared {
            limits: Arc::new(limits),
            stopping: broker.stopping(),
            connections,
            loops: Default::default(),
            next_connection: Arc::new(move || ids.next_connection()),
            leave: Default::default(),
        };
        let serving = tokio::spawn(posthaste_http::serve(listener, broker.clone(), shared.clone()));
        Fixture { broker, address, serving, shared, directory }
    }

    pub async fn connect(&self) -> Connection {
        Connection { stream: BufReader::new(TcpStream::connect(self.address).await.unwrap()) }
    }

    /// A connection that the broker sees come from another machine.
    pub async fn connect_from_afar(&self) -> Connection {
        self.connect_from("203.0.113.7:4711").await
    }

    /// The same, from there.
    pub async fn connect_from(&self, address: &str) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let (broker, shared) = (self.broker.clone(), self.shared.clone());
        let address = address.parse().unwrap();
        let peer = Peer::plain("http".into(), address, broker.next_connection());
        tokio::spawn(async move { posthaste_http::serve_one(accepted, &peer, broker, shared).await });
        Connection { stream: BufReader::new(stream) }
    }

    /// One request on a connection of its own.
    pub async fn send(&self, method: &str, path: &str, body: Option<Json>) -> Response {
        self.connect().await.request(method, path, body, "").await
    }

    /// As [`Fixture::send`], and the status must be this one.
    pub async fn expect(&self, status: u16, method: &str, path: &str, body: Option<Json>) -> Json {
        let response = self.send(method, path, body).await;
        assert_eq!(response.status, status, "{method} {path}: {}", response.text);
        response.json()
    }
}

pub struct Connection {
    pub stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Lines of `name: value`, names in lower case.
    pub headers: Vec<String>,
    pub text: String,
}

impl Connection {
    pub async fn request(&mut self, method: &str, path: &str, body: Option<Json>, headers: &str) -> Response {
        self.start(method, path, body, headers).await;
        timeout(PATIENCE, self.read_response(method == "HEAD")).await.expect("a response in time")
    }

    /// `headers` are whole lines.
    pub async fn start(&mut self, method: &str, path: &str, body: Option<Json>, headers: &str) {
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let mut request = format!("{method} {path} HTTP/1.1\r\n{host}{headers}");
        let body = body.map(|json| json.to_string());
        if let Some(body) = &body {
            request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        request += body.as_deref().unwrap_or_default();
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        timeout(PATIENCE, read).await.expect("a line in time").unwrap();
        line.trim_end().to_owned()
    }

    pub async fn read_head(&mut self) -> Response {
        let status = self.line().await;
        let status = status.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {status:?}"));
        let mut response =
            Response { status: status.parse().unwrap(), headers: Vec::new(), text: String::new() };
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else { break };
            response.headers.push(format!("{}: {value}", name.to_lowercase()));
        }
        response
    }

    async fn read_response(&mut self, is_head: bool) -> Response {
        let mut response = self.read_head().await;
        let length = response.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let mut body = vec![0; if is_head { 0 } else { length }];
        self.stream.read_exact(&mut body).await.unwrap();
        response.text = String::from_utf8(body).unwrap();
        response
    }

    /// The next chunk of a stream; none at its end.
    pub async fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line().await, 16).expect("a chunk");
        let mut chunk = vec![0; size + 2];
        timeout(PATIENCE, self.stream.read_exact(&mut chunk)).await.expect("a chunk in time").unwrap();
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// The lines of the next chunk.
    pub async fn lines_so_far(&mut self) -> Vec<Json> {
        let chunk = self.chunk().await.expect("more lines");
        chunk.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The next lines of a stream.
    pub async fn lines(&mut self, count: usize) -> Vec<Json> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.extend(self.lines_so_far().await);
        }
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|h| h.strip_prefix(&format!("{name}: ")))
    }

    pub fn json(&self) -> Json {
        if self.text.is_empty() { Json::Null } else { serde_json::from_str(&self.text).unwrap() }
    }
}

/// The header line of a user.
pub fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}
