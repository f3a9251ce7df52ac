//! Weights that come as 8-bit codes with a scale for each output feature, for products whose inputs have 8 bits too:
//! what msModelSlim makes for Ascend.
//!
//! A product is `y = (x · codesᵀ + bias) · scale`. With [`Inputs::Tensor`] x was brought to codes by
//! `round(x / input_scale + input_offset)`, the same for all tokens; the bias takes that offset back and holds what bias
//! the layer had, and the scale is that of the inputs times that of the weights. With [`Inputs::Tokens`] each token has
//! a scale of its own, made when it comes, and the scale here is that of the weights alone.

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::region::Region;
use crate::loading::modelslim::Encoding;
use crate::loading::quant;
use crate::loading::tensor::{StoredTensor, StoredType, TensorTable};

/// How the inputs of a product become codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inputs {
    /// One scale and offset for all tokens, found by calibration.
    Tensor {
        /// What a step of the codes is worth; above 0.
        scale: f32,
        /// The code of 0.
        offset: i8,
    },
    /// A scale for each token, and no offset.
    Tokens,
}

/// A matrix of codes, `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct Int8Weight {
    /// The tensor's name in the checkpoint, for messages.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features: k.
    pub cols: usize,
    /// How its inputs become codes.
    pub inputs: Inputs,
    codes: Region,
    scales: Scales,
    bias: Option<Region>,
}

/// Where the scales are.
#[derive(Clone, Debug)]
enum Scales {
    /// The bits of an f32 in the lower half of 64.
    Wide(Region),
    /// Plain numbers.
    Plain(DType, Region),
}

/// The parts of a linear layer's name in such a checkpoint, the matrix of codes first.
pub const PARTS: [&str; 8] = [
    "weight",
    "input_scale",
    "input_offset",
    "quant_bias",
    "deq_scale",
    "weight_scale",
    "weight_offset",
    "bias",
];

impl Int8Weight {
    /// The matrix `{layer}.weight` of a table with its scales, as `encoding` says. `Format` naming file and tensor where
    /// one is missing or of another shape or type.
    pub fn read(
        table: &TensorTable,
        layer: &str,
        (rows, cols): (usize, usize),
        encoding: Encoding,
    ) -> Result<Int8Weight> {
        let part = |part: &str, shapes: &[&[usize]], types: &[&str]| -> Result<(StoredType, Region)> {
            let name = format!("{layer}.{part}");
            let Some(stored) = table.get(&name) else {
                crate::bail!(
                    Format,
                    "{}: tensor {name}: expected {:?}, found none",
                    table.file_of(&name),
                    shapes[0]
                )
            };
            check(table.file_of(&name), &name, stored, shapes, types)?;
            Ok((stored.dtype, table.bytes(&name)?))
        };
        let name = format!("{layer}.{}", PARTS[0]);
        let floats = ["f32", "f16", "bf16"];
        let (_, codes) = part(PARTS[0], &[&[rows, cols]], &["i8"])?;
        let (inputs, scale, bias) = if encoding == Encoding::Tensor {
            let one = |what| -> Result<f32> {
                let (dtype, bytes) = part(what, &[&[1], &[]], &floats)?;
                Ok(numbers(dtype, &bytes).first().copied().unwrap_or_default())
            };
            let (scale, offset) = (one("input_scale")?, one("input_offset")?);
            let place =
                |what: &str| format!("{}: tensor {layer}.{what}", table.file_of(&format!("{layer}.{what}")));
            crate::ensure!(
                scale.is_finite() && scale > 0.0,
                Format,
                "{}: expected a number above 0, found {scale}",
                place("input_scale")
            );
            crate::ensure!(
                offset.fract() == 0.0 && (-128.0..=127.0).contains(&offset),
                Format,
                "{}: expected a whole number from -128 to 127, found {offset}",
                place("input_offset")
            );
            let scales = part("deq_scale", &[&[rows], &[1, rows], &[rows, 1]], &["i64", "u64", "f32"])?;
            let (_, bias) = part("quant_bias", &[&[rows], &[1, rows], &[rows, 1]], &["i32"])?;
            (Inputs::Tensor { scale, offset: offset as i8 }, scales, Some(bias))
        } else {
            let scales = part("weight_scale", &[&[rows, 1], &[rows]], &floats)?;
            if table.get(&format!("{layer}.weight_offset")).is_some() {
                let (dtype, bytes) = part("weight_offset", &[&[rows, 1], &[rows]], &floats)?;
                crate::ensure!(
                    numbers(dtype, &bytes).iter().all(|&offset| offset == 0.0),
                    Unsupported,
                    "{}: tensor {layer}.weight_offset: expected 0 everywhere (symmetric codes), found others",
                    table.file_of(&name)
                );
            }
            (Inputs::Tokens, scales, None)
        };
        let scales = match scale {
            (StoredType::Known(dtype), bytes) => Scales::Plain(dtype, bytes),
            (StoredType::Other(_), bytes) => Scales::Wide(bytes),
        };
        Ok(Int8Weight { name, rows, cols, inputs, codes, scales, bias })
    }

    /// The codes of row `row`, a byte each, signed.
    pub fn codes(&self, row: usize) -> &[u8] {
        &self.codes[row * self.cols..(row + 1) * self.cols]
    }

    /// The scale of each row. `Format` naming the first that is no number.
    pub fn scales(&self) -> Result<Vec<f32>> {
        let scales = match &self.scales {
            Scales::Wide(bytes) => {
                let (words, _) = bytes.as_chunks::<8>();
                words.iter().map(|word| f32::from_bits(u64::from_le_bytes(*word) as u32)).collect()
            }
            Scales::Plain(dtype, bytes) => numbers(StoredType::Known(*dtype), bytes),
        };
        match scales.iter().position(|scale| !scale.is_finite()) {
            Some(row) => Err(crate::error!(
                Format,
                "tensor {}: the scale of row {row}: expected a finite number, found {}",
                self.name,
                scales[row]
            )),
            None => Ok(scales),
        }
    }

    /// What is added to the sum of each row before it is scaled; 0 where there is none.
    pub fn bias(&self) -> Vec<i32> {
        let Some(bytes) = &self.bias else { return vec![0; self.rows] };
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| i32::from_le_bytes(*word)).collect()
    }

    fn regions(&self) -> impl Iterator<Item = &Region> {
        let (Scales::Wide(scales) | Scales::Plain(_, scales)) = &self.scales;
        [&self.codes, scales].into_iter().chain(&self.bias)
    }

    /// Stored bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.regions().map(|bytes| bytes.len() as u64).sum()
    }

    /// Stored bytes that lie in mapped files.
    pub fn mapped_bytes(&self) -> u64 {
        self.regions().filter(|bytes| bytes.is_mapped()).map(|bytes| bytes.len() as u64).sum()
    }
}

fn check(file: &str, name: &str, stored: &StoredTensor, shapes: &[&[usize]], types: &[&str]) -> Result<()> {
    let dtype = stored.dtype.to_string();
    crate::ensure!(
        shapes.contains(&&stored.shape[..]) && types.contains(&dtype.as_str()),
        Format,
        "{file}: tensor {name}: expected {:?} {}, found {:?} {dtype}",
        shapes[0],
        types.join(" or "),
        stored.shape
    );
    Ok(())
}

fn numbers(dtype: StoredType, bytes: &[u8]) -> Vec<f32> {
    let StoredType::Known(dtype) = dtype else { return Vec::new() };
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_elements()];
    quant::to_f32(dtype, bytes, &mut out);
    out
}
