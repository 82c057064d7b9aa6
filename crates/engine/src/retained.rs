//! The last message on each subject, kept for those who come later.

use crate::{
    durable::Durable,
    effect::{Effect, Gate, Refusal},
    event::{Event, is_too_large},
    shard::{Context, Published, Step},
    volatile::Volatile,
};
use posthaste_model::{Envelope, Name, Payload};

/// Keeps the message; an empty body clears what was kept.
pub(crate) fn retain(
    durable: &Durable,
    volatile: &mut Volatile,
    ctx: &Context,
    namespace: Name,
    envelope: Envelope,
    payload: Payload,
    step: &mut Step,
) -> Result<Published, Refusal> {
    let subject = envelope.subject.clone();
    if payload.body.is_empty() {
        let gate = if durable.retained.contains_key(&(namespace.clone(), subject.clone())) {
            volatile.retained_changed.insert(namespace.clone(), ctx.batch);
            step.event(
                Event::RetainedCleared { namespace: namespace.clone(), subject: subject.clone() },
                true,
            );
            Gate::Synced(ctx.batch)
        } else {
            volatile.retained_changed.get(&namespace).map_or(Gate::Open, |batch| Gate::Synced(*batch))
        };
        step.effect(gate, Effect::Retained { namespace, subject, message: None });
        return Ok(Published { gate, offset: 0, duplicate: false });
    }
    if ctx.no_space {
        return Err(Refusal::NoSpace);
    }
    if is_too_large(&envelope, &payload) {
        return Err(Refusal::TooLarge);
    }
    volatile.retained_changed.insert(namespace.clone(), ctx.batch);
    let gate = Gate::Synced(ctx.batch);
    let message = Some((envelope.clone(), payload.clone()));
    step.event(Event::RetainedSet { namespace: namespace.clone(), envelope, payload }, true);
    step.effect(gate, Effect::Retained { namespace, subject, message });
    Ok(Published { gate, offset: 0, duplicate: false })
}
