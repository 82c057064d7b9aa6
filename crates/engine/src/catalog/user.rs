//! Users and groups of users, and what they may do.

use super::{
    Catalog, Options, UsageLimits,
    permission::{Asker, Effect, Permission, Wish},
};
use posthaste_model::{Name, Timestamp};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::{fmt, sync::Arc};

/// Of one user: groups, names in certificates, and access keys, each.
pub const CREDENTIALS_MAX: usize = 100;

/// Somebody who can log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: Name,
    pub password: Password,
    pub access_keys: Vec<AccessKey>,
    /// Names in client certificates that log in as this user: subjects and alternative names. No two users
    /// have the same.
    pub certificate_names: Vec<String>,
    /// Groups whose permissions it has, too.
    pub groups: Vec<Name>,
    /// May connect from this machine only.
    pub loopback_only: bool,
    pub administrator: bool,
    pub permissions: Vec<Permission>,
    pub limits: UsageLimits,
    /// Where it is on listeners that know no namespaces; `None` for the listener's.
    pub default_namespace: Option<Name>,
    pub options: Options,
}

/// Users who have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserGroup {
    pub name: Name,
    pub administrator: bool,
    pub permissions: Vec<Permission>,
    pub limits: UsageLimits,
    pub options: Options,
}

/// Verifiers of a password, one for each way of checking it. Without any there is no password.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password {
    /// A salted hash, which names its own parameters.
    pub argon2id: Option<String>,
    pub scram_sha_256: Option<ScramVerifier>,
    pub scram_sha_512: Option<ScramVerifier>,
}

/// The server's part in checking a proof of a password (RFC 5802).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramVerifier {
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub stored_key: Vec<u8>,
    pub server_key: Vec<u8>,
}

/// A key that signs requests. The secret is sealed by the broker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    pub id: String,
    pub sealed_secret: Vec<u8>,
    pub created: Timestamp,
}

/// The entries that a client's rights rest on at one moment.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    user: Option<Arc<User>>,
    groups: SmallVec<[Arc<UserGroup>; 2]>,
}

impl User {
    /// A user who may do nothing, and cannot log in.
    pub fn new(name: Name) -> User {
        User {
            name,
            password: Password::default(),
            access_keys: Vec::new(),
            certificate_names: Vec::new(),
            groups: Vec::new(),
            loopback_only: false,
            administrator: false,
            permissions: Vec::new(),
            limits: UsageLimits::default(),
            default_namespace: None,
            options: Options::new(),
        }
    }
}

impl UserGroup {
    /// A group whose members may do nothing.
    pub fn new(name: Name) -> UserGroup {
        UserGroup {
            name,
            administrator: false,
            permissions: Vec::new(),
            limits: UsageLimits::default(),
            options: Options::new(),
        }
    }
}

impl Catalog {
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    pub fn user_group(&self, name: &str) -> Option<&Arc<UserGroup>> {
        self.user_groups.get(name)
    }

    pub fn user_groups(&self) -> impl Iterator<Item = &Arc<UserGroup>> {
        self.user_groups.values()
    }

    /// The user that a name in a certificate stands for.
    pub fn user_by_certificate_name(&self, name: &str) -> Option<&Arc<User>> {
        self.user(self.certificate_names.get(name)?)
    }

    /// The user that an access key belongs to.
    pub fn user_by_access_key(&self, id: &str) -> Option<&Arc<User>> {
        self.user(self.access_keys.get(id)?)
    }

    /// Whether a client may do something: as the user of its name, and as a member of further groups.
    pub fn may(&self, asker: &Asker<'_>, further: &[Name], wish: &Wish<'_>) -> bool {
        let user = self.user(asker.user).map(|user| &**user);
        if user.is_some_and(|user| user.administrator) {
            return true;
        }
        let own = user.map_or(&[][..], |user| &user.permissions);
        if user.is_none_or(|user| user.groups.is_empty()) && further.is_empty() {
            return is_allowed([own].into_iter(), asker, wish);
        }
        if self.groups_of(user, further).any(|group| group.administrator) {
            return true;
        }
        let groups = self.groups_of(user, further).map(|group| group.permissions.as_slice());
        is_allowed([own].into_iter().chain(groups), asker, wish)
    }

    /// Whether a client may do everything.
    pub fn is_administrator(&self, user: &str, further: &[Name]) -> bool {
        let user = self.user(user).map(|user| &**user);
        user.is_some_and(|user| user.administrator)
            || self.groups_of(user, further).any(|group| group.administrator)
    }

    /// Whether a client is allowed anything in a namespace.
    pub fn may_enter(&self, asker: &Asker<'_>, further: &[Name], namespace: &str) -> bool {
        if self.is_administrator(asker.user, further) {
            return true;
        }
        let user = self.user(asker.user).map(|user| &**user);
        let opens = |permissions: &[Permission]| permissions.iter().any(|p| p.opens(asker, namespace));
        user.is_some_and(|user| opens(&user.permissions))
            || self.groups_of(user, further).any(|group| opens(&group.permissions))
    }

    /// The entries that the rights of a client rest on.
    pub fn grants(&self, user: &str, further: &[Name]) -> Grants {
        let user = self.user(user);
        let names = user.map_or(&[][..], |user| &user.groups).iter().chain(further);
        let groups = names.filter_map(|name| self.user_group(name)).cloned().collect();
        Grants { user: user.cloned(), groups }
    }

    pub(super) fn groups_of<'c>(
        &'c self,
        user: Option<&'c User>,
        further: &'c [Name],
    ) -> impl Iterator<Item = &'c UserGroup> + Clone {
        let names = user.map_or(&[][..], |user| &user.groups).iter().chain(further);
        names.filter_map(|name| self.user_group(name).map(|group| &**group))
    }

    pub(super) fn put_user(&mut self, user: &User) {
        self.remove_user(&user.name);
        for name in &user.certificate_names {
            self.certificate_names.insert(name.clone(), user.name.clone());
        }
        for key in &user.access_keys {
            self.access_keys.insert(key.id.clone(), user.name.clone());
        }
        self.users.insert(user.name.clone(), Arc::new(user.clone()));
    }

    pub(super) fn remove_user(&mut self, name: &Name) {
        let Some(user) = self.users.remove(name) else { return };
        for name in &user.certificate_names {
            self.certificate_names.remove(name);
        }
        for key in &user.access_keys {
            self.access_keys.remove(&key.id);
        }
    }
}

/// Denials win.
fn is_allowed<'p>(
    granted: impl Iterator<Item = &'p [Permission]> + Clone,
    asker: &Asker<'_>,
    wish: &Wish<'_>,
) -> bool {
    let says = |effect| {
        let mut all = granted.clone().flatten();
        all.any(|permission| permission.effect == effect && permission.concerns(asker, wish))
    };
    !says(Effect::Deny) && says(Effect::Allow) && passes(granted, asker, wish)
}

/// Whether what permissions say of the wish's exchange lets its subject pass: all of them do, if none says
/// anything.
fn passes<'p>(granted: impl Iterator<Item = &'p [Permission]>, asker: &Asker<'_>, wish: &Wish<'_>) -> bool {
    if wish.through.is_none() {
        return true;
    }
    let (mut is_limited, mut is_let_through) = (false, false);
    for permission in granted.flatten() {
        let Some(matches) = permission.concerns_through(asker, wish) else { continue };
        match permission.effect {
            Effect::Deny if matches => return false,
            Effect::Deny => {}
            Effect::Allow => (is_limited, is_let_through) = (true, is_let_through || matches),
        }
    }
    !is_limited || is_let_through
}

impl PartialEq for Grants {
    /// The same entries: what was changed and changed back is another.
    fn eq(&self, other: &Grants) -> bool {
        let same_user = match (&self.user, &other.user) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (one, another) => one.is_none() && another.is_none(),
        };
        let groups = self.groups.iter().zip(&other.groups);
        same_user
            && self.groups.len() == other.groups.len()
            && groups.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl Password {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        *self != Password::default()
    }
}

// Credentials are not shown.

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "Password(set)" } else { "Password(none)" })
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramVerifier({} iterations)", self.iterations)
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKey({})", self.id)
    }
}
