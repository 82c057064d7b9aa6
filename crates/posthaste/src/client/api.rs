//! Requests to the broker's HTTP API.

use super::{Connection, Failure};
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    time::Duration,
};
use ureq::{
    Agent, Body, BodyReader, SendBody,
    http::{Request, Response, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

/// A broker, and how everything is printed.
pub struct Api {
    pub json: bool,
    agent: Agent,
    base: String,
    authorization: Option<String>,
    namespace: String,
}

/// Parameters behind the `?`.
pub type Query<'a> = &'a [(&'a str, &'a str)];

const CONNECT: Duration = Duration::from_secs(5);
/// How long the broker may think; long polls are shorter.
const ANSWER: Duration = Duration::from_secs(90);
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Things asked for at a time.
const PAGE: &str = "1000";
/// What may stand in a segment of a path or a parameter as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Api {
    pub fn new(connection: &Connection) -> Result<Api, Failure> {
        let base = connection.server.trim_end_matches('/');
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Failure::new(format!("--server {base}: write a URL, such as http://127.0.0.1:8080")));
        }
        let mut tls = TlsConfig::builder();
        if let Some(path) = &connection.ca {
            let bad = |why: String| Failure::new(format!("--ca {}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
            let certificate = Certificate::from_pem(&pem).map_err(|e| bad(e.to_string()))?;
            tls = tls.root_certs(RootCerts::new_with_certs(&[certificate]));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // The broker is near; whatever the environment says of proxies is about the world outside.
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .tls_config(tls.build())
            .build()
            .new_agent();
        let authorization = connection.user.as_ref().map(|user| {
            let password = connection.password.as_deref().unwrap_or_default();
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        });
        let namespace = connection.namespace.clone();
        Ok(Api { json: connection.json, agent, base: base.to_owned(), authorization, namespace })
    }

    pub fn get(&self, path: &[&str], query: Query<'_>) -> Result<Value, Failure> {
        self.answer(self.send("GET", path, query, None)?).map_err(|f| f.about(path, None))
    }

    pub fn delete(&self, path: &[&str], query: Query<'_>) -> Result<Value, Failure> {
        self.answer(self.send("DELETE", path, query, None)?).map_err(|f| f.about(path, None))
    }

    pub fn post(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.answer(self.send("POST", path, &[], Some(body))?).map_err(|f| f.about(path, Some(body)))
    }

    pub fn put(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.answer(self.send("PUT", path, &[], Some(body))?).map_err(|f| f.about(path, Some(body)))
    }

    pub fn patch(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.answer(self.send("PATCH", path, &[], Some(body))?).map_err(|f| f.about(path, Some(body)))
    }

    /// All pages of a list, whose field has the name of its path.
    pub fn all(&self, kind: &str) -> Result<Vec<Value>, Failure> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("count", PAGE)];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let mut page = self.get(&[kind], &query)?;
            if let Some(Value::Array(items)) = page.get_mut(kind).map(Value::take) {
                all.extend(items);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(all),
            }
        }
    }

    /// Lines that come until one side ends, of something that is only read.
    pub fn lines(&self, path: &[&str], query: Query<'_>) -> Result<impl BufRead + use<>, Failure> {
        self.lines_of(self.send("GET", path, query, None)?)
    }

    /// As [`Api::lines`], where messages are taken or something is made to listen with.
    pub fn taken_lines(&self, path: &[&str], options: &Value) -> Result<impl BufRead + use<>, Failure> {
        self.lines_of(self.send("POST", path, &[], Some(options))?)
    }

    fn lines_of(&self, response: Response<Body>) -> Result<BufReader<BodyReader<'static>>, Failure> {
        if !response.status().is_success() {
            self.answer(response)?;
            return Err(Failure::new("the broker did not answer with a stream"));
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    fn send(
        &self,
        method: &str,
        path: &[&str],
        query: Query<'_>,
        body: Option<&Value>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(self.url(path, query));
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let sent = match body {
            Some(body) => {
                let request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
                request.map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
            None => {
                let request = request.body(SendBody::none());
                request.map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
        };
        sent.map_err(|error| self.unreachable(&error))
    }

    fn url(&self, path: &[&str], query: Query<'_>) -> String {
        let encoded = |text| utf8_percent_encode(text, ENCODED);
        let mut url = format!("{}/v1", self.base);
        for segment in path {
            url += &format!("/{}", encoded(segment));
        }
        url += &format!("?namespace={}", encoded(&self.namespace));
        for (name, value) in query {
            url += &format!("&{name}={}", encoded(value));
        }
        url
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let hint = match error {
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                "; trust its certificate with --ca FILE"
            }
            _ => "; is it running? Start it with `posthaste serve`, or say where it is with --server URL",
        };
        Failure::new(format!("cannot talk to the broker at {}: {error}{hint}", self.base))
    }

    /// The JSON of a response, or the error in it.
    fn answer(&self, response: Response<Body>) -> Result<Value, Failure> {
        let status = response.status();
        let mut body = response.into_body();
        let read = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let text = read.map_err(|e| Failure::new(format!("the broker's answer broke off: {e}")))?;
        let json = serde_json::from_slice::<Value>(&text);
        if status.is_success() {
            return match (text.is_empty(), json) {
                (true, _) => Ok(Value::Null),
                (false, Ok(json)) => Ok(json),
                (false, Err(e)) => Err(Failure::new(format!("the broker's answer is no JSON: {e}"))),
            };
        }
        let text_of = |name: &str| {
            let text = json.as_ref().ok()?.get("error")?.get(name)?.as_str()?;
            Some(text.to_owned())
        };
        let Some(message) = text_of("message") else {
            return Err(Failure::new(format!("{} answered {status}; is it a posthaste broker?", self.base)));
        };
        let hint = match status.as_u16() {
            401 => "; log in with --user and --password",
            _ => "",
        };
        Err(Failure { code: text_of("code").unwrap_or_default(), message: message + hint })
    }
}

impl Failure {
    /// Names the thing, where the broker only says what is wrong with it.
    fn about(mut self, path: &[&str], body: Option<&Value>) -> Failure {
        let unnamed = ["exists", "in_use", "limit_reached", "locked", "not_empty", "protected"];
        if unnamed.contains(&self.code.as_str()) {
            let kind = path.first().map_or("it", |kind| kind.trim_end_matches('s'));
            let in_body = body.and_then(|body| body.get("name")).and_then(Value::as_str);
            if let Some(name) = path.get(1).copied().or(in_body) {
                self.message = format!("{kind} {name}: {}", self.message);
            }
        }
        self
    }
}
