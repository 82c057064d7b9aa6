//! The last message on each subject, as readers search it.

use parking_lot::RwLock;
use posthaste_model::{Envelope, Name, Pattern, Payload, Subject, Word};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

type Kept = BTreeMap<Subject, (Envelope, Payload)>;

/// What is durable, by namespace.
#[derive(Default)]
pub(crate) struct RetainedView {
    namespaces: RwLock<HashMap<Name, (Kept, usize)>>,
}

impl RetainedView {
    pub fn change(&self, namespace: &Name, subject: Subject, message: Option<(Envelope, Payload)>) {
        let mut namespaces = self.namespaces.write();
        let (kept, bytes) = namespaces.entry(namespace.clone()).or_default();
        let size = |(_, payload): &(Envelope, Payload)| payload.body.len() + payload.head.len();
        let gone = match message {
            Some(message) => {
                *bytes += size(&message);
                kept.insert(subject, message)
            }
            None => kept.remove(&subject),
        };
        *bytes -= gone.as_ref().map_or(0, size).min(*bytes);
    }

    /// How many there are, and their bytes.
    pub fn size(&self, namespace: &Name) -> (usize, usize) {
        self.namespaces.read().get(namespace).map_or((0, 0), |(kept, bytes)| (kept.len(), *bytes))
    }

    pub fn contains(&self, namespace: &Name, subject: &Subject) -> bool {
        self.namespaces.read().get(namespace).is_some_and(|(kept, _)| kept.contains_key(subject))
    }

    /// Up to `max` that match, in order of subjects, behind `after`.
    pub fn find(
        &self,
        namespace: &Name,
        pattern: &Pattern,
        after: Option<&Subject>,
        max: usize,
    ) -> Vec<(Envelope, Payload)> {
        let namespaces = self.namespaces.read();
        let Some((kept, _)) = namespaces.get(namespace) else { return Vec::new() };
        let (first, prefix) = literal_prefix(pattern);
        let from = match after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Included(first),
        };
        kept.range((from, Bound::Unbounded))
            .take_while(|(subject, _)| {
                subject.segments().take(prefix.len()).eq(prefix.iter().map(|p| p.as_str()))
            })
            .filter(|(subject, _)| pattern.matches(subject))
            .take(max)
            .map(|(_, message)| message.clone())
            .collect()
    }
}

/// The literal words that a pattern begins with: everything that matches stands together behind them.
fn literal_prefix(pattern: &Pattern) -> (Subject, Vec<String>) {
    let words: Vec<String> = pattern
        .words()
        .iter()
        .map_while(|word| match word {
            Word::Literal(text) => Some(text.to_string()),
            Word::Many | Word::One => None,
        })
        .collect();
    let escaped: Vec<String> = words.iter().map(|w| w.replace('%', "%25").replace('.', "%2E")).collect();
    (Subject::dotted(escaped.join(".")).unwrap_or_default(), words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use posthaste_model::{Format, Syntax, Timestamp};

    #[test]
    fn finds_by_pattern_page_by_page() {
        let view = RetainedView::default();
        let namespace = Name::constant("default");
        let topics = ["a", "a/b", "a/b/c", "a/c", "b", "$SYS/x", "a.b/c", "ab"];
        for topic in topics {
            let subject = Subject::slashed(topic).unwrap();
            let payload = Payload { format: Format(3), head: Bytes::new(), body: Bytes::from_static(b"1") };
            view.change(&namespace, subject.clone(), Some((Envelope::new(subject, Timestamp(0)), payload)));
        }
        for filter in ["#", "a/#", "a/+", "+", "a/b/c", "x/#", "$SYS/#", "a.b/+"] {
            let pattern = Pattern::parse(filter, Syntax::SLASHED).unwrap();
            let mut expect: Vec<_> =
                topics.iter().map(|t| Subject::slashed(*t).unwrap()).filter(|s| pattern.matches(s)).collect();
            expect.sort();
            let mut found: Vec<Subject> = Vec::new();
            loop {
                let page = view.find(&namespace, &pattern, found.last(), 2);
                if page.is_empty() {
                    break;
                }
                found.extend(page.into_iter().map(|(envelope, _)| envelope.subject));
            }
            assert_eq!(found, expect, "{filter}");
        }
        assert_eq!(view.size(&namespace), (8, 8));
        view.change(&namespace, Subject::slashed("a").unwrap(), None);
        assert_eq!(view.size(&namespace), (7, 7));
    }
}
