//! Panics, also those that a connection's driver contains: none may be reachable.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

thread_local! {
    /// While panics of this thread are collected: what they said.
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Does `work`; its result, if it did not panic, and all panics on this thread meanwhile.
pub fn caught<T>(work: impl FnOnce() -> T) -> (Option<T>, Vec<String>) {
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            let noted = CAUGHT.with_borrow_mut(|caught| {
                caught.as_mut().map(|caught| caught.push(info.to_string())).is_some()
            });
            if !noted {
                others(info);
            }
        }));
    });
    CAUGHT.set(Some(Vec::new()));
    let outcome = catch_unwind(AssertUnwindSafe(work)).ok();
    (outcome, CAUGHT.take().unwrap_or_default())
}
