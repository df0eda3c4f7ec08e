//! Checksums and copies of what lies in memory that a GPU reaches.

records! {
    /// A run of bytes of a grain.
    pub struct GrainRun {
        /// Device address.
        address: u64,
        /// Offset of its first byte within the grain: the sum of the lengths of the runs before it.
        offset: u32,
        /// Bytes, not 0.
        bytes: u32,
    }

    /// A sequence of bytes with a checksum of its own: the concatenation of its runs.
    pub struct Grain {
        /// Index of its first run.
        first_run: u32,
        /// Number of runs, not 0.
        run_count: u32,
        /// Bytes: the sum of the lengths of its runs, less than 2^31.
        bytes: u32,
        /// Added (exclusive or) to the remainder: the CRC-32C of as many zeros makes the sum the CRC-32C
        /// of the grain, and 0 leaves the bare remainder.
        seed: u32,
    }

    /// Parameter of the kernel `gcos_checksum`: one block of threads computes one grain at a time.
    pub struct ChecksumBatch {
        /// Device address of the runs.
        runs: u64,
        /// Device address of the grains.
        grains: u64,
        /// Device address of the sums, a word of 32 bits for each grain.
        sums: u64,
        /// Number of grains.
        grain_count: u32,
        /// 0.
        reserved: u32,
    }

    /// Bytes to copy. The ranges of a batch's sources and targets do not overlap.
    pub struct CopyRun {
        /// Device address to copy from.
        source: u64,
        /// Device address to copy to.
        target: u64,
        /// Bytes, not 0.
        bytes: u64,
    }

    /// Parameter of the kernel `gcos_copy`: one warp copies one run at a time.
    pub struct CopyBatch {
        /// Device address of the runs.
        runs: u64,
        /// Number of runs.
        run_count: u32,
        /// 0.
        reserved: u32,
    }

    /// Parameter of the kernel `gcos_paged_copy`: tokens between one contiguous object and the pages of a
    /// cache. Byte `b` of part `q` of plane `p` (keys, values) of layer `l` of token `t` lies in the object
    /// at `object + l object_layer_stride + p object_plane_stride + q object_part_stride +
    /// t object_token_stride + b`, and in the cache, when the token has slot `s` of block `k`, at
    /// `layers[l] + p page_plane_stride + q page_part_stride + k page_block_stride +
    /// s page_token_stride + b`.
    pub struct PagedBatch {
        /// Device address of the layers' device addresses, a word of 64 bits each.
        layers: u64,
        /// Device address of the table: the blocks, a word of 32 bits each, that hold the tokens from
        /// `first_slot` of the first one on; or the slots, a signed word of 64 bits for each token.
        table: u64,
        /// Device address of the object.
        object: u64,
        /// Device address of a word of 32 bits: 1 once tokens were left out, since the table names a block
        /// that does not exist for them.
        refused: u64,
        /// Bytes from one layer to the next in the object.
        object_layer_stride: u64,
        /// Bytes from keys to values in the object.
        object_plane_stride: u64,
        /// Bytes from one part of a token to the next in the object.
        object_part_stride: u64,
        /// Bytes from one token to the next in the object.
        object_token_stride: u64,
        /// Bytes from keys to values in a layer of the cache.
        page_plane_stride: u64,
        /// Bytes from one part of a token to the next in the cache.
        page_part_stride: u64,
        /// Bytes from one block to the next in a layer of the cache.
        page_block_stride: u64,
        /// Bytes from one token to the next in a block.
        page_token_stride: u64,
        /// Number of layers.
        layer_count: u32,
        /// Planes of each layer: 2 for keys and values, 1 where they are one.
        plane_count: u32,
        /// Parts of each token that lie apart, such as heads; 1 where a token is one piece.
        part_count: u32,
        /// Bytes of one part of one token.
        part_bytes: u32,
        /// Number of tokens.
        tokens: u32,
        /// Tokens of a block.
        block_tokens: u32,
        /// Blocks that exist in each layer.
        block_count: u32,
        /// Slot of the first token in its block, when the table holds blocks.
        first_slot: u32,
        /// Most tokens that one block of threads copies at a time.
        tile_tokens: u32,
        /// Bytes moved at once: 1, 2, 4, 8 or 16; every address, stride and length is a multiple of it.
        width: u32,
        /// Bits: towards the cache; the table holds slots.
        flags: u32,
        /// 0.
        reserved: u32,
    }
}
