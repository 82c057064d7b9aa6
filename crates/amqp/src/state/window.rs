//! How many deliveries a consumer may be handed.

/// The credit that was granted for one consumer. It begins small and grows as long as the client really
/// holds that many unsettled deliveries, so that a large prefetch, or none, costs memory only where it is
/// used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    granted: u32,
    limit: u32,
    unsettled: u32,
    /// Deliveries without acknowledgement that were written since credit was given back for them.
    written: u32,
}

/// Unsettled deliveries of a consumer that set no prefetch. RabbitMQ has no such limit but its memory.
pub(crate) const UNSETTLED_WITHOUT_PREFETCH_MAX: u32 = 262_144;

impl Window {
    /// `prefetch` 0 is no limit; no more than `first` are granted at first.
    pub fn new(prefetch: u32, first: u32) -> Window {
        let limit = if prefetch == 0 { UNSETTLED_WITHOUT_PREFETCH_MAX } else { prefetch };
        Window { granted: limit.min(first.max(1)), limit, unsettled: 0, written: 0 }
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

    /// Deliveries that need no acknowledgement were written, or dropped; returns credit to add.
    pub fn passed(&mut self, count: u32) -> u32 {
        self.written = self.written.saturating_add(count);
        if self.written < self.granted.div_ceil(4) {
            return 0;
        }
        std::mem::take(&mut self.written)
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
    fn credit_comes_back_in_quarters_without_acknowledgement() {
        let mut window = Window::new(0, 100);
        let returned: Vec<u32> = (0..60).map(|_| window.passed(1)).filter(|add| *add > 0).collect();
        assert_eq!(returned, [25, 25]);
        assert_eq!(Window::new(0, 1).passed(1), 1);
    }

    #[test]
    fn a_limit_is_raised_but_not_lowered() {
        let mut window = Window::new(4, 100);
        assert_eq!(window.raise(6, 100), 2);
        assert_eq!(window.raise(2, 100), 0);
        assert_eq!(window.granted(), 6);
    }
}
