//! SCRAM (RFC 5802, 7677): a client proves that it knows a password without saying it.
//!
//! Without channel binding, and with the password's bytes as they are, as the clients that we know send them.

use base64::{Engine, engine::general_purpose::STANDARD};
use posthaste_engine::catalog::{Password, ScramVerifier};
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use subtle::ConstantTimeEq;

/// Rounds of what is derived here.
pub(crate) const ITERATIONS: u32 = 8_192;
/// Bytes of one message of a client.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// Random bytes of this side's nonce.
const NONCE_BYTES: usize = 24;
const SALT_BYTES: usize = 16;

/// Which hash the two sides use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Sha256,
    Sha512,
}

/// A conversation after the client's first message.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    user: String,
    /// The client's word about channel binding.
    header: String,
    /// The first two messages, as the proof covers them.
    said: String,
    nonce: String,
    /// Bytes of the client's part of it.
    clients: usize,
    verifier: ScramVerifier,
    /// Whether it stands for a password that somebody knows.
    is_real: bool,
}

impl Mechanism {
    /// By its name.
    pub fn named(name: &str) -> Option<Mechanism> {
        [Mechanism::Sha256, Mechanism::Sha512].into_iter().find(|mechanism| mechanism.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Sha256 => "SCRAM-SHA-256",
            Mechanism::Sha512 => "SCRAM-SHA-512",
        }
    }

    pub(crate) fn verifier(self, password: &Password) -> Option<&ScramVerifier> {
        match self {
            Mechanism::Sha256 => password.scram_sha_256.as_ref(),
            Mechanism::Sha512 => password.scram_sha_512.as_ref(),
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Mechanism::Sha256 => &digest::SHA256,
            Mechanism::Sha512 => &digest::SHA512,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Mechanism::Sha256 => hmac::HMAC_SHA256,
            Mechanism::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Mechanism::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Mechanism::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }

    fn sign(self, key: &[u8], text: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(self.hmac(), key), text)
    }
}

/// The part of a password that a server keeps.
pub(crate) fn verifier(mechanism: Mechanism, password: &[u8], salt: &[u8], iterations: u32) -> ScramVerifier {
    let mut salted = vec![0; mechanism.digest().output_len()];
    let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(mechanism.pbkdf2(), rounds, salt, password, &mut salted);
    let client_key = mechanism.sign(&salted, b"Client Key");
    ScramVerifier {
        salt: salt.to_vec(),
        iterations,
        stored_key: digest::digest(mechanism.digest(), client_key.as_ref()).as_ref().to_vec(),
        server_key: mechanism.sign(&salted, b"Server Key").as_ref().to_vec(),
    }
}

/// Whether a password is the one that a verifier was made of.
pub(crate) fn is_password(mechanism: Mechanism, known: &ScramVerifier, password: &[u8]) -> bool {
    let made = verifier(mechanism, password, &known.salt, known.iterations);
    made.stored_key.ct_eq(&known.stored_key).into()
}

/// Shown to a client that names no user: the same each time, and nothing that helps.
fn decoy(mechanism: Mechanism, user: &str, key: &[u8]) -> ScramVerifier {
    let salt = mechanism.sign(key, user.as_bytes()).as_ref()[..SALT_BYTES].to_vec();
    let nothing = vec![0; mechanism.digest().output_len()];
    ScramVerifier { salt, iterations: ITERATIONS, stored_key: nothing.clone(), server_key: nothing }
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst<'a> {
    pub user: String,
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// # Errors
    /// Says what is wrong with the message.
    pub fn read(message: &'a [u8]) -> Result<ClientFirst<'a>, &'static str> {
        let text = text(message)?;
        let mut parts = text.splitn(3, ',');
        let (Some(binding), Some(acting_for), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("the first message has too few parts");
        };
        if !matches!(binding, "n" | "y") {
            return Err("channel binding is not available");
        }
        let header = &text[..text.len() - bare.len()];
        let mut attributes = bare.split(',');
        let named = attributes.next().and_then(|part| part.strip_prefix("n="));
        let user = named.and_then(unescaped).filter(|user| !user.is_empty());
        let user = user.ok_or("the first message names no user")?;
        let nonce =
            attributes.next().and_then(|part| part.strip_prefix("r=")).filter(|nonce| !nonce.is_empty());
        let nonce = nonce.ok_or("the first message has no nonce")?;
        let acting_for = acting_for.strip_prefix("a=").map_or(Some(String::new()), unescaped);
        if acting_for.is_none_or(|name| !name.is_empty() && name != user) {
            return Err("the client asked for an authorization id that is not its user");
        }
        Ok(ClientFirst { user, header, bare, nonce })
    }
}

impl Exchange {
    /// Goes on after the client's first message: with the user's verifier, or as if it had one. `random` is
    /// this side's nonce, `key` of this run. Returns the answer, too.
    pub(crate) fn begin(
        mechanism: Mechanism,
        first: ClientFirst<'_>,
        verifier: Option<ScramVerifier>,
        key: &[u8],
        random: [u8; NONCE_BYTES],
    ) -> (Exchange, String) {
        let is_real = verifier.is_some();
        let verifier = verifier.unwrap_or_else(|| decoy(mechanism, &first.user, key));
        let nonce = format!("{}{}", first.nonce, STANDARD.encode(random));
        let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let said = format!("{},{answer}", first.bare);
        let header = first.header.to_owned();
        let clients = first.nonce.len();
        (Exchange { mechanism, user: first.user, header, said, nonce, clients, verifier, is_real }, answer)
    }

    /// The user that the client says it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether the verifier that this began with is the user's still.
    pub(crate) fn is_of(&self, password: &Password) -> bool {
        self.mechanism.verifier(password) == Some(&self.verifier)
    }

    /// Whether it is the whole nonce. Some clients say their own part twice (docs/security.md), which proves
    /// as much: the proof covers what they say.
    fn is_echo(&self, nonce: &str) -> bool {
        let own = self.nonce.get(..self.clients).unwrap_or_default();
        nonce == self.nonce || nonce.strip_prefix(own) == Some(&self.nonce)
    }

    /// Judges the client's last message; the answer if it was right.
    pub(crate) fn finish(&self, message: &[u8]) -> Option<String> {
        let text = text(message).ok()?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut parts = without_proof.split(',');
        let header = STANDARD.decode(parts.next()?.strip_prefix("c=")?).ok()?;
        if header != self.header.as_bytes() || !self.is_echo(parts.next()?.strip_prefix("r=")?) {
            return None;
        }
        let covered = format!("{},{without_proof}", self.said);
        let signature = self.mechanism.sign(&self.verifier.stored_key, covered.as_bytes());
        let proof = STANDARD.decode(proof).ok().filter(|proof| proof.len() == signature.as_ref().len())?;
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let stored_key = digest::digest(self.mechanism.digest(), &client_key);
        let is_right: bool = stored_key.as_ref().ct_eq(&self.verifier.stored_key).into();
        let signature = self.mechanism.sign(&self.verifier.server_key, covered.as_bytes());
        (is_right && self.is_real).then(|| format!("v={}", STANDARD.encode(signature)))
    }
}

/// This side's nonce.
pub(crate) fn nonce() -> Option<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).ok().map(|()| nonce)
}

fn text(message: &[u8]) -> Result<&str, &'static str> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err("the message is too long");
    }
    std::str::from_utf8(message).map_err(|_| "the message is not UTF-8")
}

/// `=2C` and `=3D` are a comma and an equals sign; no other stands alone.
fn unescaped(text: &str) -> Option<String> {
    let without = text.replace("=2C", "").replace("=3D", "");
    (!without.contains('=')).then(|| text.replace("=2C", ",").replace("=3D", "="))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &[u8] = b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81";

    /// The conversation of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_specification() {
        let known = verifier(Mechanism::Sha256, b"pencil", SALT, 4_096);
        let first = ClientFirst::read(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let (mut exchange, _) = Exchange::begin(Mechanism::Sha256, first, Some(known), b"", [0; NONCE_BYTES]);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        exchange.nonce = nonce.to_owned();
        exchange.said = format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let last = format!("c=biws,r={nonce},p={proof}");
        let answer = exchange.finish(last.as_bytes());
        assert_eq!(answer.as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        for wrong in [
            format!("c=eSws,r={nonce},p={proof}"),
            format!("c=biws,r={nonce}x,p={proof}"),
            format!("c=biws,r={nonce},p=AAAA"),
            format!("c=biws,r={nonce}"),
            String::new(),
        ] {
            assert_eq!(exchange.finish(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_client_may_say_its_own_nonce_twice() {
        let known = verifier(Mechanism::Sha256, b"pencil", SALT, 4_096);
        let mut salted = [0; 32];
        let rounds = NonZeroU32::new(4_096).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, SALT, b"pencil", &mut salted);
        let client_key = Mechanism::Sha256.sign(&salted, b"Client Key");
        let first = ClientFirst::read(b"n,,n=user,r=own").unwrap();
        let (exchange, _) = Exchange::begin(Mechanism::Sha256, first, Some(known), b"", [7; NONCE_BYTES]);
        for (before, is_right) in [("", true), ("own", true), ("ow", false), ("ownown", false), ("x", false)]
        {
            let without_proof = format!("c=biws,r={before}{}", exchange.nonce);
            let covered = format!("{},{without_proof}", exchange.said);
            let signature = Mechanism::Sha256.sign(&exchange.verifier.stored_key, covered.as_bytes());
            let proof: Vec<u8> =
                client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
            let last = format!("{without_proof},p={}", STANDARD.encode(proof));
            assert_eq!(exchange.finish(last.as_bytes()).is_some(), is_right, "{before:?} before the nonce");
        }
    }

    #[test]
    fn nobody_proves_anything_for_a_user_that_is_not_there() {
        for mechanism in [Mechanism::Sha256, Mechanism::Sha512] {
            let begin = |user: &str| {
                let message = format!("n,,n={user},r=abc");
                let first = ClientFirst::read(message.as_bytes()).unwrap();
                Exchange::begin(mechanism, first, None, b"key", [7; NONCE_BYTES])
            };
            let (exchange, answer) = begin("eve");
            assert_eq!(answer, begin("eve").1, "the salt gives nothing away");
            assert_ne!(answer, begin("bob").1);
            // A client that knows what the decoy is made of is not let in either.
            let last = format!("c=biws,r={}", exchange.nonce);
            let covered = format!("{},{last}", exchange.said);
            let proof = mechanism.sign(&exchange.verifier.stored_key, covered.as_bytes());
            let last = format!("{last},p={}", STANDARD.encode(proof));
            assert_eq!(exchange.finish(last.as_bytes()), None);
        }
    }

    #[test]
    fn first_messages() {
        for (message, user) in [
            ("n,,n=user,r=abc", Some("user")),
            ("y,,n=user,r=abc", Some("user")),
            ("n,a=user,n=user,r=abc", Some("user")),
            ("n,,n=a=2Cb=3D,r=abc", Some("a,b=")),
            ("n,,n=user,r=abc,tokenauth=true", Some("user")),
            ("p=tls-unique,,n=user,r=abc", None),
            ("n,a=other,n=user,r=abc", None),
            ("n,,m=x,n=user,r=abc", None),
            ("n,,n=us=er,r=abc", None),
            ("n,,n=,r=abc", None),
            ("n,,n=user,r=", None),
            ("n,,n=user", None),
            ("", None),
        ] {
            let read = ClientFirst::read(message.as_bytes()).ok().map(|first| first.user);
            assert_eq!(read.as_deref(), user, "{message}");
        }
        assert!(ClientFirst::read(b"n,,n=\xff,r=a").is_err());
    }
}
