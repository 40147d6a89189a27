//! Hash maps with a fixed seed: one seed, one trace.
//!
//! The standard library's maps are seeded at random a process, so that two runs of the same simulation would visit
//! their entries in different orders.

/// A hash map with a fixed seed.
pub type FixedMap<K, V> = hashbrown::HashMap<K, V, foldhash::fast::FixedState>;
/// A hash set with a fixed seed.
pub type FixedSet<K> = hashbrown::HashSet<K, foldhash::fast::FixedState>;
