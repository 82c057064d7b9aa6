//! The subscriptions of one session, and which of them a message reaches.
//!
//! The broker routes a message to a session once, however many of its subscriptions match. With which QoS,
//! flags and identifiers it is to be delivered is found out here, when it is delivered.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use posthaste_model::{Name, Pattern, Subject, Syntax, Word};

use crate::wire::{
    ByteString, ProtocolVersion, QoS, SubscriptionIdentifier, SubscriptionOptions, TopicFilter,
};

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub filter: TopicFilter,
    pub options: SubscriptionOptions,
    pub identifier: Option<SubscriptionIdentifier>,
    /// The queue that is shared with others, for a shared subscription.
    pub share: Option<Name>,
}

/// Arguments of a binding: a byte for their layout, the options, the identifier (four bytes, 0 for none).
const LAYOUT: u8 = 1;

impl Subscription {
    /// What is kept with the binding.
    pub fn arguments(&self) -> Bytes {
        let mut arguments = BytesMut::with_capacity(6);
        arguments.put_slice(&[LAYOUT, self.options.to_byte()]);
        arguments.put_u32(self.identifier.map_or(0, SubscriptionIdentifier::value));
        arguments.freeze()
    }

    /// A subscription from its binding: filter text and arguments. `None` when they are not a subscription's.
    pub fn from_binding(key: &Bytes, arguments: &[u8]) -> Option<Subscription> {
        let (&[LAYOUT, options, a, b, c, d], []) = arguments.split_first_chunk::<6>()? else { return None };
        let options = SubscriptionOptions::from_byte(options, ProtocolVersion::V5).ok()?;
        let identifier = SubscriptionIdentifier::new(u32::from_be_bytes([a, b, c, d]));
        let text = ByteString::from(std::str::from_utf8(key).ok()?);
        let filter = TopicFilter::parse(text).ok()?;
        let share = filter.share_name().map(|name| super::names::share(name, filter.filter()));
        Some(Subscription { filter, options, identifier, share })
    }

    /// Whether its messages are not what any other subscriber gets.
    fn is_particular(&self) -> bool {
        self.identifier.is_some() || self.options.no_local
    }

    /// As permissions name what it reads: with dots and their wildcards.
    pub fn named(&self) -> String {
        let subject = Subject::slashed(self.filter.filter().to_owned()).unwrap_or_default();
        let dotted = subject.to_dotted();
        dotted.split('.').map(|level| if level == "+" { "*" } else { level }).collect::<Vec<_>>().join(".")
    }

    /// What its topic filter matches. `None` for a filter that is no pattern, which the decoder lets not
    /// pass.
    pub fn pattern(&self) -> Option<Pattern> {
        Pattern::parse(self.filter.filter(), Syntax::SLASHED).ok()
    }
}

/// How a message is to be delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The highest QoS of the subscriptions that match [MQTT-3.3.4-2].
    pub qos: QoS,
    /// Whether one of them wants the retain flag as it was published [MQTT-3.3.1-12].
    pub retain_as_published: bool,
    /// Of all of them [MQTT-3.3.4-3].
    pub identifiers: Vec<SubscriptionIdentifier>,
}

/// The subscriptions of one session: by filter, and as a tree of levels for those that are not shared.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    by_filter: BTreeMap<ByteString, Subscription>,
    tree: Level,
    /// Those not shared whose subscriber gets PUBLISH packets of its own: with an identifier, or No Local.
    particular: usize,
    /// Those not shared that want the retain flag as it was published.
    retaining: usize,
    /// Whether one was ever removed: what the broker has routed may then match no more.
    removed: bool,
    /// Filters that the client may not read any more. They are kept, and nothing is delivered for them.
    suspended: BTreeSet<ByteString>,
}

/// A level of the tree: what its filters go on with.
#[derive(Debug, Default)]
struct Level {
    literal: HashMap<Box<str>, Level>,
    /// `+`
    one: Option<Box<Level>>,
    /// `#`, which is always the last.
    many: Option<Entry>,
    here: Option<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    options: SubscriptionOptions,
    identifier: Option<SubscriptionIdentifier>,
}

impl Subscriptions {
    pub fn len(&self) -> usize {
        self.by_filter.len()
    }

    pub fn get(&self, filter: &str) -> Option<&Subscription> {
        self.by_filter.get(filter)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.by_filter.values()
    }

    /// Adds or replaces; returns the one that was there [MQTT-3.8.4-3].
    pub fn insert(&mut self, subscription: Subscription) -> Option<Subscription> {
        let counted = !self.suspended.remove(subscription.filter.as_byte_string());
        self.enter(&subscription);
        let replaced = self.by_filter.insert(subscription.filter.as_byte_string().clone(), subscription);
        if let Some(replaced) = replaced.as_ref().filter(|_| counted) {
            self.uncount(replaced);
        }
        replaced
    }

    fn enter(&mut self, subscription: &Subscription) {
        if !subscription.filter.is_shared()
            && let Some(pattern) = subscription.pattern()
        {
            let entry = Entry { options: subscription.options, identifier: subscription.identifier };
            *self.tree.slot(pattern.words()) = Some(entry);
            self.particular += usize::from(subscription.is_particular());
            self.retaining += usize::from(subscription.options.retain_as_published);
        }
    }

    /// Judges all of them anew: those for which `may` is false are suspended, the others are not.
    pub fn judge(&mut self, mut may: impl FnMut(&Subscription) -> bool) {
        (self.tree, self.particular, self.retaining) = Default::default();
        self.suspended.clear();
        let all = std::mem::take(&mut self.by_filter);
        for (filter, subscription) in &all {
            if may(subscription) {
                self.enter(subscription);
            } else {
                self.suspended.insert(filter.clone());
                self.removed = true;
            }
        }
        self.by_filter = all;
    }

    pub fn is_suspended(&self, filter: &str) -> bool {
        self.suspended.contains(filter)
    }

    /// How many are suspended.
    pub fn suspended(&self) -> usize {
        self.suspended.len()
    }

    pub fn remove(&mut self, filter: &str) -> Option<Subscription> {
        let removed = self.by_filter.remove(filter)?;
        if self.suspended.remove(filter) {
            return Some(removed);
        }
        if !removed.filter.is_shared()
            && let Some(pattern) = removed.pattern()
        {
            self.tree.remove(pattern.words());
        }
        self.uncount(&removed);
        self.removed = true;
        Some(removed)
    }

    fn uncount(&mut self, gone: &Subscription) {
        if !gone.filter.is_shared() {
            self.particular -= usize::from(gone.is_particular());
            self.retaining -= usize::from(gone.options.retain_as_published);
        }
    }

    /// Whether a message at QoS 0 that the broker has routed here, from anyone, is delivered as to everyone
    /// else: with no subscription identifier. `retained` is whether it was published with the retain flag,
    /// which the others do not see.
    pub fn grants_as_to_all<'s>(
        &self,
        retained: bool,
        mut subjects: impl Iterator<Item = &'s Subject>,
    ) -> bool {
        self.particular == 0
            && !(retained && self.retaining > 0)
            && (!self.removed || subjects.all(|subject| self.grant(subject, false).is_some()))
    }

    /// How a message on this subject is to be delivered; `None` when no subscription matches. `own` is
    /// whether it was published by the session's own client, which No Local keeps out [MQTT-3.8.3-3].
    pub fn grant(&self, subject: &Subject, own: bool) -> Option<Grant> {
        let mut grant = None;
        let hidden = subject.segments().next().is_some_and(|first| first.starts_with('$'));
        let mut found = |entry: &Entry| {
            if own && entry.options.no_local {
                return;
            }
            let grant: &mut Grant = grant.get_or_insert_default();
            grant.qos = grant.qos.max(entry.options.qos);
            grant.retain_as_published |= entry.options.retain_as_published;
            grant.identifiers.extend(entry.identifier);
        };
        self.tree.walk(subject.segments(), hidden, &mut found);
        grant
    }
}

impl Level {
    fn slot(&mut self, words: &[Word]) -> &mut Option<Entry> {
        match words.split_first() {
            None => &mut self.here,
            Some((Word::Many, _)) => &mut self.many,
            Some((Word::One, rest)) => self.one.get_or_insert_default().slot(rest),
            Some((Word::Literal(text), rest)) => {
                self.literal.entry(text.as_ref().into()).or_default().slot(rest)
            }
        }
    }

    /// Removes an entry and the levels that become empty.
    fn remove(&mut self, words: &[Word]) {
        match words.split_first() {
            None => self.here = None,
            Some((Word::Many, _)) => self.many = None,
            Some((Word::One, rest)) => {
                if let Some(one) = &mut self.one {
                    one.remove(rest);
                    if one.is_empty() {
                        self.one = None;
                    }
                }
            }
            Some((Word::Literal(text), rest)) => {
                if let Some(level) = self.literal.get_mut(text.as_ref()) {
                    level.remove(rest);
                    if level.is_empty() {
                        self.literal.remove(text.as_ref());
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.one.is_none() && self.many.is_none() && self.here.is_none()
    }

    /// `hidden` is whether wildcards do not match the next segment, because it is the first and begins with
    /// `$` [MQTT-4.7.2-1].
    fn walk<'s>(
        &self,
        mut segments: impl Iterator<Item = std::borrow::Cow<'s, str>> + Clone,
        hidden: bool,
        found: &mut impl FnMut(&Entry),
    ) {
        if let Some(many) = self.many.as_ref().filter(|_| !hidden) {
            found(many); // Also of its parent: section 4.7.1.2.
        }
        let Some(segment) = segments.next() else {
            if let Some(here) = &self.here {
                found(here);
            }
            return;
        };
        if let Some(level) = self.literal.get(segment.as_ref()) {
            level.walk(segments.clone(), false, found);
        }
        if let Some(one) = self.one.as_ref().filter(|_| !hidden) {
            one.walk(segments, false, found);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn subscription(filter: &str, options: u8, identifier: u32) -> Subscription {
        let mut subscription = Subscription {
            filter: TopicFilter::parse(filter.into()).unwrap(),
            options: SubscriptionOptions::from_byte(options, ProtocolVersion::V5).unwrap(),
            identifier: SubscriptionIdentifier::new(identifier),
            share: None,
        };
        let filter = &subscription.filter;
        subscription.share =
            filter.share_name().map(|name| super::super::names::share(name, filter.filter()));
        subscription
    }

    /// Identifiers of the subscriptions that match, ascending.
    fn matching(subscriptions: &Subscriptions, topic: &str) -> Vec<u32> {
        let subject = Subject::slashed(topic.to_owned()).unwrap();
        let grant = subscriptions.grant(&subject, false).unwrap_or_default();
        let mut ids: Vec<u32> = grant.identifiers.iter().map(|id| id.value()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn matches_as_patterns_do() {
        let filters = [
            "#",
            "+",
            "a",
            "a/#",
            "a/+",
            "a/b",
            "+/b",
            "+/+",
            "/+",
            "a/+/c",
            "a//c",
            "/#",
            "$x/#",
            "$x/+",
            "+/x",
            "$share/g/a",
            "a/+/#",
            "v1.5/a",
        ];
        let topics = [
            "a", "a/b", "a/b/c", "a//c", "/a", "/", "b", "$x", "$x/y", "$x/x", "a/", "x/x", "v1.5/a",
            "a/b/c/d",
        ];
        let mut subscriptions = Subscriptions::default();
        for (id, filter) in (1..).zip(filters) {
            assert_eq!(subscriptions.insert(subscription(filter, 1, id)), None);
        }
        for keep in [filters.len(), 9, 0] {
            for filter in &filters[keep..] {
                subscriptions.remove(filter);
            }
            for topic in topics {
                let subject = Subject::slashed(topic).unwrap();
                let expect: Vec<u32> = (1..)
                    .zip(&filters[..keep])
                    .filter(|(_, f)| !f.starts_with("$share"))
                    .filter(|(_, f)| Pattern::parse(f, Syntax::SLASHED).unwrap().matches(&subject))
                    .map(|(id, _)| id)
                    .collect();
                assert_eq!(matching(&subscriptions, topic), expect, "{topic} among {:?}", &filters[..keep]);
            }
        }
        assert!(subscriptions.tree.is_empty());
    }

    #[test]
    fn overlapping_subscriptions_grant_the_most() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.insert(subscription("a/#", 0, 1));
        subscriptions.insert(subscription("a/b", 2, 2));
        subscriptions.insert(subscription("+/b", 1 | 0b100 | 0b1000, 0));
        let subject = Subject::slashed("a/b").unwrap();
        let ids = |ids: &[u32]| ids.iter().map(|id| SubscriptionIdentifier::new(*id).unwrap()).collect();
        for (own, retain_as_published) in [(false, true), (true, false)] {
            let grant = subscriptions.grant(&subject, own).unwrap();
            let expect = Grant { qos: QoS::ExactlyOnce, retain_as_published, identifiers: ids(&[1, 2]) };
            assert_eq!(
                grant,
                Grant {
                    identifiers: {
                        let mut i = grant.identifiers.clone();
                        i.sort();
                        i
                    },
                    ..expect
                }
            );
        }
        assert_eq!(subscriptions.grant(&Subject::slashed("x/b").unwrap(), true), None, "No Local alone");
        let replaced = subscriptions.insert(subscription("a/b", 0, 9)).unwrap();
        assert_eq!((replaced.options.qos, subscriptions.len()), (QoS::ExactlyOnce, 3));
    }

    #[test]
    fn only_what_is_delivered_alike_is_shared() {
        const NO_LOCAL: u8 = 0b100;
        const RETAIN_AS_PUBLISHED: u8 = 0b1000;
        let check = |subscriptions: &Subscriptions, topic: &str, expect: [bool; 2]| {
            let subject = Subject::slashed(topic.to_owned()).unwrap();
            let granted = [false, true].map(|r| subscriptions.grants_as_to_all(r, [&subject].into_iter()));
            assert_eq!(granted, expect, "{topic}, without and with the retain flag");
        };
        let mut subscriptions = Subscriptions::default();
        subscriptions.insert(subscription("a/#", 0, 0));
        subscriptions.insert(subscription("$share/g/a", 0, 7));
        check(&subscriptions, "a/b", [true, true]);
        for (options, identifier, expect) in
            [(0, 1, [false, false]), (NO_LOCAL, 0, [false, false]), (RETAIN_AS_PUBLISHED, 0, [true, false])]
        {
            subscriptions.insert(subscription("+/b", options, identifier));
            check(&subscriptions, "a/b", expect);
            subscriptions.insert(subscription("+/b", 0, 0));
            check(&subscriptions, "a/b", [true, true]);
        }
        subscriptions.remove("+/b");
        check(&subscriptions, "a/b", [true, true]);
        check(&subscriptions, "x/b", [false, false]);
    }

    #[test]
    fn what_may_not_be_read_any_more_is_kept_and_matches_nothing() {
        let mut subscriptions = Subscriptions::default();
        for (id, filter) in (1..).zip(["a/#", "a/b", "c"]) {
            subscriptions.insert(subscription(filter, 1, id));
        }
        subscriptions.judge(|subscription| subscription.filter.as_str() == "a/b");
        assert_eq!((subscriptions.len(), subscriptions.suspended()), (3, 2));
        assert_eq!((matching(&subscriptions, "a/b"), matching(&subscriptions, "a/c")), (vec![2], vec![]));
        let subject = Subject::slashed("c").unwrap();
        assert!(!subscriptions.grants_as_to_all(false, [&subject].into_iter()));
        // Subscribed again, or removed, as any other.
        assert!(subscriptions.insert(subscription("c", 1, 7)).is_some());
        assert!(subscriptions.remove("a/#").is_some());
        assert_eq!((subscriptions.suspended(), matching(&subscriptions, "c")), (0, vec![7]));
        subscriptions.judge(|_| true);
        subscriptions.remove("a/b");
        subscriptions.remove("c");
        assert_eq!((subscriptions.particular, subscriptions.retaining, subscriptions.len()), (0, 0, 0));
    }

    #[test]
    fn arguments_come_back() {
        for (filter, options, identifier) in
            [("a/#", 0, 0), ("$share/g/+/b", 0b10_1010, 7), ("ä", 0b1_0101, 268_435_455)]
        {
            let subscription = subscription(filter, options, identifier);
            let key = Bytes::copy_from_slice(filter.as_bytes());
            assert_eq!(Subscription::from_binding(&key, &subscription.arguments()), Some(subscription));
        }
        for arguments in
            [&b""[..], b"\x01\x00\x00\x00\x00", b"\x02\x00\x00\x00\x00\x00", b"\x01\xff\x00\x00\x00\x00"]
        {
            assert_eq!(Subscription::from_binding(&Bytes::from_static(b"a"), arguments), None);
        }
    }
}
