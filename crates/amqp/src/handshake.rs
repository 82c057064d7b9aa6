//! From the first octet to the open connection (AMQP 2.2.4).

use crate::{
    options::Options,
    properties::{self, Capabilities},
    reply,
    wire::{
        Command, Exception, FieldTable, FieldValue, Frame, FrameMax, Method, ReplyCode, ShortString,
        connection,
    },
};
use bytes::Bytes;
use posthaste_broker::{Broker, Credentials, Origin, Principal};
use posthaste_model::Name;

/// Frames before the tuning: as large as a client with a token for a password needs (RabbitMQ 4.1).
pub(crate) const FRAME_MAX_BEFORE_TUNE: u32 = 8_192;
const MECHANISMS: &str = "PLAIN AMQPLAIN";
/// For a client that has a certificate.
const EXTERNAL: &str = " EXTERNAL";
/// For a client that may do without credentials.
const ANONYMOUS: &str = " ANONYMOUS";
const LOCALES: &str = "en_US";
/// What this vhost is called in the broker.
const DEFAULT_VHOST: &str = "/";
const DEFAULT_NAMESPACE: &str = "default";

/// Where the handshake stands: what the client has to send next.
pub(crate) enum Handshake {
    ProtocolHeader,
    StartOk,
    TuneOk(Authenticated),
    Open(Tuned),
}

/// A client that has logged in.
pub(crate) struct Authenticated {
    pub principal: Principal,
    pub capabilities: Capabilities,
    /// As the client calls itself.
    pub client_name: String,
}

/// A client with which limits are agreed.
pub(crate) struct Tuned {
    pub client: Authenticated,
    pub frame_max: FrameMax,
    pub channel_max: u16,
    /// In seconds.
    pub heartbeat: u16,
}

/// A client that has opened a virtual host.
pub(crate) struct Opened {
    pub tuned: Tuned,
    pub vhost: String,
    pub namespace: Name,
}

/// What follows from a step.
pub(crate) enum Step {
    /// Send this, and wait.
    Answer(Method),
    /// Nothing to do.
    Wait,
    /// Send `connection.open-ok`; it is open.
    Opened(Box<Opened>),
    /// Send `connection.close-ok`; the client has given up.
    Closed,
    /// Close without a word: this client understands no refusal of its login.
    Dismissed,
}

/// What the steps need to know.
pub(crate) struct Surroundings<'a> {
    pub broker: &'a Broker,
    pub options: &'a Options,
    pub origin: &'a Origin,
}

impl Handshake {
    /// The protocol header was AMQP 0-9-1's.
    pub fn start(&mut self, around: &Surroundings<'_>) -> Method {
        *self = Handshake::StartOk;
        let mut mechanisms = MECHANISMS.to_owned();
        if around.origin.certificate.is_some() {
            mechanisms.push_str(EXTERNAL);
        }
        if around.broker.admits_anonymous(around.origin) {
            mechanisms.push_str(ANONYMOUS);
        }
        connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties::server(around.options, around.broker.cluster_id()),
            mechanisms: mechanisms.into(),
            locales: Bytes::from_static(LOCALES.as_bytes()),
        }
        .into()
    }

    /// # Errors
    /// What the client sent is wrong or refused; the connection is to be closed with this.
    pub async fn frame(&mut self, frame: Frame, around: &Surroundings<'_>) -> Result<Step, Exception> {
        let method = match frame {
            Frame::Heartbeat => return Ok(Step::Wait),
            Frame::Command(Command::Method(method)) => method,
            _ => return Err(Exception::new(ReplyCode::UnexpectedFrame, "content before connection.open")),
        };
        let name = method.name();
        match (std::mem::replace(self, Handshake::StartOk), method) {
            (_, Method::ConnectionClose(_)) => Ok(Step::Closed),
            (Handshake::StartOk, Method::ConnectionStartOk(start_ok)) => {
                self.start_ok(start_ok, around).await
            }
            (Handshake::TuneOk(client), Method::ConnectionTuneOk(tune_ok)) => {
                *self = Handshake::Open(tune(client, &tune_ok, around.options)?);
                Ok(Step::Wait)
            }
            (Handshake::Open(tuned), Method::ConnectionOpen(open)) => {
                let (vhost, namespace) = find_vhost(&open.virtual_host, &tuned.client.principal, around)?;
                Ok(Step::Opened(Box::new(Opened { tuned, vhost, namespace })))
            }
            _ => Err(Exception::new(ReplyCode::CommandInvalid, format_args!("{name} is not expected now"))),
        }
    }

    async fn start_ok(
        &mut self,
        start_ok: connection::StartOk,
        around: &Surroundings<'_>,
    ) -> Result<Step, Exception> {
        let capabilities = Capabilities::of(&start_ok.client_properties);
        let login = Login::read(&start_ok)?;
        let (user, credentials) = login.credentials();
        let principal = match around.broker.log_in(around.origin, credentials).await {
            Ok(principal) => principal,
            Err(error) => {
                if !capabilities.authentication_failure_close {
                    return Ok(Step::Dismissed);
                }
                return Err(reply::not_authenticated(error, &start_ok.mechanism.to_string(), user));
            }
        };
        let client_name = properties::client_name(&start_ok.client_properties);
        *self = Handshake::TuneOk(Authenticated { principal, capabilities, client_name });
        let Options { frame_max, channel_max, heartbeat, .. } = *around.options;
        Ok(Step::Answer(connection::Tune { channel_max, frame_max, heartbeat }.into()))
    }
}

/// What a client says to log in.
#[derive(Debug, PartialEq, Eq)]
enum Login {
    Anonymous,
    Certificate,
    Password { user: String, password: Bytes },
}

impl Login {
    fn read(start_ok: &connection::StartOk) -> Result<Login, Exception> {
        let response = &start_ok.response;
        let malformed = |why: &str| {
            let text = format!("malformed {} response: {why}", start_ok.mechanism);
            Exception::new(ReplyCode::SyntaxError, text)
        };
        match start_ok.mechanism.as_bytes() {
            b"PLAIN" => plain(response).ok_or_else(|| malformed("expected NUL, user, NUL, password")),
            b"AMQPLAIN" => {
                let table = FieldTable::decode(response).map_err(|why| malformed(&why.to_string()))?;
                amqplain(&table).ok_or_else(|| malformed("LOGIN or PASSWORD is missing"))
            }
            b"ANONYMOUS" => Ok(Login::Anonymous),
            b"EXTERNAL" => Ok(Login::Certificate),
            _ => Err(Exception::new(
                ReplyCode::CommandInvalid,
                format_args!("unknown authentication mechanism '{}'", start_ok.mechanism),
            )),
        }
    }

    fn credentials(&self) -> (&str, Credentials<'_>) {
        match self {
            Login::Anonymous => ("", Credentials::Anonymous),
            Login::Certificate => ("", Credentials::Certificate),
            Login::Password { user, password } => (user, Credentials::Password { user, password }),
        }
    }
}

/// RFC 4616: whom to act for (ignored), user and password behind NULs.
fn plain(response: &Bytes) -> Option<Login> {
    let mut parts = response.splitn(3, |octet| *octet == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let user = std::str::from_utf8(user).ok()?.to_owned();
    Some(Login::Password { user, password: response.slice_ref(password) })
}

fn amqplain(table: &FieldTable) -> Option<Login> {
    let user = table.get("LOGIN").and_then(FieldValue::as_str)?.to_owned();
    let password = table.get("PASSWORD").and_then(FieldValue::as_bytes)?.clone();
    Some(Login::Password { user, password })
}

fn tune(client: Authenticated, tune_ok: &connection::TuneOk, options: &Options) -> Result<Tuned, Exception> {
    let proposed = FrameMax::new(options.frame_max).unwrap_or(FrameMax::MIN);
    let frame_max =
        proposed.negotiate(tune_ok.frame_max).map_err(|why| Exception::new(ReplyCode::NotAllowed, why))?;
    let channel_max = match tune_ok.channel_max {
        0 => options.channel_max,
        wanted if wanted > options.channel_max => {
            let max = options.channel_max;
            return Err(Exception::new(
                ReplyCode::NotAllowed,
                format_args!(
                    "negotiated channel_max = {wanted} is higher than the maximum allowed value ({max})"
                ),
            ));
        }
        wanted => wanted,
    };
    Ok(Tuned { client, frame_max, channel_max, heartbeat: tune_ok.heartbeat })
}

fn find_vhost(
    vhost: &ShortString,
    principal: &Principal,
    around: &Surroundings<'_>,
) -> Result<(String, Name), Exception> {
    let text = vhost.as_str().unwrap_or_default();
    let namespace = if text == DEFAULT_VHOST { DEFAULT_NAMESPACE } else { text };
    let catalog = around.broker.catalog();
    let Some(found) = catalog.namespace(namespace) else {
        return Err(Exception::new(ReplyCode::NotAllowed, format_args!("vhost {vhost} not found")));
    };
    if !around.broker.may_enter(principal, namespace) {
        let text = format!("access to vhost '{vhost}' refused for user '{}'", principal.name());
        around.broker.log_in_refused(around.origin, Some(principal.name()), &text);
        return Err(Exception::new(ReplyCode::NotAllowed, text));
    }
    Ok((text.to_owned(), found.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(mechanism: &'static str, response: &'static [u8]) -> Result<Login, ReplyCode> {
        let start_ok = connection::StartOk {
            mechanism: ShortString::from_static(mechanism),
            response: Bytes::from_static(response),
            ..Default::default()
        };
        Login::read(&start_ok).map_err(|e| e.reply_code)
    }

    #[test]
    fn credentials_of_each_mechanism() {
        let password = |user: &str, password: &'static [u8]| {
            Ok(Login::Password { user: user.to_owned(), password: Bytes::from_static(password) })
        };
        for (mechanism, response, expect) in [
            ("PLAIN", &b"\0guest\0secret"[..], password("guest", b"secret")),
            ("PLAIN", b"other\0guest\0", password("guest", b"")),
            ("PLAIN", b"\0guest\0a\0b", password("guest", b"a\0b")),
            ("PLAIN", b"\0guest", Err(ReplyCode::SyntaxError)),
            ("PLAIN", b"", Err(ReplyCode::SyntaxError)),
            ("PLAIN", b"\0\xff\0x", Err(ReplyCode::SyntaxError)),
            ("AMQPLAIN", b"\x05LOGINS\0\0\0\x01a\x08PASSWORDS\0\0\0\x01b", password("a", b"b")),
            ("AMQPLAIN", b"\x05LOGINS\0\0\0\x01a", Err(ReplyCode::SyntaxError)),
            ("AMQPLAIN", b"\x05LOGINS\xff\xff\xff\xffa", Err(ReplyCode::SyntaxError)),
            ("ANONYMOUS", b"whoever", Ok(Login::Anonymous)),
            ("EXTERNAL", b"", Ok(Login::Certificate)),
            ("SCRAM-SHA-1", b"", Err(ReplyCode::CommandInvalid)),
        ] {
            assert_eq!(login(mechanism, response), expect, "{mechanism} {response:?}");
        }
    }
}
