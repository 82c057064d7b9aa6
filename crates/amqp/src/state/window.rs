//! How many deliveries a consumer may be handed.

/// The credit that was granted for one consumer. It begins small and grows as long as the client really
/// holds that many unsettled deliveries, so that a large prefetch, or none, costs memory only where it is
/// used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    granted: u32,
    limit: u32,
    unsettled: u32,
    /// Deliveries without acknowledgement that were written since credit was given back for them, and their
    /// octets.
    written: u32,
    octets: usize,
}

/// Unsettled deliveries of a consumer that set no prefetch. RabbitMQ has no such limit but its memory.
pub(crate) const UNSETTLED_WITHOUT_PREFETCH_MAX: u32 = 262_144;

/// Deliveries without acknowledgement are granted this many octets of bodies, as far as can be told
/// beforehand.
const PASSING_OCTETS_MAX: usize = 4 << 20;
/// Granted to a consumer without acknowledgement before anything is known of its messages.
const PASSING_AT_FIRST: u32 = 64;

impl Window {
    /// `prefetch` 0 is no limit; no more than `first` are granted at first.
    pub fn new(prefetch: u32, first: u32) -> Window {
        let limit = if prefetch == 0 { UNSETTLED_WITHOUT_PREFETCH_MAX } else { prefetch };
        Window { granted: limit.min(first.max(1)), limit, unsettled: 0, written: 0, octets: 0 }
    }

    /// For a consumer that acknowledges nothing, of which no more than `limit` deliveries wait to be written.
    pub fn passing(limit: u32) -> Window {
        Window::new(limit.max(1), PASSING_AT_FIRST)
    }

    pub fn granted(&self) -> u32 {
        self.granted
    }

    /// A delivery that waits for acknowledgement was written; returns credit to add.
    pub fn delivered(&mut self) -> u32 {
        self.unsettled = self.unsettled.saturating_add(1);
        if self.granted >= self.limit || self.unsettled < self.granted - self.granted / 4 {
            return 0;
        }
        let add = self.granted.min(self.limit - self.granted);
        self.granted += add;
        add
    }

    /// The client settled deliveries; their credit came back with that.
    pub fn settled(&mut self, count: u32) {
        self.unsettled = self.unsettled.saturating_sub(count);
    }

    /// Deliveries that need no acknowledgement were written, with so many octets of bodies; returns credit
    /// to add.
    pub fn passed(&mut self, count: u32, octets: usize) -> u32 {
        self.written = self.written.saturating_add(count);
        self.octets = self.octets.saturating_add(octets);
        if self.written < self.granted.div_ceil(4) {
            return 0;
        }
        let average = (self.octets / self.written.max(1) as usize).max(1);
        let fitting = u32::try_from(PASSING_OCTETS_MAX / average).unwrap_or(u32::MAX).clamp(1, self.limit);
        let left = self.granted.saturating_sub(self.written);
        let add = fitting.min(self.granted.saturating_mul(2)).saturating_sub(left);
        self.granted = left + add;
        (self.written, self.octets) = (0, 0);
        add
    }

    /// The limit is higher now; returns credit to add. A lower one takes nothing back.
    pub fn raise(&mut self, limit: u32, first: u32) -> u32 {
        self.limit = self.limit.max(limit);
        let add = limit.min(first).saturating_sub(self.granted);
        self.granted += add;
        add
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_prefetch_is_granted_at_once_and_never_exceeded() {
        let mut window = Window::new(3, 2_000);
        assert_eq!(window.granted(), 3);
        assert_eq!((0..10).map(|_| window.delivered()).sum::<u32>(), 0);
    }

    #[test]
    fn the_window_grows_only_for_clients_that_hold_as_much() {
        let mut window = Window::new(0, 100);
        for _ in 0..10_000 {
            assert_eq!(window.delivered(), 0);
            window.settled(1);
        }
        assert_eq!(window.granted(), 100);
        let added: u32 = (0..100).map(|_| window.delivered()).sum();
        assert_eq!((added, window.granted()), (100, 200));
        let added: u32 = (0..1_000_000).map(|_| window.delivered()).sum();
        assert_eq!(added + 200, UNSETTLED_WITHOUT_PREFETCH_MAX);
    }

    #[test]
    fn without_acknowledgement_the_window_follows_the_size_of_messages() {
        for (octets, expect) in [(0, 2_000), (100, 2_000), (4_096, 1_024), (1 << 20, 4), (16 << 20, 1)] {
            let mut window = Window::passing(2_000);
            let mut waiting = window.granted();
            for _ in 0..20_000 {
                assert!(waiting > 0, "stalled with messages of {octets} octets");
                waiting = waiting - 1 + window.passed(1, octets);
            }
            assert!(waiting <= expect && waiting >= expect / 2, "{waiting} of {expect} for {octets} octets");
        }
        assert_eq!(Window::passing(1).passed(1, 10), 1);
    }

    #[test]
    fn a_limit_is_raised_but_not_lowered() {
        let mut window = Window::new(4, 100);
        assert_eq!(window.raise(6, 100), 2);
        assert_eq!(window.raise(2, 100), 0);
        assert_eq!(window.granted(), 6);
    }
}
