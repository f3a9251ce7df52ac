//! Stored tensors to the weights of a decoder: each one found by its name and compared in shape and
//! type with what the spec says.

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::region::Region;
use crate::loading::json::clip;
use crate::loading::modelslim::{Description, Encoding};
use crate::loading::quant;
use crate::loading::tensor::{StoredTensor, StoredType, TensorTable};
use crate::model::config::ModelConfig;
use crate::model::int8::{Inputs, Int8Weight, PARTS};
use crate::model::names::{BIAS_ROLES, LAYER_ROLES, NORM_BIAS_ROLES, Naming, is_vector, shape};
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, RowMap, Weight, WeightSet};
use std::collections::HashSet;

/// Builds the weights of `config`'s decoder and settles whether the head is tied. `place` is the file
/// that a missing tensor is missing from, `description` what msModelSlim says of a directory of its, `head_shape` that of the
/// head where it is not all of it. Odd things are added to the config's warnings.
pub fn weights(
    config: &mut ModelConfig,
    table: &TensorTable,
    naming: Naming,
    description: Option<&Description>,
    head_shape: Option<(usize, usize)>,
    place: &str,
) -> Result<WeightSet> {
    let head = naming.tensor(0, Role::Head);
    let no_head = table.get(&head).is_none();
    config.spec.tied = config.tie.unwrap_or(no_head);
    // A GGUF file says it by leaving the head out; the classes behind a config.json would say nothing and mean no.
    match config.tie {
        None if config.layout != Naming::HuggingFace => {}
        None if no_head => config.warnings.push(format!(
            "{place}: no tensor {head}, and config.json has no tie_word_embeddings: the embedding is the head"
        )),
        None => {
            config.assumed.push(format!("config.json: no tie_word_embeddings: false, as there is {head}"))
        }
        Some(_) => {}
    }
    let spec = &config.spec;
    let (set, used) = (WeightSet::default(), HashSet::new());
    let mut builder = Builder { spec, table, naming, description, head_shape, place, set, used };
    builder.need(0, Role::Embedding)?;
    for layer in 0..spec.layers {
        for role in LAYER_ROLES {
            builder.need(layer, role)?;
        }
        if description.is_some() {
            builder.norm_biases(layer)?;
        }
    }
    builder.need(0, Role::FinalNorm)?;
    if description.is_some() {
        // For a head of codes, which there is none of.
        builder.used.extend(["weight", "bias"].map(|part| format!("model.norm.module.{part}")));
    }
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
    description: Option<&'a Description>,
    head_shape: Option<(usize, usize)>,
    place: &'a str,
    set: WeightSet,
    used: HashSet<String>,
}

impl Builder<'_> {
    /// Adds the tensor of a role, which must be there.
    fn need(&mut self, layer: usize, role: Role) -> Result<()> {
        let name = self.naming.tensor(layer, role);
        let encoding = self.description.map_or(Ok(Encoding::Float), |said| said.encoding(&name))?;
        if encoding != Encoding::Float && !is_vector(role) {
            return self.need_codes(layer, role, &name, encoding);
        }
        self.need_named(layer, role, name)
    }

    /// Adds a matrix of codes.
    fn need_codes(&mut self, layer: usize, role: Role, name: &str, encoding: Encoding) -> Result<()> {
        crate::ensure!(
            !matches!(role, Role::Embedding | Role::Head),
            Unsupported,
            "{}: tensor {name}: expected FLOAT, found 8-bit codes: embedding and head stay in 16 bits",
            self.table.file_of(name)
        );
        let linear = name.strip_suffix(".weight").unwrap_or(name);
        let weight = Int8Weight::read(self.table, linear, shape(role, self.spec), encoding)?;
        self.used.extend(PARTS.iter().filter(|&&part| part != "bias").map(|part| format!("{linear}.{part}")));
        if weight.inputs != Inputs::Tokens {
            // It is part of the codes' own bias.
            self.used.insert(format!("{linear}.bias"));
        }
        self.set.insert_int8(layer, role, weight);
        Ok(())
    }

    /// The norms of a layer where msModelSlim smoothed what stands behind them: a norm of another weight with a bias
    /// (`….module.weight`, `….module.bias`; newer ones put them in the norm's own place), which belongs to products
    /// of codes. The old norm stays for those that were left as they were.
    fn norm_biases(&mut self, layer: usize) -> Result<()> {
        for (role, norm, bias) in [
            (Role::Query, Role::AttentionNorm, NORM_BIAS_ROLES[0]),
            (Role::Gate, Role::FfnNorm, NORM_BIAS_ROLES[1]),
        ] {
            let old = self.naming.tensor(layer, norm);
            let base = old.strip_suffix(".weight").unwrap_or(&old).to_owned();
            let smoothed = [format!("{base}.module.weight"), format!("{base}.module.bias")];
            let own_bias = self.naming.tensor(layer, bias);
            let with_codes = self.set.int8(layer, role).is_some();
            if self.table.get(&smoothed[0]).is_some() {
                let [weight, module_bias] = smoothed;
                if with_codes {
                    self.need_named(layer, norm, weight.clone())?;
                    if self.table.get(&module_bias).is_some() {
                        self.need_named(layer, bias, module_bias.clone())?;
                    }
                }
                self.used.extend([old, weight, module_bias]);
            } else if self.table.get(&own_bias).is_some() {
                self.need_named(layer, bias, own_bias)?;
            }
        }
        Ok(())
    }

    fn need_named(&mut self, layer: usize, role: Role, name: String) -> Result<()> {
        let (rows, cols) = match self.head_shape {
            Some(part) if role == Role::Head => part,
            _ => shape(role, self.spec),
        };
        let expected = if is_vector(role) { vec![cols] } else { vec![rows, cols] };
        let Some(stored) = self.table.get(&name) else {
            let instead = self.instead(layer, role);
            crate::bail!(Format, "{}: tensor {name}: expected {expected:?}, found none{instead}", self.place)
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

    /// What there is in the place of a missing tensor: the same one under another layout's name; or, where nothing has
    /// been found yet, some of all names.
    fn instead(&self, layer: usize, role: Role) -> String {
        const SHOWN: usize = 3;
        for other in [Naming::HuggingFace, Naming::FlagAi] {
            let name = other.tensor(layer, role);
            if self.naming != other && self.table.get(&name).is_some() {
                return format!(", but {name}, which is {}'s name of it", other.name());
            }
        }
        if !self.used.is_empty() {
            return String::new();
        }
        let mut names: Vec<&str> = self.table.names().collect();
        names.sort_unstable();
        let shown: Vec<String> = names.iter().take(SHOWN).map(|name| clip(name)).collect();
        let text = shown.join(", ");
        match names.len() - shown.len() {
            _ if shown.is_empty() => text,
            0 => format!(", but {text}"),
            more => format!(", but {text} and {more} more"),
        }
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
            Naming::HuggingFace | Naming::FlagAi => "f32, f16 or bf16",
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

    /// Whether a bias is part of a matrix of codes.
    fn codes_hold_bias(&self, layer: usize, role: Role) -> bool {
        self.set.int8(layer, matrix_of(role)).is_some_and(|weight| weight.inputs != Inputs::Tokens)
    }

    /// The biases of q, k, v and o: each in all layers or in none. Those of a file that says that it
    /// has none are left out, as its own class would do.
    fn biases(&mut self, config: &ModelConfig) -> Result<()> {
        for role in BIAS_ROLES {
            let layers: Vec<usize> =
                (0..self.spec.layers).filter(|&l| !self.codes_hold_bias(l, role)).collect();
            let present = layers.iter().any(|&l| self.table.get(&self.naming.tensor(l, role)).is_some());
            if present && config.attention_bias != Some(false) {
                for &layer in &layers {
                    self.need(layer, role)?;
                }
            }
            let stated = config.attention_bias == Some(true) && role != Role::OutputBias;
            crate::ensure!(
                present || !stated || layers.is_empty(),
                Format,
                "{}: tensor {}: expected it because attention_bias is true, found none",
                self.place,
                self.naming.tensor(0, role)
            );
        }
        for layer in 0..self.spec.layers {
            for name in self.naming.ffn_biases(layer) {
                crate::ensure!(
                    self.table.get(&name).is_none()
                        || self.used.contains(&name)
                        || config.mlp_bias == Some(false),
                    Unsupported,
                    "{}: tensor {name}: a bias in the feed-forward is not supported",
                    self.table.file_of(&name)
                );
            }
        }
        Ok(())
    }
}

/// The matrix that a bias belongs to.
fn matrix_of(bias: Role) -> Role {
    match bias {
        Role::QueryBias => Role::Query,
        Role::KeyBias => Role::Key,
        Role::ValueBias => Role::Value,
        _ => Role::Output,
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
