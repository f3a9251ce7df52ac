//! `aquila info`.

use super::{expect_code, model, run, stderr, stdout, text};
use crate::support::torch::TorchForm;
use crate::support::{TempDir, TinyModel};
use serde_json::Value;

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
