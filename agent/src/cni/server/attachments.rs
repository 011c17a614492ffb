//! Which pod an attachment belongs to: for a `DEL` that does not say, and for `GC`.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::super::protocol::{Collection, Key};
use crate::workload::PodUid;

/// Most that are remembered; what is not is let go when the API server tells of its end.
const MOST: usize = 4096;

/// Attachments that this agent was told of. A new agent begins without any.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    // Guards the table for one insertion, removal or walk; never held across a wait.
    known: Mutex<HashMap<Key, PodUid>>,
}

impl Attachments {
    /// Remembers an attachment.
    pub(super) fn note(&self, key: Key, uid: PodUid) {
        let mut known = self.known();
        if known.len() < MOST || known.contains_key(&key) {
            known.insert(key, uid);
        }
    }

    /// Forgets one, and tells whose it was.
    pub(super) fn take(&self, key: &Key) -> Option<PodUid> {
        self.known().remove(key)
    }

    /// Forgets those of a network that are valid no more, and tells whose they were.
    pub(super) fn collect(&self, collection: &Collection) -> Vec<PodUid> {
        let valid: HashSet<(&str, &str)> = collection
            .valid
            .iter()
            .map(|valid| (valid.container.as_str(), valid.interface.as_str()))
            .collect();
        self.known()
            .extract_if(|key, _| {
                key.network == collection.network
                    && !valid.contains(&(key.container.as_str(), key.interface.as_str()))
            })
            .map(|(_, uid)| uid)
            .collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, PodUid>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::protocol::ValidAttachment;

    fn key(network: &str, container: &str) -> Key {
        Key { network: network.into(), container: container.into(), interface: "eth0".into() }
    }

    fn uid(last: u8) -> PodUid {
        format!("0f7c2a5e-1b3d-4c6f-8a9b-0123456789{last:02x}").parse().unwrap()
    }

    #[test]
    fn collection_takes_what_is_valid_no_more_of_its_own_network() {
        let attachments = Attachments::default();
        attachments.note(key("pods", "a"), uid(1));
        attachments.note(key("pods", "b"), uid(2));
        attachments.note(key("storage", "b"), uid(2));
        let valid = vec![ValidAttachment { container: "a".into(), interface: "eth0".into() }];
        let gone = attachments.collect(&Collection { network: "pods".into(), valid });
        assert_eq!(gone, [uid(2)]);
        assert_eq!(attachments.take(&key("pods", "a")), Some(uid(1)));
        assert_eq!(attachments.take(&key("pods", "b")), None);
        assert_eq!(attachments.take(&key("storage", "b")), Some(uid(2)));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let attachments = Attachments::default();
        for number in 0..MOST + 10 {
            attachments.note(key("pods", &number.to_string()), uid(1));
        }
        assert_eq!(attachments.known().len(), MOST);
        // One that is known is kept up to date all the same.
        attachments.note(key("pods", "0"), uid(9));
        assert_eq!(attachments.take(&key("pods", "0")), Some(uid(9)));
    }
}
