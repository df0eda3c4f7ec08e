//! The objects of the demonstration: KV cache of Llama-3.1-8B, 256 tokens each.

use crate::pattern::Pattern;

/// Layers of the model.
pub(super) const LAYERS: u64 = 32;

/// Keys and values of 256 tokens of one layer: 2 x 8 heads x 128 x 256 in 16 bits.
pub(super) const LAYER_BYTES: usize = 2 * 8 * 128 * 256 * 2;

/// One object.
pub(super) const OBJECT_BYTES: usize = LAYERS as usize * LAYER_BYTES;

/// Seed of all bytes.
const SEED: u64 = 0x6763_6f73;

pub(super) fn key(object: u64) -> String {
    format!("llama-3.1-8b/prompt-0/chunk-{object:04}")
}

pub(super) fn pattern(object: u64) -> Pattern {
    Pattern::new(SEED, object)
}
