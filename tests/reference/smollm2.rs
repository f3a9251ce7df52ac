//! SmolLM2-135M-Instruct, token for token, in each form that it can be loaded from.

use crate::data::real_data;
use crate::golden::{Run, check, f32_options, load, read};
use serde::Deserialize;
use std::collections::HashMap;

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

#[test]
fn the_gguf_file_itself_gives_the_tokens_of_its_dequantised_weights() {
    check_all(GGUF, &read::<Greedy>("smollm2-greedy.json").modes["f32-full"]);
}
