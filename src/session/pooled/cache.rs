//! Which prepared statements a link has, bounded in number and bytes.
//!
//! When there is no room for another one, the hand of a clock goes round: who was used since it
//! came by stays for another round, who was not goes. That is nearly "least recently used" and
//! costs a use no more than setting a mark.

use super::described::Described;
use crate::sys::Map;

/// The most bytes of statements on one link.
const BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
struct Slot {
    id: u32,
    weight: usize,
    was_used: bool,
    described: Option<Described>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Cache {
    slots: Vec<Slot>,
    places: Map<u32, usize>,
    hand: usize,
    bytes: usize,
}

impl Cache {
    /// Whether the link has it; it counts as used then.
    pub fn uses(&mut self, id: u32) -> bool {
        match self.places.get(&id) {
            Some(place) => {
                self.slots[*place].was_used = true;
                true
            }
            None => false,
        }
    }

    /// What the link has said that a statement results in.
    pub fn described(&self, id: u32) -> Option<Described> {
        self.slots[*self.places.get(&id)?].described
    }

    /// It has said so.
    pub fn describe(&mut self, id: u32, described: Described) {
        if let Some(place) = self.places.get(&id) {
            self.slots[*place].described = Some(described);
        }
    }

    /// Something that has to go before `weight` more bytes come, if so, and there may be `most`.
    pub fn make_room(&mut self, weight: usize, most: usize) -> Option<(u32, usize)> {
        if self.slots.is_empty() || self.slots.len() < most && self.bytes + weight <= BYTES_MAX {
            return None;
        }
        loop {
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let slot = &mut self.slots[self.hand];
            if !std::mem::take(&mut slot.was_used) {
                let (id, weight) = (slot.id, slot.weight);
                self.remove(id);
                return Some((id, weight));
            }
        }
    }

    /// The link has it now.
    pub fn insert(&mut self, id: u32, weight: usize) {
        if !self.places.contains_key(&id) {
            self.places.insert(id, self.slots.len());
            self.slots.push(Slot { id, weight, was_used: true, described: None });
            self.bytes += weight;
        }
    }

    /// It has it no more.
    pub fn remove(&mut self, id: u32) {
        let Some(place) = self.places.remove(&id) else { return };
        self.bytes -= self.slots.swap_remove(place).weight;
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.id, place);
        }
    }

    /// It has none any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_can_be_put_again() {
        let mut cache = Cache::default();
        cache.insert(1, 10);
        cache.insert(1, 10);
        cache.insert(2, 10);
        assert!(cache.uses(1) && cache.uses(2));
        cache.remove(1);
        assert!(!cache.uses(1) && cache.uses(2));
        assert_eq!((cache.len(), cache.bytes), (1, 10));
    }

    fn put(cache: &mut Cache, id: u32, weight: usize, most: usize) -> Vec<u32> {
        let mut gone = Vec::new();
        while let Some((id, _)) = cache.make_room(weight, most) {
            gone.push(id);
        }
        cache.insert(id, weight);
        gone
    }

    #[test]
    fn what_is_used_stays() {
        let mut cache = Cache::default();
        for id in 1..=3 {
            assert!(put(&mut cache, id, 10, 3).is_empty());
        }
        for id in 4..100 {
            assert!(cache.uses(1));
            let gone = put(&mut cache, id, 10, 3);
            assert_eq!(gone.len(), 1);
            assert_ne!(gone[0], 1, "{id}");
            assert_eq!(cache.len(), 3);
        }
        assert!(!cache.uses(4));
        cache.remove(1);
        assert!(!cache.uses(1));
        cache.remove(1);
        assert_eq!(cache.len(), 2);
        // Fewer from now on.
        assert_eq!(put(&mut cache, 100, 10, 1).len(), 2);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn bytes_are_bounded() {
        let mut cache = Cache::default();
        for id in 0..100 {
            put(&mut cache, id, 1 << 20, 1000);
        }
        assert!(cache.bytes <= BYTES_MAX);
        assert_eq!(cache.bytes, cache.len() << 20);
        // Alone it may be as long as it is.
        put(&mut cache, 1000, 100 << 20, 1000);
        assert_eq!(cache.len(), 1);
        cache.clear();
        assert_eq!((cache.len(), cache.bytes), (0, 0));
    }
}
