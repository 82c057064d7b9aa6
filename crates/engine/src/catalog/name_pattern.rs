//! Patterns of names in permissions.
//!
//! `%u` stands for the user's name, `%c` for what the client calls itself, `%%` for a percent sign: in globs
//! and regular expressions, not where every name is meant to be writable as it is. The text put in for
//! them is never a pattern.

use super::permission::Asker;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt,
    sync::{Arc, OnceLock, RwLock},
};

/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// Memory that one compiled expression may take, in bytes.
const COMPILED_BYTES_MAX: usize = 256 << 10;
/// Askers for whom an expression that depends on them is kept compiled.
const COMPILED_MAX: usize = 64;

/// Which names are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamePattern {
    /// `*` stands for any text.
    Glob(String),
    /// This name alone.
    Literal(String),
    /// Every name that begins so.
    Prefix(String),
    /// A regular expression that matches some part of the name.
    Regex(Expression),
}

/// A regular expression, compiled when it is first asked. Equal to another by its text.
#[derive(Clone)]
pub struct Expression {
    text: String,
    /// None for one that does not compile.
    compiled: OnceLock<Option<Regex>>,
    /// Those that depend on the asker.
    filled_in: Arc<RwLock<Vec<FilledIn>>>,
}

struct FilledIn {
    user: String,
    client: Option<String>,
    compiled: Option<Regex>,
}

impl NamePattern {
    /// Every name.
    pub fn any() -> NamePattern {
        NamePattern::Glob("*".to_owned())
    }

    pub fn glob(text: impl Into<String>) -> NamePattern {
        NamePattern::Glob(text.into())
    }

    /// # Errors
    /// Says what is wrong with the expression.
    pub fn regex(text: impl Into<String>) -> Result<NamePattern, String> {
        Expression::new(text.into()).map(NamePattern::Regex)
    }

    /// As written.
    pub fn text(&self) -> &str {
        match self {
            NamePattern::Glob(text) | NamePattern::Literal(text) | NamePattern::Prefix(text) => text,
            NamePattern::Regex(expression) => &expression.text,
        }
    }

    /// Whether it matches; `None` when that cannot be found out.
    pub(super) fn matches(&self, text: &str, asker: &Asker<'_>) -> Option<bool> {
        match self {
            NamePattern::Glob(pattern) => Some(glob(pattern, text, asker)),
            NamePattern::Literal(name) => Some(name == text),
            NamePattern::Prefix(prefix) => Some(text.starts_with(prefix.as_str())),
            NamePattern::Regex(expression) => expression.matches(text, asker),
        }
    }
}

impl Expression {
    fn new(text: String) -> Result<Expression, String> {
        // Also with names filled in it has to be one.
        let expression = Expression::unchecked(text);
        let sample = Asker { user: "user", client: Some("client"), from: None };
        let filled = fill_in(&expression.text, &sample).unwrap_or_default();
        compile(&filled).map_err(|why| format!("'{}' is no regular expression: {why}", expression.text))?;
        Ok(expression)
    }

    fn unchecked(text: String) -> Expression {
        Expression { text, compiled: OnceLock::new(), filled_in: Arc::default() }
    }

    fn matches(&self, text: &str, asker: &Asker<'_>) -> Option<bool> {
        if !self.text.contains('%') {
            let compiled = self.compiled.get_or_init(|| compile(&self.text).ok());
            return compiled.as_ref().map(|regex| regex.is_match(text));
        }
        let Some(filled) = fill_in_kept(self, asker) else { return Some(false) };
        filled.map(|regex| regex.is_match(text))
    }
}

/// The expression for this asker; none at all when it wants to know what the asker has not said.
fn fill_in_kept(expression: &Expression, asker: &Asker<'_>) -> Option<Option<Regex>> {
    let is_this = |one: &&FilledIn| one.user == asker.user && one.client.as_deref() == asker.client;
    if let Ok(kept) = expression.filled_in.read()
        && let Some(found) = kept.iter().find(is_this)
    {
        return Some(found.compiled.clone());
    }
    let compiled = compile(&fill_in(&expression.text, asker)?).ok();
    if let Ok(mut kept) = expression.filled_in.write() {
        if kept.len() >= COMPILED_MAX {
            kept.clear();
        }
        let (user, client) = (asker.user.to_owned(), asker.client.map(str::to_owned));
        kept.push(FilledIn { user, client, compiled: compiled.clone() });
    }
    Some(compiled)
}

fn fill_in(text: &str, asker: &Asker<'_>) -> Option<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        filled.push_str(before);
        rest = match after.as_bytes().first() {
            Some(b'u') => {
                filled.push_str(&regex::escape(asker.user));
                &after[1..]
            }
            Some(b'c') => {
                filled.push_str(&regex::escape(asker.client?));
                &after[1..]
            }
            Some(b'%') => {
                filled.push('%');
                &after[1..]
            }
            _ => {
                filled.push('%');
                after
            }
        };
    }
    filled.push_str(rest);
    Some(filled)
}

fn compile(text: &str) -> Result<Regex, String> {
    let built =
        RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX).build();
    built.map_err(|why| why.to_string())
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Expression, D::Error> {
        String::deserialize(from).map(Expression::unchecked)
    }
}

/// `*` matches any text, `%u`, `%c` and `%%` what they stand for, everything else itself.
fn glob(pattern: &str, text: &str, asker: &Asker<'_>) -> bool {
    let text = text.as_bytes();
    let (mut at, mut t) = (Place { pattern: pattern.as_bytes(), filled: &[] }, 0);
    let mut retry: Option<(Place<'_>, usize)> = None;
    loop {
        match at.next(asker) {
            Next::Any(after) => {
                retry = Some((after, t));
                at = after;
                continue;
            }
            Next::Byte(byte, after) if text.get(t) == Some(&byte) => {
                (at, t) = (after, t + 1);
                continue;
            }
            Next::End if t == text.len() => return true,
            Next::Never => return false,
            Next::Byte(..) | Next::End => {}
        }
        match retry {
            Some((star, taken)) if taken < text.len() => {
                retry = Some((star, taken + 1));
                (at, t) = (star, taken + 1);
            }
            _ => return false,
        }
    }
}

/// A place in a pattern, or in what was filled in there.
#[derive(Clone, Copy)]
struct Place<'a> {
    pattern: &'a [u8],
    filled: &'a [u8],
}

enum Next<'a> {
    Any(Place<'a>),
    Byte(u8, Place<'a>),
    End,
    /// It wants to know what the asker has not said.
    Never,
}

impl<'a> Place<'a> {
    fn next(mut self, asker: &Asker<'a>) -> Next<'a> {
        loop {
            if let Some((byte, filled)) = self.filled.split_first() {
                return Next::Byte(*byte, Place { filled, ..self });
            }
            let filled = match self.pattern {
                [b'%', b'u', ..] => asker.user.as_bytes(),
                [b'%', b'c', ..] => match asker.client {
                    Some(client) => client.as_bytes(),
                    None => return Next::Never,
                },
                [b'%', b'%', rest @ ..] => return Next::Byte(b'%', Place { pattern: rest, filled: &[] }),
                [b'*', rest @ ..] => return Next::Any(Place { pattern: rest, filled: &[] }),
                [byte, rest @ ..] => return Next::Byte(*byte, Place { pattern: rest, filled: &[] }),
                [] => return Next::End,
            };
            self = Place { pattern: &self.pattern[2..], filled };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Asker<'static> = Asker { user: "ann", client: Some("a*b"), from: None };

    #[test]
    fn globs() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("orders", "orders", true),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders", false),
            ("*.eu", "orders.eu.eu", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbY", false),
            ("a**", "a", true),
            ("of.%u", "of.ann", true),
            ("of.%u", "of.%u", false),
            ("*%u.x", "anann.x", true),
            ("%u%u", "annann", true),
            ("%c", "a*b", true),
            ("%c", "aXb", false),
            ("*%c*", "1a*b2", true),
            ("100%%", "100%", true),
            ("100%", "100%", true),
        ] {
            assert_eq!(glob(pattern, text, &ANN), expect, "{pattern} on {text}");
        }
        let nameless = Asker { client: None, ..ANN };
        assert!(!glob("*%c", "anything", &nameless) && glob("%u*", "ann.x", &nameless));
    }

    #[test]
    fn other_kinds() {
        let regex = |text: &str| NamePattern::regex(text).unwrap();
        for (pattern, text, expect) in [
            (NamePattern::Literal("*%u".to_owned()), "*%u", true),
            (NamePattern::Literal("*".to_owned()), "a", false),
            (NamePattern::Prefix("%u".to_owned()), "%u.x", true),
            (NamePattern::Prefix("a".to_owned()), "ba", false),
            (regex("^(a|b)$"), "b", true),
            (regex("a"), "bab", true),
            (regex(""), "", true),
            (regex("^$"), "a", false),
            (regex("^%u\\."), "ann.x", true),
            (regex("^%u\\."), "eve.x", false),
            (regex("^%c$"), "a*b", true),
            (regex("^%c$"), "aab", false),
            (regex("^100%%$"), "100%", true),
        ] {
            assert_eq!(pattern.matches(text, &ANN), Some(expect), "{pattern:?} on {text}");
        }
        let nameless = Asker { client: None, ..ANN };
        assert_eq!(regex("%c|x").matches("x", &nameless), Some(false));
        for bad in ["(", "a{100000}", "[%u"] {
            assert!(NamePattern::regex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stored_expression_that_no_longer_compiles_is_not_taken_for_a_match() {
        let stored = NamePattern::Regex(Expression::unchecked("(".to_owned()));
        assert_eq!(stored.matches("a", &ANN), None);
        let stored = NamePattern::Regex(Expression::unchecked("(%u".to_owned()));
        assert_eq!(stored.matches("a", &ANN), None);
    }
}
