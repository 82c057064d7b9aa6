//! What can be set about the MQTT listener.

use posthaste_model::{Limits, Name};

use crate::session::Options;

/// Settings of the MQTT listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace that its clients publish and subscribe in.
    pub namespace: Name,
    /// What each connection is offered.
    pub options: Options,
    /// Subscriptions of one session. Default 10,000.
    pub subscriptions_max: usize,
    /// Messages that wait for a session that ends with its connection; the oldest one goes when another one
    /// comes. Default 100,000. Their bytes are bounded by the broker's `transient_bytes_per_queue_max`.
    pub clean_session_messages_max: u64,
    /// Messages that wait for a session that outlives its connection, likewise; `None`, the default, for as
    /// many as the disk holds.
    pub session_messages_max: Option<u64>,
    /// Messages of one shared subscription that one member may hold unacknowledged. Default 100.
    pub share_in_flight_max: u32,
    /// A client may have the session of another user that has used its client identifier. Default: no.
    pub shared_client_ids: bool,
}

impl Settings {
    /// The defaults, within the broker's limits.
    pub fn new(limits: &Limits) -> Settings {
        let maximum_packet_size = u32::try_from(limits.message_bytes_max).unwrap_or(u32::MAX);
        let maximum_packet_size = maximum_packet_size.clamp(1, crate::wire::PACKET_SIZE_MAX_BYTES);
        Settings {
            namespace: Name::constant("default"),
            options: Options { maximum_packet_size, ..Options::default() },
            subscriptions_max: 10_000,
            clean_session_messages_max: 100_000,
            session_messages_max: None,
            share_in_flight_max: 100,
            shared_client_ids: false,
        }
    }
}
