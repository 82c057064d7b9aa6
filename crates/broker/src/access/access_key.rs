//! Access keys: credentials of programs, of which a user may have several, to exchange one while another is
//! in use. Protocols that sign requests need the secret itself and no hash of it; it is sealed where it is
//! stored.

use crate::{
    Administration, Client, Error,
    access::{
        authentication::{AuthenticationError, Principal, Shown},
        origin::Origin,
    },
    broker::Broker,
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use posthaste_engine::catalog::{AccessKey, CatalogCommand};
use posthaste_model::Name;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a sealing key.
pub const SEALING_KEY_BYTES: usize = 32;

/// The form of what is sealed: this octet, a nonce, and the ciphertext with its tag.
const SEALED_VERSION: u8 = 1;
/// Of an id that the broker makes, as AWS has them.
const ID_PREFIX: &str = "PHAK";
const ID_LENGTH: usize = 20;
/// Of a secret that the broker makes; 40 characters of base64.
const SECRET_BYTES: usize = 30;
const ID_LENGTHS: std::ops::RangeInclusive<usize> = 4..=128;
const SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 4..=256;
/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Seals secrets of access keys, each for its user and id: a sealed secret that was moved to another user is
/// good for nothing.
pub(crate) struct SealingKey(LessSafeKey);

/// An access key as it is shown once.
pub struct NewAccessKey {
    pub key: AccessKey,
    pub secret: Zeroizing<String>,
}

impl SealingKey {
    fn new(bytes: &[u8; SEALING_KEY_BYTES]) -> Option<SealingKey> {
        Some(SealingKey(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?)))
    }

    /// # Errors
    /// The machine has no randomness.
    fn seal(&self, user: &str, id: &str, secret: &str) -> Result<Vec<u8>, String> {
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce)?;
        let mut sealed = secret.as_bytes().to_vec();
        let tag = self.0.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context(user, id)),
            &mut sealed,
        );
        let tag = tag.map_err(|_| "the secret cannot be sealed".to_owned())?;
        Ok([&[SEALED_VERSION], &nonce[..], &sealed, tag.as_ref()].concat())
    }

    /// `None` if it was sealed with another key, for another user or id, or is damaged.
    fn open(&self, user: &str, key: &AccessKey) -> Option<Zeroizing<Vec<u8>>> {
        let (version, rest) = key.sealed_secret.split_first()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *version != SEALED_VERSION {
            return None;
        }
        let mut secret = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.0.open_in_place(nonce, Aad::from(context(user, &key.id)), &mut secret).ok()?.len();
        secret.truncate(length);
        Some(secret)
    }
}

/// Neither a name nor an id has a zero octet.
fn context(user: &str, id: &str) -> Vec<u8> {
    [user.as_bytes(), b"\0", id.as_bytes()].concat()
}

fn fill(bytes: &mut [u8]) -> Result<(), String> {
    getrandom::fill(bytes).map_err(|error| format!("no randomness: {error}"))
}

impl Broker {
    /// Has secrets of access keys sealed with this key from now on. Returns how many of the stored ones it
    /// does not open: no client can use them.
    pub fn set_sealing_key(&self, bytes: &[u8; SEALING_KEY_BYTES]) -> usize {
        if let Some(key) = SealingKey::new(bytes) {
            let _ = self.shared.sealing_key.set(key);
        }
        let catalog = self.catalog();
        let keys = catalog.users().flat_map(|user| user.access_keys.iter().map(|key| (&user.name, key)));
        keys.filter(|(user, key)| self.secret_of(user, key).is_none()).count()
    }

    /// Whether there are any access keys.
    pub fn has_access_keys(&self) -> bool {
        self.catalog().users().any(|user| !user.access_keys.is_empty())
    }

    fn secret_of(&self, user: &str, key: &AccessKey) -> Option<Zeroizing<Vec<u8>>> {
        self.shared.sealing_key.get()?.open(user, key)
    }

    /// The client that shows an access key's id and secret; `None` if there is no such key.
    pub(crate) fn by_access_key(
        &self,
        id: &str,
        secret: &[u8],
        origin: &Origin,
    ) -> Option<Result<Principal, AuthenticationError>> {
        let catalog = self.shared.catalog_now();
        let user = catalog.user_by_access_key(id).filter(|_| catalog.user(id).is_none())?;
        let key = user.access_keys.iter().find(|key| key.id == id)?;
        let Some(right) = self.secret_of(&user.name, key) else {
            return Some(Err(AuthenticationError::UnopenedAccessKey));
        };
        if !bool::from(right.as_slice().ct_eq(secret)) {
            return Some(Err(AuthenticationError::Wrong));
        }
        Some(Principal::admit(user, origin, Shown::AccessKey(key.id.clone())))
    }
}

impl Client {
    /// Gives a user an access key: a new one, or one with this id and secret.
    ///
    /// # Errors
    /// The client may not administer users, there is no such user, it has as many as it may, the id is taken,
    /// or secrets cannot be sealed.
    pub async fn create_access_key(
        &self,
        user: &Name,
        given: Option<(String, String)>,
    ) -> Result<NewAccessKey, Error> {
        self.may_administer(Administration::Users)?;
        let Some(sealing) = self.broker().shared.sealing_key.get() else {
            return Err(Error::Invalid(
                "access keys need a key to seal their secrets with: name a file of 32 random bytes in base64 \
                 as `sealing_key` under [access]"
                    .to_owned(),
            ));
        };
        let (id, secret) = match given {
            Some((id, secret)) => check(id, secret)?,
            None => make().map_err(Error::Invalid)?,
        };
        let sealed_secret = sealing.seal(user, &id, &secret).map_err(Error::Invalid)?;
        let key = AccessKey { id, sealed_secret, created: self.broker().shared.now() };
        let command = CatalogCommand::PutAccessKey { user: user.clone(), key: key.clone() };
        self.broker().shared.change_catalog(command).await?;
        self.note_user("created", "access key", &format!("{user}/{}", key.id));
        Ok(NewAccessKey { key, secret })
    }

    /// Takes an access key from a user. Connections that were opened with it end.
    ///
    /// # Errors
    /// The client may not administer users, or there is no such user or key.
    pub async fn delete_access_key(&self, user: &Name, id: &str) -> Result<(), Error> {
        self.may_administer(Administration::Users)?;
        let command = CatalogCommand::DeleteAccessKey { user: user.clone(), id: id.to_owned() };
        self.broker().shared.change_catalog(command).await?;
        self.note_user("deleted", "access key", &format!("{user}/{id}"));
        Ok(())
    }
}

fn check(id: String, secret: String) -> Result<(String, Zeroizing<String>), Error> {
    let secret = Zeroizing::new(secret);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !ID_LENGTHS.contains(&id.len()) || !id.chars().all(is_plain) {
        let why = "an access key's id has 4 to 128 letters of ASCII, digits, dots, hyphens and underscores";
        return Err(Error::Invalid(why.to_owned()));
    }
    if !SECRET_LENGTHS.contains(&secret.len()) || !secret.chars().all(|c| c.is_ascii_graphic()) {
        let why = "an access key's secret has 4 to 256 printable characters of ASCII, none of them a space";
        return Err(Error::Invalid(why.to_owned()));
    }
    Ok((id, secret))
}

fn make() -> Result<(String, Zeroizing<String>), String> {
    let mut random = [0; ID_LENGTH - ID_PREFIX.len()];
    fill(&mut random)?;
    let letter = |byte: &u8| char::from(BASE32[usize::from(byte % 32)]);
    let id = ID_PREFIX.chars().chain(random.iter().map(letter)).collect();
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    fill(&mut *secret)?;
    Ok((id, Zeroizing::new(STANDARD_NO_PAD.encode(*secret))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::Timestamp;

    #[test]
    fn a_sealed_secret_is_good_for_its_user_and_id_only() {
        let sealing = SealingKey::new(&[7; SEALING_KEY_BYTES]).unwrap();
        let (id, secret) = make().unwrap();
        let sealed_secret = sealing.seal("ann", &id, &secret).unwrap();
        let key = AccessKey { id, sealed_secret, created: Timestamp(0) };
        assert_eq!(sealing.open("ann", &key).unwrap().as_slice(), secret.as_bytes());
        assert!(!key.sealed_secret.windows(secret.len()).any(|part| part == secret.as_bytes()));
        assert!(sealing.open("bob", &key).is_none());
        assert!(sealing.open("ann", &AccessKey { id: "PHAKOTHER".to_owned(), ..key.clone() }).is_none());
        assert!(SealingKey::new(&[8; SEALING_KEY_BYTES]).unwrap().open("ann", &key).is_none());
        for at in 0..key.sealed_secret.len() {
            let mut damaged = key.clone();
            damaged.sealed_secret[at] ^= 1;
            assert!(sealing.open("ann", &damaged).is_none(), "octet {at}");
            damaged.sealed_secret.truncate(at);
            assert!(sealing.open("ann", &damaged).is_none(), "{at} octets");
        }
    }

    #[test]
    fn made_keys_look_like_those_of_aws() {
        let (id, secret) = make().unwrap();
        assert_eq!((id.len(), secret.len()), (20, 40));
        assert!(check(id.clone(), secret.to_string()).is_ok());
        assert_ne!(make().unwrap().0, id);
    }
}
