//! SaslHandshake (17) and SaslAuthenticate (36): PLAIN (RFC 4616), SCRAM-SHA-256 and -512 (RFC 5802, 7677),
//! OAUTHBEARER (RFC 7628, KIP-255).

use posthaste_broker::{
    AuthenticationError, Broker, Credentials, Origin, Principal, ScramExchange, ScramMechanism,
};

use crate::wire::ErrorCode;
use crate::wire::messages::sasl_authenticate::SaslAuthenticateResponse;
use crate::wire::messages::sasl_handshake::{SaslHandshakeRequest, SaslHandshakeResponse};

const PLAIN: &str = "PLAIN";
const OAUTHBEARER: &str = "OAUTHBEARER";
const MECHANISMS: [&str; 3] = [PLAIN, "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// How the mechanism's tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// As frames of their own, after SaslHandshake v0.
    Bare,
    /// Within SaslAuthenticate.
    Request,
}

/// A mechanism that is agreed on, and how far it has come.
pub struct Dialogue {
    pub framing: Framing,
    expects: Expects,
}

enum Expects {
    OAuthBearer,
    Plain,
    ScramFirst(ScramMechanism),
    ScramLast(Box<ScramExchange>),
}

/// The next step after a token.
pub enum Step {
    /// Send this, and wait for the next token.
    Challenge(Dialogue, String),
    /// The client is let in; send this.
    Done(Principal, String),
}

/// A code and a sentence for the client.
pub type Refusal = (ErrorCode, String);

/// No dialogue means that the conversation ends here.
pub fn handshake(
    version: i16,
    request: &SaslHandshakeRequest,
    (authenticated, accepts_tokens): (bool, bool),
) -> (SaslHandshakeResponse, Option<Dialogue>) {
    let expects = match &*request.mechanism {
        PLAIN => Some(Expects::Plain),
        OAUTHBEARER if accepts_tokens => Some(Expects::OAuthBearer),
        name => ScramMechanism::named(name).map(Expects::ScramFirst),
    };
    let framing = if version == 0 { Framing::Bare } else { Framing::Request };
    let (error_code, dialogue) = match expects {
        _ if authenticated => (ErrorCode::IllegalSaslState, None),
        Some(expects) => (ErrorCode::None, Some(Dialogue { framing, expects })),
        None => (ErrorCode::UnsupportedSaslMechanism, None),
    };
    let tokens = accepts_tokens.then_some(OAUTHBEARER);
    let mechanisms = MECHANISMS.into_iter().chain(tokens).map(Into::into).collect();
    (SaslHandshakeResponse { error_code, mechanisms }, dialogue)
}

/// Lets in a client that shows no credentials but a certificate perhaps, if it may.
pub async fn anonymous(broker: &Broker, origin: &Origin) -> Result<Principal, AuthenticationError> {
    broker.log_in(origin, Credentials::Anonymous).await
}

/// Judges a token.
pub async fn authenticate(
    broker: &Broker,
    origin: &Origin,
    dialogue: Dialogue,
    token: &[u8],
) -> Result<Step, Refusal> {
    match dialogue.expects {
        Expects::OAuthBearer => {
            let token = bearer(token).map_err(|why| {
                broker.log_in_refused(origin, None, &why);
                refused(why)
            })?;
            let principal = broker.log_in(origin, Credentials::Token(token)).await;
            Ok(Step::Done(principal.map_err(|error| refused(&error.to_string()))?, String::new()))
        }
        Expects::Plain => {
            let (user, password) = credentials(token).map_err(|why| {
                broker.log_in_refused(origin, None, &why);
                refused(why)
            })?;
            let principal = broker.log_in(origin, Credentials::Password { user, password }).await;
            let principal = principal.map_err(|error| refused(&error.to_string()))?;
            Ok(Step::Done(principal, String::new()))
        }
        Expects::ScramFirst(mechanism) => {
            let (exchange, answer) = broker.begin_scram(origin, mechanism, token).map_err(refused)?;
            let expects = Expects::ScramLast(Box::new(exchange));
            Ok(Step::Challenge(Dialogue { expects, ..dialogue }, answer))
        }
        Expects::ScramLast(exchange) => {
            let finished = broker.finish_scram(origin, &exchange, token).await;
            let (principal, answer) = finished.map_err(|error| refused(&error.to_string()))?;
            Ok(Step::Done(principal, answer))
        }
    }
}

/// `n,[a=authorization id],` and pairs of names and values between octets of value 1 (RFC 7628); the token is
/// in `auth=Bearer TOKEN`.
fn bearer(message: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(message).map_err(|_| "the message is not UTF-8")?;
    let (header, pairs) = text.split_once('\u{1}').ok_or("the message has no pairs of names and values")?;
    if !header.starts_with("n,") {
        return Err("channel binding is not available");
    }
    let auth = pairs.split('\u{1}').find_map(|pair| pair.strip_prefix("auth="));
    let (scheme, token) = auth.and_then(|auth| auth.split_once(' ')).ok_or("the message has no token")?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err("the token is no bearer token") }
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

/// The answer to a client that is not let in.
pub fn refused(why: &str) -> Refusal {
    (ErrorCode::SaslAuthenticationFailed, format!("Authentication failed: {why}"))
}

/// The answer, with how long the client may go on, in milliseconds (KIP-368).
pub fn response(result: &Result<(String, Option<u64>), Refusal>) -> SaslAuthenticateResponse {
    match result {
        Ok((answer, lifetime)) => SaslAuthenticateResponse {
            auth_bytes: answer.clone().into(),
            // 0 would be for ever.
            session_lifetime_ms: lifetime.map_or(0, |ms| i64::try_from(ms).unwrap_or(i64::MAX).max(1)),
            ..Default::default()
        },
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
    fn bearer_tokens() {
        for (message, expect) in [
            (&b"n,,\x01auth=Bearer a.b.c\x01\x01"[..], Some("a.b.c")),
            (b"n,a=ann,\x01host=x\x01auth=bearer a.b.c\x01\x01", Some("a.b.c")),
            (b"p=tls-unique,,\x01auth=Bearer a.b.c\x01\x01", None),
            (b"n,,\x01auth=Basic a\x01\x01", None),
            (b"n,,\x01\x01", None),
            (b"n,,", None),
            (b"\xff", None),
        ] {
            assert_eq!(bearer(message).ok(), expect, "{message:?}");
        }
    }

    #[test]
    fn mechanisms_that_are_agreed_on() {
        let request = |mechanism: &'static str| SaslHandshakeRequest { mechanism: mechanism.into() };
        for (mechanism, version, authenticated, expect) in [
            ("PLAIN", 0, false, (ErrorCode::None, Some(Framing::Bare))),
            ("PLAIN", 1, false, (ErrorCode::None, Some(Framing::Request))),
            ("PLAIN", 1, true, (ErrorCode::IllegalSaslState, None)),
            ("SCRAM-SHA-256", 1, false, (ErrorCode::None, Some(Framing::Request))),
            ("SCRAM-SHA-512", 0, false, (ErrorCode::None, Some(Framing::Bare))),
            ("SCRAM-SHA-1", 1, false, (ErrorCode::UnsupportedSaslMechanism, None)),
        ] {
            let (response, dialogue) = handshake(version, &request(mechanism), (authenticated, false));
            let framing = dialogue.map(|dialogue| dialogue.framing);
            assert_eq!((response.error_code, framing), expect, "{mechanism}");
            assert_eq!(response.mechanisms, MECHANISMS);
        }
    }
}
