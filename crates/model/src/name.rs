//! Names of namespaces, topics, queues, exchanges, users and groups.

use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

/// A name: 1 to 255 bytes of UTF-8 without control characters. Cheap to clone.
///
/// The empty name is not a `Name`; where a protocol gives the empty name a meaning (the default
/// exchange, a server-named queue), its adapter translates it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    ControlCharacter,
    Empty,
    TooLong,
}

impl Name {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 255;

    pub fn new(text: &str) -> Result<Name, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Name::BYTES_MAX {
            return Err(NameError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        Ok(Name(text.into()))
    }

    /// A name written in the program itself, such as the bus exchange's. Not for peer input: it is not checked.
    pub fn constant(text: &'static str) -> Name {
        Name(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::ControlCharacter => "a name has no control characters",
            NameError::Empty => "a name is not empty",
            NameError::TooLong => "a name has at most 255 bytes",
        })
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        for (text, expect) in [
            ("orders", Ok(())),
            ("bestellungen-für-münchen", Ok(())),
            ("", Err(NameError::Empty)),
            ("a\nb", Err(NameError::ControlCharacter)),
            ("a\0b", Err(NameError::ControlCharacter)),
        ] {
            assert_eq!(Name::new(text).map(|_| ()), expect, "{text:?}");
        }
        assert!(Name::new(&"x".repeat(255)).is_ok());
        assert_eq!(Name::new(&"x".repeat(256)), Err(NameError::TooLong));
    }
}
