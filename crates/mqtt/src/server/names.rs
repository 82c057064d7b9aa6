//! Names of the queues that sessions and shared subscriptions are made of.

use posthaste_model::{ConnectionId, Name};
use sha2::{Digest, Sha256};

/// Queues of sessions that outlive their connection. As in RabbitMQ, without its suffix for the QoS.
const SESSION: &str = "mqtt-subscription-";
/// Queues of sessions that end with their connection. The connection is in the name, so that the end of one
/// never touches the next one of the same client.
const CLEAN_SESSION: &str = "mqtt-clean-";
/// Queues of shared subscriptions.
const SHARE: &str = "mqtt-share-";

/// The queue of a session that outlives its connection; also what its client is known by here.
pub(crate) fn session(client_identifier: &str) -> Name {
    fitted(SESSION, client_identifier)
}

/// The queue of a session that ends with its connection.
pub(crate) fn clean_session(connection: ConnectionId, client_identifier: &str) -> Name {
    fitted(CLEAN_SESSION, &format!("{connection}-{client_identifier}"))
}

/// The queue that the members of a shared subscription share. A share name contains no `/`.
pub(crate) fn share(share_name: &str, filter: &str) -> Name {
    fitted(SHARE, &format!("{share_name}/{filter}"))
}

/// Client identifiers and filters may be longer than names, and contain control characters: then a hash
/// stands for them.
fn fitted(prefix: &'static str, text: &str) -> Name {
    Name::new(&format!("{prefix}{text}")).unwrap_or_else(|_| {
        let hash: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        // Letters and digits, well below the longest name.
        Name::new(&format!("{prefix}sha256-{hash}")).unwrap_or_else(|_| Name::constant(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_apart_and_fit() {
        assert_eq!(&*session("sensor/7"), "mqtt-subscription-sensor/7");
        assert_eq!(&*clean_session(ConnectionId(5), "x"), "mqtt-clean-5-x");
        assert_eq!(&*share("g", "a/#"), "mqtt-share-g/a/#");
        let (long, longer) = (session(&"x".repeat(300)), session(&"x".repeat(301)));
        assert_ne!(long, longer);
        assert!(long.starts_with("mqtt-subscription-sha256-"));
        assert!(session("a\u{1}").starts_with("mqtt-subscription-sha256-"));
    }
}
