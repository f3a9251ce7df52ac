//! What the kernels' tests share.

use super::Kernels;
use super::simd::plain::{Fused8, Fused16};
use super::simd::{Operation, dispatch};
use crate::backend::cpu::isa::Level;

/// Who computes: a level of this CPU, or the algorithm of AVX2 and NEON (AVX-512) on arrays of 8 (16)
/// lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Engine {
    Level(Level),
    Fused8,
    Fused16,
}

impl Engine {
    pub(super) fn all() -> Vec<Engine> {
        Level::available().map(Engine::Level).chain([Engine::Fused8, Engine::Fused16]).collect()
    }

    /// The level of this CPU that computes what [`Engine::Fused8`] does, to the bit: with eight lanes, or twice
    /// four, and the fused multiplication.
    pub(super) fn like_fused8() -> Option<Level> {
        [Level::Avx2, Level::Neon].into_iter().find(|level| level.exists())
    }

    pub(super) fn run<O: Operation>(self, operation: O) -> O::Output {
        match self {
            Engine::Level(level) => dispatch(Kernels::new(level).level(), operation),
            Engine::Fused8 => operation.run(Fused8),
            Engine::Fused16 => operation.run(Fused16),
        }
    }
}

/// Numbers from −1 to 1.
pub(super) fn random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
