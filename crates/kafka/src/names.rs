//! Kafka's names for things: topic names, topic ids, the one broker.

use bytestring::ByteString;
use posthaste_model::{Name, TopicId};

use crate::wire::{ErrorCode, Uuid};

/// The id of the one broker, which is also the controller and every coordinator.
pub const NODE_ID: i32 = 1;

/// Longest name of a topic that Kafka allows, in bytes.
const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Checks the name of a topic that is to be created. Topics that other protocols created may have names that
/// fail here; they can be used all the same.
pub fn new_topic_name(name: &str) -> Result<Name, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let why = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." | ".." => "'.' or '..' is not allowed".to_owned(),
        _ if name.len() > TOPIC_NAME_BYTES_MAX => {
            format!("the length of '{name}' is longer than the max allowed length {TOPIC_NAME_BYTES_MAX}")
        }
        _ if !name.bytes().all(legal) => {
            format!(
                "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
            )
        }
        _ => return Name::new(name).map_err(|error| error.to_string()),
    };
    Err(format!("Topic name is invalid: {why}"))
}

/// The name of a consumer group.
pub fn group_name(name: &str) -> Result<Name, ErrorCode> {
    Name::new(name).map_err(|_| ErrorCode::InvalidGroupId)
}

/// Topic ids on the wire (KIP-516): half the cluster, half the topic, so that they need no table and a
/// client that was moved to another cluster is told so.
#[derive(Debug, Clone, Copy)]
pub struct TopicIds {
    cluster: [u8; 8],
}

impl TopicIds {
    pub fn new(cluster_id: &str) -> Self {
        let low = crc32c::crc32c(cluster_id.as_bytes());
        let high = crc32c::crc32c_append(!low, cluster_id.as_bytes());
        let mut cluster = [0; 8];
        cluster[..4].copy_from_slice(&high.to_be_bytes());
        cluster[4..].copy_from_slice(&low.to_be_bytes());
        // Kafka's tools print ids in base64 and take one that begins with `-` for an option.
        cluster[0] = cluster[0] & 0x7f | 1;
        Self { cluster }
    }

    pub fn uuid(&self, topic: TopicId) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.cluster);
        bytes[8..].copy_from_slice(&topic.0.to_be_bytes());
        Uuid(bytes)
    }

    /// `None` for an id of another cluster.
    pub fn topic(&self, uuid: Uuid) -> Option<TopicId> {
        let (cluster, topic) = uuid.0.split_first_chunk::<8>()?;
        let topic = topic.first_chunk::<8>()?;
        (*cluster == self.cluster).then(|| TopicId(u64::from_be_bytes(*topic)))
    }
}

/// Where the broker is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: ByteString,
    pub port: i32,
}

impl Endpoint {
    /// Splits `HOST:PORT`; an IPv6 host may be in brackets.
    pub fn parse(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port: u16 = port.parse().ok()?;
        (!host.is_empty()).then(|| Self { host: host.into(), port: port.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_new_topics() {
        for (name, expect) in [
            ("orders", true),
            ("Orders-1.eu_west", true),
            ("...", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a b", false),
            ("a/b", false),
            ("münchen", false),
        ] {
            assert_eq!(new_topic_name(name).is_ok(), expect, "{name:?}");
        }
        assert!(new_topic_name(&"x".repeat(249)).is_ok());
        assert!(new_topic_name(&"x".repeat(250)).is_err());
    }

    #[test]
    fn topic_ids_are_of_one_cluster() {
        let ids = TopicIds::new("pS2vQ8ZPQ0mV2cJ3a6b7cA");
        for topic in [TopicId(1), TopicId(u64::MAX)] {
            let uuid = ids.uuid(topic);
            assert_eq!(ids.topic(uuid), Some(topic));
            assert_eq!(TopicIds::new("another").topic(uuid), None);
        }
        assert_eq!(ids.topic(Uuid::ZERO), None);
    }

    #[test]
    fn endpoints() {
        let endpoint = |host: &str, port| Some(Endpoint { host: host.into(), port });
        for (address, expect) in [
            ("127.0.0.1:9092", endpoint("127.0.0.1", 9092)),
            ("[::1]:9092", endpoint("::1", 9092)),
            ("broker.example.com:1", endpoint("broker.example.com", 1)),
            ("broker", None),
            (":9092", None),
            ("a:99999", None),
        ] {
            assert_eq!(Endpoint::parse(address), expect, "{address}");
        }
    }
}
