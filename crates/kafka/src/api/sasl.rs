//! SaslHandshake (17) and SaslAuthenticate (36): PLAIN (RFC 4616).

use posthaste_broker::{AuthenticationError, Broker, Credentials, Origin, Principal};

use crate::wire::ErrorCode;
use crate::wire::messages::sasl_authenticate::SaslAuthenticateResponse;
use crate::wire::messages::sasl_handshake::{SaslHandshakeRequest, SaslHandshakeResponse};

const PLAIN: &str = "PLAIN";

/// How the mechanism's tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// As frames of their own, after SaslHandshake v0.
    Bare,
    /// Within SaslAuthenticate.
    Request,
}

/// No framing means that the conversation ends here.
pub fn handshake(
    version: i16,
    request: &SaslHandshakeRequest,
    authenticated: bool,
) -> (SaslHandshakeResponse, Option<Framing>) {
    let (error_code, framing) = match &*request.mechanism {
        _ if authenticated => (ErrorCode::IllegalSaslState, None),
        PLAIN if version == 0 => (ErrorCode::None, Some(Framing::Bare)),
        PLAIN => (ErrorCode::None, Some(Framing::Request)),
        _ => (ErrorCode::UnsupportedSaslMechanism, None),
    };
    (SaslHandshakeResponse { error_code, mechanisms: vec![PLAIN.into()] }, framing)
}

/// Lets in a client that shows no credentials, if it may.
pub async fn anonymous(broker: &Broker, origin: &Origin) -> Result<Principal, AuthenticationError> {
    broker.log_in(origin, Credentials::Anonymous).await
}

/// Judges a PLAIN token. The error is a code and a sentence for the client.
pub async fn authenticate(
    broker: &Broker,
    origin: &Origin,
    token: &[u8],
) -> Result<Principal, (ErrorCode, String)> {
    let refused = |why: &str| (ErrorCode::SaslAuthenticationFailed, format!("Authentication failed: {why}"));
    let (user, password) = credentials(token).map_err(|why| {
        broker.log_in_refused(origin, None, &why);
        refused(why)
    })?;
    let credentials = Credentials::Password { user, password };
    broker.log_in(origin, credentials).await.map_err(|error| refused(&error.to_string()))
}

/// `[authorization id] NUL user NUL password`
fn credentials(token: &[u8]) -> Result<(&str, &[u8]), &'static str> {
    let mut parts = token.split(|byte| *byte == 0);
    let (Some(authorization), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("expected an authorization id, a user and a password, separated by NUL");
    };
    if user.is_empty() || password.is_empty() {
        return Err("user and password are not empty");
    }
    if !authorization.is_empty() && authorization != user {
        return Err("the client asked for an authorization id that is not its user");
    }
    let user = std::str::from_utf8(user).map_err(|_| "the user is not UTF-8")?;
    Ok((user, password))
}

pub fn response(result: &Result<Principal, (ErrorCode, String)>) -> SaslAuthenticateResponse {
    match result {
        Ok(_) => SaslAuthenticateResponse::default(),
        Err((error_code, why)) => SaslAuthenticateResponse {
            error_code: *error_code,
            error_message: Some(why.as_str().into()),
            ..Default::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tokens() {
        for (token, expect) in [
            (&b"\0guest\0guest"[..], Some(("guest", &b"guest"[..]))),
            (b"guest\0guest\0pass word", Some(("guest", b"pass word"))),
            (b"other\0guest\0guest", None),
            (b"\0guest", None),
            (b"\0guest\0", None),
            (b"\0\0guest", None),
            (b"\0guest\0a\0b", None),
            (b"\0\xff\0a", None),
            (b"", None),
        ] {
            assert_eq!(credentials(token).ok(), expect, "{token:?}");
        }
    }

    #[test]
    fn only_plain_is_agreed_on() {
        let request = |mechanism: &'static str| SaslHandshakeRequest { mechanism: mechanism.into() };
        for (mechanism, version, authenticated, expect) in [
            ("PLAIN", 0, false, (ErrorCode::None, Some(Framing::Bare))),
            ("PLAIN", 1, false, (ErrorCode::None, Some(Framing::Request))),
            ("PLAIN", 1, true, (ErrorCode::IllegalSaslState, None)),
            ("SCRAM-SHA-256", 1, false, (ErrorCode::UnsupportedSaslMechanism, None)),
        ] {
            let (response, framing) = handshake(version, &request(mechanism), authenticated);
            assert_eq!((response.error_code, framing), expect, "{mechanism}");
            assert_eq!(response.mechanisms, ["PLAIN"]);
        }
    }
}
