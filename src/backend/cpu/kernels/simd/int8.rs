//! Dot products of bytes: the vector operations of the quantised matrix product, one file for each
//! instruction set.
//!
//! A vector holds `LANES` sums of 32 bits. A step multiplies the four weights of each lane with four
//! activations that all lanes share and adds the products to the lane, exactly: every instruction set
//! gives the same integers.
//!
//! Weights are stored as unsigned bytes, 128 more than their value, because the fastest instruction
//! multiplies unsigned by signed bytes. Where it is used (`OFFSET`), a sum begins at −128 × the sum of the
//! activations, which takes the 128 out again at no cost; the other instruction sets take it out of the
//! weights.

use super::Isa;
use crate::backend::cpu::isa::Level;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(test)]
mod tests;

/// Sixteen weights by their 4-bit codes, as stored bytes.
pub(in super::super) type Codebook = [u8; 16];

/// An instruction set for dot products of bytes.
///
/// # Safety
/// A value may exist only where the CPU has the instructions.
pub(in super::super) unsafe trait Int8: Copy {
    /// The same lanes as f32.
    type F: Isa;
    /// `LANES` sums.
    type I: Copy;
    /// `4 × LANES` weights as the multiplication takes them.
    type W: Copy;
    /// A codebook in a register.
    type Table: Copy;
    /// 8 or 16.
    const LANES: usize;
    /// Most tokens of a register tile.
    const TOKENS: usize;
    /// Whether a register tile holds fewer rows than a panel, so that it takes each group several times.
    const STRIPS: bool;
    /// Whether the loop over a subgroup must not be unrolled. Where a dot product takes several instructions the
    /// compiler rearranges the unrolled ones token by token and keeps the weights of all on the stack.
    const ROLLED: bool;
    /// Whether a sum must begin at −128 × the sum of its activations.
    const OFFSET: bool;

    /// The f32 operations.
    fn floats(self) -> Self::F;
    /// `x` in every lane.
    fn splat(self, x: i32) -> Self::I;
    /// `acc` + the products of each lane's four weights with the four signed bytes of `x`, which are from −127 to
    /// 127; a weight may be −128.
    fn dot(self, acc: Self::I, w: Self::W, x: Self::I) -> Self::I;
    /// The sums as f32, rounded to nearest even.
    fn to_float(self, sums: Self::I) -> <Self::F as Isa>::V;
    /// The codebook in a register.
    fn table(self, codebook: &Codebook) -> Self::Table;
    /// The four lowest bits of each of `LANES` 16-bit words, as f32.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn load_nibbles(self, at: *const u8) -> <Self::F as Isa>::V;
    /// `4 × LANES` stored weights.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn weights(self, at: *const u8) -> Self::W;
    /// The weights of `4 × LANES` codes, which are the low or the high halves of as many bytes.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn coded<const HIGH: bool>(self, at: *const u8, table: Self::Table) -> Self::W;
    /// The stored bytes of the same weights, to memory.
    ///
    /// # Safety
    /// `from` must be valid for reading, `to` for writing `4 × LANES` bytes.
    unsafe fn expand<const HIGH: bool>(self, from: *const u8, table: Self::Table, to: *mut u8);

    /// Calls `work` with the shape of a register tile: vectors of rows, and `tokens` (1 to `TOKENS`).
    fn with_tile<W: Tile>(self, tokens: usize, work: &W);
}

/// A kernel with its operands.
pub(in super::super) trait IntOperation {
    /// The kernel. Implementations must be `#[inline(always)]`.
    fn run<D: Int8>(self, d: D);
}

/// Work on a register tile whose shape is known when it is compiled: `R` vectors of rows × `T` tokens.
/// `R × LANES` divides the rows of a panel.
pub(in super::super) trait Tile {
    /// The work. Implementations must be `#[inline(always)]`.
    fn run<const R: usize, const T: usize>(&self);
}

/// Implements `with_tile` and `TOKENS` for so many vectors of rows and the numbers of tokens listed, and one
/// more, the most. Each shape is a function of its own with the instructions named, so that the compiler
/// gives it all registers: inlined into one function, a dozen shapes share them and spill.
macro_rules! tiles {
    ($rows:literal x [$($tokens:literal)*] $most:literal $(, $features:literal)?) => {
        const TOKENS: usize = $most;
        const STRIPS: bool = $rows * Self::LANES < $crate::backend::cpu::kernels::panels::PANEL_ROWS;
        #[inline(always)]
        fn with_tile<W: $crate::backend::cpu::kernels::simd::int8::Tile>(self, tokens: usize, work: &W) {
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn tile<W: $crate::backend::cpu::kernels::simd::int8::Tile, const T: usize>(work: &W) {
                work.run::<$rows, T>()
            }
            // Through a table, because the compiler inlines what it calls by name, whatever it is told.
            let shapes: &[unsafe fn(&W); $most] = &[$(tile::<W, $tokens>,)* tile::<W, $most>];
            if let Some(tile) = shapes.get(tokens.wrapping_sub(1)) {
                // SAFETY: the token proves the instructions.
                unsafe { tile(work) }
            }
        }
    };
}
use tiles;

/// Most tokens of a register tile at `level`.
pub(in super::super) const fn tile_tokens(level: Level) -> usize {
    match level {
        Level::Scalar => plain::Plain::TOKENS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => avx2::Pairs::TOKENS,
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => avx2::Vnni::TOKENS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni | Level::Avx512Bf16 => avx512::Vnni::TOKENS,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => neon::Pairs::TOKENS,
        #[cfg(target_arch = "aarch64")]
        Level::NeonDot => neon::Dot::TOKENS,
        // Levels of other architectures, as in `dispatch`.
        #[cfg(not(target_arch = "aarch64"))]
        Level::Neon | Level::NeonDot => plain::Plain::TOKENS,
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => {
            plain::Plain::TOKENS
        }
    }
}

/// Runs a kernel with the instructions of `level`, which the CPU must have.
#[inline]
pub(in super::super) fn dispatch<O: IntOperation>(level: Level, operation: O) {
    match level {
        Level::Scalar => operation.run(plain::Plain),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` never holds a level that the CPU lacks.
        Level::Avx2 | Level::Avx512 => unsafe { avx2::run(operation) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::AvxVnni => unsafe { avx2::run_vnni(operation) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { avx512::run(operation) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => neon::run(operation),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Level::NeonDot => unsafe { neon::run_dot(operation) },
        // Levels of other architectures, which no CPU of this one has.
        #[cfg(not(target_arch = "aarch64"))]
        Level::Neon | Level::NeonDot => operation.run(plain::Plain),
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => {
            operation.run(plain::Plain)
        }
    }
}
