//! Permissions, and how one is judged.

use super::name_pattern::NamePattern;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Permissions of one user, or of one group of users.
pub const PERMISSIONS_MAX: usize = 1_000;

/// Allows or denies `actions` on what matches. A denial wins over all that allows the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    pub effect: Effect,
    pub namespace: NamePattern,
    /// `None` for every kind but [`Resource::Broker`], which has to be named.
    pub resource: Option<Resource>,
    pub name: NamePattern,
    /// Of subjects only: holds for what is published to exchanges that match, and bound there, besides the
    /// right to the exchange. As soon as one such permission allows anything through an exchange, nothing
    /// else passes through it.
    pub exchange: Option<NamePattern>,
    pub actions: Vec<Action>,
    /// Only for clients with such an address; `None` for all.
    pub from: Option<IpNet>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    #[default]
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// The broker itself; its names are those of what administrators do.
    Broker,
    Exchange,
    Group,
    Namespace,
    Queue,
    Subject,
    Topic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Do what administrators do.
    Administer,
    /// Create, change, delete.
    Configure,
    /// See that it exists and how much is in it. Every other action on it includes that.
    Describe,
    Read,
    Write,
}

impl Resource {
    /// Each kind, and its word.
    pub const ALL: [(Resource, &'static str); 7] = [
        (Resource::Broker, "broker"),
        (Resource::Exchange, "exchange"),
        (Resource::Group, "group"),
        (Resource::Namespace, "namespace"),
        (Resource::Queue, "queue"),
        (Resource::Subject, "subject"),
        (Resource::Topic, "topic"),
    ];
}

impl Action {
    /// Each action, and its word.
    pub const ALL: [(Action, &'static str); 5] = [
        (Action::Administer, "administer"),
        (Action::Configure, "configure"),
        (Action::Describe, "describe"),
        (Action::Read, "read"),
        (Action::Write, "write"),
    ];
}

/// A client, as far as permissions ask for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker<'a> {
    /// The user's name, `%u` in patterns.
    pub user: &'a str,
    /// The client's own name, `%c` in patterns. A pattern with it matches nothing for a client without
    /// such a name.
    pub client: Option<&'a str>,
    pub from: Option<IpAddr>,
}

/// An action that a client wants to do, and its object.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub action: Action,
    pub resource: Resource,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The exchange and the subject of a message, or of a binding.
    pub through: Option<(&'a str, &'a str)>,
}

impl Permission {
    /// Allows actions on what has a name that matches, in every namespace.
    pub fn allow(actions: &[Action], resource: Resource, name: &str) -> Permission {
        Permission {
            effect: Effect::Allow,
            namespace: NamePattern::any(),
            resource: Some(resource),
            name: NamePattern::glob(name),
            exchange: None,
            actions: actions.to_vec(),
            from: None,
        }
    }

    /// Denies what this would allow.
    pub fn denied(self) -> Permission {
        Permission { effect: Effect::Deny, ..self }
    }

    /// The same in one namespace only.
    pub fn within(self, namespace: &str) -> Permission {
        Permission { namespace: NamePattern::Literal(namespace.to_owned()), ..self }
    }

    /// An address, or a network such as `10.0.0.0/8`.
    ///
    /// # Errors
    /// Says that it is neither.
    pub fn parse_network(text: &str) -> Result<IpNet, String> {
        let network = text.parse::<IpNet>().map(|network| network.trunc());
        let network = network.ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.ok_or_else(|| format!("'{text}' is neither an IP address nor a network such as 10.0.0.0/8"))
    }

    /// Whether this permission says something about the wish, whatever it says.
    pub fn concerns(&self, asker: &Asker<'_>, wish: &Wish<'_>) -> bool {
        let kind = self.resource.map_or(wish.resource != Resource::Broker, |kind| kind == wish.resource);
        self.actions.contains(&wish.action)
            && kind
            && self.exchange.is_none()
            && self.is_from(asker)
            && self.matches(&self.namespace, wish.namespace, asker)
            && self.matches(&self.name, wish.name, asker)
    }

    /// Whether this permission says something about what passes through the exchange of the wish: `Some` with
    /// whether it says it about the subject, too.
    pub(super) fn concerns_through(&self, asker: &Asker<'_>, wish: &Wish<'_>) -> Option<bool> {
        let (pattern, (exchange, subject)) = self.exchange.as_ref().zip(wish.through)?;
        let concerns = self.actions.contains(&wish.action)
            && self.is_from(asker)
            && self.matches(&self.namespace, wish.namespace, asker)
            && self.matches(pattern, exchange, asker);
        concerns.then(|| self.matches(&self.name, subject, asker))
    }

    /// Whether it allows something in a namespace.
    pub(super) fn opens(&self, asker: &Asker<'_>, namespace: &str) -> bool {
        self.effect == Effect::Allow && self.is_from(asker) && self.matches(&self.namespace, namespace, asker)
    }

    fn is_from(&self, asker: &Asker<'_>) -> bool {
        let Some(network) = &self.from else { return true };
        match asker.from {
            Some(address) => network.contains(&address.to_canonical()),
            // An unknown one is taken for the worse.
            None => self.effect == Effect::Deny,
        }
    }

    fn matches(&self, pattern: &NamePattern, text: &str, asker: &Asker<'_>) -> bool {
        pattern.matches(text, asker).unwrap_or(self.effect == Effect::Deny)
    }
}
