//! What the server offers, and its limits per connection.

use std::num::NonZeroU16;

use crate::wire::QoS;

/// What the server offers to every client. In version 5 it is announced in CONNACK where it differs from what
/// the specification presumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Inbound messages above QoS 0 that one connection may have unacknowledged.
    pub receive_maximum: NonZeroU16,
    /// Largest packet accepted, in bytes; at least 1.
    pub maximum_packet_size: u32,
    /// Topic aliases that a client may set up; each may hold a topic name of up to 65,535 bytes.
    pub topic_alias_maximum: u16,
    /// Outbound messages above QoS 0 that one connection may have in flight, if the client's Receive Maximum
    /// allows that many.
    pub outbound_in_flight_max: NonZeroU16,
    /// Topic aliases used towards a client, if its Topic Alias Maximum allows that many.
    pub outbound_topic_aliases_max: u16,
    /// Longest session expiry interval, in seconds; [`u32::MAX`] allows sessions that never expire.
    pub session_expiry_interval_max: u32,
    /// Longest keep-alive, in seconds; `None` also allows clients to turn it off. Only version 5 can tell the
    /// client.
    pub keep_alive_max: Option<NonZeroU16>,
    pub maximum_qos: QoS,
    pub retain_available: bool,
    pub wildcard_subscription_available: bool,
    pub subscription_identifiers_available: bool,
    pub shared_subscription_available: bool,
}

impl Default for Options {
    fn default() -> Self {
        let in_flight = NonZeroU16::MIN.saturating_add(1023);
        Self {
            receive_maximum: in_flight,
            maximum_packet_size: 16 << 20,
            topic_alias_maximum: 64,
            outbound_in_flight_max: in_flight,
            outbound_topic_aliases_max: 64,
            session_expiry_interval_max: u32::MAX,
            keep_alive_max: None,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifiers_available: true,
            shared_subscription_available: true,
        }
    }
}
