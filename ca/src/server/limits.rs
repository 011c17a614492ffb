//! How much of the server one caller, and all of them, may take at a time.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Places, counted over all and by key. Cloning shares them.
#[derive(Debug)]
pub(crate) struct Places<K> {
    taken: Arc<Mutex<Taken<K>>>,
    most: usize,
    most_of_one: usize,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    /// Only those that have a place; so no longer than `most`.
    by_key: HashMap<K, usize>,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// That of all together.
    All,
    /// That of one.
    One,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    taken: Arc<Mutex<Taken<K>>>,
    key: K,
}

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self { taken: self.taken.clone(), ..*self }
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        let taken = Taken { all: 0, by_key: HashMap::new() };
        Self { taken: Arc::new(Mutex::new(taken)), most, most_of_one }
    }

    /// Takes a place for `key`, or says which bound is reached. Never waits.
    pub(crate) fn take(&self, key: K) -> Result<Place<K>, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.most {
            return Err(Full::All);
        }
        if taken.by_key.get(&key).is_some_and(|own| *own >= self.most_of_one) {
            return Err(Full::One);
        }
        taken.all += 1;
        *taken.by_key.entry(key.clone()).or_default() += 1;
        Ok(Place { taken: self.taken.clone(), key })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(own) = taken.by_key.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                taken.by_key.remove(&self.key);
            }
        }
    }
}

/// What counts as one address: of IPv6 the 64 bits that one machine may choose from count as one.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut bytes = address.octets();
            bytes[8..].fill(0);
            IpAddr::V6(bytes.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_by_key_and_over_all_and_come_back() {
        let places = Places::new(3, 2);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert_eq!(places.take("a").unwrap_err(), Full::One);
        let third = places.take("b").unwrap();
        assert_eq!(places.take("c").unwrap_err(), Full::All);
        drop((first, third));
        let _again = places.take("a").unwrap();
        assert_eq!(places.take("a").unwrap_err(), Full::One);
        assert_eq!(places.taken.lock().unwrap().by_key.len(), 1, "who left is forgotten");
    }

    #[test]
    fn one_machine_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("fd00::1:2"), of("fd00::ffff:0:0:9"));
        assert_ne!(of("fd00:0:0:1::1"), of("fd00::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.2"), of("10.0.0.1"));
    }
}
