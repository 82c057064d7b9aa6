//! Whether the broker's data is its own.

use crate::Broker;
use posthaste_storage::object::Ownership;
use std::{future::Future, pin::Pin, sync::Arc};

/// Ends when somebody may be told something again.
type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Broker {
    /// What is known of whether another broker has taken over. None where none can: a directory is locked.
    pub fn ownership(&self) -> Option<Ownership> {
        self.shared.journal.get()?.ownership()
    }

    /// Asked before anything leaves that tells of the broker's state; it returns what to wait for, if there
    /// is reason to. None where there never is.
    pub fn leave_to_tell(&self) -> Option<Arc<dyn Fn() -> Option<Wait> + Send + Sync>> {
        let ownership = self.ownership()?;
        Some(Arc::new(move || {
            if ownership.is_fresh() {
                return None;
            }
            let ownership = ownership.clone();
            Some(Box::pin(async move { ownership.proven().await }))
        }))
    }
}
