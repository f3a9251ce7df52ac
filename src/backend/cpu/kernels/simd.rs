//! The vector operations that the kernels are written in, one file for each instruction set.
//!
//! A kernel is a struct that holds its operands and implements [`Operation`] once, over any [`Isa`].
//! [`dispatch`] runs it inside a function compiled for the level's instructions. For that to work
//! everything between that function and the instructions must be inlined, so every function on the
//! way is `#[inline(always)]`: a function left out would be compiled for the lowest CPU, and each vector
//! would travel through memory.
//!
//! An [`Isa`] value is a token: it can be made only where the instructions are known to be there, which
//! makes the arithmetic on vectors safe code. Memory is read and written through raw pointers.

use crate::backend::cpu::isa::Level;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod int8;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod plain;

/// An instruction set: operations on vectors of `LANES` f32.
///
/// Every operation is exactly one IEEE operation a lane, rounded to nearest even, so that a kernel has the
/// same result on every instruction set with the same lanes and the same [`Isa::fma`].
///
/// # Safety
/// A value may exist only where the CPU has the instructions.
pub(super) unsafe trait Isa: Copy {
    /// A vector of `LANES` f32.
    type V: Copy;
    /// 8 or 16.
    const LANES: usize;
    /// Tokens in a register tile of the matrix product: as many as leave no accumulator in memory.
    const TOKENS: usize;
    /// The same where weights are converted in the tile, which takes registers too; at most `TOKENS`.
    const FEW_TOKENS: usize;

    /// Calls `work` with `tokens` (1 to `TOKENS`) as a constant.
    fn with_tokens<W: Tokens>(self, tokens: usize, work: W);

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a × b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a ÷ b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a × b + c`, rounded once (twice at the scalar level, which has no such instruction).
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`: the second where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: the second where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even; exact for |a| < 2^22, and only meant for those.
    fn round(self, a: Self::V) -> Self::V;
    /// `2^n` for an integer n from −126 to 127.
    fn exp2(self, n: Self::V) -> Self::V;
    /// The sums of the lanes of four vectors, each by the same tree: 16 lanes are folded to 8 (lane i with
    /// i + 8), those as `((0+1)+(2+3)) + ((4+5)+(6+7))`.
    fn sum4(self, a: [Self::V; 4]) -> [f32; 4];
    /// `a`'s lanes in `out`.
    fn lanes(self, a: Self::V, out: &mut [f32; 16]);

    /// `LANES` f32 from any address.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn load(self, at: *const f32) -> Self::V;
    /// `LANES` f16 from any address, as f32.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn load_f16(self, at: *const u8) -> Self::V;
    /// `LANES` bf16 from any address, as f32.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn load_bf16(self, at: *const u8) -> Self::V;
    /// `LANES` signed bytes from any address, as f32.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn load_i8(self, at: *const u8) -> Self::V;
    /// `LANES` f32 to any address.
    ///
    /// # Safety
    /// `at` must be valid for writing them.
    unsafe fn store(self, a: Self::V, at: *mut f32);
    /// `LANES` f16 to any address, rounded to nearest even.
    ///
    /// # Safety
    /// `at` must be valid for writing them.
    unsafe fn store_f16(self, a: Self::V, at: *mut u8);
    /// `LANES` integers from −127 to 127 to any address, as signed bytes.
    ///
    /// # Safety
    /// `at` must be valid for writing them.
    unsafe fn store_i8(self, a: Self::V, at: *mut i8);
    /// Asks for the cache line at `at` (any address, even an invalid one).
    fn prefetch(self, at: *const u8);
    /// The same for the second cache, which leaves the first to what is in use.
    fn prefetch_l2(self, at: *const u8);

    /// Zero in every lane.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// The sum of the lanes, by the tree of [`Isa::sum4`].
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        self.sum4([a; 4])[0]
    }

    /// The largest lane; NaN may be passed over.
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        self.lanes(a, &mut lanes);
        lanes.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}

/// A kernel with its operands.
pub(super) trait Operation {
    /// What it gives back.
    type Output;
    /// The kernel. Implementations must be `#[inline(always)]`.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// Work on a number of tokens that is known when it is compiled. A trait, so that each instruction set
/// compiles only the numbers it uses.
pub(super) trait Tokens {
    /// The work. Implementations must be `#[inline(always)]`.
    fn run<const T: usize>(self);
}

/// Implements [`Isa::with_tokens`] for the numbers listed.
macro_rules! with_tokens {
    ($($tokens:literal)*) => {
        #[inline(always)]
        fn with_tokens<W: $crate::backend::cpu::kernels::simd::Tokens>(self, tokens: usize, work: W) {
            match tokens {
                $($tokens => work.run::<$tokens>(),)*
                _ => {}
            }
        }
    };
}
pub(super) use with_tokens;

/// Runs a kernel with the instructions of `level`, which the CPU must have: `Kernels` is the only caller
/// and vouches for it.
#[inline]
pub(super) fn dispatch<O: Operation>(level: Level, operation: O) -> O::Output {
    match level {
        Level::Scalar => operation.run(plain::Plain),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` never holds a level that the CPU lacks.
        Level::Avx2 | Level::AvxVnni => unsafe { avx2::run(operation) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { avx512::run(operation) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => neon::run(operation),
        // Levels of other architectures, which no CPU of this one has.
        #[cfg(not(target_arch = "aarch64"))]
        Level::Neon | Level::NeonDot => operation.run(plain::Plain),
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => {
            operation.run(plain::Plain)
        }
    }
}

/// Calls `body(start)` for each whole vector of `len` elements; gives the range that is left over.
#[inline(always)]
pub(super) fn whole_vectors(lanes: usize, len: usize, mut body: impl FnMut(usize)) -> std::ops::Range<usize> {
    let whole = len - len % lanes;
    let mut at = 0;
    while at < whole {
        body(at);
        at += lanes;
    }
    whole..len
}
