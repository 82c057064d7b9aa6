//! Permissions as JSON.

use crate::{call::within, failure::Failure};
use posthaste_engine::catalog::{
    Action, Effect, NamePattern, PATTERN_BYTES_MAX, PERMISSIONS_MAX, Permission, Resource,
};
use serde::{Deserialize, Serialize};

/// A permission in requests and answers.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PermissionView {
    #[serde(default)]
    effect: Effect,
    #[serde(default)]
    namespace: PatternView,
    /// None for every kind.
    resource: Option<Resource>,
    #[serde(default)]
    name: PatternView,
    /// Of subjects: the exchanges through which they pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<PatternView>,
    actions: Vec<Action>,
    /// An address, or a network such as `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

/// A text with `*`, or another kind of pattern under its name.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum PatternView {
    Glob(String),
    Other(Kind),
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Literal(String),
    Prefix(String),
    Regex(String),
}

impl Default for PatternView {
    fn default() -> PatternView {
        PatternView::Glob("*".to_owned())
    }
}

impl From<&NamePattern> for PatternView {
    fn from(pattern: &NamePattern) -> PatternView {
        let text = pattern.text().to_owned();
        match pattern {
            NamePattern::Glob(_) => PatternView::Glob(text),
            NamePattern::Literal(_) => PatternView::Other(Kind::Literal(text)),
            NamePattern::Prefix(_) => PatternView::Other(Kind::Prefix(text)),
            NamePattern::Regex(_) => PatternView::Other(Kind::Regex(text)),
        }
    }
}

impl From<&Permission> for PermissionView {
    fn from(permission: &Permission) -> PermissionView {
        PermissionView {
            effect: permission.effect,
            namespace: (&permission.namespace).into(),
            resource: permission.resource,
            name: (&permission.name).into(),
            exchange: permission.exchange.as_ref().map(PatternView::from),
            actions: permission.actions.clone(),
            from: permission.from.map(|network| network.to_string()),
        }
    }
}

impl PatternView {
    fn read(self) -> Result<NamePattern, Failure> {
        let pattern = match self {
            PatternView::Glob(text) => NamePattern::Glob(text),
            PatternView::Other(Kind::Literal(text)) => NamePattern::Literal(text),
            PatternView::Other(Kind::Prefix(text)) => NamePattern::Prefix(text),
            PatternView::Other(Kind::Regex(text)) => NamePattern::regex(text).map_err(Failure::invalid)?,
        };
        within("the length of a pattern in bytes", pattern.text().len(), 0, PATTERN_BYTES_MAX)?;
        Ok(pattern)
    }
}

impl PermissionView {
    fn read(self) -> Result<Permission, Failure> {
        if self.actions.is_empty() {
            let all: Vec<&str> = Action::ALL.iter().map(|(_, word)| *word).collect();
            return Err(Failure::invalid(format!(
                "a permission has at least one action: {}",
                all.join(", ")
            )));
        }
        if self.exchange.is_some() && self.resource != Some(Resource::Subject) {
            let why = "a permission with an exchange has the resource subject";
            return Err(Failure::invalid(why));
        }
        let from =
            self.from.as_deref().map(Permission::parse_network).transpose().map_err(Failure::invalid)?;
        Ok(Permission {
            effect: self.effect,
            namespace: self.namespace.read()?,
            resource: self.resource,
            name: self.name.read()?,
            exchange: self.exchange.map(PatternView::read).transpose()?,
            actions: self.actions,
            from,
        })
    }
}

/// Reads the permissions of a user or a group.
///
/// # Errors
/// 400.
pub(crate) fn read(given: Vec<PermissionView>) -> Result<Vec<Permission>, Failure> {
    within("the number of permissions", given.len(), 0, PERMISSIONS_MAX)?;
    given.into_iter().map(PermissionView::read).collect()
}

/// Shows them.
pub(crate) fn show(permissions: &[Permission]) -> Vec<PermissionView> {
    permissions.iter().map(PermissionView::from).collect()
}
