//! What waits for an engine thread, in two lanes.
//!
//! Publishers may have thousands of messages on their way, and a settlement that waited behind all of them
//! would keep its consumer idle meanwhile: the faster the publishers, the slower the consumers, until the
//! backlog grows for no other reason. So what hands out, confirms and settles goes ahead of what is
//! published. Nothing relies on the order of the two: a settlement follows a delivery, and that follows its
//! publish.
//!
//! Publishers with little on their way each would wake the thread for every message of theirs. So where it
//! pays the thread [rests](Inbox::rest), and takes what has come meanwhile in one round.

use crate::thread::Input;
use posthaste_engine::Command;
use posthaste_model::bell::{Bell, Patience};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

/// Inputs of the first lane that are taken before one of the second, if there is one: neither starves.
const AHEAD_MAX: u32 = 64;

/// An engine thread's inbox, and where it is filled.
pub(crate) fn inbox() -> (Sender, Inbox) {
    let (ahead, from_ahead) = mpsc::channel();
    let (others, from_others) = mpsc::channel();
    let called = Arc::new(AtomicBool::new(false));
    let bell = Arc::new(Bell::default());
    let sender = Sender { ahead, others, called: called.clone(), bell: bell.clone() };
    let rest = Rest { bell, patience: Patience::default(), published: 0, drained: false };
    (sender, Inbox { ahead: from_ahead, others: from_others, called, rest, in_a_row: 0 })
}

#[derive(Clone)]
pub(crate) struct Sender {
    ahead: mpsc::Sender<Input>,
    others: mpsc::Sender<Entry>,
    /// A call is on its way in the second lane, on which alone the thread waits.
    called: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

pub(crate) struct Inbox {
    ahead: mpsc::Receiver<Input>,
    others: mpsc::Receiver<Entry>,
    called: Arc<AtomicBool>,
    rest: Rest,
    in_a_row: u32,
}

/// Whether the thread may rest.
struct Rest {
    bell: Arc<Bell>,
    patience: Patience,
    /// Messages handed out since there was last a chance to rest.
    published: u64,
    /// Nothing was left when the thread last looked.
    drained: bool,
}

// Calls are rare beside inputs: no space is lost to them.
#[allow(clippy::large_enum_variant)]
enum Entry {
    Input(Input),
    /// There is something in the first lane.
    Call,
}

impl Sender {
    /// False when nobody takes it any more.
    pub fn send(&self, input: Input) -> bool {
        let rings = !may_wait(&input);
        let sent = self.put(input);
        if rings {
            self.bell.ring();
        }
        sent
    }

    fn put(&self, input: Input) -> bool {
        if !goes_ahead(&input) {
            return self.others.send(Entry::Input(input)).is_ok();
        }
        let sent = self.ahead.send(input).is_ok();
        if sent && !self.called.swap(true, Ordering::AcqRel) {
            // If that fails the thread has just ended.
            let _ = self.others.send(Entry::Call);
        }
        sent
    }
}

impl Inbox {
    /// If the inbox is empty and it pays, lets publishes gather for at most `limit`; anything else ends it.
    pub fn rest(&mut self, limit: Duration) {
        let Rest { bell, patience, published, drained } = &mut self.rest;
        if *drained && patience.rests(std::mem::take(published), Instant::now()) {
            bell.rest(limit);
        }
    }

    /// What is next, if anything waits.
    pub fn next(&mut self) -> Option<Input> {
        let next = self.take();
        self.rest.hand_out(next.as_ref());
        next
    }

    fn take(&mut self) -> Option<Input> {
        if self.in_a_row < AHEAD_MAX
            && let Ok(input) = self.ahead.try_recv()
        {
            self.in_a_row += 1;
            return Some(input);
        }
        self.in_a_row = 0;
        loop {
            match self.others.try_recv() {
                Ok(Entry::Input(input)) => return Some(input),
                Ok(Entry::Call) => self.called.store(false, Ordering::Release),
                // What was called for may have come since.
                Err(_) => return self.ahead.try_recv().ok(),
            }
        }
    }

    /// What is next, or nothing after `wait`. What comes later than this keeps the thread from its next rest,
    /// unless it may wait.
    ///
    /// # Errors
    /// Nobody can send any more.
    pub fn wait(&mut self, wait: Duration) -> Result<Option<Input>, RecvTimeoutError> {
        let input = self.wait_for_one(wait);
        self.rest.bell.listen();
        input
    }

    fn wait_for_one(&mut self, wait: Duration) -> Result<Option<Input>, RecvTimeoutError> {
        loop {
            if let Some(input) = self.next() {
                return Ok(Some(input));
            }
            match self.others.recv_timeout(wait) {
                Ok(Entry::Input(input)) => {
                    self.rest.hand_out(Some(&input));
                    return Ok(Some(input));
                }
                Ok(Entry::Call) => self.called.store(false, Ordering::Release),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(ended) => return Err(ended),
            }
        }
    }
}

impl Rest {
    fn hand_out(&mut self, next: Option<&Input>) {
        self.drained = next.is_none();
        if let Some(Input::Publish(job)) = next {
            self.published += job.items.len() as u64;
        }
    }
}

fn goes_ahead(input: &Input) -> bool {
    match input {
        Input::Completed(_) => true,
        Input::Command { command, reply: None, .. } => {
            matches!(command, Command::Settle(_) | Command::Credit { .. })
        }
        _ => false,
    }
}

/// Whether nobody minds if it is taken a moment later.
fn may_wait(input: &Input) -> bool {
    matches!(input, Input::Publish(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::{ConsumerId, QueueId, ShardId};

    fn credit(add: u32) -> Input {
        let command = Command::Credit { queue: QueueId(1), consumer: ConsumerId(1), add };
        Input::Command { shard: ShardId(0), command, reply: None }
    }

    fn trim() -> Input {
        Input::Command { shard: ShardId(0), command: Command::Tick, reply: None }
    }

    fn is_ahead(input: Option<Input>) -> Option<bool> {
        input.map(|input| goes_ahead(&input))
    }

    #[test]
    fn what_goes_ahead_overtakes_but_never_starves_the_rest() {
        let (sender, mut inbox) = inbox();
        for _ in 0..3 {
            assert!(sender.send(trim()));
        }
        for n in 0..100 {
            assert!(sender.send(credit(n)));
        }
        let order: Vec<bool> = std::iter::from_fn(|| is_ahead(inbox.next())).collect();
        assert_eq!(order.len(), 103);
        let others: Vec<usize> = (0..order.len()).filter(|at| !order[*at]).collect();
        assert_eq!(others, [64, 101, 102]);
    }

    #[test]
    fn whoever_waits_is_called() {
        let (sender, mut inbox) = inbox();
        assert!(matches!(inbox.wait(Duration::ZERO), Ok(None)));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1_000).for_each(|n| assert!(sender.send(credit(n)))));
            for expected in 0..1_000 {
                let Ok(Some(Input::Command { command: Command::Credit { add, .. }, .. })) =
                    inbox.wait(Duration::from_secs(60))
                else {
                    panic!("{expected} did not come")
                };
                assert_eq!(add, expected);
            }
        });
        drop(sender);
        assert!(inbox.wait(Duration::from_secs(60)).is_err());
    }
}
