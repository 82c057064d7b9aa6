//! Who asks: HTTP Basic, and what a web page in somebody's browser may not do.

use crate::failure::Failure;
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, HOST, ORIGIN},
};
use posthaste_broker::{AuthenticationError, Broker, Credentials, Principal};
use std::net::{IpAddr, SocketAddr};

/// Finds out who asks.
///
/// # Errors
/// 401 for wrong credentials or none from another machine; 403 for a web page of another origin, and for a request
/// without credentials that names this machine by a name that a stranger's DNS may have given it.
pub async fn authenticate(
    broker: &Broker,
    headers: &HeaderMap,
    peer: SocketAddr,
) -> Result<Principal, Failure> {
    let host = headers.get(HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if let Some(origin) = headers.get(ORIGIN)
        && origin.to_str().ok().and_then(|o| o.split_once("://")).is_none_or(|(_, from)| from != host)
    {
        return Err(foreign("requests of web pages from other origins are not answered"));
    }
    let Some(given) = headers.get(AUTHORIZATION) else {
        if !names_this_machine(host) {
            return Err(foreign("without credentials, address the broker as localhost or by its IP address"));
        }
        return Ok(broker.authenticate(Credentials::Anonymous, peer.ip()).await?);
    };
    let (user, password) = given.to_str().ok().and_then(basic).ok_or(AuthenticationError::Wrong)?;
    Ok(broker.authenticate(Credentials::Password { user: &user, password: &password }, peer.ip()).await?)
}

fn foreign(message: &str) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "foreign_origin", message)
}

/// The credentials of RFC 7617: `Basic` and base64 of `user:password`.
fn basic(value: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|b| *b == b':')?;
    let user = std::str::from_utf8(decoded.get(..colon)?).ok()?.to_owned();
    Some((user, decoded.get(colon + 1..)?.to_vec()))
}

/// True for `localhost`, for addresses, and for HTTP/1.0 clients that name nothing.
fn names_this_machine(host: &str) -> bool {
    if host.is_empty() || host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let bracketed = bare.strip_prefix('[').and_then(|b| b.strip_suffix(']'));
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || bracketed.is_some_and(|b| b.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials() {
        let pair = |user: &str, password: &[u8]| Some((user.to_owned(), password.to_vec()));
        for (value, expect) in [
            ("Basic Z3Vlc3Q6Z3Vlc3Q=", pair("guest", b"guest")),
            ("basic YTpiOmM=", pair("a", b"b:c")),
            ("Basic OnA=", pair("", b"p")),
            ("Basic Z3Vlc3Q=", None),
            ("Basic !!!", None),
            ("Bearer Z3Vlc3Q6Z3Vlc3Q=", None),
            ("Basic", None),
        ] {
            assert_eq!(basic(value), expect, "{value}");
        }
    }

    #[test]
    fn names_of_this_machine() {
        for (host, expect) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("", true),
            ("evil.example", false),
            ("evil.example:8080", false),
            ("localhost.evil.example:8080", false),
        ] {
            assert_eq!(names_this_machine(host), expect, "{host}");
        }
    }
}
