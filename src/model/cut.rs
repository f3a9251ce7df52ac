//! The tensor-parallel cut: which rows and columns of each weight one rank of several holds.
//!
//! Query, key, value, gate, up and head are cut by rows (output features), output and down by columns (input features),
//! so a layer needs two sums over the ranks: after the output matrix and after the down matrix. Embedding and norms are
//! whole on every rank.
//!
//! Heads go in groups that share a key head, and the parts may differ by one group: a sum does not mind, and a model of
//! three key heads runs on two ranks. Where there are more ranks than key heads, each of those is held by several.

use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use crate::model::weights::Role;
use std::ops::Range;

/// The feed-forward is cut in units of so many rows: the edge of a tile of the chips' matrix units.
const FFN_UNIT: usize = 16;
/// Rows of each rank's part of the head are a multiple of it.
const HEAD_UNIT: usize = 16;

/// What one rank holds of a decoder. Ranges count heads, rows of the feed-forward and token ids of the whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPart {
    /// This rank.
    pub rank: usize,
    /// How many there are.
    pub ranks: usize,
    /// Query heads.
    pub heads: Range<usize>,
    /// Key and value heads.
    pub kv_heads: Range<usize>,
    /// Rows of gate and up, columns of down.
    pub ffn: Range<usize>,
    /// Rows of the head; the last rank's may be fewer, even none.
    pub vocab: Range<usize>,
    /// Rows of the head with what is filled up with zeros: the same on all ranks, a multiple of 16.
    pub vocab_rows: usize,
    head_dim: usize,
    hidden: usize,
}

impl RankPart {
    /// The part of rank `rank` of `ranks`. `Unsupported` where the decoder cannot be cut so.
    pub fn of(spec: &DecoderSpec, rank: usize, ranks: usize) -> Result<RankPart> {
        crate::ensure!(ranks > 0 && rank < ranks, Internal, "rank {rank} of {ranks}");
        let (heads, kv_heads) = cut_heads(spec, rank, ranks)?;
        let ffn = if ranks == 1 {
            0..spec.ffn
        } else {
            let units = spec.ffn / FFN_UNIT;
            crate::ensure!(
                spec.ffn.is_multiple_of(FFN_UNIT) && units >= ranks,
                Unsupported,
                "a feed-forward of {} rows cannot be cut for {ranks} ranks: expected a multiple of {FFN_UNIT}, and {FFN_UNIT} \
                 rows for each at least",
                spec.ffn
            );
            let part = cut(units, rank, ranks);
            part.start * FFN_UNIT..part.end * FFN_UNIT
        };
        let vocab_rows = spec.vocab.div_ceil(ranks).next_multiple_of(HEAD_UNIT);
        let vocab = (rank * vocab_rows).min(spec.vocab)..((rank + 1) * vocab_rows).min(spec.vocab);
        Ok(RankPart {
            rank,
            ranks,
            heads,
            kv_heads,
            ffn,
            vocab,
            vocab_rows,
            head_dim: spec.head_dim,
            hidden: spec.hidden,
        })
    }

    /// The part of rank `rank` of `ranks` where all parts have the same shapes, as files of parts have them. `Argument`
    /// with the reason where they cannot.
    pub fn even(spec: &DecoderSpec, rank: usize, ranks: usize) -> Result<RankPart> {
        let (heads, kv_heads) = (spec.heads, spec.kv_heads);
        let refused = |why: String| crate::error!(Argument, "world size {ranks}: {why}");
        crate::ensure!(ranks > 0 && rank < ranks, Argument, "world size {ranks}: expected 1 or more");
        if !heads.is_multiple_of(ranks) {
            return Err(refused(format!("expected a divisor of the model's {heads} attention heads")));
        }
        if !kv_heads.is_multiple_of(ranks) && !ranks.is_multiple_of(kv_heads) {
            return Err(refused(format!("expected a divisor or a multiple of its {kv_heads} key heads")));
        }
        if !spec.ffn.is_multiple_of(ranks) {
            return Err(refused(format!("expected a divisor of its {} rows of the feed-forward", spec.ffn)));
        }
        let kv_heads = match kv_heads / ranks {
            0 => rank * kv_heads / ranks..rank * kv_heads / ranks + 1,
            each => rank * each..(rank + 1) * each,
        };
        let vocab_rows = spec.vocab.div_ceil(ranks).next_multiple_of(HEAD_UNIT);
        Ok(RankPart {
            rank,
            ranks,
            heads: cut(heads, rank, ranks),
            kv_heads,
            ffn: cut(spec.ffn, rank, ranks),
            vocab: (rank * vocab_rows).min(spec.vocab)..((rank + 1) * vocab_rows).min(spec.vocab),
            vocab_rows,
            head_dim: spec.head_dim,
            hidden: spec.hidden,
        })
    }

    /// The decoder that this part is by itself, but for its head: fewer heads, a narrower feed-forward.
    pub fn spec(&self, whole: &DecoderSpec) -> DecoderSpec {
        let (heads, kv_heads, ffn) = (self.heads.len(), self.kv_heads.len(), self.ffn.len());
        DecoderSpec { heads, kv_heads, ffn, ..whole.clone() }
    }

    /// Width of this rank's query heads together.
    pub fn q_width(&self) -> usize {
        self.heads.len() * self.head_dim
    }

    /// Width of this rank's key heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads.len() * self.head_dim
    }

    /// Rows and columns of the whole weight of a role that this rank holds. Biases are rows of their matrix here, columns
    /// in their weight of one row; that of the output matrix is added once, by rank 0.
    pub fn ranges(&self, role: Role) -> (Range<usize>, Range<usize>) {
        let wide = |heads: &Range<usize>| heads.start * self.head_dim..heads.end * self.head_dim;
        let hidden = 0..self.hidden;
        match role {
            Role::Query => (wide(&self.heads), hidden),
            Role::Key | Role::Value => (wide(&self.kv_heads), hidden),
            Role::Output => (hidden, wide(&self.heads)),
            Role::Gate | Role::Up => (self.ffn.clone(), hidden),
            Role::Down => (hidden, self.ffn.clone()),
            Role::Head => (self.vocab.clone(), hidden),
            Role::QueryBias => (0..1, wide(&self.heads)),
            Role::KeyBias | Role::ValueBias => (0..1, wide(&self.kv_heads)),
            Role::OutputBias | Role::AttentionNorm | Role::FfnNorm | Role::FinalNorm => (0..1, hidden),
            Role::AttentionNormBias | Role::FfnNormBias => (0..1, hidden),
            Role::Embedding => (0..usize::MAX, hidden),
        }
    }
}

/// Part `rank` of `total` things, as even as it goes.
fn cut(total: usize, rank: usize, ranks: usize) -> Range<usize> {
    total * rank / ranks..total * (rank + 1) / ranks
}

/// Query and key heads of a rank.
fn cut_heads(spec: &DecoderSpec, rank: usize, ranks: usize) -> Result<(Range<usize>, Range<usize>)> {
    let group = spec.heads / spec.kv_heads;
    if ranks <= spec.kv_heads {
        let kv = cut(spec.kv_heads, rank, ranks);
        return Ok((kv.start * group..kv.end * group, kv));
    }
    crate::ensure!(
        ranks.is_multiple_of(spec.kv_heads) && spec.heads.is_multiple_of(ranks),
        Unsupported,
        "{} heads with {} key heads cannot be cut for {ranks} ranks: expected at most as many ranks as key heads, or a \
         multiple of them that divides the heads",
        spec.heads,
        spec.kv_heads
    );
    let kv = rank * spec.kv_heads / ranks;
    Ok((cut(spec.heads, rank, ranks), kv..kv + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{RopeScaling, RopeSpec};

    fn spec(heads: usize, kv_heads: usize, ffn: usize, vocab: usize) -> DecoderSpec {
        DecoderSpec {
            layers: 2,
            hidden: 64,
            heads,
            kv_heads,
            head_dim: 16,
            ffn,
            vocab,
            norm_eps: 1e-6,
            rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
            context: 64,
            score_clamp: None,
            tied: false,
        }
    }

    fn parts(spec: &DecoderSpec, ranks: usize) -> Vec<RankPart> {
        (0..ranks).map(|rank| RankPart::of(spec, rank, ranks).unwrap()).collect()
    }

    #[test]
    fn the_parts_cover_everything_once() {
        // Aquila-7B, Aquila2-34B, SmolLM2-135M.
        let cases = [(32, 32, 11008, 100_008, 8), (64, 8, 24576, 100_008, 8), (9, 3, 1536, 49152, 2)];
        for (heads, kv_heads, ffn, vocab, most) in cases {
            let spec = spec(heads, kv_heads, ffn, vocab);
            for ranks in 1..=most {
                let parts = parts(&spec, ranks);
                let ends = |of: fn(&RankPart) -> &Range<usize>| {
                    let mut next = 0;
                    for part in &parts {
                        assert_eq!(of(part).start, next, "{ranks}: {part:?}");
                        next = of(part).end;
                    }
                    next
                };
                assert_eq!(ends(|p| &p.heads), heads);
                assert_eq!(ends(|p| &p.kv_heads), kv_heads);
                assert_eq!(ends(|p| &p.ffn), ffn);
                assert_eq!(ends(|p| &p.vocab), vocab);
                for part in &parts {
                    assert_eq!(part.heads.len() * kv_heads, part.kv_heads.len() * heads, "{part:?}");
                    assert_eq!(part.vocab_rows % 16, 0);
                    assert!(part.vocab.len() <= part.vocab_rows && part.vocab_rows == parts[0].vocab_rows);
                }
            }
        }
    }

    #[test]
    fn key_heads_are_held_by_several_ranks_where_those_are_more() {
        let spec = spec(64, 8, 4096, 1000);
        let parts = parts(&spec, 16);
        assert_eq!((parts[0].heads.clone(), parts[0].kv_heads.clone()), (0..4, 0..1));
        assert_eq!((parts[3].heads.clone(), parts[3].kv_heads.clone()), (12..16, 1..2));
        assert_eq!(parts[15].kv_heads, 7..8);
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let error = RankPart::of(&spec(32, 3, 4096, 1000), 0, 4).unwrap_err();
        assert!(error.message.contains("3 key heads") && error.message.contains("4 ranks"), "{error}");
        let error = RankPart::of(&spec(32, 32, 100, 1000), 0, 2).unwrap_err();
        assert!(error.message.contains("100 rows"), "{error}");
    }

    #[test]
    fn even_parts_are_alike_or_refused() {
        let spec = spec(48, 8, 24576, 100_008);
        for ranks in [1, 2, 4, 8, 16] {
            let parts: Vec<_> = (0..ranks).map(|rank| RankPart::even(&spec, rank, ranks).unwrap()).collect();
            for part in &parts {
                assert_eq!(part.spec(&spec), parts[0].spec(&spec));
                assert_eq!(part.heads.len() * ranks, 48);
                // Its query heads are served by its key heads.
                assert_eq!(part.heads.start / 6, part.kv_heads.start);
                assert_eq!((part.heads.end - 1) / 6, part.kv_heads.end - 1);
            }
            assert_eq!(parts[0].vocab_rows * ranks, 100_008usize.next_multiple_of(16 * ranks));
        }
        for (ranks, reason) in
            [(0, "1 or more"), (5, "48 attention heads"), (6, "8 key heads"), (3, "key heads")]
        {
            let error = RankPart::even(&spec, 0, ranks).unwrap_err();
            assert!(error.message.contains(reason), "{ranks}: {error}");
        }
        let narrow = RankPart::even(&DecoderSpec { ffn: 100, ..spec }, 0, 8).unwrap_err();
        assert!(narrow.message.contains("100 rows"), "{narrow}");
    }

    #[test]
    fn small_vocabularies_leave_ranks_without_rows() {
        let part = RankPart::of(&spec(8, 8, 128, 20), 3, 4).unwrap();
        assert_eq!((part.vocab.len(), part.vocab_rows), (0, 16));
    }
}
