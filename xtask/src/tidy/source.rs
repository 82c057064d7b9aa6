//! A Rust file with its comments and literals told apart from its code, without a parser.

/// What a byte of the file belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Code,
    Comment,
    Literal,
}

/// One Rust file.
#[derive(Debug)]
pub struct Source {
    pub text: String,
    /// As long as `text`, with comments and the insides of literals blanked; newlines stay.
    pub code: String,
    /// As long as `text`, with comments blanked and literals kept.
    pub uncommented: String,
    /// The whole file is compiled for tests only.
    pub test_only: bool,
}

impl Source {
    pub fn new(text: &str) -> Self {
        let parts = parts(text.as_bytes());
        let keep = |wanted: &[Part]| {
            let bytes = text.bytes().zip(&parts);
            let kept =
                bytes.map(|(byte, part)| if byte == b'\n' || wanted.contains(part) { byte } else { b' ' });
            String::from_utf8_lossy(&kept.collect::<Vec<u8>>()).into_owned()
        };
        Self {
            text: text.to_owned(),
            code: keep(&[Part::Code]),
            uncommented: keep(&[Part::Code, Part::Literal]),
            test_only: false,
        }
    }

    /// The line number, from 1, of a byte of the file.
    pub fn line_of(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Byte ranges of items under `#[cfg(test)]`.
    pub fn test_ranges(&self) -> Vec<(usize, usize)> {
        let mut ranges = Vec::new();
        let mut from = 0;
        while let Some(found) = self.code[from..].find("#[cfg(test)]") {
            let start = from + found;
            let end = self.item_end(start + "#[cfg(test)]".len());
            ranges.push((start, end));
            from = end.max(start + 1);
        }
        ranges
    }

    /// Where the item that begins at `at` ends: behind its closing brace or its semicolon.
    pub fn item_end(&self, at: usize) -> usize {
        let bytes = self.code.as_bytes();
        let mut nested = 0_usize;
        for (offset, byte) in bytes[at..].iter().enumerate() {
            match byte {
                b'(' | b'[' | b'{' => nested += 1,
                b')' | b']' => nested = nested.saturating_sub(1),
                b'}' => {
                    nested = nested.saturating_sub(1);
                    if nested == 0 {
                        return at + offset + 1;
                    }
                }
                b';' if nested == 0 => return at + offset + 1,
                _ => {}
            }
        }
        bytes.len()
    }

    /// Byte offsets at which `word` stands alone in the code.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = self.code.as_bytes();
        let of_name =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            !of_name(before) && !of_name(bytes.get(at + word.len()))
        })
    }
}

fn parts(bytes: &[u8]) -> Vec<Part> {
    let mut parts = vec![Part::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let (end, part) = match &bytes[at..] {
            [b'/', b'/', ..] => (line_end(bytes, at), Part::Comment),
            [b'/', b'*', ..] => (comment_end(bytes, at), Part::Comment),
            [b'"', ..] => (string_end(bytes, at + 1), Part::Literal),
            [b'b' | b'c', b'"', ..] if starts_word(bytes, at) => (string_end(bytes, at + 2), Part::Literal),
            [b'r' | b'b' | b'c', ..] if starts_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => (end, Part::Literal),
                None => (at + 1, Part::Code),
            },
            [b'\'', ..] => match char_end(bytes, at) {
                Some(end) => (end, Part::Literal),
                None => (at + 1, Part::Code),
            },
            _ => (at + 1, Part::Code),
        };
        parts[at..end].fill(part);
        at = end;
    }
    parts
}

fn starts_word(bytes: &[u8], at: usize) -> bool {
    at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"..."`, `r#"..."#`, `br"..."` and the like; `None` when it is something else.
fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut start = at;
    if matches!(bytes[start], b'b' | b'c') {
        start += 1;
    }
    if bytes.get(start) != Some(&b'r') {
        return None;
    }
    start += 1;
    let hashes = bytes[start..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(start + hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.extend(std::iter::repeat_n(b'#', hashes));
    let body = start + hashes + 1;
    let length = bytes[body..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(bytes.len(), |length| body + length + end.len()))
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character of one to four bytes.
    (2..=5)
        .find(|length| bytes.get(at + length) == Some(&b'\''))
        .filter(|length| {
            std::str::from_utf8(&bytes[at + 1..at + length]).is_ok_and(|text| text.chars().count() == 1)
        })
        .map(|length| at + length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with runs of blanks made one.
    fn check(text: &str, code: &str) {
        let source = Source::new(text);
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.code.split_whitespace().collect::<Vec<_>>().join(" "), code);
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check("a // b\nc", "a c");
        check("a /* b /* c */ d */ e", "a e");
        check(r#"f("x // y", 'z')"#, "f( , )");
        check("r#\"a\"b\"# + c", "+ c");
        check("b\"\\\"\" x", "x");
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("'\\'' + '\\u{1f}' + 'ü'", "+ +");
        check("bar\"x\"", "bar");
    }

    #[test]
    fn test_items_are_found() {
        let source = Source::new("fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { if x {} }\n}\nfn c() {}");
        let (start, end) = source.test_ranges()[0];
        assert!(source.text[start..end].ends_with("{} }\n}"));
        assert_eq!(&source.text[end..], "\nfn c() {}");
        let source = Source::new("#[cfg(test)]\nmod tests;\nfn c() {}");
        assert_eq!(source.test_ranges(), [(0, 23)]);
    }

    #[test]
    fn words_stand_alone() {
        let source = Source::new("dbg!(x); my_dbg!(); // dbg!");
        assert_eq!(source.words("dbg").collect::<Vec<_>>(), [0]);
        assert_eq!(source.line_of(9), 1);
    }
}
