//! How a block of the KV cache is laid out.
//!
//! A block holds [`BLOCK_TOKENS`] token positions of one layer. For each KV head it holds the keys
//! transposed, `[head_dim][16]`, and after them the values, `[16][head_dim]`. So the scores of
//! 16 keys are computed in the lanes of a vector with no sum across lanes, and the values are read
//! along the accumulator. Slot s is position `s % 16` of block `s / 16`.
//!
//! As signed bytes, keys and values are each followed by 16 scales, f32: one for the key, and one for the value,
//! of each position. A byte is the nearest integer to element ÷ scale, and the scale the largest magnitude
//! ÷ 127. A row with an infinite or undefined element has the scale NaN, and so have the results of it.

use crate::backend::cpu::kernels::convert::Encode;
use crate::backend::cpu::kernels::simd::{self, Isa, Operation};
use crate::backend::cpu::kernels::{Element, Kernels};
use std::ops::Range;

/// Token positions in a block.
pub const BLOCK_TOKENS: usize = 16;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvElement {
    /// As they are, rounded to the element.
    Plain(Element),
    /// Signed bytes, with an f32 scale for the key and one for the value of each position and head.
    I8,
}

impl KvElement {
    /// Every way.
    pub const ALL: [KvElement; 4] = [
        KvElement::Plain(Element::F32),
        KvElement::Plain(Element::F16),
        KvElement::Plain(Element::Bf16),
        KvElement::I8,
    ];

    /// Bytes of one element, scales left aside.
    pub const fn bytes(self) -> usize {
        match self {
            KvElement::Plain(element) => element.bytes(),
            KvElement::I8 => 1,
        }
    }

    /// The name in lower case, as options and messages use it.
    pub const fn name(self) -> &'static str {
        match self {
            KvElement::Plain(element) => element.dtype().name(),
            KvElement::I8 => "i8",
        }
    }

    /// Bytes of the scales of one head's keys, or values, in one block.
    const fn scale_bytes(self) -> usize {
        match self {
            KvElement::Plain(_) => 0,
            KvElement::I8 => BLOCK_TOKENS * size_of::<f32>(),
        }
    }
}

/// The shape of the KV cache of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// How keys and values are stored.
    pub element: KvElement,
}

impl KvLayout {
    /// Bytes of the elements of one head's keys in one block; their scales follow.
    pub(super) const fn element_bytes(&self) -> usize {
        BLOCK_TOKENS * self.head_dim * self.element.bytes()
    }

    /// Bytes of the keys of one head in one block; the values take as many.
    pub const fn plane_bytes(&self) -> usize {
        self.element_bytes() + self.element.scale_bytes()
    }

    /// Bytes of one block of one layer.
    pub const fn block_bytes(&self) -> usize {
        2 * self.kv_heads * self.plane_bytes()
    }

    /// Byte offset of the keys of head `head` in block `block`, counted from block 0.
    pub const fn key_offset(&self, block: usize, head: usize) -> usize {
        block * self.block_bytes() + 2 * head * self.plane_bytes()
    }

    /// Byte offset of the values of head `head` in block `block`.
    pub const fn value_offset(&self, block: usize, head: usize) -> usize {
        self.key_offset(block, head) + self.plane_bytes()
    }
}

/// Writes one token's keys and values for some heads; see `Kernels::kv_store`.
///
/// # Safety
/// As `Kernels::kv_store`.
pub(super) unsafe fn store(
    kernels: Kernels,
    layout: &KvLayout,
    blocks: *mut u8,
    slot: usize,
    heads: Range<usize>,
    keys: &[f32],
    values: &[f32],
) {
    let (block, at) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
    let rows = keys.chunks_exact(layout.head_dim).zip(values.chunks_exact(layout.head_dim));
    for (head, (key, value)) in heads.filter(|&h| h < layout.kv_heads).zip(rows) {
        let planes =
            [(key, layout.key_offset(block, head), true), (value, layout.value_offset(block, head), false)];
        for (x, plane, transposed) in planes {
            // SAFETY: the plane lies in the block of `slot`, which the caller vouches for.
            let plane = unsafe { blocks.add(plane) };
            simd::dispatch(kernels.level(), Store { layout, x, plane, at, transposed });
        }
    }
}

/// One row of a head, stored as position `at` of a plane. Made by [`store`], whose caller vouches for the plane.
struct Store<'a> {
    layout: &'a KvLayout,
    /// `[head_dim]`.
    x: &'a [f32],
    plane: *mut u8,
    at: usize,
    /// `[head_dim][16]` instead of `[16][head_dim]`.
    transposed: bool,
}

impl Operation for Store<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        const CHUNK: usize = 64;
        let Store { layout, x, plane, at, transposed } = self;
        let size = layout.element.bytes();
        let mut inverse = 0.0;
        if layout.element == KvElement::I8 {
            let scale = scale(isa, x);
            // Below this the reciprocal is infinite; such a row counts as zeros.
            inverse = if scale < 1e-37 { 0.0 } else { 1.0 / scale };
            // SAFETY: the scales follow the elements, one for each position.
            unsafe { plane.add(layout.element_bytes()).cast::<f32>().add(at).write_unaligned(scale) };
        }
        for (chunk, x) in x.chunks(CHUNK).enumerate() {
            let mut stored = [0u8; CHUNK * size_of::<f32>()];
            match layout.element {
                KvElement::Plain(element) => Encode { element, x, out: &mut stored }.run(isa),
                KvElement::I8 => {
                    let mut padded = [0f32; CHUNK];
                    padded[..x.len()].copy_from_slice(x);
                    let mut i = 0;
                    while i < CHUNK {
                        // SAFETY: i + LANES ≤ CHUNK.
                        unsafe {
                            let v = isa.mul(isa.load(padded.as_ptr().add(i)), isa.splat(inverse));
                            isa.store_i8(isa.round(v), stored.as_mut_ptr().add(i).cast());
                        }
                        i += I::LANES;
                    }
                }
            }
            let stored = &stored[..x.len() * size];
            // SAFETY: position `at` of the plane's elements.
            unsafe {
                if transposed {
                    let into = plane.add((chunk * CHUNK * BLOCK_TOKENS + at) * size);
                    scatter(stored, size, into);
                } else {
                    let into = plane.add((at * layout.head_dim + chunk * CHUNK) * size);
                    into.copy_from_nonoverlapping(stored.as_ptr(), stored.len());
                }
            }
        }
    }
}

/// The largest magnitude ÷ 127; NaN where an element is infinite or undefined.
#[inline(always)]
fn scale<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let (mut largest, mut unreal) = (isa.zero(), isa.zero());
    let whole = x.len() - x.len() % I::LANES;
    let mut i = 0;
    while i < whole {
        // SAFETY: i + LANES ≤ the length.
        let v = unsafe { isa.load(x.as_ptr().add(i)) };
        largest = isa.max(isa.max(v, isa.sub(isa.zero(), v)), largest);
        // 0 × anything finite is 0.
        unreal = isa.fma(v, isa.zero(), unreal);
        i += I::LANES;
    }
    let (mut largest, mut unreal) = (isa.largest(largest), isa.sum(unreal));
    for x in &x[whole..] {
        largest = largest.max(x.abs());
        unreal += x * 0.0;
    }
    if unreal == 0.0 { largest / 127.0 } else { f32::NAN }
}

/// Writes elements of `size` bytes [`BLOCK_TOKENS`] elements apart.
///
/// # Safety
/// `into` must be valid for them.
#[inline(always)]
unsafe fn scatter(elements: &[u8], size: usize, into: *mut u8) {
    let stride = BLOCK_TOKENS * size;
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            1 => (0..elements.len()).for_each(|i| into.add(i * stride).write(elements[i])),
            2 => {
                for (i, element) in elements.as_chunks::<2>().0.iter().enumerate() {
                    into.add(i * stride).cast::<[u8; 2]>().write(*element);
                }
            }
            _ => {
                for (i, element) in elements.as_chunks::<4>().0.iter().enumerate() {
                    into.add(i * stride).cast::<[u8; 4]>().write(*element);
                }
            }
        }
    }
}
