//! SmolLM2-135M-Instruct, token for token, in each form that it can be loaded from.

use crate::data::real_data;
use crate::golden::{Run, check, f32_options, load, read};
use aquila::base::dtype::DType;
use aquila::engine::params::{GenParams, Input};
use aquila::export::{ConvertOptions, SplitOptions, Target, WeightFormat, convert, join, split};
use aquila::open::LoadOptions;
use aquila::sampling::SamplingParams;
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

const EOS: u32 = 2;
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

#[derive(Deserialize)]
struct Greedy {
    modes: HashMap<String, Vec<Run>>,
}

fn check_all(model: &str, runs: &[Run]) {
    let Some(data) = real_data() else { return };
    let engine = load(&data.join(model), &f32_options());
    for run in runs {
        check(&engine, run, EOS);
    }
}

#[test]
fn f32_weights_give_the_reference_tokens() {
    check_all("smollm2-f32", &read::<Greedy>("smollm2-greedy.json").modes["f32-full"]);
}

#[test]
fn bf16_weights_in_f32_arithmetic_give_the_reference_tokens() {
    check_all("smollm2-hf", &read::<Greedy>("smollm2-greedy.json").modes["f32"]);
}

#[test]
fn a_conversation_gives_the_reference_tokens() {
    check_all("smollm2-hf", &read::<Vec<Run>>("smollm2-chat-greedy.json"));
}

#[test]
fn four_shards_give_the_tokens_of_one_file() {
    check_all("smollm2-sharded", &read::<Greedy>("smollm2-greedy.json").modes["f32"][..1]);
}

/// Both prompts, from one zip archive, from three with an index and a head of its own, and from the form before torch 1.6.
#[test]
fn files_of_torch_give_the_reference_tokens() {
    let runs = &read::<Greedy>("smollm2-greedy.json").modes["f32"];
    for model in ["smollm2-bin", "smollm2-bin-sharded", "smollm2-bin-legacy"] {
        check_all(model, runs);
    }
}

/// In FlagAI's layout, whose rows of q and k have another order: with a key and value head for each query head, as Aquila-7B
/// is published there, and with SmolLM2's three, in two shards.
#[test]
fn the_layout_of_flagai_gives_the_reference_tokens() {
    let runs = &read::<Greedy>("smollm2-greedy.json").modes["f32"];
    for model in ["smollm2-flagai", "smollm2-flagai-grouped"] {
        check_all(model, runs);
    }
}

#[test]
fn the_gguf_file_itself_gives_the_tokens_of_its_dequantised_weights() {
    check_all(GGUF, &read::<Greedy>("smollm2-greedy.json").modes["f32-full"]);
}

/// The file's own weights in every form that `aquila convert` writes, cut for three cards, and joined from there: token for
/// token. tests/oracle/converted.py shows the same with transformers as the reader.
#[test]
fn what_is_converted_and_cut_gives_the_reference_tokens() {
    let Some(data) = real_data() else { return };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("smollm2-forms-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let at = |name: &str| dir.join(name);
    let mut go_on = |_: &str, _: u64, _: u64| ControlFlow::Continue(());
    let f32 = |target| ConvertOptions { target, dtype: Some(DType::F32), shard_bytes: 100 << 20 };
    let (safetensors, torch) = (WeightFormat::Safetensors, WeightFormat::TorchBin);
    convert(&data.join(GGUF), &at("safetensors"), &f32(Target::Directory(safetensors)), &mut go_on).unwrap();
    convert(&at("safetensors"), &at("bin"), &f32(Target::Directory(torch)), &mut go_on).unwrap();
    convert(&at("bin"), &at("m.gguf"), &f32(Target::Gguf), &mut go_on).unwrap();
    let options =
        SplitOptions { world_size: 3, output: Some(at("cut")), format: torch, ..SplitOptions::default() };
    split(&at("m.gguf"), &options, &mut go_on).unwrap();
    join(&at("cut"), &at("joined"), &f32(Target::Directory(safetensors)), &mut go_on).unwrap();
    let runs = &read::<Greedy>("smollm2-greedy.json").modes["f32-full"];
    for form in ["safetensors", "bin", "m.gguf", "cut", "joined"] {
        let engine = load(&at(form), &f32_options());
        runs.iter().for_each(|run| check(&engine, run, EOS));
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// A text to be repeated is quoted for the most part: lookup saves steps and changes no token, in 16-bit, 8-bit and
/// 4-bit arithmetic, greedy and drawn.
#[test]
fn speculation_repeats_a_text_in_fewer_steps_and_the_same_tokens() {
    let Some(data) = real_data() else { return };
    let text = "The ferry leaves the old harbour at seven in the morning. It calls at three small islands, takes \
                letters and bread to each of them, and comes back before the evening wind gets up.";
    let question = format!("Repeat this text word for word:\n\n{text}");
    let messages = serde_json::json!([{ "role": "user", "content": question }]).to_string();
    for dtype in [None, Some("q8"), Some("q4")] {
        let options = LoadOptions { dtype: dtype.map(Into::into), ..f32_options() };
        let options = if dtype.is_none() { LoadOptions { dtype: None, ..options } } else { options };
        let engine = load(&data.join(GGUF), &options);
        let run = |speculate, temperature| {
            let sampling = SamplingParams { temperature, top_p: 0.9, seed: 11, ..SamplingParams::default() };
            let params = GenParams { max_tokens: 70, sampling, speculate, ..GenParams::default() };
            engine.generate(Input::Messages(messages.clone()), params).unwrap()
        };
        for temperature in [0.0, 0.4] {
            let (with, without) = (run(7, temperature), run(0, temperature));
            assert_eq!((&with.tokens, &with.logprobs), (&without.tokens, &without.logprobs), "{dtype:?}");
            assert_eq!((&with.text, with.finish), (&without.text, without.finish), "{dtype:?}");
            eprintln!("{dtype:?}, temperature {temperature}: {:?}", with.timings);
            let greedy = temperature == 0.0 && dtype != Some("q4");
            assert!(!greedy || with.timings.accepted_tokens >= 20, "{dtype:?}: {:?}", with.timings);
        }
    }
}
