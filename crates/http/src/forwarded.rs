//! Whose a request is when a proxy passes it on: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Only the header that the operator's proxies write is read, and only from them: a proxy leaves the other
//! one as the client wrote it.

use hyper::HeaderMap;
use posthaste_broker::Origin;
use posthaste_net::Networks;
use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

/// Proxies that tell in a header whose a request is; by default none.
#[derive(Clone, Debug, Default)]
pub struct Forwarders {
    pub trusted: Networks,
    pub header: ForwardingHeader,
}

/// The header that they write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardingHeader {
    Forwarded,
    #[default]
    XForwardedFor,
}

impl Forwarders {
    /// The origin of a request on a connection that comes from `origin`. A request that a trusted proxy
    /// passes on, or makes itself, is never of this machine, and a certificate is the proxy's.
    pub fn origin<'o>(&self, origin: &'o Origin, headers: &HeaderMap) -> Cow<'o, Origin> {
        if !self.trusted.contains(origin.peer.ip()) {
            return Cow::Borrowed(origin);
        }
        let peer = self.client(origin.peer, headers);
        Cow::Owned(Origin { peer, is_local: false, certificate: None, ..origin.clone() })
    }

    /// The last one that is no proxy, as far as proxies tell.
    fn client(&self, proxy: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let mut client = proxy;
        for told in self.told(headers).into_iter().rev() {
            // Behind this proxy nothing is known.
            let Some(address) = told else { break };
            client = address;
            if !self.trusted.contains(address.ip()) {
                break;
            }
        }
        client
    }

    /// The addresses in the header, the nearest last; none for what names no address.
    fn told(&self, headers: &HeaderMap) -> Vec<Option<SocketAddr>> {
        let name = match self.header {
            ForwardingHeader::Forwarded => "forwarded",
            ForwardingHeader::XForwardedFor => "x-forwarded-for",
        };
        let parts = |value: &str| value.split(',').map(|part| self.address(part.trim())).collect::<Vec<_>>();
        let values = headers.get_all(name).into_iter();
        values.flat_map(|value| value.to_str().map_or_else(|_| vec![None], parts)).collect()
    }

    fn address(&self, part: &str) -> Option<SocketAddr> {
        let node = match self.header {
            ForwardingHeader::XForwardedFor => part,
            ForwardingHeader::Forwarded => part.split(';').find_map(|pair| {
                let (key, value) = pair.trim().split_once('=')?;
                key.eq_ignore_ascii_case("for").then_some(value)
            })?,
        };
        let node = node.trim_matches('"');
        let bracketed = || node.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
        let address = node.parse::<IpAddr>().ok().or_else(bracketed);
        address.map(|address| SocketAddr::new(address, 0)).or_else(|| node.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn check(header: ForwardingHeader, lines: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "127.0.0.1"].map(|text| text.parse().unwrap());
        let forwarders = Forwarders { trusted: Networks::new(trusted), header };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        forwarders.client("127.0.0.1:5".parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_last_address_that_is_no_proxys() {
        use ForwardingHeader::{Forwarded, XForwardedFor};
        const X: &str = "x-forwarded-for";
        for (header, lines, expect) in [
            (XForwardedFor, &[][..], "127.0.0.1:5"),
            (XForwardedFor, &[(X, "203.0.113.5")], "203.0.113.5:0"),
            (XForwardedFor, &[(X, "127.0.0.1, 203.0.113.5")], "203.0.113.5:0"),
            (XForwardedFor, &[(X, "198.51.100.1"), (X, "203.0.113.5, 10.1.1.1")], "203.0.113.5:0"),
            (XForwardedFor, &[(X, "203.0.113.5:4711")], "203.0.113.5:4711"),
            (XForwardedFor, &[(X, "2001:db8::1")], "[2001:db8::1]:0"),
            (XForwardedFor, &[(X, "203.0.113.5, unknown, 10.1.1.1")], "10.1.1.1:0"),
            (XForwardedFor, &[("forwarded", "for=203.0.113.5")], "127.0.0.1:5"),
            (Forwarded, &[(X, "203.0.113.5")], "127.0.0.1:5"),
            (Forwarded, &[("forwarded", "For=203.0.113.5;proto=http;by=10.0.0.1")], "203.0.113.5:0"),
            (Forwarded, &[("forwarded", "for=\"[2001:db8::1]:4711\"")], "[2001:db8::1]:4711"),
            (Forwarded, &[("forwarded", "for=\"[2001:db8::1]\"")], "[2001:db8::1]:0"),
            (
                Forwarded,
                &[("forwarded", "for=\"203.0.113.7, for=203.0.113.5, for=10.0.0.9")],
                "203.0.113.5:0",
            ),
            (Forwarded, &[("forwarded", "for=203.0.113.5, for=_hidden")], "127.0.0.1:5"),
            (Forwarded, &[("forwarded", "proto=https")], "127.0.0.1:5"),
        ] {
            assert_eq!(check(header, lines), expect, "{lines:?}");
        }
    }
}
