//! What becomes of will and session when a connection ends.

use crate::wire::Will;

use super::SessionState;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The network connection was closed, by whichever side and for whatever reason, other than the
    /// following.
    NetworkClosed,
    /// Another connection with the same client identifier took the session over [MQTT-3.1.4-3].
    TakenOver {
        /// Whether that connection asked for a clean start, which ends the session.
        clean_start: bool,
    },
}

/// What is left of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed<H> {
    /// The will to publish, `None` if there is none, or no more.
    pub will: Option<DelayedWill>,
    /// Seconds until the session ends: 0 ends it now, [`u32::MAX`] never.
    pub session_expiry_interval: u32,
    pub state: SessionState<H>,
}

/// A will to publish, unless the client comes back to its session before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedWill {
    pub will: Will,
    /// Seconds: 0 publishes it now. Never beyond the end of the session [MQTT-3.1.3-9].
    pub delay: u32,
}

/// Decides about will and session. `will` is `None` if the client removed it with DISCONNECT [MQTT-3.14.4-3].
pub(super) fn closed<H>(
    will: Option<Will>,
    session_expiry_interval: u32,
    ending: Ending,
    state: SessionState<H>,
) -> Closed<H> {
    let session_expiry_interval = match ending {
        Ending::TakenOver { clean_start: true } => 0,
        Ending::TakenOver { clean_start: false } | Ending::NetworkClosed => session_expiry_interval,
    };
    let delayed = will.map(|will| {
        let delay = will.will_delay_interval.min(session_expiry_interval);
        DelayedWill { will, delay }
    });
    let continued = ending == Ending::TakenOver { clean_start: false };
    // A new connection to the session before the delay has passed: the will is not sent [MQTT-3.1.3-9].
    let will = delayed.filter(|delayed| !continued || delayed.delay == 0);
    Closed { will, session_expiry_interval, state }
}
