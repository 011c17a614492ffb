//! [`Kept`]: answers that are good for a while, bounded in number.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::time::Instant;

/// Answers by key, each with its end. When it is full, the oldest goes.
pub(super) struct Kept<K, V> {
    most: usize,
    answers: HashMap<K, (Instant, V)>,
    /// In the order of arrival, so that what is over can be found without a search.
    order: VecDeque<(K, Instant)>,
}

impl<K: Clone + Eq + Hash, V: Clone> Kept<K, V> {
    /// Keeps at most `most` answers.
    pub(super) fn new(most: usize) -> Self {
        Self { most, answers: HashMap::new(), order: VecDeque::new() }
    }

    /// The answer, while it is good.
    pub(super) fn find(&self, key: &K, now: Instant) -> Option<V> {
        self.answers.get(key).filter(|(end, _)| now < *end).map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer until `end`.
    pub(super) fn keep(&mut self, key: K, answer: V, end: Instant, now: Instant) {
        while self.order.len() >= self.most || self.order.front().is_some_and(|(_, e)| *e <= now) {
            let Some((key, end)) = self.order.pop_front() else { break };
            // It may have been answered anew since.
            if self.answers.get(&key).is_some_and(|(kept, _)| *kept == end) {
                self.answers.remove(&key);
            }
        }
        self.order.push_back((key.clone(), end));
        self.answers.insert(key, (end, answer));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.answers.len().max(self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers_end_and_their_number_is_bounded() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut kept = Kept::new(3);
        kept.keep("a", 1, at(10), at(0));
        assert_eq!(kept.find(&"a", at(9)), Some(1));
        assert_eq!(kept.find(&"a", at(10)), None);
        kept.keep("a", 2, at(20), at(5));
        assert_eq!(kept.find(&"a", at(12)), Some(2), "the later answer counts");
        for (key, now) in [("b", 11), ("c", 12), ("d", 13), ("e", 14)] {
            kept.keep(key, 3, at(30), at(now));
            assert!(kept.len() <= 3);
        }
        assert_eq!(kept.find(&"a", at(14)), None, "the oldest went");
        assert_eq!(kept.find(&"e", at(14)), Some(3));
        kept.keep("f", 4, at(60), at(40));
        assert_eq!(kept.len(), 1, "what is over is not kept");
    }
}
