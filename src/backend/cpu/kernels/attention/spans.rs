//! What a span of keys gives a query, and how the spans of a query become one.
//!
//! A result is Σ weight × value over the keys of the span, `[head_dim]`, with the largest score and the sum of the
//! weights e^(score − largest). Of two results that with the smaller maximum is scaled by e^(smaller − larger), and all
//! three are added.

use super::super::simd::{self, Isa, Operation};
use super::softmax::State;
use super::{Attention, SPAN_KEYS};
use crate::backend::cpu::isa::Level;
use std::ops::Range;

/// The widest vectors: rows of results are padded to them, so that two workers never write one cache line.
const LANES_MAX: usize = 16;

/// Elements from one result to the next: the values, padded, and a cache line for the state.
pub const fn result_len(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES_MAX) + LANES_MAX
}

/// One of several spans that workers share out, and where its results go.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Which [`super::SPAN_KEYS`] keys.
    pub span: usize,
    /// `[queries]` results, the queries being rows × the heads of a KV head's group, rows slowest.
    pub results: *mut f32,
}

impl Share {
    /// The result of query `index`.
    pub(super) fn result(&self, index: usize, head_dim: usize) -> SpanResult {
        SpanResult::new(self.results, head_dim).next(index)
    }
}

/// Makes one of the results of all spans of some rows that share a KV head, and writes it where attention of all
/// spans at once would: the same, bit for bit.
///
/// # Safety
/// As `Kernels::merge_spans`.
pub(in super::super) unsafe fn merge(
    level: Level,
    attention: &Attention<'_>,
    rows: Range<usize>,
    kv_head: usize,
    results: *mut f32,
) {
    simd::dispatch(level, Merge { attention, rows, kv_head, results });
}

/// The operands of [`merge`], whose caller vouches for the pointers.
pub(super) struct Merge<'a> {
    pub attention: &'a Attention<'a>,
    pub rows: Range<usize>,
    pub kv_head: usize,
    /// `[spans][rows × group]`.
    pub results: *mut f32,
}

impl Operation for Merge<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let queries = self.rows.len() * self.attention.group();
        let first = SpanResult::new(self.results, self.attention.layout.head_dim);
        for index in 0..queries {
            let query = self.attention.query(self.rows.start, self.kv_head, index);
            // SAFETY: the caller of `Kernels::merge_spans` vouches for the pointers.
            unsafe {
                for span in 1..query.keys.div_ceil(SPAN_KEYS) {
                    first.next(index).merge(isa, first.next(span * queries + index));
                }
                first.next(index).write(query.out);
            }
        }
    }
}

/// The result of one query over a span.
#[derive(Clone, Copy)]
pub(super) struct SpanResult {
    start: *mut f32,
    head_dim: usize,
}

impl SpanResult {
    /// The one that begins at `start`.
    #[inline(always)]
    pub(super) fn new(start: *mut f32, head_dim: usize) -> Self {
        SpanResult { start, head_dim }
    }

    /// The one that lies `count` further.
    #[inline(always)]
    pub(super) fn next(self, count: usize) -> Self {
        SpanResult { start: self.start.wrapping_add(count * result_len(self.head_dim)), ..self }
    }

    /// The weighted sum of the values.
    #[inline(always)]
    pub(super) fn values(self) -> *mut f32 {
        self.start
    }

    /// Where the largest score lies, and behind it the sum of the weights.
    #[inline(always)]
    fn state_at(self) -> *mut f32 {
        self.start.wrapping_add(self.head_dim.next_multiple_of(LANES_MAX))
    }

    /// # Safety
    /// The result must be valid.
    #[inline(always)]
    unsafe fn state(self) -> State {
        // SAFETY: the caller's promise; two elements lie there.
        unsafe { State { largest: *self.state_at(), sum: *self.state_at().add(1) } }
    }

    /// # Safety
    /// The result must be valid and nobody else's.
    #[inline(always)]
    pub(super) unsafe fn set_state(self, state: State) {
        // SAFETY: the caller's promise; two elements lie there.
        unsafe {
            *self.state_at() = state.largest;
            *self.state_at().add(1) = state.sum;
        }
    }

    /// Becomes a copy of `other`.
    ///
    /// # Safety
    /// Both must be valid, and this one nobody else's.
    #[inline(always)]
    pub(super) unsafe fn copy_from(self, other: SpanResult) {
        // SAFETY: the caller's promise.
        unsafe { self.start.copy_from_nonoverlapping(other.start, result_len(self.head_dim)) };
    }

    /// Takes the result of the next span in.
    ///
    /// # Safety
    /// Both must be valid, and this one nobody else's.
    #[inline(always)]
    pub(super) unsafe fn merge<I: Isa>(self, isa: I, next: SpanResult) {
        // SAFETY: the caller's promise; the values are padded to whole vectors.
        unsafe {
            let (mut state, other) = (self.state(), next.state());
            let (kept, added) = state.merge(isa, other);
            self.set_state(state);
            let (kept, added) = (isa.splat(kept), isa.splat(added));
            let mut element = 0;
            while element < self.head_dim {
                let (into, from) = (self.start.add(element), next.start.add(element));
                let scaled = isa.mul(isa.load(into), kept);
                isa.store(isa.fma(isa.load(from), added, scaled), into);
                element += I::LANES;
            }
        }
    }

    /// The values divided by the sum of the weights, to `out`.
    ///
    /// # Safety
    /// The result must be valid, `out` for `head_dim` elements.
    #[inline(always)]
    pub(super) unsafe fn write(self, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let factor = 1.0 / self.state().sum;
            for element in 0..self.head_dim {
                *out.add(element) = *self.start.add(element) * factor;
            }
        }
    }
}
