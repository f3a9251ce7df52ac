//! The decoder that every backend runs: a LLaMA-type stack of layers, as numbers.

/// How query and key are rotated. With head width D and pair i in 0..D/2 the angle at position p is
/// `p' / theta'^(2i/D)`; the halves layout pairs element i with element i + D/2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the geometric progression of wavelengths.
    pub theta: f32,
    /// How positions beyond the trained length are handled.
    pub scaling: RopeScaling,
}

/// How rotary positions are stretched over a longer context than was trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Positions as they are.
    None,
    /// Positions divided by the factor (the 16K chat models).
    Linear {
        /// Divisor of every position.
        factor: f32,
    },
    /// Dynamic NTK: with a sequence of s > `trained` tokens the base becomes
    /// `theta × (factor·s/trained − (factor − 1))^(D/(D−2))`.
    ///
    /// Here s is the whole context an engine is loaded for, not the length so far: a base that
    /// changes while a sequence grows would disagree with the keys already cached. Up to `trained`
    /// tokens of context the result is that of `None`.
    DynamicNtk {
        /// The factor of the formula above.
        factor: f32,
        /// The context length of the training.
        trained: u32,
    },
}

/// The decoder as numbers: all that a backend must know beside the weights. Every field was checked
/// when it was parsed: nothing is zero that divides, and all products fit in `usize`.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width of the feed-forward between gate/up and down.
    pub ffn: usize,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// The epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Context length of the model, in tokens.
    pub context: usize,
    /// Aquila v1 clamps attention scores (after 1/√D, before the mask) to ± this; others: `None`.
    pub score_clamp: Option<f32>,
    /// Whether the head is the embedding matrix.
    pub tied: bool,
}

impl DecoderSpec {
    /// Width of all query heads together.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together (and of all value heads).
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers in all weight matrices and norms, without biases.
    pub fn parameters(&self) -> u64 {
        let n = |a: usize, b: usize| a as u64 * b as u64;
        let layer = 2 * self.hidden as u64
            + 2 * n(self.q_width(), self.hidden)
            + 2 * n(self.kv_width(), self.hidden)
            + 3 * n(self.ffn, self.hidden);
        let tables = n(self.vocab, self.hidden) * if self.tied { 1 } else { 2 };
        self.layers as u64 * layer + tables + self.hidden as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aquila_7b_has_its_published_size() {
        let spec = DecoderSpec {
            layers: 32,
            hidden: 4096,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            ffn: 11008,
            vocab: 100008,
            norm_eps: 1e-6,
            rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
            context: 2048,
            score_clamp: None,
            tied: false,
        };
        assert_eq!(spec.parameters(), 7_295_537_152);
    }
}
