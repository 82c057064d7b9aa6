//! Who asks: HTTP Basic or Bearer, and what a web page in somebody's browser may not do.

use crate::failure::Failure;
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, HOST, ORIGIN},
};
use posthaste_broker::{AuthenticationError, Broker, Credentials, Origin, Principal};
use std::net::{IpAddr, SocketAddr};

/// Refuses what a web page in somebody's browser asks for, whatever it is: a page of another origin, and one
/// that its own name server has moved to this machine (DNS rebinding). Other programs send none of this.
///
/// # Errors
/// 403.
pub fn check_origin(broker: &Broker, headers: &HeaderMap, is_local: bool) -> Result<(), Failure> {
    let from = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if from.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return Err(foreign("requests of web pages from other origins are not answered"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().map_or(Some(""), |host| host.to_str().ok());
    let Some(host) = host.filter(|_| hosts.next().is_none()) else {
        return Err(foreign("a request names one host"));
    };
    for origin in headers.get_all(ORIGIN) {
        if origin.to_str().ok().and_then(|o| o.split_once("://")).is_none_or(|(_, from)| from != host) {
            return Err(foreign("requests of web pages from other origins are not answered"));
        }
    }
    // A browser on this machine is a neighbour that anybody's page can make speak; from elsewhere a name says
    // nothing that the credentials do not say better.
    if !is_local || names_this_machine(host) {
        return Ok(());
    }
    let advertised = broker.peers_address("http");
    if advertised.is_some_and(|advertised| name_of(&advertised).eq_ignore_ascii_case(name_of(host))) {
        return Ok(());
    }
    Err(foreign(
        "address the broker as localhost, by its IP address, or by the name that `[advertise] http` gives it",
    ))
}

/// Finds out who asks.
///
/// # Errors
/// 401 for wrong credentials or none from another machine.
pub async fn authenticate(
    broker: &Broker,
    headers: &HeaderMap,
    origin: &Origin,
) -> Result<Principal, Failure> {
    let Some(given) = headers.get(AUTHORIZATION) else {
        return Ok(broker.log_in(origin, Credentials::Anonymous).await?);
    };
    if let Some(token) = given.to_str().ok().and_then(bearer) {
        return Ok(broker.log_in(origin, Credentials::Token(token)).await?);
    }
    let Some((user, password)) = given.to_str().ok().and_then(basic) else {
        let why =
            "the header Authorization is neither `Basic` with user and password nor `Bearer` with a token";
        broker.log_in_refused(origin, None, &why);
        return Err(AuthenticationError::Wrong.into());
    };
    Ok(broker.log_in(origin, Credentials::Password { user: &user, password: &password }).await?)
}

fn foreign(message: &str) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "foreign_origin", message)
}

/// The token of RFC 6750: `Bearer` and the token.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
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
    let bare = name_of(host);
    let bracketed = bare.strip_prefix('[').and_then(|b| b.strip_suffix(']'));
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || bracketed.is_some_and(|b| b.parse::<IpAddr>().is_ok())
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(name, _)| name)
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
    fn bearer_tokens() {
        for (value, expect) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  a.b.c ", Some("a.b.c")),
            ("Basic a.b.c", None),
            ("Bearer", None),
        ] {
            assert_eq!(bearer(value), expect, "{value}");
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
