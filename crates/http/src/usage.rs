//! Limits of what users and namespaces use up, and what they use.

use posthaste_broker::Usage;
use posthaste_engine::catalog::UsageLimits;
use serde::Serialize;
use std::collections::BTreeMap;

/// The limits that there are, by name.
pub type LimitsView = BTreeMap<&'static str, u64>;

#[derive(Serialize)]
pub struct UsageView {
    connections: u64,
    objects: u64,
    /// Left out while no such limit is set anywhere, since nothing adds them up then.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_bytes: Option<u64>,
}

pub fn limits(mut limits: UsageLimits) -> LimitsView {
    limits.named().into_iter().filter_map(|(name, limit)| Some((name, (*limit)?))).collect()
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> UsageView {
        let Usage { connections, objects, stored_bytes } = usage;
        UsageView { connections, objects, stored_bytes }
    }
}
