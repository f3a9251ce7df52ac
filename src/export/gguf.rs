//! A checkpoint as one GGUF file.

use super::rows::Cut;
use super::{ConvertOptions, ConvertReport, in_order, new_tensor, stream_all};
use crate::backend::Progress;
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::model::checkpoint::Checkpoint;
use crate::model::names::{Naming, is_vector};
use crate::model::spec::{DecoderSpec, RopeScaling};
use crate::model::weights::{Role, Weight};
use crate::saving::{GgufLayout, GgufValue, NewTensor, TensorFile};
use crate::text::GgufVocab;
use crate::text::chat::{self, NamedTemplates};
use std::path::Path;

/// Writes the new file `output`.
pub fn write(
    checkpoint: &Checkpoint,
    text: Option<&(GgufVocab, NamedTemplates)>,
    output: &Path,
    options: &ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertReport> {
    crate::ensure!(
        std::fs::symlink_metadata(output).is_err(),
        Argument,
        "{}: it exists already: expected a name that is not taken (remove it, or write elsewhere)",
        output.display()
    );
    let spec = &checkpoint.spec;
    let weights = in_order(checkpoint)?;
    let cuts: Vec<Cut> =
        weights.iter().map(|(_, role, weight)| cut(spec, *role, weight, options.dtype)).collect();
    let tensors: Vec<NewTensor> = weights
        .iter()
        .zip(&cuts)
        .map(|(&(layer, role, _), cut)| new_tensor(Naming::Gguf, layer, role, cut))
        .collect();
    let mut metadata = Metadata(Vec::new());
    let matrices = cuts.iter().map(|cut| cut.dtype).find(|dtype| *dtype != DType::F32).unwrap_or(DType::F32);
    metadata.describe(checkpoint, matrices)?;
    if let Some((vocab, templates)) = text {
        metadata.vocabulary(vocab);
        metadata.templates(templates);
    }
    let layout = GgufLayout::new(&metadata.0, &tensors)?;
    let mut file = TensorFile::create(output, tensors.clone(), Box::new(layout))?;
    stream_all(&weights, &cuts, "convert", progress, |number, bytes| file.append(number, bytes))?;
    file.finish()?;
    let bytes = tensors.iter().map(NewTensor::bytes).sum::<Result<u64>>()?;
    Ok(ConvertReport {
        tensors: tensors.len(),
        bytes,
        warnings: warnings(checkpoint, text.map(|(vocab, _)| vocab)),
    })
}

/// How a weight is stored: vectors as f32, as all readers want them; quantised ones as f16 where nothing is asked for and
/// they are not Q8_0.
fn cut(spec: &DecoderSpec, role: Role, weight: &Weight, wanted: Option<DType>) -> Cut {
    let kept = weight.dtype().filter(|dtype| dtype.is_plain() || *dtype == DType::Q8_0);
    let dtype = if is_vector(role) { DType::F32 } else { wanted.or(kept).unwrap_or(DType::F16) };
    Cut { order: Naming::Gguf.row_map(role, spec), ..Cut::all(weight, dtype) }
}

fn warnings(checkpoint: &Checkpoint, vocab: Option<&GgufVocab>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(clamp) = checkpoint.spec.score_clamp {
        warnings.push(format!(
            "GGUF cannot say that attention scores are clamped to ±{clamp}: readers leave it out"
        ));
    }
    // Type 3: a control token. Aquila's files name ordinary ones too, which end nothing.
    let ends = |id: &&u32| {
        vocab.is_some_and(|v| v.token_types.get(**id as usize) == Some(&3) && v.eos != Some(**id))
    };
    let more: Vec<&u32> = checkpoint.ids.eos.iter().filter(ends).collect();
    if !more.is_empty() {
        warnings.push(format!(
            "GGUF names one id that ends a text: {more:?}, which the model's files name too, are left out"
        ));
    }
    if vocab.is_none() {
        warnings.push("the model has no tokenizer, and so the file has none".into());
    }
    warnings
}

/// Entries of the metadata, in their order.
struct Metadata(Vec<(String, GgufValue)>);

impl Metadata {
    fn put(&mut self, key: impl Into<String>, value: GgufValue) {
        self.0.push((key.into(), value));
    }

    /// What the model is. `Unsupported` for what GGUF has no word for.
    fn describe(&mut self, checkpoint: &Checkpoint, matrices: DType) -> Result<()> {
        use GgufValue::{F32, Text, U32};
        let spec = &checkpoint.spec;
        self.put("general.architecture", Text("llama".into()));
        self.put("general.name", Text(checkpoint.names.first().cloned().unwrap_or_default()));
        let file_type = match matrices {
            DType::F16 => 1,
            DType::Q8_0 => 7,
            DType::BF16 => 32,
            _ => 0,
        };
        self.put("general.file_type", U32(file_type));
        self.put("general.quantization_version", U32(2));
        let numbers = [
            ("context_length", spec.context),
            ("embedding_length", spec.hidden),
            ("block_count", spec.layers),
            ("feed_forward_length", spec.ffn),
            ("rope.dimension_count", spec.head_dim),
            ("attention.head_count", spec.heads),
            ("attention.head_count_kv", spec.kv_heads),
            ("attention.key_length", spec.head_dim),
            ("attention.value_length", spec.head_dim),
            ("vocab_size", spec.vocab),
        ];
        for (name, number) in numbers {
            self.put(format!("llama.{name}"), U32(crate::base::checked::u32(number as u64, name)?));
        }
        self.put("llama.attention.layer_norm_rms_epsilon", F32(spec.norm_eps));
        self.put("llama.rope.freq_base", F32(spec.rope.theta));
        match spec.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                self.put("llama.rope.scaling.type", Text("linear".into()));
                self.put("llama.rope.scaling.factor", F32(factor));
            }
            RopeScaling::DynamicNtk { .. } => crate::bail!(
                Unsupported,
                "rope_scaling: GGUF has no dynamic scaling of rotary frequencies: expected none or a linear one"
            ),
        }
        Ok(())
    }

    fn vocabulary(&mut self, vocab: &GgufVocab) {
        use GgufValue::{Bool, Integers, Text, Texts, U32};
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        self.put(key("model"), Text(vocab.model.clone()));
        if let Some(pre) = &vocab.pre {
            self.put(key("pre"), Text(pre.clone()));
        }
        self.put(key("tokens"), Texts(vocab.tokens.clone()));
        self.put(key("token_type"), Integers(vocab.token_types.clone()));
        self.put(key("merges"), Texts(vocab.merges.clone()));
        let ids = [
            ("bos_token_id", vocab.bos),
            ("eos_token_id", vocab.eos),
            ("unknown_token_id", vocab.unk),
            ("padding_token_id", vocab.pad),
        ];
        for (name, id) in ids {
            id.into_iter().for_each(|id| self.put(key(name), U32(id)));
        }
        for (name, truth) in [("add_bos_token", vocab.add_bos), ("add_eos_token", vocab.add_eos)] {
            truth.into_iter().for_each(|truth| self.put(key(name), Bool(truth)));
        }
    }

    /// One without a name, and the others by theirs, as llama.cpp's converter writes them.
    fn templates(&mut self, templates: &NamedTemplates) {
        const KEY: &str = "tokenizer.chat_template";
        let is_unnamed = |name: &str| name == chat::DEFAULT || templates.len() == 1;
        let mut names = Vec::new();
        for (name, text) in templates {
            if is_unnamed(name) {
                self.put(KEY, GgufValue::Text(text.clone()));
            } else {
                names.push(name.clone());
                self.put(format!("{KEY}.{name}"), GgufValue::Text(text.clone()));
            }
        }
        if !names.is_empty() {
            self.put("tokenizer.chat_templates", GgufValue::Texts(names));
        }
    }
}
