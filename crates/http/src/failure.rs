//! Why a request was not done, as the client sees it. The only place that knows status codes of errors.

use crate::body::ResponseBody;
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use posthaste_broker::{AuthenticationError, Error, ReadError, Revoked};
use posthaste_engine::effect::Refusal;
use serde::Serialize;
use std::time::Duration;

/// `{"error": {"code": ..., "message": ...}}` with a status.
#[derive(Debug)]
pub struct Failure {
    pub status: StatusCode,
    /// For programs; never changes its meaning.
    pub code: &'static str,
    /// For people; says what to do.
    pub message: String,
    header: Option<(HeaderName, String)>,
}

/// As it stands in JSON.
#[derive(Serialize)]
pub struct FailureView<'a> {
    pub code: &'static str,
    pub message: &'a str,
}

#[derive(Serialize)]
struct Wrapped<'a> {
    error: FailureView<'a>,
}

impl Failure {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, code, message: message.into(), header: None }
    }

    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub fn too_large(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// `allowed` as in the header: `GET, POST`.
    pub fn method(allowed: String) -> Failure {
        let message = format!("this path takes {allowed}");
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).with(ALLOW, allowed)
    }

    /// To be tried again after a moment.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, code, message).with(RETRY_AFTER, "1".to_owned())
    }

    /// A rate is used up for as long as `pause` says.
    pub fn rate_limited(pause: Duration) -> Failure {
        let seconds = pause.as_millis().div_ceil(1_000);
        let message = format!(
            "the rate limit of this user or namespace is reached; try again in {seconds} s, or have it raised"
        );
        Failure::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            .with(RETRY_AFTER, seconds.to_string())
    }

    pub fn view(&self) -> FailureView<'_> {
        FailureView { code: self.code, message: &self.message }
    }

    /// The error as a line of a stream, or a body.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(&Wrapped { error: self.view() }).unwrap_or_default();
        json.push(b'\n');
        json
    }

    pub fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Full(Some(self.to_json().into())));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        response
    }

    fn with(mut self, name: HeaderName, value: String) -> Failure {
        self.header = Some((name, value));
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let (status, code) = match &error {
            Error::Denied { .. } => (StatusCode::FORBIDDEN, "denied"),
            Error::Exists => (StatusCode::CONFLICT, "exists"),
            Error::Gone | Error::NotFound(..) => (StatusCode::NOT_FOUND, "not_found"),
            Error::InUse => (StatusCode::CONFLICT, "in_use"),
            Error::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            Error::Locked => (StatusCode::CONFLICT, "locked"),
            Error::NotEmpty => (StatusCode::CONFLICT, "not_empty"),
            Error::Protected => (StatusCode::FORBIDDEN, "protected"),
            Error::Refused(refusal) => return Failure::from_refusal(*refusal, error.to_string()),
            Error::Stopping => return Failure::unavailable("stopping", error.to_string()),
            Error::LimitReached(_) | Error::TooMany => (StatusCode::CONFLICT, "limit_reached"),
            Error::Unreadable(_) => (StatusCode::INTERNAL_SERVER_ERROR, "unreadable"),
        };
        Failure::new(status, code, error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Error::from(refusal).into()
    }
}

impl Failure {
    fn from_refusal(refusal: Refusal, message: String) -> Failure {
        match refusal {
            Refusal::Full => Failure::new(StatusCode::CONFLICT, "queue_full", message),
            Refusal::NoSpace => Failure::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", message),
            Refusal::NonEmptyGroup => {
                Failure::new(StatusCode::CONFLICT, "in_use", "the group has members; stop them first")
            }
            Refusal::OutOfMemory => Failure::unavailable("no_memory", message),
            Refusal::StorageLimit => {
                Failure::new(StatusCode::INSUFFICIENT_STORAGE, "storage_limit_reached", message)
            }
            Refusal::TooLarge => Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message),
            Refusal::UnknownGroup => Failure::not_found("there is no such group"),
            _ => Failure::new(StatusCode::CONFLICT, "refused", message),
        }
    }
}

impl From<AuthenticationError> for Failure {
    fn from(error: AuthenticationError) -> Failure {
        if error == AuthenticationError::Busy {
            return Failure::unavailable("busy", error.to_string());
        }
        let challenge = "Basic realm=\"posthaste\", charset=\"UTF-8\"".to_owned();
        Failure::new(StatusCode::UNAUTHORIZED, "unauthenticated", error.to_string())
            .with(WWW_AUTHENTICATE, challenge)
    }
}

impl From<Revoked> for Failure {
    fn from(revoked: Revoked) -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "unauthenticated", revoked.to_string())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::Gone => Failure::not_found(error.to_string()),
            ReadError::Io(_) => {
                Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", error.to_string())
            }
        }
    }
}
