//! fsck for pools: reads the format itself, shares no code path with the store.
