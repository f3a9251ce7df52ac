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
        match self.element {
            Element::F32 => self.decode::<I, AsF32>(isa),
            Element::F16 => self.decode::<I, AsF16>(isa),
            Element::Bf16 => self.decode::<I, AsBf16>(isa),
        }
    }
}

impl Decode<'_> {
    #[inline(always)]
    fn decode<I: Isa, S: Stored>(self, isa: I) {
        let Decode { element, bytes, out } = self;
        let len = out.len().min(bytes.len() / S::BYTES);
        let (from, to) = (bytes.as_ptr(), out.as_mut_ptr());
        let rest = whole_vectors(I::LANES, len, |i| {
            // SAFETY: i + LANES ≤ len, which both hold.
            unsafe { isa.store(S::load(isa, from.add(i * S::BYTES)), to.add(i)) }
        });
        for i in rest {
            out[i] = decode_one(element, &bytes[i * S::BYTES..]);
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

/// How elements are stored, as a type.
pub(super) trait Stored: Copy {
    /// Bytes of an element.
    const BYTES: usize;
    /// `LANES` elements as f32.
    ///
    /// # Safety
    /// `at` must be valid for reading them.
    unsafe fn load<I: Isa>(isa: I, at: *const u8) -> I::V;
}

macro_rules! stored {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $load:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;
        impl Stored for $name {
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<I: Isa>(isa: I, at: *const u8) -> I::V {
                // SAFETY: the caller's promise.
                unsafe { isa.$load(at.cast()) }
            }
        }
    };
}
stored!(/// f32.
    AsF32, 4, load);
stored!(/// f16.
    AsF16, 2, load_f16);
stored!(/// bf16.
    AsBf16, 2, load_bf16);
stored!(/// Signed bytes, to be multiplied by a scale that lies elsewhere.
    AsI8, 1, load_i8);

#[cfg(test)]
mod tests {
    use super::super::testing::{Engine, bits};
    use super::*;
    use half::{bf16, f16};

    /// Every 16-bit pattern, and numbers between and beyond them.
    fn numbers() -> Vec<f32> {
        let near = |x: f32| [x, f32::from_bits(x.to_bits() ^ 0x1000), f32::from_bits(x.to_bits() ^ 0x1abc)];
        (0..=u16::MAX)
            .flat_map(|b| near(f16::from_bits(b).to_f32()))
            .chain([1e38, -1e38, 1e-40, 65520.0])
            .collect()
    }

    #[test]
    fn encoding_rounds_to_nearest_even_on_every_engine() {
        let x = numbers();
        for engine in Engine::all() {
            for element in [Element::F32, Element::F16, Element::Bf16] {
                let mut out = vec![0; x.len() * element.bytes()];
                engine.run(Encode { element, x: &x, out: &mut out });
                let mut back = vec![0.0; x.len()];
                engine.run(Decode { element, bytes: &out, out: &mut back });
                for (&x, &back) in x.iter().zip(&back) {
                    let truth = match element {
                        Element::F32 => x,
                        Element::F16 => f16::from_f32(x).to_f32(),
                        Element::Bf16 => bf16::from_f32(x).to_f32(),
                    };
                    let right = truth.to_bits() == back.to_bits() || (truth.is_nan() && back.is_nan());
                    assert!(right, "{engine:?} {element:?}: {x} became {back} instead of {truth}");
                }
            }
        }
    }

    #[test]
    fn the_rest_after_the_last_vector_is_converted_too() {
        let x: Vec<f32> = (0..37).map(|i| i as f32 * 0.25).collect();
        for engine in Engine::all() {
            for element in [Element::F32, Element::F16, Element::Bf16] {
                let mut bytes = vec![0; 37 * element.bytes()];
                engine.run(Encode { element, x: &x, out: &mut bytes });
                let mut back = vec![f32::NAN; 37];
                engine.run(Decode { element, bytes: &bytes, out: &mut back });
                assert_eq!(bits(&back), bits(&x), "{engine:?} {element:?}");
            }
        }
    }
}
