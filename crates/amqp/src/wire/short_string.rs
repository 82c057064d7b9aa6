//! Short strings: up to 255 octets, meant to be UTF-8 but not checked by RabbitMQ, so kept as octets.

use std::borrow::Borrow;
use std::fmt;
use std::str::Utf8Error;

use bytes::Bytes;

/// A short string of the wire: 0 to 255 octets of any value (AMQP 4.2.5.3).
///
/// One that was decoded is a slice of the read buffer and keeps that buffer alive; see
/// [`ShortString::detached`].
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortString(Bytes);

/// More than 255 octets do not fit a short string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{octets} octets do not fit a short string of at most 255")]
pub struct ShortStringTooLong {
    pub octets: usize,
}

impl ShortString {
    pub const OCTETS_MAX: usize = 255;

    /// # Errors
    /// More than 255 octets.
    pub fn new(octets: impl Into<Bytes>) -> Result<Self, ShortStringTooLong> {
        let octets = octets.into();
        match octets.len() <= Self::OCTETS_MAX {
            true => Ok(Self(octets)),
            false => Err(ShortStringTooLong { octets: octets.len() }),
        }
    }

    /// For literals. Panics above 255 octets; in a constant, that is a compile error.
    pub const fn from_static(text: &'static str) -> Self {
        assert!(text.len() <= Self::OCTETS_MAX);
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// The longest prefix of `text` that fits and ends at a character boundary.
    pub fn truncated(text: &str) -> Self {
        Self(Bytes::copy_from_slice(&text.as_bytes()[..text.floor_char_boundary(Self::OCTETS_MAX)]))
    }

    /// A copy that does not keep the read buffer alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// # Errors
    /// The octets are not UTF-8.
    pub fn as_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0)
    }

    pub fn as_short_str(&self) -> ShortStr<'_> {
        ShortStr(&self.0)
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `octets` was read behind a length octet, or is otherwise known to fit.
    pub(super) fn from_wire(octets: Bytes) -> Self {
        debug_assert!(octets.len() <= Self::OCTETS_MAX);
        Self(octets)
    }
}

impl fmt::Debug for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// Octets that are not UTF-8 show as U+FFFD.
impl fmt::Display for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl AsRef<[u8]> for ShortString {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for ShortString {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for ShortString {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for ShortString {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl TryFrom<&str> for ShortString {
    type Error = ShortStringTooLong;

    fn try_from(text: &str) -> Result<Self, ShortStringTooLong> {
        ShortStr::new(text.as_bytes()).map(ShortStr::to_short_string)
    }
}

impl TryFrom<String> for ShortString {
    type Error = ShortStringTooLong;

    fn try_from(text: String) -> Result<Self, ShortStringTooLong> {
        Self::new(text)
    }
}

/// A borrowed [`ShortString`], for encoding from whatever holds the octets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShortStr<'a>(&'a [u8]);

impl<'a> ShortStr<'a> {
    /// # Errors
    /// More than 255 octets.
    pub fn new(octets: &'a [u8]) -> Result<Self, ShortStringTooLong> {
        match octets.len() <= ShortString::OCTETS_MAX {
            true => Ok(Self(octets)),
            false => Err(ShortStringTooLong { octets: octets.len() }),
        }
    }

    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// # Errors
    /// The octets are not UTF-8.
    pub fn as_str(self) -> Result<&'a str, Utf8Error> {
        std::str::from_utf8(self.0)
    }

    pub fn to_short_string(self) -> ShortString {
        ShortString(Bytes::copy_from_slice(self.0))
    }

    /// `octets` was read behind a length octet.
    pub(super) fn from_wire(octets: &'a [u8]) -> Self {
        debug_assert!(octets.len() <= ShortString::OCTETS_MAX);
        Self(octets)
    }
}

impl<'a> From<&'a ShortString> for ShortStr<'a> {
    fn from(string: &'a ShortString) -> Self {
        string.as_short_str()
    }
}
