//! The operations of every level against plain integers, at the ends of what bytes can hold.

use super::super::super::panels::Packing;
use super::*;

/// The sums of `steps` steps from `start` on, as f32.
struct Steps<'a> {
    start: i32,
    /// A step is `4 × LANES` stored weights, the same for all levels in their first 32.
    weights: &'a [[u8; 64]],
    x: &'a [[i8; 4]],
    sums: &'a mut Vec<f32>,
}

impl IntOperation for Steps<'_> {
    #[inline(always)]
    fn run<D: Int8>(self, d: D) {
        let offset: i32 = self.x.iter().flatten().map(|&x| -128 * i32::from(x)).sum();
        let mut acc = d.splat(self.start + if D::OFFSET { offset } else { 0 });
        for (w, x) in self.weights.iter().zip(self.x) {
            // SAFETY: 64 bytes hold the weights of any level.
            acc = d.dot(acc, unsafe { d.weights(w.as_ptr()) }, d.splat(lane(*x)));
        }
        let mut lanes = [0.0; 16];
        d.floats().lanes(d.to_float(acc), &mut lanes);
        self.sums.extend(&lanes[..8]);
    }
}

fn lane(x: [i8; 4]) -> i32 {
    i32::from_ne_bytes(x.map(|x| x as u8))
}

#[test]
fn a_step_is_exact_at_the_ends_of_a_byte() {
    let ends = [-128i8, -127, -1, 0, 1, 127];
    let activations = [-127i8, -126, 0, 1, 126, 127];
    // Every pair of ends in every place; the last cases have all four products at an end.
    for &w in &ends {
        for &x in &activations {
            for place in 0..5 {
                let pick = |i: usize, ends: &[i8], end| if place == i || place == 4 { end } else { ends[i] };
                let weights: [i8; 4] = std::array::from_fn(|i| pick(i, &ends, w));
                let x: [i8; 4] = std::array::from_fn(|i| pick(i, &activations, x));
                // Lane l has the weights shifted by l, so that no lane can stand for another.
                let at = |byte: usize| weights[(byte + byte / 4) % 4];
                let stored: [u8; 64] = std::array::from_fn(|byte| at(byte) as u8 ^ 0x80);
                let steps = 40;
                let truth: Vec<f32> = (0..8)
                    .map(|lane| {
                        let sum: i32 = (0..4).map(|i| i32::from(at(4 * lane + i)) * i32::from(x[i])).sum();
                        (77 + steps * sum) as f32
                    })
                    .collect();
                for level in Level::available() {
                    let mut sums = Vec::new();
                    let (weights, x) = (vec![stored; steps as usize], vec![x; steps as usize]);
                    dispatch(level, Steps { start: 77, weights: &weights, x: &x, sums: &mut sums });
                    assert_eq!(sums, truth, "{level}: {weights:?} × {x:?}");
                }
            }
        }
    }
}

/// Reads a line of codes in each way that there is: the stored bytes that `expand` gives for both halves, and the sums
/// of the weights that `coded` gives.
struct Codes<'a> {
    codebook: Codebook,
    line: &'a [u8; 64],
    stored: &'a mut [[u8; 64]; 2],
    sums: &'a mut [Vec<f32>; 2],
}

impl IntOperation for Codes<'_> {
    #[inline(always)]
    fn run<D: Int8>(self, d: D) {
        let table = d.table(&self.codebook);
        let ones = d.splat(lane([1; 4]));
        let start = d.splat(if D::OFFSET { -128 * 4 } else { 0 });
        let (line, [low, high]) = (self.line.as_ptr(), self.stored);
        // SAFETY: 64 bytes hold a line of any level.
        let sums = unsafe {
            d.expand::<false>(line, table, low.as_mut_ptr());
            d.expand::<true>(line, table, high.as_mut_ptr());
            let (low, high) = (d.coded::<false>(line, table), d.coded::<true>(line, table));
            [d.dot(start, low, ones), d.dot(start, high, ones)]
        };
        for (into, sums) in self.sums.iter_mut().zip(sums) {
            let mut lanes = [0.0; 16];
            d.floats().lanes(d.to_float(sums), &mut lanes);
            into.extend(&lanes[..8]);
        }
    }
}

#[test]
fn every_code_is_read_from_both_halves() {
    for packing in [Packing::Q4, Packing::Q4Fine] {
        let codebook = packing.codebook();
        for first in (0..=255u8).step_by(7) {
            let line: [u8; 64] = std::array::from_fn(|i| (usize::from(first) + 37 * i) as u8);
            for level in Level::available() {
                let (mut stored, mut sums) = ([[0; 64]; 2], [Vec::new(), Vec::new()]);
                dispatch(level, Codes { codebook, line: &line, stored: &mut stored, sums: &mut sums });
                for half in 0..2 {
                    let truth =
                        line.map(|byte| codebook[usize::from(if half == 0 { byte & 15 } else { byte >> 4 })]);
                    assert_eq!(stored[half][..32], truth[..32], "{packing:?} {level}");
                    let weights = truth.map(|byte| f32::from((byte ^ 0x80) as i8));
                    let expected: Vec<f32> = weights[..32].chunks(4).map(|w| w.iter().sum()).collect();
                    assert_eq!(sums[half], expected, "{packing:?} {level}");
                }
            }
        }
    }
}

/// Signed bytes as f32, and f32 as signed bytes.
struct Bytes<'a>(&'a [i8; 16], &'a mut [f32; 16], &'a mut [i8; 16]);

impl IntOperation for Bytes<'_> {
    #[inline(always)]
    fn run<D: Int8>(self, d: D) {
        // SAFETY: sixteen bytes are enough for any level.
        unsafe {
            let floats = d.floats().load_i8(self.0.as_ptr().cast());
            d.floats().lanes(floats, self.1);
            d.floats().store_i8(floats, self.2.as_mut_ptr());
        }
    }
}

#[test]
fn signed_bytes_become_floats_and_bytes_again() {
    for start in (-127..=112).step_by(15) {
        let bytes: [i8; 16] = std::array::from_fn(|i| (start + i as i32) as i8);
        for level in Level::available() {
            let (mut floats, mut back) = ([0.0; 16], [0; 16]);
            dispatch(level, Bytes(&bytes, &mut floats, &mut back));
            assert_eq!(floats[..8], bytes.map(f32::from)[..8], "{level}");
            assert_eq!(back[..8], bytes[..8], "{level}");
        }
    }
}
