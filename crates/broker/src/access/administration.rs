//! The one list of operations that only administrators do.

use crate::{Client, Error};
use posthaste_engine::catalog::{Action, Resource, Wish};

/// An operation on the broker itself. Administrators may do all of them; the permission to `administer` the
/// broker gives single ones, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Administration {
    /// Limit what namespaces use up.
    Namespaces,
    /// See, create, change and delete groups of users. The holder can become an administrator.
    UserGroups,
    /// See, create, change and delete users, with their credentials; likewise.
    Users,
}

impl Administration {
    /// All of them.
    pub const ALL: [Administration; 3] =
        [Administration::Namespaces, Administration::UserGroups, Administration::Users];

    /// As permissions call it.
    pub fn name(self) -> &'static str {
        match self {
            Administration::Namespaces => "namespaces",
            Administration::UserGroups => "user-groups",
            Administration::Users => "users",
        }
    }
}

impl Client {
    /// Whether the principal may do this.
    ///
    /// # Errors
    /// It may not.
    pub fn may_administer(&self, what: Administration) -> Result<(), Error> {
        let (action, resource, name) = (Action::Administer, Resource::Broker, what.name());
        // It is the broker's, in no namespace.
        let wish = Wish { action, resource, namespace: "", name, through: None };
        if self.may_wish(&wish) {
            return Ok(());
        }
        let (user, name) = (self.principal().name().to_owned(), name.to_owned());
        Err(Error::Denied { user, action, resource, name })
    }
}
