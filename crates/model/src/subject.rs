//! What a message is about.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
};

/// A list of segments, kept as the text it was received in.
///
/// `sensors/7/temp` with separator `/` and `sensors.7.temp` with separator `.` are the same subject.
/// Within a segment a separator is written as an escape (`%2E` for `.`, `%2F` for `/`, `%25` for `%`);
/// rendering with the separator it came in gives back the received bytes exactly.
#[derive(Clone, Serialize, Deserialize)]
pub struct Subject {
    text: Bytes,
    separator: u8,
    escaped: bool,
}

/// Why bytes are not a [`Subject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectError {
    NotUtf8,
    TooLong,
}

impl Subject {
    /// The longest subject, in bytes as received.
    pub const BYTES_MAX: usize = 65_535;

    /// Takes a subject whose segments are separated by `.`.
    pub fn dotted(text: impl Into<Bytes>) -> Result<Subject, SubjectError> {
        Subject::new(text.into(), b'.')
    }

    /// Takes a subject whose segments are separated by `/`.
    pub fn slashed(text: impl Into<Bytes>) -> Result<Subject, SubjectError> {
        Subject::new(text.into(), b'/')
    }

    fn new(text: Bytes, separator: u8) -> Result<Subject, SubjectError> {
        if text.len() > Subject::BYTES_MAX {
            return Err(SubjectError::TooLong);
        }
        std::str::from_utf8(&text).map_err(|_| SubjectError::NotUtf8)?;
        let escaped = text.contains(&b'%');
        Ok(Subject { text, separator, escaped })
    }

    /// The empty subject: no segments.
    pub fn empty() -> Subject {
        Subject { text: Bytes::new(), separator: b'.', escaped: false }
    }

    /// The same subject with bytes of its own, for what is kept longer than the buffer it was read into.
    pub fn detached(&self) -> Subject {
        Subject { text: Bytes::copy_from_slice(&self.text), ..*self }
    }

    /// The segments, escapes resolved.
    pub fn segments(&self) -> impl Iterator<Item = Cow<'_, str>> + Clone {
        let escaped = self.escaped;
        // Nothing between separators is an empty segment, but nothing at all is none.
        let none = usize::from(self.text.is_empty());
        self.as_received()
            .split(self.separator as char)
            .skip(none)
            .map(move |segment| if escaped { unescape(segment) } else { Cow::Borrowed(segment) })
    }

    /// The text as it came, in its own separator.
    pub fn as_received(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// The bytes as they came and the separator they use.
    pub fn parts(&self) -> (&Bytes, u8) {
        (&self.text, self.separator)
    }

    /// The text with `.` between segments.
    pub fn to_dotted(&self) -> Cow<'_, str> {
        self.render(b'.')
    }

    /// The text with `/` between segments.
    pub fn to_slashed(&self) -> Cow<'_, str> {
        self.render(b'/')
    }

    /// The text with `/` between segments, as bytes; no copy when it came that way.
    pub fn to_slashed_bytes(&self) -> Bytes {
        if self.separator == b'/' { self.text.clone() } else { Bytes::from(self.to_slashed().into_owned()) }
    }

    /// The text with `.` between segments, as bytes; no copy when it came that way.
    pub fn to_dotted_bytes(&self) -> Bytes {
        if self.separator == b'.' { self.text.clone() } else { Bytes::from(self.to_dotted().into_owned()) }
    }

    fn render(&self, separator: u8) -> Cow<'_, str> {
        if self.separator == separator {
            return Cow::Borrowed(self.as_received());
        }
        let mut out = String::with_capacity(self.text.len() + 8);
        for (index, segment) in self.segments().enumerate() {
            if index > 0 {
                out.push(separator as char);
            }
            escape_into(&segment, separator, &mut out);
        }
        Cow::Owned(out)
    }
}

/// Writes one segment so that it holds no separator and unescapes to itself.
fn escape_into(segment: &str, separator: u8, out: &mut String) {
    for (at, c) in segment.char_indices() {
        match c {
            '.' if separator == b'.' => out.push_str("%2E"),
            '/' if separator == b'/' => out.push_str("%2F"),
            // A lone percent sign stays as it is; only one that would read as an escape is written as one.
            '%' if escape_at(&segment.as_bytes()[at..]).is_some() => out.push_str("%25"),
            c => out.push(c),
        }
    }
}

/// Resolves `%2E`, `%2F` and `%25`; every other percent sign stands for itself.
pub(crate) fn unescape(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let mut out = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        match escape_at(&rest.as_bytes()[at..]) {
            Some(c) => {
                out.push(c);
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn escape_at(bytes: &[u8]) -> Option<char> {
    match bytes {
        [b'%', b'2', b'E' | b'e', ..] => Some('.'),
        [b'%', b'2', b'F' | b'f', ..] => Some('/'),
        [b'%', b'2', b'5', ..] => Some('%'),
        _ => None,
    }
}

impl PartialEq for Subject {
    fn eq(&self, other: &Subject) -> bool {
        if self.separator == other.separator && !self.escaped && !other.escaped {
            return self.text == other.text;
        }
        self.segments().eq(other.segments())
    }
}

impl Eq for Subject {}

impl PartialOrd for Subject {
    fn partial_cmp(&self, other: &Subject) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Subject {
    fn cmp(&self, other: &Subject) -> std::cmp::Ordering {
        self.segments().cmp(other.segments())
    }
}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for segment in self.segments() {
            segment.hash(state);
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_dotted())
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.to_dotted(), f)
    }
}

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubjectError::NotUtf8 => "a subject is UTF-8 text",
            SubjectError::TooLong => "a subject has at most 65535 bytes",
        })
    }
}

impl std::error::Error for SubjectError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dotted: &str, slashed: &str) {
        let d = Subject::dotted(dotted.to_owned()).unwrap();
        let s = Subject::slashed(slashed.to_owned()).unwrap();
        assert_eq!(d, s, "{dotted} is {slashed}");
        assert_eq!(d.to_slashed(), slashed);
        assert_eq!(s.to_dotted(), dotted);
        assert_eq!(d.to_dotted(), dotted);
        assert_eq!(s.to_slashed(), slashed);
    }

    #[test]
    fn the_same_subject_in_both_separators() {
        check("sensors.7.temp", "sensors/7/temp");
        check("", "");
        check(".a..", "/a//");
        check("v1%2E5.a", "v1.5/a");
        check("a/b.c", "a%2Fb/c");
        check("50%.x", "50%/x");
        check("%%2E", "%.");
        check("größe.°C", "größe/°C");
    }

    #[test]
    fn what_was_received_comes_back_byte_for_byte() {
        for text in ["a%2Eb.c", "a%252Eb", "%", "%2", "%2f", "a.%25"] {
            assert_eq!(Subject::dotted(text.to_owned()).unwrap().to_dotted(), text);
            assert_eq!(Subject::slashed(text.to_owned()).unwrap().to_slashed(), text);
        }
    }

    #[test]
    fn crossing_and_coming_back_is_the_same_subject() {
        for text in ["a.b", "a/b", "x%2Ey/z", "100%25/%2F", "//", "a.b/c%d"] {
            let first = Subject::slashed(text.to_owned()).unwrap();
            let there = Subject::dotted(first.to_dotted().into_owned()).unwrap();
            assert_eq!(first, there);
            let back = Subject::slashed(there.to_slashed().into_owned()).unwrap();
            assert_eq!(first, back, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_text() {
        assert_eq!(Subject::dotted(vec![0xff, 0xfe]), Err(SubjectError::NotUtf8));
        assert_eq!(Subject::dotted(vec![b'a'; 65_536]), Err(SubjectError::TooLong));
    }
}
