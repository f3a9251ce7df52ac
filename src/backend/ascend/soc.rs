//! What a chip is and what it can do: from the name that the runtime gives it to the facts that the rest of the
//! backend asks for.

use crate::base::error::Result;

/// The chips that the backend is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Atlas 800I A2 and its kin: `Ascend910B1` to `B4`, `Ascend910_93…`.
    Ascend910B,
    /// Atlas 300I DUO, two chips a card, each a device of its own: `Ascend310P3`.
    Ascend310P,
}

/// What a family can do and wants. No field is a guess: each stands in the documents or sources of CANN or ATB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// The family.
    pub family: Family,
    /// The product a person knows.
    pub product: &'static str,
    /// Whether any operation takes bf16.
    pub bf16: bool,
    /// Whether weights, KV caches and prefill masks are to be in tiles (FRACTAL_NZ); else in rows (ND).
    pub tiled: bool,
    /// Whether attention can clamp its scores, as Aquila's first version does.
    pub score_clamp: bool,
    /// Whether attention over prompts has a kernel with an f32 soft-max, whose mask is 0 and 1 instead of additive.
    pub high_precision_attention: bool,
    /// Whether the fused SiLU and product is worth using.
    pub swiglu: bool,
    /// Whether paged attention reads the lengths of contexts from host memory, else from the device's.
    pub lengths_on_host: bool,
    /// Whether attention over a prompt can go on over cached blocks.
    pub prefill_over_cache: bool,
    /// Whether int8 products may lack a bias.
    pub w8a8_without_bias: bool,
    /// Whether int8 products take a scale for each token, and operations make such (ATB 8.2).
    pub per_token_products: bool,
    /// Whether a stream of its own for tiling data helps (`ATB_USE_TILING_COPY_STREAM` overrules).
    pub tiling_copy_stream: bool,
    /// Whether communicators must be made before large device memory is taken.
    pub communicator_first: bool,
    /// Widest attention head.
    pub head_dim_max: usize,
    /// Streams of one device.
    pub streams_max: u32,
}

/// Token positions of a KV block on every family: the widest that paged attention takes with heads of 128.
pub const BLOCK_TOKENS: usize = 128;

const ASCEND_910B: Facts = Facts {
    family: Family::Ascend910B,
    product: "Atlas 800I A2",
    bf16: true,
    tiled: false,
    score_clamp: true,
    high_precision_attention: true,
    swiglu: true,
    lengths_on_host: true,
    prefill_over_cache: true,
    w8a8_without_bias: true,
    per_token_products: true,
    tiling_copy_stream: false,
    communicator_first: false,
    head_dim_max: 576,
    streams_max: 1984,
};

const ASCEND_310P: Facts = Facts {
    family: Family::Ascend310P,
    product: "Atlas 300I DUO",
    bf16: false,
    tiled: true,
    score_clamp: false,
    high_precision_attention: false,
    swiglu: false,
    lengths_on_host: false,
    prefill_over_cache: false,
    w8a8_without_bias: false,
    per_token_products: false,
    tiling_copy_stream: true,
    communicator_first: true,
    head_dim_max: 256,
    streams_max: 1024,
};

impl Facts {
    /// The facts of the chip that `aclrtGetSocName` names. `Unsupported` for one that this backend does not know.
    pub fn of(name: &str) -> Result<&'static Facts> {
        // "Ascend910B" alone, without a number behind, is an older chip of the first generation.
        let second_generation = name.contains("Ascend910B") && name.len() > "Ascend910B".len();
        if second_generation || name.contains("Ascend910_93") {
            Ok(&ASCEND_910B)
        } else if name.contains("Ascend310P") {
            Ok(&ASCEND_310P)
        } else {
            Err(crate::error!(
                Unsupported,
                "the NPU is a {name:?}: this backend runs on Ascend910B1 to B4 and Ascend910_93 (Atlas 800I A2, A3) and \
                 on Ascend310P (Atlas 300I DUO)"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn names_of_chips() {
        for name in ["Ascend910B1", "Ascend910B4", "Ascend910B4-1", "Ascend910_9392"] {
            assert_eq!(Facts::of(name).unwrap().family, Family::Ascend910B, "{name}");
        }
        for name in ["Ascend310P3", "Ascend310P1"] {
            assert_eq!(Facts::of(name).unwrap().family, Family::Ascend310P, "{name}");
        }
        // The first generation's names begin like those of the second.
        for name in ["Ascend910B", "Ascend910A", "Ascend910ProB", "Ascend310", "Ascend310B4", "Ascend950", ""]
        {
            let error = Facts::of(name).unwrap_err();
            assert_eq!(error.status, Status::Unsupported, "{name}");
            assert!(error.message.contains(&format!("{name:?}")), "{error}");
        }
    }
}
