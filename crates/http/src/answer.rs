//! From a request to its response: find the operation, find out who asks, read the body, run.

use crate::{
    access,
    body::ResponseBody,
    call::{Answer, Call, Reply, Server},
    failure::Failure,
    routes::{Found, Operation, find},
    v1,
};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use percent_encoding::percent_decode_str;
use posthaste_broker::{Client, Origin};
use posthaste_model::{ConnectionId, Name};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// A request body that publishes nothing.
const SETTINGS_BYTES_MAX: usize = 1 << 20;
/// Room for the words around a message, in its JSON.
const AROUND_BYTES_MAX: usize = 1 << 20;
/// Bodies up to this size wait for no room.
const SMALL_BYTES_MAX: u64 = 64 << 10;
const NAMESPACE_DEFAULT: &str = "default";

/// Who is connected.
pub struct Connection {
    pub origin: Origin,
    pub id: ConnectionId,
    /// Whose log-in was noted last: each request shows its credentials anew.
    pub noted: Mutex<Option<String>>,
}

impl Connection {
    /// Notes a log-in, if the request before this one was not the same client's.
    fn note(&self, client: &Client) {
        let id = client.principal().id();
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.as_ref() != Some(&id) {
            client.audit_log_in(&self.origin);
            *noted = Some(id);
        }
    }
}

/// Never fails: what goes wrong is a response too.
pub async fn answer(
    server: Arc<Server>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let is_head = *request.method() == Method::HEAD;
    match handle(server, connection, request).await {
        Ok(reply) => response(reply, is_head),
        Err(failure) => failure.into_response(),
    }
}

async fn handle(server: Arc<Server>, connection: &Connection, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let origin = server.forwarders.origin(&connection.origin, &head.headers);
    access::check_origin(&server.broker, &head.headers, origin.is_local)?;
    let path = head.uri.path();
    let (operation, names) = match find(&head.method, path) {
        Found::Operation(operation, names) => (operation, names),
        Found::OtherMethods(allowed) => return Err(Failure::method(allowed)),
        Found::Nothing => {
            return Err(Failure::not_found(format!(
                "there is no path {path}; docs/http-api.md has the list"
            )));
        }
    };
    if operation.is_public() {
        return v1::health::answer(operation, &server);
    }
    let principal = access::authenticate(&server.broker, &head.headers, &origin).await?;
    let names: Result<Vec<String>, Failure> = names.into_iter().map(decoded).collect();
    let (namespace, query) = split_query(head.uri.query().unwrap_or_default())?;
    let client = server.broker.client(principal, namespace, connection.id);
    connection.note(&client);
    let has_body = !matches!(head.method, Method::GET | Method::HEAD | Method::DELETE);
    let (body, _room) = if has_body {
        check_content_type(head.headers.get(CONTENT_TYPE))?;
        read_body(&server, operation, body).await?
    } else {
        (Bytes::new(), None)
    };
    let call = Call::new(server, client, names?, query, body);
    // Boxed, so that an idle connection does not hold room for the biggest operation.
    Box::pin(v1::run(operation, call)).await
}

fn decoded(segment: &str) -> Result<String, Failure> {
    let text = percent_decode_str(segment).decode_utf8();
    text.map(|t| t.into_owned()).map_err(|_| Failure::invalid("the path is not UTF-8"))
}

/// The namespace, and the parameters that the operation itself knows.
fn split_query(query: &str) -> Result<(Name, String), Failure> {
    let pairs: Vec<(String, String)> =
        serde_urlencoded::from_str(query).map_err(|e| Failure::invalid(format!("query parameters: {e}")))?;
    let (namespaces, rest): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key == "namespace");
    let namespace = namespaces.first().map_or(NAMESPACE_DEFAULT, |(_, value)| value.as_str());
    let rest = serde_urlencoded::to_string(rest).map_err(|e| Failure::invalid(e.to_string()))?;
    Ok((crate::call::name(namespace)?, rest))
}

/// Only a page of the same origin can send this type from a browser, so nobody else's can change anything.
fn check_content_type(given: Option<&HeaderValue>) -> Result<(), Failure> {
    let text = given.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "send JSON, with the header `Content-Type: application/json`";
    Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message))
}

/// Reads a body that is as big as its operation may need, in the time a slow peer gets.
async fn read_body(
    server: &Server,
    operation: Operation,
    body: Incoming,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Failure> {
    let limits = &server.shared.limits;
    // A message in base64 takes a third more.
    let max = match operation.publishes() {
        true => limits.message_bytes_max.saturating_div(3).saturating_mul(4).saturating_add(AROUND_BYTES_MAX),
        false => SETTINGS_BYTES_MAX,
    };
    let too_large = || Failure::too_large(format!("the request body exceeds {max} bytes"));
    let hint = body.size_hint();
    if hint.lower() > max as u64 {
        return Err(too_large());
    }
    let patience = Duration::from_millis(limits.slow_reader_ms_max);
    let reading = async {
        let room = make_room(server, hint.upper().unwrap_or(max as u64)).await?;
        let mut body = body;
        let mut read = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|e| Failure::invalid(format!("the body ended early: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > max {
                return Err(too_large());
            }
            read.extend_from_slice(&data);
        }
        Ok((read.freeze(), room))
    };
    let late = || Failure::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long to arrive");
    timeout(patience, reading).await.unwrap_or_else(|_| Err(late()))
}

async fn make_room(server: &Server, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, Failure> {
    if bytes <= SMALL_BYTES_MAX {
        return Ok(None);
    }
    let whole = server.body_room_kib;
    let wanted = usize::try_from(bytes.div_ceil(1024)).unwrap_or(whole).min(whole);
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let room = server.body_room.clone().acquire_many_owned(wanted).await;
    room.map(Some).map_err(|_| Failure::unavailable("stopping", "the broker is stopping"))
}

fn response(reply: Reply, is_head: bool) -> Response<ResponseBody> {
    let (status, kind, body) = match reply {
        Reply::Json(json) => (StatusCode::OK, "application/json", ResponseBody::Full(Some(json.into()))),
        Reply::Created(json) => {
            (StatusCode::CREATED, "application/json", ResponseBody::Full(Some(json.into())))
        }
        Reply::Nothing => (StatusCode::NO_CONTENT, "", ResponseBody::Full(None)),
        Reply::Text(text, kind) => (StatusCode::OK, kind, ResponseBody::Full(Some(text.into()))),
        Reply::Lines(lines) => (StatusCode::OK, "application/x-ndjson", ResponseBody::Stream(lines)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if !kind.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if is_head {
        response.body_mut().empty();
    }
    response
}
