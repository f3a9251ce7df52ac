//! What published files say that is not so, and what stands beside them: ids, padding, generation_config.json.

use crate::data::real_data;
use crate::support::torch::TorchForm;
use crate::support::{TempDir, TinyModel, TinyTokenizer, flagai, tokenizer};
use aquila::engine::params::{GenParams, Input};
use aquila::model::Checkpoint;
use aquila::open::{self, LoadOptions, Plan};
use aquila::sampling::SamplingParams;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;

fn options() -> LoadOptions {
    LoadOptions { device: "cpu".into(), kv_memory: 1 << 20, ..LoadOptions::default() }
}

/// The model in a directory, its config.json and generation_config.json changed.
fn edited(model: &TinyModel, config: Value, generation: Value) -> TempDir {
    let dir = TempDir::new();
    model.write_dir(dir.path());
    for (name, changes) in [("config.json", config), ("generation_config.json", generation)] {
        let path = dir.join(name);
        let mut text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            text[key] = value.clone();
        }
        std::fs::write(path, text.to_string()).unwrap();
    }
    dir
}

fn plan(dir: &Path) -> Plan {
    open::plan(dir, &options()).unwrap()
}

fn fact<'a>(plan: &'a Plan, name: &str) -> &'a str {
    plan.checkpoint.iter().find(|(fact, _)| *fact == name).map_or("", |(_, value)| value)
}

/// config.json of Aquila-7B has the class's defaults: 1 and 2, which are `!` and `"`.
#[test]
fn ids_that_are_punctuation_neither_begin_nor_end_a_text() {
    let ids = json!({"bos_token_id": 1, "eos_token_id": 2});
    let dir = edited(&TinyModel::default(), ids.clone(), ids);
    let plan = plan(dir.path());
    assert_eq!(fact(&plan, "bos"), format!("{} [CLS]", tokenizer::CLS));
    assert_eq!(fact(&plan, "stop ids"), format!("{} </s>", tokenizer::EOS));
    let [warning] = &plan.warnings[..] else { panic!("{:?}", plan.warnings) };
    assert!(warning.contains("eos_token_id 2 is the ordinary token \"\\\"\""), "{warning}");
    let assumed = plan.assumed.join("\n");
    assert!(assumed.contains("bos_token_id is the ordinary token 1 !"), "{assumed}");
    assert!(assumed.contains(&format!("stop ids {} </s>: the tokenizer's", tokenizer::EOS)), "{assumed}");
}

/// Its list of ends counts, before config.json's; how it would have texts drawn is the caller's to say.
#[test]
fn generation_config_names_the_ends_of_a_text() {
    let generation = json!({"eos_token_id": [tokenizer::EOS, 0, 1], "max_new_tokens": 7, "do_sample": true,
        "temperature": 0.1, "bad_words_ids": [[5]], "a key of tomorrow": {"x": [1]}});
    let dir = edited(&TinyModel::default(), json!({"eos_token_id": tokenizer::CLS}), generation);
    let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
    assert_eq!(checkpoint.ids.eos, [tokenizer::EOS as u32, 0, 1, tokenizer::CLS as u32]);
    assert_eq!(checkpoint.warnings, Vec::<String>::new());
    let plan = plan(dir.path());
    let expected = format!("{} </s>, 0 <|endoftext|>, {} [CLS]", tokenizer::EOS, tokenizer::CLS);
    assert_eq!(fact(&plan, "stop ids"), expected);
}

/// A small model with a row for each of Aquila's tokens.
fn with_aquilas_rows() -> TinyModel {
    let shape =
        TinyModel { layers: 1, hidden: 8, heads: 2, kv_heads: 2, head_dim: 4, ffn: 24, ..flagai::model() };
    TinyModel { vocab: 100_008, tokenizer: TinyTokenizer::None, ..shape }
}

/// A directory of FlagAI has vocab.json with 100,000 tokens, merges.txt, and 100,008 rows: the eight are known.
#[test]
fn the_vocabulary_of_aquila_is_complete_without_its_tokenizer_json() {
    let Some(data) = real_data() else { return };
    let dir = TempDir::new();
    with_aquilas_rows().write_flagai_dir(dir.path(), TorchForm::Zip);
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(data.join("aquila-tokenizer").join(name), dir.join(name)).unwrap();
    }
    for listed in [false, true] {
        if listed {
            std::fs::write(dir.join("special_tokens.txt"), tokenizer::ADDED.join("\n")).unwrap();
        }
        let plan = plan(dir.path());
        assert_eq!(fact(&plan, "tokens"), "100008");
        assert_eq!(fact(&plan, "bos"), "100006 [CLS]");
        assert_eq!(fact(&plan, "stop ids"), "100007 </s>, 0 <|endoftext|>");
        assert_eq!(plan.warnings, Vec::<String>::new());
        let assumed = plan.assumed.join("\n");
        assert_eq!(assumed.contains("8 of Aquila's special tokens"), !listed, "{assumed}");
        assert!(assumed.contains("stop ids 100007 </s>, 0 <|endoftext|>: the tokenizer's"), "{assumed}");
    }
}

/// A tokenizer.json is what it says; one that lost the added tokens is pointed out.
#[test]
fn a_tokenizer_json_without_the_special_tokens_is_pointed_out() {
    let Some(data) = real_data() else { return };
    let dir = TempDir::new();
    with_aquilas_rows().write_flagai_safetensors(dir.path());
    let whole = std::fs::read(data.join("aquila-tokenizer/tokenizer.json")).unwrap();
    std::fs::write(dir.join("tokenizer.json"), &whole).unwrap();
    assert_eq!(plan(dir.path()).warnings, Vec::<String>::new());
    let mut text: Value = serde_json::from_slice(&whole).unwrap();
    text["added_tokens"] = json!([]);
    text["post_processor"] = Value::Null;
    std::fs::write(dir.join("tokenizer.json"), text.to_string()).unwrap();
    let warnings = plan(dir.path()).warnings.join("\n");
    assert!(warnings.contains("no id ends a text"), "{warnings}");
    assert!(
        warnings.contains("lacks special tokens of Aquila: <|startofpiece|>, <|endofpiece|>"),
        "{warnings}"
    );
}

/// Rows that fill the embedding up have logits like all others, as in transformers, and no text: where one is chosen,
/// nothing is said and the text goes on.
#[test]
fn rows_without_a_token_are_loaded_and_never_become_text() {
    let dir = TempDir::new();
    let model = TinyModel { vocab: tokenizer::VOCAB + 40, ..TinyModel::default() };
    model.write_dir(dir.path());
    assert_eq!(fact(&plan(dir.path()), "tokens"), "281; 40 more rows of the embedding give no text");
    let engine = open::load(dir.path(), &options(), &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    let padding = (tokenizer::VOCAB + 7) as u32;
    let sampling = SamplingParams { logit_bias: vec![(padding, 1e6)], ..SamplingParams::default() };
    let params = GenParams { max_tokens: 3, sampling, show_special: true, ..GenParams::default() };
    let result = engine.generate(Input::Text("hello".into()), params).unwrap();
    assert_eq!((result.tokens, result.text.as_str()), (vec![padding; 3], ""));
}

/// More rows than any padding needs: the vocabulary of Aquila2's later release beside the tokenizer of the first.
#[test]
fn a_tokenizer_that_is_too_small_is_pointed_out() {
    let dir = TempDir::new();
    let model = TinyModel { vocab: 2000, layers: 1, ..TinyModel::default() };
    model.write_dir(dir.path());
    let [warning] = &plan(dir.path()).warnings[..] else { panic!("one warning") };
    assert!(warning.contains("has 281 ids, the embedding 2000 rows"), "{warning}");
}
