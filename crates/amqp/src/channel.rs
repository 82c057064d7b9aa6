//! One channel of a connection, and the channels that a connection has.

use crate::{
    state::{Unsettled, Window},
    wire::{Assembler, ShortString},
};
use posthaste_broker::Holder;
use posthaste_engine::{Delivery, Position, catalog::Queue};
use posthaste_model::ConsumerId;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// A channel that is open, or closed by the server and waiting for the client to agree.
pub(crate) struct Channel {
    /// No other channel of the connection has it, whatever its number.
    pub serial: u64,
    /// The server closed it: everything is discarded but `channel.close-ok`.
    pub closing: bool,
    pub assembler: Assembler,
    /// The tag of the next publish, in confirm mode.
    pub next_publish_tag: Option<u64>,
    pub last_delivery_tag: u64,
    pub unsettled: Unsettled<Lease>,
    /// Unsettled deliveries to consumers, which are what `global` limits.
    pub consumers_unsettled: u32,
    /// Of new consumers; 0 is no limit (`basic.qos` with `global` false).
    pub prefetch: u16,
    /// Over all consumers; 0 is no limit (`basic.qos` with `global` true).
    pub prefetch_of_all: u16,
    pub consumers: HashMap<ShortString, ConsumerId>,
    /// Deliveries beyond [`Channel::prefetch_of_all`], oldest first.
    pub held: VecDeque<Deliveries>,
    /// Holds what `basic.get` took.
    pub getter: Option<Holder>,
    /// What an empty queue name stands for.
    pub last_queue: Option<ShortString>,
    /// Where replies for this channel arrive.
    pub reply_queue: Option<Arc<Queue>>,
}

/// What settling a delivery needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub holder: Holder,
    pub lane: u8,
    pub position: Position,
}

/// Deliveries to one consumer that were not written yet.
#[derive(Debug)]
pub(crate) struct Deliveries {
    pub holder: Holder,
    pub deliveries: VecDeque<Delivery>,
}

/// A consumer, found by the id that the broker knows it by.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub channel: u16,
    pub tag: ShortString,
    pub holder: Holder,
    pub queue: Arc<Queue>,
    pub no_ack: bool,
    pub window: Window,
    /// Its window is its own, not that of all consumers of the channel.
    pub has_prefetch: bool,
}

impl Channel {
    fn new(serial: u64, body_size_max: u64) -> Channel {
        Channel {
            serial,
            closing: false,
            assembler: Assembler::new(body_size_max),
            next_publish_tag: None,
            last_delivery_tag: 0,
            unsettled: Unsettled::default(),
            consumers_unsettled: 0,
            prefetch: 0,
            prefetch_of_all: 0,
            consumers: HashMap::new(),
            held: VecDeque::new(),
            getter: None,
            last_queue: None,
            reply_queue: None,
        }
    }

    /// How many more deliveries its consumers may be sent now.
    pub fn room(&self) -> usize {
        match u32::from(self.prefetch_of_all) {
            0 => usize::MAX,
            limit => limit.saturating_sub(self.consumers_unsettled) as usize,
        }
    }

    pub fn next_delivery_tag(&mut self) -> u64 {
        self.last_delivery_tag += 1;
        self.last_delivery_tag
    }
}

/// The channels of a connection, by number.
pub(crate) struct Channels {
    slots: Vec<Option<Box<Channel>>>,
    /// Numbers that were in use before.
    known: Vec<bool>,
    open: usize,
    last_serial: u64,
}

impl Channels {
    pub fn new() -> Channels {
        Channels { slots: Vec::new(), known: Vec::new(), open: 0, last_serial: 0 }
    }

    pub fn len(&self) -> usize {
        self.open
    }

    #[inline]
    pub fn get_mut(&mut self, number: u16) -> Option<&mut Channel> {
        self.slots.get_mut(usize::from(number))?.as_deref_mut()
    }

    pub fn get(&self, number: u16) -> Option<&Channel> {
        self.slots.get(usize::from(number))?.as_deref()
    }

    /// Whether a channel with this number was open before.
    pub fn was_open(&self, number: u16) -> bool {
        self.known.get(usize::from(number)).copied().unwrap_or(false)
    }

    /// `number` is not in use.
    pub fn open(&mut self, number: u16, body_size_max: u64) {
        let at = usize::from(number);
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
            self.known.resize(at + 1, false);
        }
        self.last_serial += 1;
        if let (Some(slot), Some(known)) = (self.slots.get_mut(at), self.known.get_mut(at)) {
            *slot = Some(Box::new(Channel::new(self.last_serial, body_size_max)));
            *known = true;
            self.open += 1;
        }
    }

    pub fn remove(&mut self, number: u16) -> Option<Box<Channel>> {
        let channel = self.slots.get_mut(usize::from(number))?.take()?;
        self.open -= 1;
        Some(channel)
    }

    /// Numbers in use.
    pub fn numbers(&self) -> Vec<u16> {
        (0u16..=u16::MAX).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(n, _)| n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_but_channels_are_not() {
        let mut channels = Channels::new();
        channels.open(7, 100);
        let first = channels.get(7).unwrap().serial;
        assert!(channels.was_open(7) && !channels.was_open(6) && !channels.was_open(9));
        assert!(channels.remove(7).is_some() && channels.remove(7).is_none());
        assert!(channels.was_open(7) && channels.get_mut(7).is_none());
        channels.open(7, 100);
        channels.open(1, 100);
        assert_ne!(channels.get(7).unwrap().serial, first);
        assert_eq!((channels.len(), channels.numbers()), (2, vec![1, 7]));
    }

    #[test]
    fn the_limit_of_all_consumers() {
        let mut channels = Channels::new();
        channels.open(1, 100);
        let channel = channels.get_mut(1).unwrap();
        assert_eq!(channel.room(), usize::MAX);
        for (limit, unsettled, expect) in [(5, 0, 5), (5, 5, 0), (2, 5, 0), (6, 5, 1)] {
            (channel.prefetch_of_all, channel.consumers_unsettled) = (limit, unsettled);
            assert_eq!(channel.room(), expect, "{unsettled} of {limit}");
        }
    }
}
