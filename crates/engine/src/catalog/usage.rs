//! How much users and namespaces may use up, and how much of what the catalog holds they do.

use super::{Catalog, CatalogRefusal, Namespace, PREDECLARED};
use posthaste_model::Name;
use serde::{Deserialize, Serialize};

/// How much one user, or one namespace, may use up; `None` for as much as the broker has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageLimits {
    /// At a time.
    pub connections: Option<u64>,
    pub published_bytes_per_second: Option<u64>,
    pub published_messages_per_second: Option<u64>,
    pub read_bytes_per_second: Option<u64>,
    pub read_messages_per_second: Option<u64>,
    /// Bytes of messages in queues and topics; of a user, in those that it created.
    pub stored_bytes: Option<u64>,
    /// Queues, topics and exchanges; of a user, those that it created.
    pub objects: Option<u64>,
}

/// The owner of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    Namespace,
    User,
}

impl UsageLimits {
    /// Each limit by its name.
    pub fn named(&mut self) -> [(&'static str, &mut Option<u64>); 7] {
        [
            ("connections", &mut self.connections),
            ("published_bytes_per_second", &mut self.published_bytes_per_second),
            ("published_messages_per_second", &mut self.published_messages_per_second),
            ("read_bytes_per_second", &mut self.read_bytes_per_second),
            ("read_messages_per_second", &mut self.read_messages_per_second),
            ("stored_bytes", &mut self.stored_bytes),
            ("objects", &mut self.objects),
        ]
    }

    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == UsageLimits::default()
    }

    /// These where they are set, else those.
    fn or(self, others: UsageLimits) -> UsageLimits {
        self.merge(others, |own, other| own.or(other))
    }

    /// The lower of each.
    fn min(self, others: UsageLimits) -> UsageLimits {
        self.merge(others, |one, other| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        })
    }

    fn merge(
        mut self,
        mut others: UsageLimits,
        merge: impl Fn(Option<u64>, Option<u64>) -> Option<u64>,
    ) -> UsageLimits {
        for ((_, own), (_, other)) in self.named().into_iter().zip(others.named()) {
            *own = merge(*own, *other);
        }
        self
    }
}

impl Catalog {
    /// The limits of a user: its own; where it has none, the lowest of its groups'. Each member of a group
    /// has the group's limits for itself.
    pub fn limits_of_user(&self, user: &str, further: &[Name]) -> UsageLimits {
        let entry = self.user(user).map(|user| &**user);
        let groups = self.groups_of(entry, further).map(|group| group.limits);
        let of_groups = groups.reduce(UsageLimits::min).unwrap_or_default();
        entry.map(|user| user.limits).unwrap_or_default().or(of_groups)
    }

    /// Queues, topics and exchanges that were created by a user.
    pub fn objects_created_by(&self, user: &Name) -> u64 {
        self.created.get(user).copied().unwrap_or_default()
    }

    /// Whether there may be one more object in a namespace, created by a user perhaps.
    pub(super) fn check_objects(
        &self,
        within: &Namespace,
        creator: Option<&Name>,
    ) -> Result<(), CatalogRefusal> {
        let reached = |limit: Option<u64>, count: u64| limit.is_some_and(|limit| count >= limit);
        if reached(within.limits.objects, within.objects()) {
            return Err(CatalogRefusal::ObjectsLimit(Limited::Namespace));
        }
        if let Some(user) = creator
            && reached(self.limits_of_user(user, &[]).objects, self.objects_created_by(user))
        {
            return Err(CatalogRefusal::ObjectsLimit(Limited::User));
        }
        Ok(())
    }

    pub(super) fn count_created(&mut self, creator: Option<&Name>) {
        if let Some(user) = creator {
            *self.created.entry(user.clone()).or_default() += 1;
        }
    }

    pub(super) fn count_gone(&mut self, creator: Option<&Name>) {
        let Some(user) = creator else { return };
        let left = self.objects_created_by(user).saturating_sub(1);
        match left {
            0 => self.created.remove(user),
            left => self.created.insert(user.clone(), left),
        };
    }
}

impl Namespace {
    /// Queues, topics and exchanges in it, besides those that it has from the start.
    pub fn objects(&self) -> u64 {
        let exchanges = self.exchanges.len().saturating_sub(PREDECLARED.len());
        (self.queues.len() + self.topics.len() + exchanges) as u64
    }
}
