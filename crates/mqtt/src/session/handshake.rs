//! The connect phase: from CONNECT to CONNACK.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::wire::{
    Auth, AuthProperties, ByteString, Connack, ConnackProperties, Connect, DecodeError, Packet, PacketType,
    ProtocolVersion, QoS, ReasonCode,
};

use super::fault::Fault;
use super::inbound::Inbound;
use super::options::Options;
use super::outbound::Outbound;
use super::topic_alias::{InboundAliases, OutboundAliases};
use super::{Session, SessionState};

/// A connection whose CONNECT has arrived and is not answered yet.
///
/// Until it is, only the AUTH packets of an exchange may be decoded; what else the client has sent already
/// (section 3.1.4) stays in the read buffer.
#[derive(Debug)]
pub struct Handshake {
    connect: Connect,
    options: Options,
    assigned_client_identifier: Option<ByteString>,
    /// Whether an AUTH was sent that the client must answer.
    challenged: bool,
}

/// A connection that is refused: send the CONNACK, if there is one, and close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The version to encode the CONNACK in.
    pub version: ProtocolVersion,
    pub reason_code: ReasonCode,
    /// `None` where version 3 has no return code for the reason [MQTT-3.2.2-6, 3.1.1].
    pub connack: Option<Box<Connack>>,
}

/// What goes into the CONNACK of an accepted connection, besides what is known from CONNECT and options.
#[derive(Debug)]
pub struct Acceptance<H> {
    /// The state of the client's session, if the server has one. Ignored when the client asked for a clean
    /// start.
    pub session: Option<SessionState<H>>,
    /// The last data of an authentication exchange.
    pub authentication_data: Option<Bytes>,
    /// Sent only if the client asked for it [MQTT-3.1.2-28].
    pub response_information: Option<ByteString>,
}

impl<H> Default for Acceptance<H> {
    fn default() -> Self {
        Self { session: None, authentication_data: None, response_information: None }
    }
}

/// The answer to a CONNECT that does not decode, with the version to encode it in; `None` closes the
/// connection without one. `version` is what the decoder made of it so far.
pub fn malformed_connect_reply(error: &DecodeError, version: Option<ProtocolVersion>) -> Option<Refusal> {
    let version = match (error, version) {
        // A version after 5 will know the layout of 5; 0x80 marks bridges that speak version 3
        // [MQTT-3.1.2-2].
        (DecodeError::UnsupportedProtocolVersion(6..=0x7f), _) => ProtocolVersion::V5,
        (DecodeError::UnsupportedProtocolVersion(_), _) => ProtocolVersion::V3_1_1,
        (_, Some(ProtocolVersion::V5)) => ProtocolVersion::V5,
        _ => return None,
    };
    Some(Refusal::new(version, error.reason_code(), None))
}

impl Refusal {
    fn new(version: ProtocolVersion, reason_code: ReasonCode, reason: Option<&str>) -> Self {
        let answerable = version == ProtocolVersion::V5 || reason_code.connect_return_code().is_some();
        let connack = answerable.then(|| {
            let mut connack = Connack::refused(reason_code);
            connack.properties.reason_string = reason.map(ByteString::from);
            Box::new(connack)
        });
        Self { version, reason_code, connack }
    }
}

impl Handshake {
    /// Checks a CONNECT against the rules of its version and what the server offers.
    pub fn new(connect: Connect, options: Options) -> Result<Self, Refusal> {
        let refuse = |reason_code| Err(Refusal::new(connect.version, reason_code, None));
        if connect.client_identifier.is_empty() {
            let acceptable = match connect.version {
                ProtocolVersion::V3_1 => false,
                ProtocolVersion::V3_1_1 => connect.clean_start, // [MQTT-3.1.3-8, 3.1.1]
                ProtocolVersion::V5 => true,                    // [MQTT-3.1.3-6]
            };
            if !acceptable {
                return refuse(ReasonCode::ClientIdentifierNotValid);
            }
        }
        if let Some(will) = &connect.will {
            if will.qos > options.maximum_qos {
                return refuse(ReasonCode::QoSNotSupported); // [MQTT-3.2.2-12]
            }
            if will.retain && !options.retain_available {
                return refuse(ReasonCode::RetainNotSupported); // [MQTT-3.2.2-13]
            }
        }
        Ok(Self { connect, options, assigned_client_identifier: None, challenged: false })
    }

    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Whether the client left it to the server to name it.
    pub fn needs_client_identifier(&self) -> bool {
        self.connect.client_identifier.is_empty() && self.assigned_client_identifier.is_none()
    }

    /// Names a client that left it to the server. The name must not be in use by any other client
    /// [MQTT-3.2.2-16].
    pub fn assign_client_identifier(&mut self, client_identifier: impl Into<ByteString>) {
        self.assigned_client_identifier = Some(client_identifier.into());
    }

    /// The client identifier, empty as long as one must be assigned.
    pub fn client_identifier(&self) -> &str {
        self.assigned_client_identifier.as_ref().unwrap_or(&self.connect.client_identifier)
    }

    /// Whether the client starts anew: a session that exists under its identifier ends [MQTT-3.1.2-4].
    pub fn clean_start(&self) -> bool {
        self.connect.clean_start
    }

    /// For how many seconds the session outlives the connection: 0 not at all, [`u32::MAX`] for ever. Version
    /// 3 has only these two, by Clean Session.
    pub fn session_expiry_interval(&self) -> u32 {
        let wanted = match (self.connect.version, self.connect.clean_start) {
            (ProtocolVersion::V5, _) => self.connect.properties.session_expiry_interval,
            (_, true) => 0,
            (_, false) => u32::MAX,
        };
        wanted.min(self.options.session_expiry_interval_max)
    }

    /// The method of extended authentication, if the client wants it (section 4.12).
    pub fn authentication_method(&self) -> Option<&str> {
        self.connect.properties.authentication_method.as_deref()
    }

    /// Goes on with extended authentication: the AUTH to send. Only with an authentication method.
    pub fn challenge(&mut self, authentication_data: Option<Bytes>) -> Packet {
        self.challenged = true;
        let properties = AuthProperties {
            authentication_method: self.connect.properties.authentication_method.clone(),
            authentication_data,
            ..AuthProperties::default()
        };
        Packet::Auth(Box::new(Auth { reason_code: ReasonCode::ContinueAuthentication, properties }))
    }

    /// Handles the client's answer to [`Handshake::challenge`], and returns its AUTH. Anything else ends the
    /// connection: refuse it with the fault's reason code, or just close after a DISCONNECT.
    pub fn receive(&mut self, packet: Packet) -> Result<Auth, Fault> {
        let packet_type = packet.packet_type();
        let Packet::Auth(auth) = packet else { return Err(Fault::UnexpectedPacket(packet_type)) };
        if !std::mem::take(&mut self.challenged) {
            return Err(Fault::UnexpectedPacket(PacketType::Auth)); // [MQTT-4.12.0-7]
        }
        if auth.properties.authentication_method != self.connect.properties.authentication_method {
            return Err(Fault::AuthenticationMethodChanged); // [MQTT-4.12.0-5]
        }
        if auth.reason_code != ReasonCode::ContinueAuthentication {
            return Err(Fault::AuthenticationNotStarted); // [MQTT-4.12.0-3]
        }
        Ok(*auth)
    }

    /// Refuses the connection, with a reason for people to read (version 5 only).
    pub fn refuse(self, reason_code: ReasonCode, reason: Option<&str>) -> Refusal {
        let refusal = Refusal::new(self.connect.version, reason_code, reason);
        match &refusal.connack {
            // [MQTT-3.2.2-19]
            Some(connack) if !self.fits(connack) => Refusal::new(self.connect.version, reason_code, None),
            _ => refusal,
        }
    }

    /// Accepts the connection: the session, and the CONNACK to send first.
    ///
    /// Session Present is set exactly if a session is resumed [MQTT-3.2.2-2, -3]. Fails if the client must be
    /// named and is not, or accepts no packet of the size of the CONNACK.
    pub fn accept<H: Clone>(
        self,
        acceptance: Acceptance<H>,
        now_ms: u64,
    ) -> Result<(Session<H>, Packet), Refusal> {
        if self.needs_client_identifier() {
            let refused = ReasonCode::ClientIdentifierNotValid;
            return Err(Refusal::new(self.connect.version, refused, None));
        }
        let resumed = acceptance.session.filter(|_| !self.connect.clean_start);
        let session_present = resumed.is_some();
        let properties =
            self.connack_properties(acceptance.authentication_data, acceptance.response_information);
        let connack = Connack { session_present, reason_code: ReasonCode::Success, properties };
        if !self.fits(&connack) {
            let (version, reason_code) = (self.connect.version, ReasonCode::PacketTooLarge);
            return Err(Refusal { version, reason_code, connack: None }); // [MQTT-3.1.2-24]
        }
        let session = self.into_session(resumed.unwrap_or_default(), now_ms);
        Ok((session, Packet::Connack(Box::new(connack))))
    }

    fn fits(&self, connack: &Connack) -> bool {
        let maximum = self.connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get);
        let packet = Packet::Connack(Box::new(connack.clone()));
        matches!(packet.encoded_len(self.connect.version), Ok(length) if length <= maximum)
    }

    /// Seconds; 0 is off. The server can only shorten it where it can say so (section 3.2.2.3.14).
    fn keep_alive(&self) -> u16 {
        let wanted = self.connect.keep_alive;
        match self.options.keep_alive_max.map(NonZeroU16::get) {
            Some(maximum) if self.connect.version == ProtocolVersion::V5 => {
                if wanted == 0 || wanted > maximum { maximum } else { wanted }
            }
            _ => wanted,
        }
    }

    fn connack_properties(
        &self,
        authentication_data: Option<Bytes>,
        response_information: Option<ByteString>,
    ) -> ConnackProperties {
        if self.connect.version != ProtocolVersion::V5 {
            return ConnackProperties::default();
        }
        let (asked, options) = (&self.connect.properties, &self.options);
        let unavailable = |available: bool| (!available).then_some(false);
        let expiry = self.session_expiry_interval();
        ConnackProperties {
            session_expiry_interval: (expiry != asked.session_expiry_interval).then_some(expiry),
            receive_maximum: Some(options.receive_maximum).filter(|maximum| *maximum != NonZeroU16::MAX),
            maximum_qos: Some(options.maximum_qos).filter(|qos| *qos != QoS::ExactlyOnce),
            retain_available: unavailable(options.retain_available),
            maximum_packet_size: NonZeroU32::new(options.maximum_packet_size),
            assigned_client_identifier: self.assigned_client_identifier.clone(),
            topic_alias_maximum: Some(options.topic_alias_maximum).filter(|maximum| *maximum > 0),
            wildcard_subscription_available: unavailable(options.wildcard_subscription_available),
            subscription_identifiers_available: unavailable(options.subscription_identifiers_available),
            shared_subscription_available: unavailable(options.shared_subscription_available),
            server_keep_alive: Some(self.keep_alive()).filter(|seconds| *seconds != self.connect.keep_alive),
            response_information: response_information.filter(|_| asked.request_response_information),
            authentication_method: asked.authentication_method.clone(),
            authentication_data,
            ..ConnackProperties::default()
        }
    }

    fn into_session<H: Clone>(self, resumed: SessionState<H>, now_ms: u64) -> Session<H> {
        let (version, asked, options) = (self.connect.version, &self.connect.properties, &self.options);
        // Version 3 announces no Receive Maximum, so all packet identifiers may be in flight.
        let receive_maximum = match version {
            ProtocolVersion::V5 => options.receive_maximum.get(),
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => u16::MAX,
        };
        let window = asked.receive_maximum.min(options.outbound_in_flight_max).get();
        let aliases = asked.topic_alias_maximum.min(options.outbound_topic_aliases_max);
        let keep_alive = u64::from(self.keep_alive());
        Session {
            version,
            client_maximum_packet_size: asked.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
            request_problem_information: asked.request_problem_information,
            authentication_method: asked.authentication_method.clone(),
            keep_alive_limit_ms: (keep_alive > 0).then_some(keep_alive * 1500),
            last_received_ms: now_ms,
            session_expiry_interval: self.session_expiry_interval(),
            inbound: Inbound::new(receive_maximum, &resumed.inbound),
            inbound_aliases: InboundAliases::new(options.topic_alias_maximum),
            outbound: Outbound::new(window, resumed.outbound),
            outbound_aliases: OutboundAliases::new(aliases),
            transmit: Default::default(),
            will: self.connect.will,
            options: self.options,
        }
    }
}
