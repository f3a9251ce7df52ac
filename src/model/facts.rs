//! What was recognised of a checkpoint, for a person.

use crate::model::config::ModelConfig;
use crate::model::family;
use crate::model::names::Naming;
use crate::model::weights::{Role, WeightSet};
use std::collections::BTreeMap;

/// Names and values, in the order in which they are read best. `format` is that of the weight files, `tokenizer` what
/// a tokenizer can be made of.
pub fn facts(
    config: &ModelConfig,
    naming: Naming,
    weights: &WeightSet,
    format: String,
    tokenizer: String,
) -> Vec<(&'static str, String)> {
    let spec = &config.spec;
    let mut facts = vec![("layout", layout(config.layout, naming)), ("format", format)];
    facts.push(("architecture", config.architecture.clone()));
    if let Some(models) = family::models(spec, config.layout != Naming::Gguf) {
        facts.push(("shape", format!("that of {models}")));
    }
    if let Some(class) = &config.guide_class {
        facts.push(("edited", format!("for {class}, as the Ascend guide says; no Python is run")));
    }
    facts.push(("tokenizer", tokenizer));
    facts.push(("weights", summary(weights)));
    facts.push(("head", if spec.tied { "the embedding (tied)" } else { "its own" }.into()));
    if weights.get(0, Role::QueryBias).is_some() {
        facts.push(("biases", "in attention".into()));
    }
    let clamp = match spec.score_clamp {
        Some(clamp) => format!("±{clamp}, as in Aquila's first version"),
        None if config.layout == Naming::Gguf => "none: the format has no key for it".into(),
        None => "none".into(),
    };
    facts.push(("score clamp", clamp));
    facts
}

/// Whose keys and names there are.
fn layout(keys: Naming, names: Naming) -> String {
    if keys == names {
        return names.name().into();
    }
    format!("config.json of {}, tensors of {}", keys.name(), names.name())
}

/// How many tensors of which type.
fn summary(weights: &WeightSet) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, weight) in weights.iter() {
        *counts.entry(weight.dtype().map_or("mixed", |d| d.name())).or_default() += 1;
    }
    match weights.all_int8().count() {
        0 => {}
        count => *counts.entry("int8 (msModelSlim)").or_default() += count,
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    parts.join(", ")
}
