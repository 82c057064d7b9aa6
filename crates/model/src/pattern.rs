//! Patterns that subjects are matched against.

use crate::subject::{Subject, unescape};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// A list of words; each stands for a segment of a subject.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pattern {
    words: Arc<[Word]>,
    /// A leading wildcard does not match a first segment that begins with `$`.
    hides_dollar: bool,
}

/// One word of a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Word {
    /// Matches the segment that equals it.
    Literal(Arc<str>),
    /// Matches any number of segments, also none.
    Many,
    /// Matches exactly one segment.
    One,
}

/// How a pattern is written: what separates words and which words are wildcards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syntax {
    pub separator: char,
    pub one: &'static str,
    pub many: &'static str,
    /// `many` may stand only at the end, and leading wildcards do not match `$` segments.
    pub strict: bool,
}

impl Syntax {
    /// `orders.*.created`, `orders.#`
    pub const DOTTED: Syntax = Syntax { separator: '.', one: "*", many: "#", strict: false };
    /// `orders/+/created`, `orders/#`
    pub const SLASHED: Syntax = Syntax { separator: '/', one: "+", many: "#", strict: true };
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    Empty,
    ManyNotLast,
    TooLong,
    WildcardInWord,
}

impl Pattern {
    pub fn parse(text: &str, syntax: Syntax) -> Result<Pattern, PatternError> {
        if text.len() > Subject::BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        if syntax.strict && text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.is_empty() {
            return Ok(Pattern { words: Arc::new([]), hides_dollar: false });
        }
        let count = text.split(syntax.separator).count();
        let mut words = Vec::with_capacity(count);
        for (index, word) in text.split(syntax.separator).enumerate() {
            if word == syntax.one {
                words.push(Word::One);
            } else if word == syntax.many {
                if syntax.strict && index + 1 != count {
                    return Err(PatternError::ManyNotLast);
                }
                // Two in a row match what one matches, and one is cheaper.
                if words.last() != Some(&Word::Many) {
                    words.push(Word::Many);
                }
            } else if syntax.strict && (word.contains(syntax.one) || word.contains(syntax.many)) {
                return Err(PatternError::WildcardInWord);
            } else {
                words.push(Word::Literal(unescape(word).into()));
            }
        }
        Ok(Pattern { words: words.into(), hides_dollar: syntax.strict })
    }

    /// The pattern that matches `subject` and nothing else.
    pub fn exact(subject: &Subject) -> Pattern {
        let words = subject.segments().map(|s| Word::Literal(s.into())).collect();
        Pattern { words, hides_dollar: false }
    }

    pub fn words(&self) -> &[Word] {
        &self.words
    }

    pub fn hides_dollar(&self) -> bool {
        self.hides_dollar
    }

    /// True when no word is a wildcard.
    pub fn is_exact(&self) -> bool {
        self.words.iter().all(|w| matches!(w, Word::Literal(_)))
    }

    pub fn matches(&self, subject: &Subject) -> bool {
        let segments: Vec<_> = subject.segments().collect();
        if self.hides_dollar
            && !matches!(self.words.first(), Some(Word::Literal(_)))
            && segments.first().is_some_and(|s| s.starts_with('$'))
        {
            return false;
        }
        matches_words(&self.words, &segments)
    }
}

/// Greedy with one point of return, so the cost is at most words × segments.
fn matches_words<S: AsRef<str>>(words: &[Word], segments: &[S]) -> bool {
    let (mut w, mut s) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while s < segments.len() {
        match words.get(w) {
            Some(Word::Literal(text)) if **text == *segments[s].as_ref() => (w, s) = (w + 1, s + 1),
            Some(Word::One) => (w, s) = (w + 1, s + 1),
            Some(Word::Many) => {
                retry = Some((w, s));
                w += 1;
            }
            _ => match retry {
                Some((many, taken)) => {
                    retry = Some((many, taken + 1));
                    (w, s) = (many + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    words[w..].iter().all(|word| *word == Word::Many)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.words.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            match word {
                Word::Literal(text) => f.write_str(&text.replace('.', "%2E"))?,
                Word::Many => f.write_str("#")?,
                Word::One => f.write_str("*")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternError::Empty => "a pattern is not empty",
            PatternError::ManyNotLast => "the many-levels wildcard stands only at the end",
            PatternError::TooLong => "a pattern has at most 65535 bytes",
            PatternError::WildcardInWord => "a wildcard stands alone between separators",
        })
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, subject: &str, expect: bool) {
        let (syntax, subject) = if pattern.contains('/') || subject.contains('/') || pattern.contains('+') {
            (Syntax::SLASHED, Subject::slashed(subject.to_owned()).unwrap())
        } else {
            (Syntax::DOTTED, Subject::dotted(subject.to_owned()).unwrap())
        };
        let parsed = Pattern::parse(pattern, syntax).unwrap();
        assert_eq!(parsed.matches(&subject), expect, "{pattern} on {subject}");
    }

    #[test]
    fn matching() {
        for (pattern, subject, expect) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("*", "", false),
            ("", "", true),
            ("", "a", false),
            ("#.*", "", false),
            ("*.*", ".", true),
            ("#", "a.b", true),
            ("#.z", "a.b.z", true),
            ("#.z", "z", true),
            ("#.z", "a.z.b", false),
            ("a.#.b.#.c", "a.x.b.y.b.c", true),
            ("a.#.b.*", "a.b.b", true),
            ("*.#.*", "a", false),
            ("*.#.*", "a.b", true),
            ("sport/#", "sport", true),
            ("sport/#", "sport/tennis/p1", true),
            ("sport/+", "sport/", true),
            ("sport/+", "sport", false),
            ("+/+", "/finance", true),
            ("+/monitor", "$SYS/monitor", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("#", "$SYS/monitor", false),
            ("a/+/c", "a/b.x/c", true),
        ] {
            check(pattern, subject, expect);
        }
    }

    #[test]
    fn many_matches_dollar_where_the_syntax_does_not_hide_it() {
        let pattern = Pattern::parse("#", Syntax::DOTTED).unwrap();
        assert!(pattern.matches(&Subject::dotted("$SYS.x").unwrap()));
    }

    #[test]
    fn strict_syntax_refuses_misplaced_wildcards() {
        for (text, error) in [
            ("sport/tennis#", PatternError::WildcardInWord),
            ("sport/#/ranking", PatternError::ManyNotLast),
            ("sport+", PatternError::WildcardInWord),
            ("", PatternError::Empty),
        ] {
            assert_eq!(Pattern::parse(text, Syntax::SLASHED), Err(error), "{text}");
        }
    }

    #[test]
    fn backtracking_is_bounded() {
        let pattern = Pattern::parse(&"#.a.".repeat(2000), Syntax::DOTTED).unwrap();
        let subject = Subject::dotted("a.".repeat(4000) + "b").unwrap();
        assert!(!pattern.matches(&subject));
    }
}
