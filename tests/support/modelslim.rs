//! A directory such as msModelSlim writes, of a small model, and the model whose weights it stands for.

use super::formats::safetensors_with;
use super::{TinyModel, TinyTensor};
use serde_json::{Map, Value, json};
use std::path::Path;

/// How its matrices are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `W8A8`: inputs by a fixed scale.
    Static,
    /// `W8A8_DYNAMIC`: inputs by a scale for each token.
    Dynamic,
}

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    /// As a safetensors header says it: `I8`, `F32`.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    /// What the description says of it.
    pub kind: &'static str,
}

/// The code of 0 in the inputs of `W8A8`.
const OFFSET: f32 = 5.0;

/// What one step of the input's codes is worth.
fn input_scale(linear: &str) -> f32 {
    let most = match linear {
        _ if linear.ends_with("o_proj") => 4.0,
        _ if linear.ends_with("down_proj") => 12.0,
        _ => 6.0,
    };
    most / 127.0
}

fn floats(name: String, shape: Vec<usize>, values: &[f32], kind: &'static str) -> Stored {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Stored { name, dtype: "F32", shape, bytes, kind }
}

/// The tensors of a model in this encoding, and the weights that they stand for. What `is_float` says of a matrix's name
/// stays as it is.
pub fn encode(
    model: &TinyModel,
    kind: Kind,
    is_float: impl Fn(&str) -> bool,
) -> (Vec<Stored>, Vec<TinyTensor>) {
    let (mut stored, mut meant) = (Vec::new(), Vec::new());
    let tensors = model.tensors();
    for tensor in &tensors {
        let linear = tensor.name.strip_suffix(".weight").filter(|name| name.ends_with("_proj"));
        let Some(linear) = linear.filter(|name| !is_float(name)) else {
            stored.push(floats(tensor.name.clone(), tensor.shape.clone(), &tensor.values, "FLOAT"));
            meant.push(tensor.clone());
            continue;
        };
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        let bias = tensors.iter().find(|other| other.name == format!("{linear}.bias"));
        let (mut codes, mut scales, mut values, mut corrections) = (vec![], vec![], vec![], vec![]);
        for (index, row) in tensor.values.chunks_exact(cols).enumerate() {
            let scale = row.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 127.0;
            let of_row: Vec<i8> = row.iter().map(|value| (value / scale).round() as i8).collect();
            let sum: i64 = of_row.iter().map(|&code| i64::from(code)).sum();
            let bias = bias.map_or(0.0, |bias| bias.values[index]);
            let correction = bias / (scale * input_scale(linear)) - OFFSET * sum as f32;
            corrections.push(correction.round() as i32);
            values.extend(of_row.iter().map(|&code| f32::from(code) * scale));
            codes.extend(of_row.iter().map(|&code| code as u8));
            scales.push(scale);
        }
        meant.push(TinyTensor { values, ..tensor.clone() });
        let named = |part: &str| format!("{linear}.{part}");
        let said = if kind == Kind::Static { "W8A8" } else { "W8A8_DYNAMIC" };
        stored.push(Stored {
            name: named("weight"),
            dtype: "I8",
            shape: vec![rows, cols],
            bytes: codes,
            kind: said,
        });
        if kind == Kind::Dynamic {
            stored.push(floats(named("weight_scale"), vec![rows, 1], &scales, said));
            stored.push(floats(named("weight_offset"), vec![rows, 1], &vec![0.0; rows], said));
            continue;
        }
        let step = input_scale(linear);
        stored.push(floats(named("input_scale"), vec![1], &[step], said));
        stored.push(floats(named("input_offset"), vec![1], &[OFFSET], said));
        let wide = |scale: &f32| u64::from((scale * step).to_bits()).to_le_bytes();
        stored.push(Stored {
            name: named("deq_scale"),
            dtype: "I64",
            shape: vec![rows],
            bytes: scales.iter().flat_map(wide).collect(),
            kind: said,
        });
        stored.push(Stored {
            name: named("quant_bias"),
            dtype: "I32",
            shape: vec![rows],
            bytes: corrections.iter().flat_map(|value| value.to_le_bytes()).collect(),
            kind: said,
        });
    }
    (stored, meant)
}

/// Writes the directory: the model's own files without its weights, the tensors, and their description.
pub fn write(model: &TinyModel, stored: &[Stored], dir: &Path) {
    model.write_dir(dir);
    std::fs::remove_file(dir.join("model.safetensors")).expect("the model's own weights");
    let (mut header, mut data) = (Map::new(), Vec::new());
    let mut said = json!({ "model_quant_type": "W8A8", "version": "1.0.0", "group_size": 0 });
    for tensor in stored {
        let offsets = [data.len(), data.len() + tensor.bytes.len()];
        header.insert(
            tensor.name.clone(),
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets }),
        );
        data.extend(&tensor.bytes);
        said[&tensor.name] = json!(tensor.kind);
    }
    let bytes = safetensors_with(&Value::Object(header).to_string(), &data);
    std::fs::write(dir.join("quant_model_weight_w8a8.safetensors"), bytes).expect("written");
    std::fs::write(dir.join("quant_model_description.json"), said.to_string()).expect("written");
}
