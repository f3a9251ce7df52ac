//! `aquila info`.

use super::{expect_code, model, run, stderr, stdout, text};
use crate::support::torch::TorchForm;
use crate::support::{TempDir, TinyModel, flagai};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn json_is_one_object_with_the_figures_of_the_model() {
    let model = model(|m| m.shards = 3);
    let output = run(&["info", text(model.path()), "--json"]);
    expect_code(&output, 0);
    assert_eq!(stderr(&output), "");
    let info: Value = serde_json::from_str(stdout(&output)).expect("one JSON object");
    let decoder = &info["decoder"];
    for (key, value) in [
        ("layers", 2),
        ("hidden", 64),
        ("heads", 4),
        ("kv_heads", 2),
        ("head_dim", 16),
        ("ffn", 96),
        ("vocab", 288),
    ] {
        assert_eq!(decoder[key], value, "{key}");
    }
    assert_eq!(decoder["norm_eps"], 1e-6);
    assert_eq!(decoder["tied"], false);
    assert_eq!(decoder["rope_scaling"], Value::Null);
    // Two tables, two layers of q, k, v, o, gate, up and down with two norms, and the last norm.
    let layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64;
    let parameters = 2 * 288 * 64 + 2 * layer + 64;
    assert_eq!(info["parameters"], parameters);
    assert_eq!(info["weight_bytes"], 4 * parameters);
    assert_eq!(info["context"]["tokens"], 128);
    assert_eq!(info["context"]["limit"], "model");
    assert_eq!(info["fits"], true);
    assert_eq!(info["refusal"], Value::Null);
    let memory = &info["memory"];
    assert_eq!(memory["kv_bytes_per_token"], 2 * 2 * 32 * 4);
    let sum = ["weights_private", "workspace", "kv_bytes"]
        .iter()
        .map(|k| memory[*k].as_u64().unwrap())
        .sum::<u64>();
    assert_eq!(memory["private"], sum);
    assert!(info["checkpoint"].as_object().is_some_and(|facts| !facts.is_empty()));
    assert!(info["warnings"].is_array());
    let arithmetic = |more: &[&str]| {
        let output = run(&[&["info", text(model.path()), "--json"], more].concat());
        let info: Value = serde_json::from_str(stdout(&output)).unwrap();
        info["running"]["arithmetic"].as_str().unwrap().to_string()
    };
    assert_eq!(arithmetic(&[]), "f32 weights, f32 arithmetic");
    assert_eq!(arithmetic(&["--dtype", "f16"]), "f16 weights, f32 arithmetic");
    assert!(arithmetic(&["--dtype", "bf16"]).starts_with("bf16 weights, "));
}

#[test]
fn the_form_of_torchs_files_is_named() {
    let dir = TempDir::new();
    for (form, shards, told) in [
        (TorchForm::Zip, 2, "format          torch .bin, zip, 2 shards"),
        (TorchForm::Zip, 1, "format          torch .bin, zip\n"),
        (TorchForm::Legacy, 1, "format          torch .bin, legacy\n"),
    ] {
        TinyModel { shards, ..TinyModel::default() }.write_torch_dir(dir.path(), form);
        let output = run(&["info", text(dir.path())]);
        expect_code(&output, 0);
        assert!(stdout(&output).contains(told), "{told}:\n{}", stdout(&output));
    }
}

#[test]
fn the_limit_that_won_is_named() {
    let model = model(|_| {});
    let path = text(model.path());
    let output = run(&["info", path, "--json", "--context", "64"]);
    let info: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(info["context"]["tokens"], 64);
    assert_eq!(info["context"]["limit"], "max_context");
    let output = super::aquila().args(["info", path]).env("MAX_SEQ_LEN", "32").output().unwrap();
    expect_code(&output, 0);
    assert!(stdout(&output).contains("32 tokens (MAX_SEQ_LEN)"), "{}", stdout(&output));
    for wrong in ["many", "0", "-1", "", "99999999999"] {
        let output = super::aquila().args(["info", path]).env("MAX_SEQ_LEN", wrong).output().unwrap();
        expect_code(&output, 2);
        let told = format!("MAX_SEQ_LEN: expected 1 to 4294967295 tokens, found {wrong:?}");
        assert!(stderr(&output).contains(&told), "{}", stderr(&output));
    }
}

#[test]
fn a_model_that_does_not_fit_is_described_all_the_same() {
    let model = model(|_| {});
    let path = text(model.path());
    let output = run(&["info", path, "--json", "--host-memory", "1K"]);
    expect_code(&output, 0);
    let info: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(info["fits"], false);
    assert!(info["refusal"].is_string());
    let output = run(&["info", path, "--host-memory", "1K"]);
    assert!(stdout(&output).contains("no: "), "{}", stdout(&output));
    let output = run(&["run", path, "hello", "--host-memory", "1K"]);
    expect_code(&output, 1);
}

#[test]
fn text_says_what_a_person_asks() {
    let model = model(|m| m.tied = true);
    let output = run(&["info", text(model.path())]);
    expect_code(&output, 0);
    let told = stdout(&output);
    for part in [
        "parameters",
        "layers          2",
        "tied",
        "128 tokens (the model's own)",
        "arithmetic      f32 weights, f32 arithmetic",
        "KV cache",
        "fits            yes",
    ] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
}

/// What `aquila info --json` says of a model on the CPU.
fn info(path: &Path) -> Value {
    let output = run(&["info", text(path), "--json", "--device", "cpu"]);
    expect_code(&output, 0);
    serde_json::from_str(stdout(&output)).expect("one JSON object")
}

/// Changes keys of a JSON file; null removes one.
fn edit(path: &Path, changes: Value) {
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(file.as_object_mut().unwrap().remove(key)),
            value => file[key] = value.clone(),
        }
    }
    std::fs::write(path, file.to_string()).unwrap();
}

fn has_line(list: &Value, parts: &[&str]) -> bool {
    let lines = list.as_array().expect("a list");
    lines.iter().filter_map(Value::as_str).any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn each_layout_is_recognised() {
    let hugging_face = model(|_| {});
    let (native, gguf) = (TempDir::new(), TempDir::new());
    flagai::model().write_flagai_dir(native.path(), TorchForm::Zip);
    let file = gguf.join("AquilaChat2-7B.gguf");
    TinyModel::default().write_gguf(&file);
    for (path, layout, format, clamp) in [
        (hugging_face.path(), "Hugging Face", "safetensors", "none"),
        (native.path(), "FlagAI", "torch .bin, zip", "±1024, as in Aquila's first version"),
        (file.as_path(), "GGUF", "GGUF version 3", "none: the format has no key for it"),
    ] {
        let facts = info(path)["checkpoint"].take();
        assert_eq!(facts["layout"], layout);
        assert_eq!(facts["format"], format, "{layout}");
        assert_eq!(facts["score clamp"], clamp, "{layout}");
    }
    let of_file = info(&file);
    assert_eq!(of_file["checkpoint"]["chat template"], "aquila-v1, by the name AquilaChat2-7B");
    assert!(has_line(&of_file["assumed"], &["chat template aquila-v1", "the name AquilaChat2-7B"]));
    let output = run(&["info", text(native.path())]);
    let told = stdout(&output);
    assert_eq!(told.matches("score clamp     ±1024").count(), 1, "{told}");
    assert!(told.contains("assumed         config.json: no rope_theta: 10000\n"), "{told}");
    assert!(told.contains("warning         no id ends a text"), "{told}");
}

/// The directory of a first version after the guide's edits, with what real ones lack and what no one knows.
#[test]
fn what_was_recognised_assumed_and_looks_wrong_is_told_apart() {
    let model = model(|m| (m.architecture, m.kv_heads) = ("AquilaModel", 4));
    edit(
        &model.join("config.json"),
        json!({"AutoModelForCausalLM": "modeling_aquila_ascend.AquilaForCausalLM", "world_size": 1,
            "num_key_value_heads": null, "rope_theta": null, "rms_norm_eps": null, "bos_token_id": 1,
            "eos_token_id": 2, "tie_word_embeddings": null, "tomorrow": true}),
    );
    std::fs::remove_file(model.join("generation_config.json")).unwrap();
    std::fs::write(model.join("modeling_aquila_ascend.py"), "raise SystemExit\n").unwrap();
    let info = info(model.path());
    let facts = &info["checkpoint"];
    assert_eq!(facts["architecture"], "AquilaModel (model_type aquila)");
    let edited = facts["edited"].as_str().expect("it is edited");
    assert!(
        edited.starts_with("for modeling_aquila_ascend.AquilaForCausalLM, as the Ascend guide"),
        "{edited}"
    );
    assert!(facts["chat template"].as_str().is_some_and(|t| t == "aquila-chat, assumed"), "{facts}");

    for parts in [
        &["no num_key_value_heads: 4"][..],
        &["no rope_theta: 10000"],
        &["no tie_word_embeddings: false", "lm_head.weight"],
        &["bos", "[CLS]", "ordinary token 1 !"],
        &["stop ids", "</s>", "do not name them"],
        &["chat template aquila-chat", "BAAI's table"],
    ] {
        assert!(has_line(&info["assumed"], parts), "{parts:?}: {}", info["assumed"]);
    }
    for parts in [
        &["no rms_norm_eps", "1e-6", "1e-5"][..],
        &["eos_token_id 2", "\"\\\"\""],
        &["tomorrow: unknown key"],
    ] {
        assert!(has_line(&info["warnings"], parts), "{parts:?}: {}", info["warnings"]);
    }
    assert_eq!(info["assumed"].as_array().unwrap().len(), 6, "{}", info["assumed"]);
    assert_eq!(info["warnings"].as_array().unwrap().len(), 3, "{}", info["warnings"]);
}

/// Where everything is stated nothing is assumed but the chat template, which no file of the small model has.
#[test]
fn nothing_is_assumed_of_what_is_stated() {
    let model = model(|_| {});
    let info = info(model.path());
    let [template] = &info["assumed"].as_array().unwrap()[..] else { panic!("{}", info["assumed"]) };
    assert!(template.as_str().unwrap().starts_with("chat template"), "{template}");
    assert_eq!(info["warnings"], json!([]));
    std::fs::write(model.join("chat_template.jinja"), "{{ messages }}").unwrap();
    let info = self::info(model.path());
    assert_eq!(info["assumed"], json!([]));
    let chat = info["checkpoint"]["chat template"].as_str().unwrap();
    assert!(chat.ends_with(", from chat_template.jinja"), "{chat}");
}
