//! Rows of f32 to stored elements and back.

use super::Element;
use super::simd::plain::{f16_to_f32, f32_to_bf16};
use super::simd::{Isa, Operation, whole_vectors};

/// f32 to stored elements, rounded to nearest even.
pub(super) struct Encode<'a> {
    pub element: Element,
    pub x: &'a [f32],
    pub out: &'a mut [u8],
}

impl Operation for Encode<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Encode { element, x, out } = self;
        let len = x.len().min(out.len() / element.bytes());
        match element {
            Element::F32 => {
                for (o, x) in out.chunks_exact_mut(4).zip(x) {
                    o.copy_from_slice(&x.to_le_bytes());
                }
            }
            Element::F16 => {
                let rest = whole_vectors(I::LANES, len, |i| {
                    // SAFETY: i + LANES ≤ len, which both hold.
                    unsafe { isa.store_f16(isa.load(x.as_ptr().add(i)), out.as_mut_ptr().add(2 * i)) }
                });
                for (o, x) in out[2 * rest.start..].chunks_exact_mut(2).zip(&x[rest]) {
                    o.copy_from_slice(&half::f16::from_f32(*x).to_le_bytes());
                }
            }
            Element::Bf16 => {
                for (o, x) in out.chunks_exact_mut(2).zip(x) {
                    o.copy_from_slice(&f32_to_bf16(*x).to_le_bytes());
                }
            }
        }
    }
}

/// Stored elements to f32, exactly.
pub(super) struct Decode<'a> {
    pub element: Element,
    pub bytes: &'a [u8],
    pub out: &'a mut [f32],
}

impl Operation for Decode<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Decode { element, bytes, out } = self;
        let len = out.len().min(bytes.len() / element.bytes());
        let (from, to) = (bytes.as_ptr(), out.as_mut_ptr());
        let rest = whole_vectors(I::LANES, len, |i| {
            // SAFETY: i + LANES ≤ len, which both hold.
            unsafe { isa.store(load(isa, element, from.add(i * element.bytes())), to.add(i)) }
        });
        for i in rest {
            out[i] = decode_one(element, &bytes[i * element.bytes()..]);
        }
    }
}

/// `LANES` stored elements as f32.
///
/// # Safety
/// `at` must be valid for reading them.
#[inline(always)]
pub(super) unsafe fn load<I: Isa>(isa: I, element: Element, at: *const u8) -> I::V {
    // SAFETY: the caller's promise.
    unsafe {
        match element {
            Element::F32 => isa.load(at.cast()),
            Element::F16 => isa.load_f16(at),
            Element::Bf16 => isa.load_bf16(at),
        }
    }
}

/// The first element of `bytes` as f32; 0 where there is none.
#[inline(always)]
pub(super) fn decode_one(element: Element, bytes: &[u8]) -> f32 {
    match (element, bytes) {
        (Element::F32, [a, b, c, d, ..]) => f32::from_le_bytes([*a, *b, *c, *d]),
        (Element::F16, [a, b, ..]) => f16_to_f32(u16::from_le_bytes([*a, *b])),
        (Element::Bf16, [a, b, ..]) => f32::from_bits(u32::from(u16::from_le_bytes([*a, *b])) << 16),
        _ => 0.0,
    }
}
