//! Where tokens lie in pages and in objects.

/// Where a layer of a paged cache has its tokens: byte `b` of part `q` of plane `p` of the token in slot `s`
/// of block `k` lies at `p plane_stride + q part_stride + k block_stride + s token_stride + b`, in bytes from
/// the layer's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLayout {
    /// Blocks of a layer.
    pub blocks: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Planes: 2 for keys and values, 1 where they are one.
    pub planes: u32,
    /// Parts of a token in a plane that lie apart, such as heads; 1 where it is one piece.
    pub parts: u32,
    /// Bytes of a part.
    pub part_bytes: u32,
    /// Bytes from keys to values.
    pub plane_stride: u64,
    /// Bytes from one part to the next.
    pub part_stride: u64,
    /// Bytes from one block to the next.
    pub block_stride: u64,
    /// Bytes from one token to the next in a block.
    pub token_stride: u64,
}

impl PageLayout {
    /// `[2, blocks, block_tokens, token]`: vLLM's for FlashAttention. `token_bytes` is of one token in one
    /// plane: heads times their length times the bytes of an element.
    #[must_use]
    pub fn planes_first(blocks: u32, block_tokens: u32, token_bytes: u32) -> Self {
        let block = u64::from(block_tokens) * u64::from(token_bytes);
        Self {
            plane_stride: u64::from(blocks) * block,
            block_stride: block,
            ..Self::one_plane(blocks, block_tokens, token_bytes).with_planes(2)
        }
    }

    /// `[blocks, 2, block_tokens, token]`: vLLM's for FlashInfer.
    #[must_use]
    pub fn blocks_first(blocks: u32, block_tokens: u32, token_bytes: u32) -> Self {
        let plane = u64::from(block_tokens) * u64::from(token_bytes);
        Self {
            plane_stride: plane,
            block_stride: 2 * plane,
            ..Self::one_plane(blocks, block_tokens, token_bytes).with_planes(2)
        }
    }

    /// `[blocks, 2, heads, block_tokens, head]`: as [`PageLayout::blocks_first`], with the tokens of a head
    /// together.
    #[must_use]
    pub fn heads_first(blocks: u32, block_tokens: u32, heads: u32, head_bytes: u32) -> Self {
        let head = u64::from(block_tokens) * u64::from(head_bytes);
        let plane = u64::from(heads) * head;
        Self {
            parts: heads,
            plane_stride: plane,
            part_stride: head,
            block_stride: 2 * plane,
            ..Self::one_plane(blocks, block_tokens, head_bytes).with_planes(2)
        }
    }

    /// `[blocks, block_tokens, token]`: a cache whose keys and values are one, as with latent attention.
    #[must_use]
    pub fn one_plane(blocks: u32, block_tokens: u32, token_bytes: u32) -> Self {
        Self {
            blocks,
            block_tokens,
            planes: 1,
            parts: 1,
            part_bytes: token_bytes,
            plane_stride: 0,
            part_stride: 0,
            block_stride: u64::from(block_tokens) * u64::from(token_bytes),
            token_stride: u64::from(token_bytes),
        }
    }

    fn with_planes(self, planes: u32) -> Self {
        Self { planes, ..self }
    }

    /// Bytes of one token in one plane.
    #[must_use]
    pub fn token_bytes(&self) -> u64 {
        u64::from(self.parts) * u64::from(self.part_bytes)
    }

    /// Bytes from the start of a layer to the end of its last byte; `None` when that is no number of 64
    /// bits, or the layout is of nothing.
    #[must_use]
    pub fn extent(&self) -> Option<u64> {
        extent(
            &[
                (self.planes, self.plane_stride),
                (self.parts, self.part_stride),
                (self.blocks, self.block_stride),
                (self.block_tokens, self.token_stride),
            ],
            self.part_bytes,
        )
    }
}

/// Where an object has its tokens, in bytes from its start; a part is as long as in the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLayout {
    /// Bytes from one layer to the next.
    pub layer_stride: u64,
    /// Bytes from keys to values.
    pub plane_stride: u64,
    /// Bytes from one part of a token to the next.
    pub part_stride: u64,
    /// Bytes from one token to the next.
    pub token_stride: u64,
}

impl ObjectLayout {
    /// `[planes, layers, tokens, token]`: LMCache's chunk.
    #[must_use]
    pub fn planes_first(pages: &PageLayout, layers: u32, tokens: u32) -> Self {
        let layer = u64::from(tokens) * pages.token_bytes();
        Self {
            layer_stride: layer,
            plane_stride: u64::from(layers) * layer,
            part_stride: u64::from(pages.part_bytes),
            token_stride: pages.token_bytes(),
        }
    }

    /// `[layers, planes, tokens, token]`: one layer after the other, as layer-wise transfers want it.
    #[must_use]
    pub fn layers_first(pages: &PageLayout, tokens: u32) -> Self {
        let plane = u64::from(tokens) * pages.token_bytes();
        Self {
            layer_stride: u64::from(pages.planes) * plane,
            plane_stride: plane,
            part_stride: u64::from(pages.part_bytes),
            token_stride: pages.token_bytes(),
        }
    }

    /// Bytes from the object's start to the end of its last byte.
    pub(super) fn extent(&self, pages: &PageLayout, layers: u32, tokens: u32) -> Option<u64> {
        extent(
            &[
                (layers, self.layer_stride),
                (pages.planes, self.plane_stride),
                (pages.parts, self.part_stride),
                (tokens, self.token_stride),
            ],
            pages.part_bytes,
        )
    }
}

/// Offset of the last piece, and its length.
fn extent(dimensions: &[(u32, u64)], piece: u32) -> Option<u64> {
    let last = dimensions.iter().try_fold(0_u64, |at, &(count, stride)| {
        at.checked_add(u64::from(count.checked_sub(1)?).checked_mul(stride)?)
    })?;
    if piece == 0 { None } else { last.checked_add(u64::from(piece)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_layouts_end_where_their_tensors_end() {
        assert_eq!(PageLayout::planes_first(10, 16, 2048).extent(), Some(2 * 10 * 16 * 2048));
        assert_eq!(PageLayout::blocks_first(10, 16, 2048).extent(), Some(2 * 10 * 16 * 2048));
        assert_eq!(PageLayout::heads_first(10, 16, 8, 256).extent(), Some(2 * 10 * 16 * 2048));
        assert_eq!(PageLayout::one_plane(10, 16, 1152).extent(), Some(10 * 16 * 1152));
        let pages = PageLayout::heads_first(10, 16, 8, 256);
        let bytes = Some(32 * 2 * 100 * 2048);
        assert_eq!(ObjectLayout::planes_first(&pages, 32, 100).extent(&pages, 32, 100), bytes);
        assert_eq!(ObjectLayout::layers_first(&pages, 100).extent(&pages, 32, 100), bytes);
    }

    #[test]
    fn layouts_of_nothing_or_without_end_have_no_extent() {
        assert_eq!(PageLayout::planes_first(0, 16, 2048).extent(), None);
        assert_eq!(PageLayout::planes_first(10, 16, 0).extent(), None);
        let endless = PageLayout { block_stride: u64::MAX, ..PageLayout::one_plane(3, 1, 1) };
        assert_eq!(endless.extent(), None);
    }
}
