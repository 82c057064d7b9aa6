//! A shard with a journal of events beside it, and the checks that hold whatever is done with it.

use posthaste_engine::{Command, Context, Effect, Event, Gate, Output, Shard, Ticket, effect::Journaled};
use posthaste_model::{Limits, ShardId, Timestamp};
use std::collections::BTreeSet;

/// What a record's head has room for, beside the broker's own few bytes.
const HEAD_BYTES_MAX: usize = (1 << 20) - 64;

pub struct World {
    pub shard: Shard,
    pub now: i64,
    pub batch: u64,
    /// How many batches what is known to be durable is behind.
    pub lag: u64,
    pub no_space: bool,
    pub limits: Limits,
    /// Everything that was journalled.
    pub journal: Vec<Journaled>,
    any: BTreeSet<u64>,
    synced: BTreeSet<u64>,
}

impl World {
    pub fn new() -> World {
        World {
            shard: Shard::new(ShardId(0)),
            now: 1_000,
            batch: 1,
            lag: u64::MAX,
            no_space: false,
            limits: Limits::default(),
            journal: Vec::new(),
            any: BTreeSet::new(),
            synced: BTreeSet::new(),
        }
    }

    pub fn durable(&self) -> u64 {
        self.batch.saturating_sub(self.lag)
    }

    /// Does something in the current batch, and journals what comes of it.
    pub fn act<R>(&mut self, act: impl FnOnce(&mut Shard, &Context, &mut Output) -> R) -> (R, Output) {
        let ctx = Context {
            now: Timestamp(self.now),
            batch: self.batch,
            durable: self.durable(),
            no_space: self.no_space,
            no_memory: false,
            limits: &self.limits,
        };
        let mut out = Output::default();
        let result = act(&mut self.shard, &ctx, &mut out);
        for journaled in &out.events {
            let mut head = Vec::new();
            journaled.event.encode(&mut head);
            assert!(
                head.len() <= HEAD_BYTES_MAX,
                "an event of {} bytes does not fit into a record",
                head.len()
            );
            self.any.insert(self.batch);
            if journaled.sync {
                self.synced.insert(self.batch);
            }
            let Journaled { event, sync, joined } = journaled;
            self.journal.push(Journaled { event: event.clone(), sync: *sync, joined: *joined });
        }
        assert!(
            !out.events.last().is_some_and(|e| e.joined),
            "the last event of a step is joined to nothing"
        );
        for gated in &out.effects {
            self.check_gate(gated.gate, &gated.effect);
        }
        (result, out)
    }

    pub fn step(&mut self, command: Command, ticket: u64) -> Output {
        self.act(|shard, ctx, out| shard.step(ctx, command, Ticket(ticket), out)).1
    }

    pub fn deliver(&mut self) -> Output {
        self.act(|shard, ctx, out| shard.deliver(ctx, out)).1
    }

    /// What waits for a batch waits for something that is in it: else it could wait for ever.
    pub fn check_gate(&self, gate: Gate, what: &impl std::fmt::Debug) {
        match gate {
            Gate::Open => {}
            Gate::Written(batch) => {
                assert!(self.any.contains(&batch), "{what:?} waits for nothing: {gate:?}")
            }
            Gate::Synced(batch) => {
                assert!(self.synced.contains(&batch), "{what:?} waits for nothing synced: {gate:?}");
            }
        }
    }

    /// Replays the journal into a fresh shard: it is the same as the one that lived.
    pub fn replayed(&self) -> Shard {
        let mut shard = Shard::new(ShardId(0));
        for journaled in &self.journal {
            // As it comes back from the disk.
            let mut head = Vec::new();
            journaled.event.encode(&mut head);
            let mut event = Event::decode(&head).unwrap();
            if let Some(payload) = journaled.event.payload() {
                event.set_body(payload.body.clone());
            }
            shard.replay(&event);
        }
        shard
    }

    /// Starts anew from the journal. `lost`: what came after the last synced event went with the power.
    pub fn restart(&mut self, clean: bool, lost: bool) -> Vec<Effect> {
        assert_eq!(self.replayed().digest(), self.shard.digest(), "replay is not what was live");
        if lost {
            let keep = self.journal.iter().rposition(|j| j.sync).map_or(0, |last| last + 1);
            self.journal.truncate(keep);
        }
        self.shard = self.replayed();
        self.batch += 1;
        let ((), out) = self.act(|shard, _, out| shard.recovered(clean, 0, out));
        assert!(out.events.iter().all(|e| !e.sync) && out.effects.iter().all(|e| e.gate == Gate::Open));
        out.effects.into_iter().map(|gated| gated.effect).collect()
    }
}
