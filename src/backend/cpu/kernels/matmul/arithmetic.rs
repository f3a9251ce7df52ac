//! How elements are multiplied: f32 by f32 at every level, or pairs of bf16 where the CPU can.

use super::super::convert::Stored;
use super::super::simd::Isa;
use std::marker::PhantomData;

/// A way to multiply weights with activations.
///
/// Both are laid out in scratch as `Packed`; an `Operand` is a vector of `STEP` of them.
pub(super) trait Arithmetic: Copy {
    /// The vectors of the accumulators.
    type Isa: Isa;
    /// An element in scratch.
    type Packed: Copy;
    /// `STEP` elements in a register.
    type Operand: Copy;
    /// Elements along k that one multiplication takes.
    const STEP: usize;
    /// Tokens in a register tile.
    const TOKENS: usize = Self::Isa::TOKENS;
    /// Elements along k that are summed in lanes before the lanes are summed. It is part of the arithmetic:
    /// another value gives other roundings. Long enough that the sums across lanes cost little.
    const BLOCK: usize = super::BLOCK_STEPS * Self::STEP;
    /// Elements from one row in scratch to the next: a block, and one step more so that the rows of a
    /// tile begin in different banks and sets of the first-level cache.
    const STRIDE: usize = Self::BLOCK + Self::STEP;
    /// Bytes of a stored weight.
    const STORED_BYTES: usize;
    /// Whether activations can be read where they lie.
    const X_IN_PLACE: bool;

    /// The accumulators' instructions.
    fn isa(self) -> Self::Isa;
    /// `acc + w·x`, lane by lane.
    fn multiply_add(
        self,
        w: Self::Operand,
        x: Self::Operand,
        acc: <Self::Isa as Isa>::V,
    ) -> <Self::Isa as Isa>::V;

    /// `STEP` elements from scratch.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn load(self, at: *const Self::Packed) -> Self::Operand;
    /// `STEP` elements to scratch.
    ///
    /// # Safety
    /// `at` must be valid for writing them.
    unsafe fn store(self, operand: Self::Operand, at: *mut Self::Packed);
    /// `STEP` stored weights from any address.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn weight(self, at: *const u8) -> Self::Operand;
    /// `STEP` activations.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn activation(self, at: *const f32) -> Self::Operand;
}

/// f32 activations by weights that are converted to f32, which is exact.
#[derive(Clone, Copy)]
pub(super) struct F32<I, S>(I, PhantomData<S>);

impl<I: Isa, S: Stored> F32<I, S> {
    #[inline(always)]
    pub(super) fn new(isa: I) -> Self {
        F32(isa, PhantomData)
    }
}

impl<I: Isa, S: Stored> Arithmetic for F32<I, S> {
    type Isa = I;
    type Packed = f32;
    type Operand = I::V;
    const STEP: usize = I::LANES;
    const STORED_BYTES: usize = S::BYTES;
    const X_IN_PLACE: bool = true;

    #[inline(always)]
    fn isa(self) -> I {
        self.0
    }
    #[inline(always)]
    fn multiply_add(self, w: I::V, x: I::V, acc: I::V) -> I::V {
        self.0.fma(w, x, acc)
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { self.0.load(at) }
    }
    #[inline(always)]
    unsafe fn store(self, operand: I::V, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { self.0.store(operand, at) }
    }
    #[inline(always)]
    unsafe fn weight(self, at: *const u8) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(self.0, at) }
    }
    #[inline(always)]
    unsafe fn activation(self, at: *const f32) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { self.0.load(at) }
    }
}
