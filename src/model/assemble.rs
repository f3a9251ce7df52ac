//! Stored tensors to the weights of a decoder: each one found by its name and compared in shape and
//! type with what the spec says.

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::region::Region;
use crate::loading::quant;
use crate::loading::tensor::{StoredTensor, StoredType, TensorTable};
use crate::model::config::ModelConfig;
use crate::model::names::{BIAS_ROLES, LAYER_ROLES, Naming, is_vector, shape};
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, RowMap, Weight, WeightSet};
use std::collections::HashSet;

/// Builds the weights of `config`'s decoder and settles whether the head is tied. `place` is the file
/// that a missing tensor is missing from. Odd things are added to the config's warnings.
pub fn weights(
    config: &mut ModelConfig,
    table: &TensorTable,
    naming: Naming,
    place: &str,
) -> Result<WeightSet> {
    let head = naming.tensor(0, Role::Head);
    let no_head = table.get(&head).is_none();
    config.spec.tied = config.tie.unwrap_or(no_head);
    // A GGUF file says it by leaving the head out; the classes behind a config.json would say nothing and mean no.
    if naming == Naming::HuggingFace && no_head && config.tie.is_none() {
        config.warnings.push(format!(
            "{place}: no tensor {head}, and config.json has no tie_word_embeddings: the embedding is the head"
        ));
    }
    let spec = &config.spec;
    let mut builder = Builder { spec, table, naming, place, set: WeightSet::default(), used: HashSet::new() };
    builder.need(0, Role::Embedding)?;
    for layer in 0..spec.layers {
        for role in LAYER_ROLES {
            builder.need(layer, role)?;
        }
    }
    builder.need(0, Role::FinalNorm)?;
    if spec.tied {
        builder.used.insert(head);
    } else {
        builder.need(0, Role::Head)?;
    }
    builder.biases(config)?;
    let Builder { set, used, .. } = builder;
    let mut extra: Vec<&str> =
        table.names().filter(|name| !used.contains(*name) && !naming.is_ignored(name)).collect();
    extra.sort_unstable();
    if let Some(first) = extra.first() {
        config.warnings.push(format!("{place}: {} tensors are not used, the first is {first}", extra.len()));
    }
    Ok(set)
}

struct Builder<'a> {
    spec: &'a DecoderSpec,
    table: &'a TensorTable,
    naming: Naming,
    place: &'a str,
    set: WeightSet,
    used: HashSet<String>,
}

impl Builder<'_> {
    /// Adds the tensor of a role, which must be there.
    fn need(&mut self, layer: usize, role: Role) -> Result<()> {
        let name = self.naming.tensor(layer, role);
        let (rows, cols) = shape(role, self.spec);
        let expected = if is_vector(role) { vec![cols] } else { vec![rows, cols] };
        let Some(stored) = self.table.get(&name) else {
            crate::bail!(Format, "{}: tensor {name}: expected {expected:?}, found none", self.place)
        };
        let file = self.table.file_of(&name);
        let dtype = self.check(file, &name, stored, &expected)?;
        let bytes = self.table.bytes(&name)?;
        let map = self.naming.row_map(role, self.spec);
        let weight = match map {
            RowMap::Interleaved { .. } if rows == 1 => Weight::whole(
                &name,
                1,
                cols,
                DType::F32,
                reordered(dtype, &bytes, cols, map),
                RowMap::Identity,
            ),
            _ => Weight::whole(&name, rows, cols, dtype, bytes, map),
        };
        self.set.insert(layer, role, weight.map_err(|error| error.at(file))?);
        self.used.insert(name);
        Ok(())
    }

    /// The element type, where shape and type are as they must be.
    fn check(&self, file: &str, name: &str, stored: &StoredTensor, expected: &[usize]) -> Result<DType> {
        crate::ensure!(
            stored.shape == expected,
            Format,
            "{file}: tensor {name}: expected {expected:?} {}, found {:?} {}",
            stored.dtype,
            stored.shape,
            stored.dtype
        );
        let types = match self.naming {
            Naming::HuggingFace => "f32, f16 or bf16",
            Naming::Gguf => "f32, f16, bf16, q4_0 to q8_0 or q2_k to q6_k",
        };
        match stored.dtype {
            StoredType::Known(dtype) => Ok(dtype),
            StoredType::Other(found) if is_integer(found) => crate::bail!(
                Format,
                "{file}: tensor {name}: expected {expected:?} {types}, found {expected:?} {found}"
            ),
            StoredType::Other(found) => crate::bail!(
                Unsupported,
                "{file}: tensor {name}: expected {expected:?} {types}, found {expected:?} {found}"
            ),
        }
    }

    /// The biases of q, k, v and o: each in all layers or in none. Those of a file that says that it
    /// has none are left out, as its own class would do.
    fn biases(&mut self, config: &ModelConfig) -> Result<()> {
        for role in BIAS_ROLES {
            let names: Vec<String> = (0..self.spec.layers).map(|l| self.naming.tensor(l, role)).collect();
            let present = names.iter().any(|name| self.table.get(name).is_some());
            if present && config.attention_bias != Some(false) {
                for layer in 0..self.spec.layers {
                    self.need(layer, role)?;
                }
            }
            let stated = config.attention_bias == Some(true) && role != Role::OutputBias;
            crate::ensure!(
                present || !stated,
                Format,
                "{}: tensor {}: expected it because attention_bias is true, found none",
                self.place,
                self.naming.tensor(0, role)
            );
        }
        for layer in 0..self.spec.layers {
            for name in self.naming.ffn_biases(layer) {
                crate::ensure!(
                    self.table.get(&name).is_none() || config.mlp_bias == Some(false),
                    Unsupported,
                    "{}: tensor {name}: a bias in the feed-forward is not supported",
                    self.table.file_of(&name)
                );
            }
        }
        Ok(())
    }
}

fn is_integer(name: &str) -> bool {
    matches!(name, "bool" | "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "u64" | "i64")
}

/// A vector in its wanted order, as f32: a row map orders rows, and a vector has only one.
fn reordered(dtype: DType, bytes: &[u8], len: usize, map: RowMap) -> Region {
    let mut stored = vec![0f32; len];
    quant::to_f32(dtype, bytes, &mut stored);
    let wanted = (0..len).map(|i| stored.get(map.stored(i)).copied().unwrap_or_default());
    Region::from(wanted.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
}
