//! Names: checked where they come in, made up where the client left them to the server.

use crate::wire::{Exception, ReplyCode, ResourceKind, ShortString};
use bytes::Bytes;
use posthaste_model::{Name, NameError};

/// Consuming from this name, without acknowledgement, is asking for replies over this channel.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// Begins the names of the queues that replies come through.
const REPLY_TO_PREFIX: &str = "amq.rabbitmq.reply-to.";
const RESERVED_PREFIX: &[u8] = b"amq.";

pub(crate) fn is_reserved(name: &ShortString) -> bool {
    name.as_bytes().starts_with(RESERVED_PREFIX)
}

pub(crate) fn is_reply_queue(name: &str) -> bool {
    name.starts_with(REPLY_TO_PREFIX)
}

/// A name as RabbitMQ understands it: line ends are stripped.
pub(crate) fn stripped(name: &ShortString) -> ShortString {
    if !name.as_bytes().iter().any(|octet| matches!(octet, b'\r' | b'\n')) {
        return name.detached();
    }
    let octets: Vec<u8> = name.as_bytes().iter().copied().filter(|o| !matches!(o, b'\r' | b'\n')).collect();
    // Shorter than what it was made of.
    ShortString::new(octets).unwrap_or_default()
}

/// # Errors
/// PRECONDITION_FAILED for what the broker cannot keep as a name.
pub(crate) fn name(kind: ResourceKind, name: &ShortString) -> Result<Name, Exception> {
    let invalid = |why: &dyn std::fmt::Display| {
        Exception::new(ReplyCode::PreconditionFailed, format_args!("invalid {kind} name '{name}': {why}"))
    };
    let text = name.as_str().map_err(|_| invalid(&"it is not UTF-8"))?;
    Name::new(text).map_err(|why: NameError| invalid(&why))
}

/// A name of the broker, to be shown; longer ones are not possible.
pub(crate) fn short(name: &str) -> ShortString {
    ShortString::truncated(name)
}

/// `amq.gen-` and 22 characters that nobody can guess.
///
/// # Errors
/// The operating system has no randomness to give.
pub(crate) fn queue() -> Result<ShortString, Exception> {
    unguessable("amq.gen-")
}

/// `amq.ctag-` and 22 characters.
pub(crate) fn consumer_tag() -> Result<ShortString, Exception> {
    unguessable("amq.ctag-")
}

/// The queue of one channel's replies. Whoever knows the name may reply, so it is not to be guessed.
pub(crate) fn reply_queue() -> Result<ShortString, Exception> {
    unguessable(REPLY_TO_PREFIX)
}

fn unguessable(prefix: &str) -> Result<ShortString, Exception> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|e| {
        Exception::new(ReplyCode::InternalError, format_args!("no randomness for a name: {e}"))
    })?;
    let mut name = String::from(prefix);
    base64url(&random, &mut name);
    ShortString::new(Bytes::from(name)).map_err(|e| Exception::new(ReplyCode::InternalError, e))
}

/// RFC 4648, section 5, without padding.
fn base64url(octets: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for chunk in octets.chunks(3) {
        let mut word = 0u32;
        (0..3).for_each(|at| word = word << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..=chunk.len() {
            out.push(ALPHABET[(word >> (18 - 6 * digit)) as usize & 63] as char);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_as_in_the_rfc() {
        for (octets, expect) in [("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            let mut out = String::new();
            base64url(octets.as_bytes(), &mut out);
            assert_eq!(out, expect);
        }
        let name = queue().unwrap();
        assert!(name.as_str().unwrap().starts_with("amq.gen-") && name.len() == 30, "{name}");
        assert_ne!(queue().unwrap(), name);
    }

    #[test]
    fn names_are_stripped_and_checked() {
        assert_eq!(stripped(&ShortString::from_static("a\r\nb\n")), "ab");
        assert_eq!(&*name(ResourceKind::Queue, &ShortString::from_static("a b")).unwrap(), "a b");
        for bad in [&b"\xff"[..], b"a\0b", b""] {
            let bad = ShortString::new(Bytes::from_static(bad)).unwrap();
            let error = name(ResourceKind::Queue, &bad).unwrap_err();
            assert_eq!(error.reply_code, ReplyCode::PreconditionFailed, "{bad:?}");
        }
    }
}
