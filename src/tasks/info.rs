//! `aquila info`: what a checkpoint is and what loading it will cost. Reads headers only.

use super::args::LoadArgs;
use super::{Outcome, console};
use aquila::model::spec::RopeScaling;
use aquila::open::Plan;
use clap::Args;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub struct InfoArgs {
    /// A model directory (config.json with safetensors or .bin files) or a GGUF file
    model: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

pub fn main(args: &InfoArgs) -> Outcome {
    // Warnings are part of the answer, so the log stays silent.
    console::show_log(true, false);
    let plan = aquila::open::plan(&args.model, &args.load.options())?;
    let text =
        if args.json { to_json(&args.model, &plan).to_string() + "\n" } else { to_text(&args.model, &plan) };
    console::output(&text)
}

fn to_json(model: &Path, plan: &Plan) -> Value {
    let (spec, memory) = (&plan.spec, &plan.memory);
    let scaling = match spec.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": number(factor) }),
        RopeScaling::DynamicNtk { factor, trained } => {
            json!({ "type": "dynamic", "factor": number(factor), "trained": trained })
        }
    };
    let map = |facts: &[(&str, String)]| -> Map<String, Value> {
        facts.iter().map(|(name, value)| ((*name).into(), value.as_str().into())).collect()
    };
    let packed = memory.packed.as_ref().map(|cache| {
        json!({
            "path": cache.path.to_string_lossy(),
            "bytes": cache.packed_bytes,
            "found": cache.found,
        })
    });
    let (checkpoint, running) = (map(&plan.checkpoint), map(&memory.facts));
    json!({
        "model": model.to_string_lossy(),
        "device": plan.device,
        "decoder": {
            "layers": spec.layers,
            "hidden": spec.hidden,
            "heads": spec.heads,
            "kv_heads": spec.kv_heads,
            "head_dim": spec.head_dim,
            "ffn": spec.ffn,
            "vocab": spec.vocab,
            "norm_eps": number(spec.norm_eps),
            "rope_theta": number(spec.rope.theta),
            "rope_scaling": scaling,
            "context": spec.context,
            "score_clamp": spec.score_clamp.map(number),
            "tied": spec.tied,
        },
        "parameters": plan.parameters,
        "weight_bytes": plan.weight_bytes,
        "checkpoint": checkpoint,
        "context": { "tokens": plan.context.0, "limit": plan.context.1 },
        "running": running,
        "memory": {
            "weights_mapped": memory.weight_bytes_mapped,
            "weights_private": memory.weight_bytes_private,
            "workspace": memory.workspace_bytes,
            "kv_bytes": memory.kv_bytes(),
            "kv_tokens": memory.kv_tokens(),
            "kv_bytes_per_token": memory.kv_bytes_per_token,
            "weight_bytes_per_token": memory.weight_bytes_per_token,
            "private": memory.private_bytes(),
            "packed_cache": packed,
            "host_available": memory.host_available,
            "device_available": memory.device_available,
        },
        "fits": memory.refusal.is_none(),
        "refusal": memory.refusal,
        "assumed": plan.assumed,
        "warnings": plan.warnings,
    })
}

/// An f32 with the digits that it was written with: 1e-5, not the nearest f64 of it.
fn number(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}

fn to_text(model: &Path, plan: &Plan) -> String {
    let (spec, memory) = (&plan.spec, &plan.memory);
    let mut out = Lines(String::new());
    out.line("model", model.display());
    for (name, value) in &plan.checkpoint {
        out.line(name, console::harmless(value));
    }
    out.line("parameters", console::count(plan.parameters));
    out.line("stored size", console::bytes(plan.weight_bytes));
    out.line("layers", spec.layers);
    out.line("hidden", format_args!("{}, feed-forward {}", spec.hidden, spec.ffn));
    out.line(
        "heads",
        format_args!("{} of {}, {} for keys and values", spec.heads, spec.head_dim, spec.kv_heads),
    );
    out.line(
        "vocabulary",
        format_args!("{}{}", spec.vocab, if spec.tied { ", head tied to the embedding" } else { "" }),
    );
    let scaling = match spec.rope.scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear scaling by {factor}"),
        RopeScaling::DynamicNtk { factor, trained } => {
            format!(", dynamic NTK scaling by {factor} beyond {trained} tokens")
        }
    };
    out.line("rotary base", format_args!("{}{scaling}", spec.rope.theta));
    out.line("norm epsilon", format_args!("{:e}", spec.norm_eps));
    let limit = match plan.context.1 {
        "model" => "the model's own",
        other => other,
    };
    out.line("context", format_args!("{} tokens ({limit})", plan.context.0));
    out.heading(&format!("running on {} uses", plan.device));
    for (name, value) in &memory.facts {
        out.line(name, value);
    }
    out.heading(&format!("loading on {} takes", plan.device));
    if memory.weight_bytes_mapped > 0 {
        let shared = format!("{} (shared with other processes)", console::bytes(memory.weight_bytes_mapped));
        out.line("mapped weights", shared);
    }
    out.line("private weights", console::bytes(memory.weight_bytes_private));
    if let Some(cache) = &memory.packed {
        let state = if cache.found { "found" } else { "to be written, then mapped instead of private" };
        let path = console::harmless(&cache.path.to_string_lossy());
        out.line("packed cache", format_args!("{path} ({}, {state})", console::bytes(cache.packed_bytes)));
    }
    out.line(
        "KV cache",
        format_args!(
            "{}, {} tokens of {}",
            console::bytes(memory.kv_bytes()),
            memory.kv_tokens(),
            console::bytes(memory.kv_bytes_per_token)
        ),
    );
    out.line("workspace", console::bytes(memory.workspace_bytes));
    out.line("private in all", console::bytes(memory.private_bytes()));
    out.line("available", console::bytes(memory.host_available));
    if memory.device_available > 0 {
        out.line("on the device", console::bytes(memory.device_available));
    }
    match &memory.refusal {
        None => out.line("fits", "yes"),
        Some(why) => out.line("fits", format_args!("no: {why}")),
    }
    for (name, lines) in [("assumed", &plan.assumed), ("warning", &plan.warnings)] {
        for line in lines {
            out.line(name, console::harmless(line));
        }
    }
    out.0
}

/// Lines of a name and a value, the values in one column.
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name:<16}{value}");
    }
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n{text}");
    }
}
