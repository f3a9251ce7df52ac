//! The CPU executor against a plain f64 decoder, and against itself: the same bits whatever else is in
//! the batch, however a prompt is cut and however many threads work.

mod harness;
mod invariance;
mod model;
mod reference;
mod steps;

use aquila::backend::cpu::isa::Level;
use aquila::backend::{ComputeType, KvType};
use aquila::base::dtype::DType;
use aquila::model::spec::{DecoderSpec, RopeScaling, RopeSpec};
use aquila::model::weights::WeightSet;
use harness::{Sequence, open, options, run};
use model::{Model, small, tokens};

/// The largest difference of two rows, as a share of the largest value of the second.
fn difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).fold(0f64, |m, (f, e)| {
        assert!(f.is_finite());
        m.max((f64::from(*f) - e).abs())
    });
    worst / largest
}

/// Runs `model` over 41 tokens in chunks of 19, 19 and 3 at every level and compares all chunk ends.
fn compare(model: &Model, weights: WeightSet, dtype: Option<ComputeType>, kv: Option<KvType>, bound: f64) {
    let ids = tokens(41, model.spec.vocab, 3);
    let options = aquila::backend::ExecutorOptions { dtype, kv_dtype: kv, ..options() };
    let expected = reference::run(model, &ids, options.context);
    for level in Level::available() {
        let mut executor = open(level, &model.spec, weights.clone(), &options).unwrap();
        let logits = run(&mut *executor, &mut Sequence::new(ids.clone(), 2), 19);
        for (logits, at) in logits.iter().zip([18, 37, 40]) {
            let found = difference(logits, &expected.logits[at]);
            assert!(found < bound, "{level}: {found:e} at {at}, {:?}", model.spec);
        }
    }
}

fn exact(spec: DecoderSpec, biases: bool) {
    let model = Model::new(spec, DType::F32, biases);
    compare(&model, model.plain(), None, Some(KvType::F32), 2e-5);
}

#[test]
fn grouped_single_and_all_heads() {
    exact(small(), false);
    exact(DecoderSpec { kv_heads: 6, ..small() }, false);
    exact(DecoderSpec { kv_heads: 1, ..small() }, false);
}

#[test]
fn keys_and_values_in_bytes() {
    let model = Model::new(small(), DType::F32, false);
    compare(&model, model.plain(), None, Some(KvType::I8), 1e-2);
}

#[test]
fn biases_and_tied_heads() {
    exact(small(), true);
    exact(DecoderSpec { tied: true, ..small() }, true);
}

#[test]
fn head_widths() {
    for (head_dim, heads, kv_heads) in [
        (2, 4, 2),
        (6, 7, 1),
        (8, 6, 3),
        (20, 3, 1),
        (64, 3, 1),
        (80, 2, 1),
        (96, 2, 2),
        (128, 2, 2),
        (256, 2, 1),
    ] {
        exact(DecoderSpec { head_dim, heads, kv_heads, ..small() }, false);
    }
}

#[test]
fn odd_widths() {
    exact(
        DecoderSpec { hidden: 576, ffn: 200, layers: 1, heads: 9, kv_heads: 3, head_dim: 64, ..small() },
        false,
    );
    exact(DecoderSpec { hidden: 33, ffn: 7, vocab: 3, ..small() }, false);
}

#[test]
fn a_score_clamp_that_bites() {
    exact(DecoderSpec { score_clamp: Some(0.05), ..small() }, false);
}

#[test]
fn rope_scalings() {
    let rope = |theta, scaling| RopeSpec { theta, scaling };
    for rope in [
        rope(1e6, RopeScaling::None),
        rope(1e4, RopeScaling::Linear { factor: 8.0 }),
        rope(1e4, RopeScaling::DynamicNtk { factor: 2.0, trained: 16 }),
        rope(1e4, RopeScaling::DynamicNtk { factor: 2.0, trained: 64 }),
    ] {
        exact(DecoderSpec { rope, ..small() }, false);
    }
}

#[test]
fn sixteen_bits_in_place() {
    // The arithmetic is f32; what differs is the cache: f16 keeps 11 bits, bf16 keeps 8.
    let half = Model::new(small(), DType::F16, true);
    compare(&half, half.plain(), None, Some(KvType::F32), 2e-5);
    compare(&half, half.plain(), None, None, 3e-3);
    let brain = Model::new(small(), DType::BF16, true);
    // Where the CPU has bf16 dot products the activations are rounded too.
    let bound = if Level::detect() == Level::Avx512Bf16 { 3e-2 } else { 2e-5 };
    compare(&brain, brain.plain(), None, Some(KvType::F32), bound);
    compare(&brain, brain.plain(), None, None, 2.5e-2);
}

#[test]
fn interleaved_rows_and_three_pieces_along_k() {
    for dtype in [DType::F32, DType::F16] {
        let model = Model::new(small(), dtype, false);
        compare(&model, model.awkward(), None, Some(KvType::F32), 2e-5);
    }
}

#[test]
fn converted_at_load() {
    let full = Model::new(small(), DType::F32, false);
    compare(&full, full.awkward(), Some(ComputeType::F16), None, 6e-3);
    compare(&full, full.awkward(), Some(ComputeType::Bf16), None, 5e-2);
    let half = Model::new(DecoderSpec { tied: true, ..small() }, DType::F16, false);
    compare(&half, half.awkward(), Some(ComputeType::F32), None, 2e-5);
}

#[test]
fn the_reference_notices_a_wrong_decoder() {
    // The bounds above are tight enough to see a small change of the mathematics.
    let model = Model::new(small(), DType::F32, false);
    let ids = tokens(41, model.spec.vocab, 3);
    let expected = reference::run(&model, &ids, 64);
    let other =
        Model { spec: DecoderSpec { norm_eps: 2e-3, ..small() }, ..Model::new(small(), DType::F32, false) };
    let found: Vec<f32> = reference::run(&other, &ids, 64).logits[40].iter().map(|&v| v as f32).collect();
    assert!(difference(&found, &expected.logits[40]) > 2e-5);
}
