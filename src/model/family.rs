//! The published models of the Aquila family, told by the shape of the decoder.

use crate::model::spec::{DecoderSpec, RopeScaling};

/// A shape: layers, hidden, heads, heads of keys and values, feed-forward (0 where it is not published), and the
/// names of its models.
struct Shape {
    numbers: [usize; 5],
    /// Of the first version, which clamps its scores; none where there was none of this shape.
    first: Option<&'static str>,
    second: &'static str,
    /// With positions stretched to a context of 16,384.
    long: Option<&'static str>,
}

const SHAPES: [Shape; 3] = [
    Shape {
        numbers: [32, 4096, 32, 32, 11008],
        first: Some("Aquila-7B, AquilaChat-7B or AquilaCode"),
        second: "Aquila2-7B or AquilaChat2-7B",
        long: Some("AquilaChat2-7B-16K"),
    },
    Shape {
        numbers: [60, 6144, 48, 8, 24576],
        first: None,
        second: "Aquila2-34B or AquilaChat2-34B",
        long: Some("AquilaChat2-34B-16K"),
    },
    Shape {
        numbers: [80, 8192, 64, 8, 0],
        first: None,
        second: "Aquila2-70B-Expr or AquilaChat2-70B-Expr",
        long: None,
    },
];

/// Rows of the embedding: as first published, and as Aquila2 was published again.
const VOCABULARIES: [usize; 2] = [100_008, 143_973];

/// The models that have this shape and vocabulary. `names_version`: whether the checkpoint's kind says which version
/// it is (a GGUF file does not).
pub fn models(spec: &DecoderSpec, names_version: bool) -> Option<String> {
    let DecoderSpec { layers, hidden, heads, kv_heads, ffn, vocab, .. } = *spec;
    let shape = SHAPES.iter().find(|shape| {
        let [.., published_ffn] = shape.numbers;
        let ffn = if published_ffn == 0 { 0 } else { ffn };
        shape.numbers == [layers, hidden, heads, kv_heads, ffn]
    })?;
    if !VOCABULARIES.contains(&vocab) {
        return None;
    }
    let is_long = spec.context >= 16_384 || spec.rope.scaling != RopeScaling::None;
    Some(match (shape.long.filter(|_| is_long), shape.first) {
        (Some(long), _) => long.into(),
        (None, Some(first)) if spec.score_clamp.is_some() => first.into(),
        (None, Some(first)) if !names_version => format!("{first}, or {}", shape.second),
        _ => shape.second.into(),
    })
}
