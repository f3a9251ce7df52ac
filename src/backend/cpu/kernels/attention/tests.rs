//! Every level, and AVX-512's algorithm on plain arrays, against f64; and the promise that a result does
//! not depend on what is computed beside it, nor on what unused slots hold.

use super::super::testing::{Engine, bits, random};
use super::super::{Element, Kernels, KvElement, convert};
use super::*;

const F16: KvElement = KvElement::Plain(Element::F16);
const F32: KvElement = KvElement::Plain(Element::F32);

const F16_AND_I8: [KvElement; 2] = [F16, KvElement::I8];

/// A row as bytes with a scale give it back.
fn through_bytes(row: &mut [f32]) {
    let scale = row.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
    row.iter_mut().for_each(|x| *x = (*x * (1.0 / scale)).round_ties_even() * scale);
}

/// A sequence in a cache whose unused slots hold NaN, and its queries.
struct Case {
    layout: KvLayout,
    heads: usize,
    past: usize,
    rows: usize,
    clamp: Option<f32>,
    cache: Vec<u8>,
    blocks: Vec<u32>,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn new(
        element: KvElement,
        (kv_heads, group): (usize, usize),
        head_dim: usize,
        past: usize,
        rows: usize,
    ) -> Self {
        let layout = KvLayout { kv_heads, head_dim, element };
        let (context, width) = (past + rows, kv_heads * head_dim);
        let count = context.div_ceil(BLOCK_TOKENS);
        // The blocks of the sequence lie backwards, with a gap.
        let blocks: Vec<u32> = (0..count as u32).rev().map(|b| b + u32::from(b > 1)).collect();
        let mut cache = vec![0xff; (count + 1) * layout.block_bytes()];
        let mut keys = random(context * width, (head_dim + past) as u32);
        let mut values = random(context * width, (head_dim + rows) as u32 + 77);
        // What the cache can hold, so that the truth is computed from the same numbers.
        for values in [&mut keys, &mut values] {
            match element {
                KvElement::Plain(element) => {
                    let mut stored = vec![0; values.len() * element.bytes()];
                    Kernels::new(Level::Scalar).encode(element, values, &mut stored);
                    Kernels::new(Level::Scalar).decode(element, &stored, values);
                }
                KvElement::I8 => values.chunks_exact_mut(head_dim).for_each(through_bytes),
            }
        }
        for token in 0..context {
            let slot = blocks[token / BLOCK_TOKENS] as usize * BLOCK_TOKENS + token % BLOCK_TOKENS;
            let row = token * width..(token + 1) * width;
            let kernels = Kernels::new(Level::detect());
            let (k, v) = (&keys[row.clone()], &values[row]);
            // SAFETY: the cache holds the blocks of all slots.
            unsafe { kernels.kv_store(&layout, cache.as_mut_ptr(), slot, 0..kv_heads, k, v) };
        }
        let q = random(rows * kv_heads * group * head_dim, 3).iter().map(|x| 4.0 * x).collect();
        let heads = kv_heads * group;
        Case { layout, heads, past, rows, clamp: None, cache, blocks, q, keys, values }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.layout.head_dim as f32).sqrt()
    }

    fn stride(&self) -> usize {
        self.heads * self.layout.head_dim
    }

    /// Attention that writes to `out`, as long as the queries.
    fn attention(&self, out: &mut [f32]) -> Attention<'_> {
        assert_eq!(out.len(), self.q.len());
        Attention {
            layout: self.layout,
            cache: self.cache.as_ptr(),
            blocks: &self.blocks,
            past: self.past,
            heads: self.heads,
            q: self.q.as_ptr(),
            q_stride: self.stride(),
            out: out.as_mut_ptr(),
            out_stride: self.stride(),
            scale: self.scale(),
            clamp: self.clamp,
        }
    }

    /// The rows `rows`, computed in calls of `chunk` rows.
    fn attend(&self, engine: Engine, rows: Range<usize>, chunk: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        let mut scratch = vec![f32::NAN; scratch_len(self.layout.head_dim)];
        let (attention, scratch) = (&self.attention(&mut out), scratch.as_mut_ptr());
        for start in rows.clone().step_by(chunk) {
            for kv_head in 0..self.layout.kv_heads {
                let rows = start..rows.end.min(start + chunk);
                engine.run(OneHead { attention, rows, kv_head, share: None, scratch });
            }
        }
        out[rows.start * self.stride()..rows.end * self.stride()].to_vec()
    }

    /// All rows, span by span, the last span first.
    fn attend_by_spans(&self, engine: Engine) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        let mut scratch = vec![f32::NAN; scratch_len(self.layout.head_dim)];
        let (attention, scratch) = (&self.attention(&mut out), scratch.as_mut_ptr());
        let spans = (self.past + self.rows).div_ceil(SPAN_KEYS);
        let len = self.rows * attention.group() * result_len(self.layout.head_dim);
        for kv_head in 0..self.layout.kv_heads {
            let mut results = vec![f32::NAN; spans * len];
            for span in (0..spans).rev() {
                let share = Some(Share { span, results: results[span * len..].as_mut_ptr() });
                engine.run(OneHead { attention, rows: 0..self.rows, kv_head, share, scratch });
            }
            engine.run(spans::Merge {
                attention,
                rows: 0..self.rows,
                kv_head,
                results: results.as_mut_ptr(),
            });
        }
        out
    }

    /// The truth in f64.
    fn truth(&self) -> Vec<f64> {
        let (d, kv_heads) = (self.layout.head_dim, self.layout.kv_heads);
        let mut out = Vec::new();
        for (index, q) in self.q.chunks_exact(d).enumerate() {
            let (row, head) = (index / self.heads, index % self.heads);
            let kv_head = head / (self.heads / kv_heads);
            let at = |token: usize| (token * kv_heads + kv_head) * d;
            let scores: Vec<f64> = (0..=self.past + row)
                .map(|token| {
                    let k = &self.keys[at(token)..][..d];
                    let s: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    let bound = self.clamp.map_or(f64::INFINITY, f64::from);
                    (s * f64::from(self.scale())).clamp(-bound, bound)
                })
                .collect();
            let largest = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..d).map(|i| {
                let weighted = weights.iter().enumerate().map(|(t, w)| w * f64::from(self.values[at(t) + i]));
                weighted.sum::<f64>() / sum
            }));
        }
        out
    }

    fn check(&self, what: &str) {
        let truth = self.truth();
        for engine in Engine::all() {
            let got = self.attend(engine, 0..self.rows, self.rows);
            let error = got.iter().zip(&truth).map(|(&a, &b)| (f64::from(a) - b).abs());
            let worst = error.fold(0.0, |m: f64, e| if e.is_nan() { f64::INFINITY } else { m.max(e) });
            // Values are below 1 and scores below 40: a few units of 2^-24 on each of the weights.
            assert!(worst < 4e-6, "{what} on {engine:?}: {worst}");
        }
    }
}

#[test]
fn every_shape_is_right_on_every_engine() {
    for element in KvElement::ALL {
        for head_dim in [2, 6, 8, 20, 64, 80, 96, 100, 128, 256] {
            for heads in [(1, 1), (2, 3), (1, 7)] {
                for (past, rows) in [(0, 1), (14, 3), (200, 1), (61, 6)] {
                    let case = Case::new(element, heads, head_dim, past, rows);
                    case.check(&format!("{element:?} {heads:?} × {head_dim}, {past} + {rows}"));
                }
            }
        }
    }
}

#[test]
fn every_position_in_a_tile_is_right() {
    for context in (1..70).chain([127, 128, 129, 1000]) {
        Case::new(F16, (1, 1), 16, context - 1, 1).check(&format!("context {context}"));
    }
}

#[test]
fn a_long_context_is_right() {
    Case::new(F16, (1, 4), 64, 8200, 2).check("context 8202");
}

#[test]
fn scores_are_clamped_before_the_mask() {
    let mut case = Case::new(F32, (2, 2), 64, 30, 9);
    case.clamp = Some(0.4);
    case.check("clamped to 0.4");
    let bound = case.attend(Engine::Level(Level::Scalar), 0..9, 9);
    case.clamp = None;
    assert_ne!(bound, case.attend(Engine::Level(Level::Scalar), 0..9, 9), "the bound never bit");
}

#[test]
fn a_result_does_not_depend_on_its_company() {
    let shapes = [(1, 64), (3, 20), (4, 128), (7, 6), (1, 256)];
    for ((group, head_dim), element) in shapes.into_iter().flat_map(|s| F16_AND_I8.map(|e| (s, e))) {
        let case = Case::new(element, (2, group), head_dim, 57, 90);
        let stride = case.heads * head_dim;
        for engine in Engine::all() {
            let whole = case.attend(engine, 0..90, 90);
            for chunk in [1, 2, 3, 4, 5, 16, 31] {
                assert_eq!(bits(&case.attend(engine, 0..90, chunk)), bits(&whole), "{engine:?} in {chunk}s");
            }
            let part = case.attend(engine, 33..47, 14);
            assert_eq!(bits(&part), bits(&whole[33 * stride..47 * stride]), "{engine:?}");
        }
    }
}

#[test]
fn spans_shared_out_give_the_same() {
    // The first rows have no key in the last span, and the last ones have.
    let cases = [(F16, (2, 3), 64, 1020, 9), (KvElement::I8, (1, 1), 20, 1535, 1), (F32, (3, 4), 80, 600, 2)];
    for (element, heads, head_dim, past, rows) in cases {
        let case = Case::new(element, heads, head_dim, past, rows);
        case.check(&format!("{past} + {rows}"));
        for engine in Engine::all() {
            let whole = case.attend(engine, 0..rows, rows);
            assert_eq!(bits(&case.attend_by_spans(engine)), bits(&whole), "{engine:?}, {past} + {rows}");
            assert_eq!(bits(&case.attend(engine, 0..rows, 1)), bits(&whole), "{engine:?}, {past} + {rows}");
        }
    }
}

#[test]
fn later_and_unused_slots_never_leak() {
    F16_AND_I8.into_iter().for_each(never_leak);
}

fn never_leak(element: KvElement) {
    // Infinite values of later tokens in the same block, and NaN in the rest (see `Case::new`).
    let mut case = Case::new(element, (1, 1), 64, 3, 6);
    let clean = case.attend(Engine::Level(Level::detect()), 0..1, 1);
    let infinite = vec![f32::INFINITY; 64];
    for token in 4..9 {
        let slot = case.blocks[0] as usize * BLOCK_TOKENS + token;
        let (layout, cache) = (case.layout, case.cache.as_mut_ptr());
        // SAFETY: the cache holds the slot.
        unsafe { Kernels::new(Level::Scalar).kv_store(&layout, cache, slot, 0..1, &infinite, &infinite) };
    }
    for engine in Engine::all() {
        let together = case.attend(engine, 0..6, 6);
        assert!(together[..64].iter().all(|x| x.is_finite()), "{engine:?}");
        assert_eq!(bits(&together[..64]), bits(&case.attend(engine, 0..1, 1)), "{engine:?}");
        if engine == Engine::Level(Level::detect()) {
            assert_eq!(bits(&together[..64]), bits(&clean));
        }
    }
}

#[test]
fn the_arrays_compute_what_avx2_and_neon_compute() {
    if let Some(level) = Engine::like_fused8() {
        let case = Case::new(F16, (2, 3), 100, 70, 20);
        let vectors = case.attend(Engine::Level(level), 0..20, 20);
        assert_eq!(bits(&vectors), bits(&case.attend(Engine::Fused8, 0..20, 20)));
    }
}

#[test]
fn a_stored_token_lies_where_the_layout_says() {
    let layout = KvLayout { kv_heads: 2, head_dim: 4, element: F32 };
    let mut cache = vec![0u8; 3 * layout.block_bytes()];
    let (keys, values) = (random(8, 1), random(8, 2));
    let kernels = Kernels::new(Level::detect());
    // SAFETY: slot 37 lies in block 2.
    unsafe { kernels.kv_store(&layout, cache.as_mut_ptr(), 37, 0..2, &keys, &values) };
    let get = |offset: usize| convert::decode_one(Element::F32, &cache[offset..]);
    for head in 0..2 {
        for d in 0..4 {
            assert_eq!(get(layout.key_offset(2, head) + 4 * (16 * d + 5)), keys[4 * head + d]);
            assert_eq!(get(layout.value_offset(2, head) + 4 * (4 * 5 + d)), values[4 * head + d]);
        }
    }
}

#[test]
fn bytes_keep_every_row_within_half_a_step() {
    let layout = KvLayout { kv_heads: 1, head_dim: 70, element: KvElement::I8 };
    for level in Level::available() {
        let mut cache = vec![0u8; layout.block_bytes()];
        let (keys, mut values) = (random(70, 1), random(70, 2));
        values[3] = f32::NEG_INFINITY;
        // SAFETY: slot 5 lies in block 0.
        unsafe { Kernels::new(level).kv_store(&layout, cache.as_mut_ptr(), 5, 0..1, &keys, &values) };
        let scale = |plane: usize| {
            convert::decode_one(Element::F32, &cache[plane + layout.element_bytes() + 4 * 5..])
        };
        let largest = keys.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert_eq!(scale(layout.key_offset(0, 0)), largest / 127.0, "{level}");
        assert!(scale(layout.value_offset(0, 0)).is_nan(), "{level}: an infinite element must not vanish");
        for (d, key) in keys.iter().enumerate() {
            let stored = f32::from(cache[16 * d + 5] as i8) * largest / 127.0;
            assert!((stored - key).abs() <= largest / 127.0 * 0.501, "{level} {d}: {key} became {stored}");
        }
    }
}
