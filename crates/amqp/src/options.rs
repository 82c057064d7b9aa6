//! How the listener presents itself.

/// What a listener says of itself and proposes. The defaults are those of RabbitMQ, since clients look at
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `product` in the server properties; some clients choose their behaviour by it (kombu#2469).
    pub product: String,
    /// `version` in the server properties: the RabbitMQ release whose behaviour clients may expect.
    pub version: String,
    /// Largest frame in octets, with its header and end; at least 4096.
    pub frame_max: u32,
    /// Channels of one connection; at least 1.
    pub channel_max: u16,
    /// Seconds; 0 proposes none.
    pub heartbeat: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            product: "RabbitMQ".to_owned(),
            version: "4.1.4".to_owned(),
            frame_max: 131_072,
            channel_max: 2_047,
            heartbeat: 60,
        }
    }
}
