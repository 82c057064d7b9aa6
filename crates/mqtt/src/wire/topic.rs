//! Topic names and topic filters, sections 4.7 and 4.8.

use std::ops::Range;

use bytestring::ByteString;

use super::error::DecodeError;

/// Checks a topic name that is to be published to: at least one character [MQTT-4.7.3-1], no wildcard
/// [MQTT-3.3.2-2], no U+0000 [MQTT-4.7.3-2], at most 65,535 bytes [MQTT-4.7.3-3].
pub fn check_topic_name(name: &str) -> Result<(), DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::EmptyTopicName);
    }
    if name.len() > usize::from(u16::MAX) {
        return Err(DecodeError::TopicNameInvalid);
    }
    check_topic_characters(name.as_bytes())
}

/// Checks the characters of a topic name. One pass without early exit, so that it vectorises.
pub(super) fn check_topic_characters(name: &[u8]) -> Result<(), DecodeError> {
    let wildcard = name.iter().fold(false, |found, &b| found | (b == b'+') | (b == b'#'));
    if wildcard {
        return Err(DecodeError::TopicNameInvalid);
    }
    if name.contains(&0) {
        return Err(DecodeError::NulCharacter);
    }
    Ok(())
}

/// A well-formed topic filter, with its share name if it belongs to a shared subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter {
    full: ByteString,
    /// Where the share name is within `full`.
    share_name: Option<Range<usize>>,
}

impl TopicFilter {
    /// Checks a topic filter.
    ///
    /// At least one character [MQTT-4.7.3-1]; `#` stands alone in the last level [MQTT-4.7.1-1]; `+` stands
    /// alone in its level [MQTT-4.7.1-2]; `$share/` is followed by a share name of at least one character
    /// without wildcards and by `/` and a filter [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    ///
    /// Shared subscriptions are parsed in every version, as Mosquitto, EMQX and HiveMQ do.
    pub fn parse(filter: ByteString) -> Result<Self, DecodeError> {
        if filter.len() > usize::from(u16::MAX) {
            return Err(DecodeError::TopicFilterInvalid);
        }
        let share_name = match filter.strip_prefix("$share/") {
            None => None,
            Some(rest) => {
                let Some((name, _)) = rest.split_once('/') else {
                    return Err(DecodeError::TopicFilterInvalid);
                };
                if name.is_empty() || name.contains(['+', '#']) {
                    return Err(DecodeError::TopicFilterInvalid);
                }
                let start = "$share/".len();
                Some(start..start + name.len())
            }
        };
        let parsed = Self { full: filter, share_name };
        check_filter(parsed.filter())?;
        Ok(parsed)
    }

    /// The filter as it stands in the packet, with `$share/` and share name.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The filter as a string that shares its memory with the packet.
    pub fn as_byte_string(&self) -> &ByteString {
        &self.full
    }

    /// What topic names are matched against: without `$share/` and share name.
    pub fn filter(&self) -> &str {
        match &self.share_name {
            None => &self.full,
            Some(range) => self.full.get(range.end + 1..).unwrap_or_default(),
        }
    }

    /// The share name of a shared subscription.
    pub fn share_name(&self) -> Option<&str> {
        self.share_name.as_ref().and_then(|range| self.full.get(range.clone()))
    }

    pub fn is_shared(&self) -> bool {
        self.share_name.is_some()
    }

    /// Whether the filter contains `+` or `#`.
    pub fn has_wildcard(&self) -> bool {
        self.filter().contains(['+', '#'])
    }
}

fn check_filter(filter: &str) -> Result<(), DecodeError> {
    if filter.is_empty() {
        return Err(DecodeError::TopicFilterInvalid);
    }
    if filter.as_bytes().contains(&0) {
        return Err(DecodeError::NulCharacter);
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let well_formed = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['+', '#']),
        };
        if !well_formed {
            return Err(DecodeError::TopicFilterInvalid);
        }
    }
    Ok(())
}
