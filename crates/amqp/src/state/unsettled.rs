//! Deliveries of a channel that the client has not settled, by delivery tag.

use std::collections::VecDeque;

/// Entries in the order of their tags. Settled ones leave a gap, and gaps never outnumber what is left by
/// much, so that one delivery which is never settled does not make all later ones cost memory.
#[derive(Debug)]
pub(crate) struct Unsettled<T> {
    entries: VecDeque<(u64, Option<T>)>,
    len: usize,
}

/// Gaps that are not worth closing.
const GAPS_MAX: usize = 64;

impl<T> Default for Unsettled<T> {
    fn default() -> Unsettled<T> {
        Unsettled { entries: VecDeque::new(), len: 0 }
    }
}

impl<T> Unsettled<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    /// `tag` is higher than all before.
    pub fn push(&mut self, tag: u64, entry: T) {
        self.entries.push_back((tag, Some(entry)));
        self.len += 1;
    }

    /// Takes the delivery with this tag; none when there is none.
    pub fn take(&mut self, tag: u64) -> Option<T> {
        let at = self.find(tag)?;
        let entry = self.entries.get_mut(at)?.1.take()?;
        self.len -= 1;
        self.close_gaps();
        Some(entry)
    }

    /// Takes all up to and including `tag`, oldest first; none when `tag` is not among them. 0 stands for
    /// all.
    pub fn take_through(&mut self, tag: u64) -> Option<Vec<T>> {
        let through = match tag {
            0 => self.entries.len(),
            tag => {
                let at = self.find(tag)?;
                self.entries.get(at)?.1.as_ref()?;
                at + 1
            }
        };
        let taken: Vec<T> = self.entries.drain(..through).filter_map(|(_, entry)| entry).collect();
        self.len -= taken.len();
        Some(taken)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, entry)| entry.as_ref())
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let first = self.entries.front()?.0;
        // Without gaps that were closed, a tag is where it is counted to be.
        let guess = usize::try_from(tag.checked_sub(first)?).ok()?;
        if self.entries.get(guess).is_some_and(|(found, _)| *found == tag) {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&tag, |(found, _)| *found).ok()
    }

    fn close_gaps(&mut self) {
        while self.entries.front().is_some_and(|(_, entry)| entry.is_none()) {
            self.entries.pop_front();
        }
        if self.entries.len() > 2 * self.len + GAPS_MAX {
            self.entries.retain(|(_, entry)| entry.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outstanding(tags: &[u64]) -> Unsettled<u64> {
        let mut unsettled = Unsettled::default();
        tags.iter().for_each(|tag| unsettled.push(*tag, *tag));
        unsettled
    }

    #[test]
    fn single_tags() {
        let mut unsettled = outstanding(&[1, 2, 3, 5]);
        for (tag, expect) in
            [(2, Some(2)), (2, None), (4, None), (0, None), (9, None), (5, Some(5)), (1, Some(1))]
        {
            assert_eq!(unsettled.take(tag), expect, "tag {tag}");
        }
        assert_eq!(unsettled.iter().copied().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn several_tags_at_once() {
        for (settled, through, expect, left) in [
            (vec![], 2, Some(vec![1, 2]), 2),
            (vec![], 0, Some(vec![1, 2, 3, 5]), 0),
            (vec![2], 3, Some(vec![1, 3]), 1),
            // What is not outstanding cannot be settled, not even together with what is.
            (vec![], 4, None, 4),
            (vec![3], 3, None, 3),
            (vec![], 6, None, 4),
            (vec![1, 2, 3, 5], 0, Some(vec![]), 0),
        ] {
            let mut unsettled = outstanding(&[1, 2, 3, 5]);
            settled.iter().for_each(|tag| assert_eq!(unsettled.take(*tag), Some(*tag)));
            assert_eq!(unsettled.take_through(through), expect, "through {through} after {settled:?}");
            assert_eq!((unsettled.len, unsettled.iter().count()), (left, left));
        }
    }

    #[test]
    fn one_that_is_never_settled_does_not_hold_the_others() {
        let mut unsettled = Unsettled::default();
        for tag in 1..=100_000 {
            unsettled.push(tag, tag);
            if tag > 1 {
                assert_eq!(unsettled.take(tag), Some(tag));
            }
        }
        assert!(unsettled.entries.len() <= GAPS_MAX + 2, "{} entries", unsettled.entries.len());
        assert_eq!(unsettled.take(1), Some(1));
    }
}
