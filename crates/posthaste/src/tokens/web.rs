//! Keys of an issuer that are fetched from its server (`jwks_uri` of OpenID Connect Discovery).

use std::{fs, net::IpAddr, path::Path, time::Duration};
use ureq::{
    Agent,
    http::Uri,
    tls::{Certificate, RootCerts, TlsConfig},
};

/// A log-in may wait for it.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where a JWK set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Uri);

impl Address {
    /// `None` if the text is no address of the web, but a path.
    ///
    /// # Errors
    /// Keys would come over a network without TLS, or it is no address after all.
    pub fn read(text: &str) -> Option<Result<Address, String>> {
        let is_plain = text.starts_with("http://");
        if !is_plain && !text.starts_with("https://") {
            return None;
        }
        let Ok(address) = text.parse::<Uri>() else {
            return Some(Err(format!("'{text}' is no address of a JWK set")));
        };
        let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback());
        Some(match is_plain && !is_here {
            true => Err(format!("'{text}': keys from another machine come by https only")),
            false => Ok(Address(address)),
        })
    }

    /// Fetches the set, each time anew. It follows no redirection: the keys are as trusted as this address.
    ///
    /// # Errors
    /// The authority's file cannot be used.
    pub fn fetcher(
        &self,
        authority: Option<&Path>,
        bytes_max: u64,
    ) -> Result<impl Fn() -> Result<Vec<u8>, String> + Send + Sync + use<>, String> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = authority {
            let bad = |why: String| format!("`keys_authority` {}: {why}", path.display());
            let pem = fs::read(path).map_err(|error| bad(error.to_string()))?;
            let certificate = Certificate::from_pem(&pem).map_err(|error| bad(error.to_string()))?;
            tls = tls.root_certs(RootCerts::new_with_certs(&[certificate]));
        }
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0);
        let agent = config.tls_config(tls.build()).build().new_agent();
        let address = self.0.clone();
        Ok(move || {
            let told = |error: ureq::Error| format!("cannot fetch the keys from {address}: {error}");
            let answer = agent.get(&address).call().map_err(told)?;
            if !answer.status().is_success() {
                return Err(format!("cannot fetch the keys from {address}: it answers {}", answer.status()));
            }
            answer.into_body().into_with_config().limit(bytes_max).read_to_vec().map_err(told)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    #[test]
    fn addresses_and_paths() {
        for (text, is_address) in [
            ("/etc/keys.jwks", None),
            ("keys.pem", None),
            ("https://id.example/keys", Some(true)),
            ("http://id.example/keys", Some(false)),
            ("http://127.0.0.1:8080/keys", Some(true)),
            ("http://[::1]/keys", Some(true)),
            ("http://localhost/keys", Some(true)),
            ("http://localhost.example/keys", Some(false)),
            ("https://a b", Some(false)),
        ] {
            assert_eq!(Address::read(text).map(|read| read.is_ok()), is_address, "{text}");
        }
    }

    /// A server that gives each connection one answer.
    fn serve(answers: Vec<String>) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/keys", listener.local_addr().unwrap());
        thread::spawn(move || {
            for answer in answers {
                let (mut connection, _) = listener.accept().unwrap();
                let _ = connection.read(&mut [0; 4096]).unwrap();
                connection.write_all(answer.as_bytes()).unwrap();
            }
        });
        Address::read(&address).unwrap().unwrap()
    }

    #[test]
    fn a_set_is_fetched_and_nothing_else_is_followed_or_swallowed() {
        let answer = |status: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        };
        let elsewhere = "302 Found\r\nlocation: http://127.0.0.1:1/other";
        let address = serve(vec![
            answer("200 OK", "{\"keys\": []}"),
            answer("404 Not Found", "gone"),
            answer(elsewhere, ""),
            answer("200 OK", &"x".repeat(101)),
        ]);
        let fetch = address.fetcher(None, 100).unwrap();
        assert_eq!(fetch(), Ok(b"{\"keys\": []}".to_vec()));
        for why in ["404", "302", "limit"] {
            let error = fetch().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
