//! A rest that can be cut short, and whether to take it.
//!
//! A thread that is woken for each of many small things spends more on waking than on the work. If it rests
//! for a moment before it waits to be woken, it finds them together.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// Belongs to one thread, which rests; others ring.
#[derive(Debug, Default)]
pub struct Bell {
    resting: AtomicBool,
    rung: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Bell {
    /// Something has come that should not wait: ends the rest, or keeps the next one from beginning.
    pub fn ring(&self) {
        // One of the two sees what the other has stored: whoever goes to rest looks at `rung` after
        // `resting`.
        self.rung.store(true, Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst)
            && self.resting.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Forgets what has rung. Called before looking at what has come, so that nothing is missed.
    pub fn listen(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    /// Waits for `limit`, or until it rings; not at all if it has rung since [`Bell::listen`]. It may end
    /// early for no reason. Only ever called by the same thread.
    pub fn rest(&self, limit: Duration) {
        self.thread.get_or_init(thread::current);
        self.resting.store(true, Ordering::SeqCst);
        if !self.rung.load(Ordering::SeqCst) {
            thread::park_timeout(limit);
        }
        self.resting.store(false, Ordering::SeqCst);
    }
}

/// Finds out whether resting pays, by trying.
///
/// Time is cut into phases, and now and then a phase is spent the other way than the ones before. Rests pay
/// where clearly more is found at once and about as much in all: peers that send without waiting lose nothing
/// by them, while peers that wait for each answer would only wait longer. A thread that is seldom woken does
/// not need them.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    phase: Option<Phase>,
    /// What the last phase found that was no trial.
    usual: Option<Pace>,
    /// Between the phases with rests and those without that were compared so far, newer ones counting more.
    ratio: Option<Ratio>,
    pays: bool,
    /// Phases to go until the next trial, and how many there are from one to the next.
    until_trial: u32,
    trials_apart: u32,
}

#[derive(Clone, Copy, Debug)]
struct Phase {
    begun: Instant,
    last: Instant,
    chances: u32,
    found: u64,
    rests: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pace {
    chances_per_second: f64,
    found_per_second: f64,
    found_per_chance: f64,
}

/// With rests to without.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    per_second: f64,
    per_chance: f64,
}

impl Patience {
    const PHASE: Duration = Duration::from_millis(10);
    const PHASE_CHANCES: u32 = 16;
    /// After a pause like this what was found out no longer counts.
    const PAUSE: Duration = Duration::from_millis(100);
    /// Between trials: at first, and while their outcome remains the same.
    const TRIALS_APART: std::ops::RangeInclusive<u32> = 4..=64;

    /// Called at each chance to rest; `found` is how much came since the last, in any unit. Whether to rest
    /// now.
    pub fn rests(&mut self, found: u64, now: Instant) -> bool {
        let pauses = |phase: &Phase| now.saturating_duration_since(phase.last) > Self::PAUSE;
        if self.phase.as_ref().is_some_and(pauses) {
            *self = Patience::default();
        }
        let Some(phase) = &mut self.phase else {
            self.trials_apart = *Self::TRIALS_APART.start();
            self.until_trial = self.trials_apart;
            return self.begin(false, now);
        };
        (phase.last, phase.chances) = (now, phase.chances + 1);
        phase.found = phase.found.saturating_add(found);
        let lasted = now.saturating_duration_since(phase.begun);
        if lasted < Self::PHASE || phase.chances < Self::PHASE_CHANCES {
            return phase.rests;
        }
        let phase = *phase;
        let next = self.judge(phase.rests, phase.pace(lasted));
        self.begin(next, now)
    }

    fn begin(&mut self, rests: bool, now: Instant) -> bool {
        self.phase = Some(Phase { begun: now, last: now, chances: 0, found: 0, rests });
        rests
    }

    /// A phase is over; returns whether the next one rests.
    fn judge(&mut self, rested: bool, pace: Pace) -> bool {
        if rested == self.pays {
            self.usual = Some(pace);
            self.until_trial = self.until_trial.saturating_sub(1);
            let tries = self.until_trial == 0 && (rested || !pace.is_slow());
            return self.pays != tries;
        }
        let usual = self.usual.unwrap_or(pace);
        let (with, without) = if rested { (pace, usual) } else { (usual, pace) };
        let now = Ratio::of(with, without);
        let ratio = self.ratio.map_or(now, |before| before.mixed(now));
        let pays = !without.is_slow() && ratio.pays();
        // A trial that contradicts what was found out is soon followed by another.
        self.trials_apart = match pays == self.pays && now.pays() == pays {
            true => (self.trials_apart * 2).min(*Self::TRIALS_APART.end()),
            false => *Self::TRIALS_APART.start(),
        };
        (self.ratio, self.pays, self.until_trial) = (Some(ratio), pays, self.trials_apart);
        pays
    }
}

impl Pace {
    const CHANCES_PER_SECOND_MIN: f64 = 5_000.0;

    /// Without rests: so few chances that being woken for each keeps nobody from anything.
    fn is_slow(self) -> bool {
        self.chances_per_second < Self::CHANCES_PER_SECOND_MIN
    }
}

impl Ratio {
    const PER_CHANCE_MIN: f64 = 1.5;
    const PER_SECOND_MIN: f64 = 0.8;
    /// How much one comparison counts beside those before.
    const WEIGHT: f64 = 0.25;

    fn of(with: Pace, without: Pace) -> Ratio {
        // Nothing at all found is as good as very little.
        let ratio = |with: f64, without: f64| (with / without.max(f64::MIN_POSITIVE)).min(100.0);
        Ratio {
            per_second: ratio(with.found_per_second, without.found_per_second),
            per_chance: ratio(with.found_per_chance, without.found_per_chance),
        }
    }

    fn mixed(self, now: Ratio) -> Ratio {
        let mixed = |before: f64, now: f64| before + (now - before) * Self::WEIGHT;
        Ratio {
            per_second: mixed(self.per_second, now.per_second),
            per_chance: mixed(self.per_chance, now.per_chance),
        }
    }

    fn pays(self) -> bool {
        self.per_chance >= Self::PER_CHANCE_MIN && self.per_second >= Self::PER_SECOND_MIN
    }
}

impl Phase {
    fn pace(&self, lasted: Duration) -> Pace {
        let (found, chances) = (self.found as f64, f64::from(self.chances));
        let seconds = lasted.as_secs_f64();
        Pace {
            chances_per_second: chances / seconds,
            found_per_second: found / seconds,
            found_per_chance: found / chances,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has a thread handle what comes for 4 s, and returns how much came and how often it rested. `came` is
    /// given how much time has passed, and returns how much came then and how long that was waited for.
    fn serve(
        patience: &mut Patience,
        now: &mut Instant,
        mut came: impl FnMut(Duration) -> (u32, Duration),
    ) -> (u32, u32) {
        let (until, mut all, mut rests, mut passed) = (*now + SERVED, 0, 0, Duration::ZERO);
        while *now < until {
            let (found, waited) = came(passed);
            all += found;
            *now += waited;
            passed = Duration::from_micros(10) + Duration::from_micros(2) * found;
            if patience.rests(found.into(), *now) {
                rests += 1;
                passed += Duration::from_micros(200);
            }
            *now += passed;
        }
        (all, rests)
    }

    const SERVED: Duration = Duration::from_secs(4);

    /// One each `apart`, whether it is looked at or not.
    fn stream(apart: Duration) -> impl FnMut(Duration) -> (u32, Duration) {
        let mut left = Duration::ZERO;
        move |passed| {
            let waited = apart.saturating_sub(left + passed);
            let all = left + passed + waited;
            let found = (all.as_micros() / apart.as_micros()) as u32;
            left = all - apart * found;
            (found, waited)
        }
    }

    #[test]
    fn it_rests_where_much_comes_by_itself_and_not_where_every_answer_is_waited_for() {
        let mut fast = stream(Duration::from_micros(20));
        // Each of three peers sends one when it has its answer: so many are found however long it takes.
        let answered = |_: Duration| (3, Duration::ZERO);
        let mut now = Instant::now();
        let mut patience = Patience::default();
        let (_, rests) = serve(&mut patience, &mut now, &mut fast);
        assert!(rests > 10_000, "{rests}");
        let (all, _) = serve(&mut patience, &mut now, answered);
        let at_most = 3 * (SERVED.as_micros() / 16) as u32;
        assert!(all > at_most / 10 * 8, "{all} of {at_most}");
        let (_, rests) = serve(&mut patience, &mut now, &mut fast);
        assert!(rests > 10_000, "{rests}");
        // After a pause nothing is left of what was found out.
        now += Duration::from_secs(1);
        assert!(!patience.rests(1, now));
    }

    #[test]
    fn a_thread_that_is_seldom_woken_does_not_rest() {
        let mut now = Instant::now();
        let mut patience = Patience::default();
        let (all, rests) = serve(&mut patience, &mut now, stream(Duration::from_millis(1)));
        assert!(all > 3_900, "{all}");
        assert_eq!(rests, 0);
        let (_, rests) = serve(&mut patience, &mut now, stream(Duration::from_micros(20)));
        assert!(rests > 10_000, "{rests}");
        // Later not much longer than it takes to find out.
        let (_, rests) = serve(&mut patience, &mut now, stream(Duration::from_millis(1)));
        assert!(rests < 1_000, "{rests}");
    }

    #[test]
    fn what_has_rung_is_heard() {
        let bell = Bell::default();
        thread::scope(|scope| {
            let rings = scope.spawn(|| {
                for _ in 0..1_000 {
                    bell.listen();
                    // An hour, if a ring were missed.
                    while !bell.rung.load(Ordering::SeqCst) {
                        bell.rest(Duration::from_secs(3_600));
                    }
                }
            });
            while !rings.is_finished() {
                bell.ring();
                thread::yield_now();
            }
        });
    }
}
