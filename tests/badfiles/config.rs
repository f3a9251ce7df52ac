//! Damaged and foreign config.json.

use super::{refused, small, small_dir};
use aquila::Status;
use serde_json::{Value, json};

const CONFIG: &str = "config.json";

fn refused_text(text: &str, status: Status, parts: &[&str]) {
    let dir = small_dir();
    std::fs::write(dir.join(CONFIG), text).unwrap();
    refused(dir.path(), status, &[&[CONFIG], parts].concat());
}

fn refused_key(key: &str, value: Value, status: Status, parts: &[&str]) {
    let mut config = small().config();
    config[key] = value;
    refused_text(&config.to_string(), status, &[&[key], parts].concat());
}

#[test]
fn other_models() {
    let parts = ["expected \"aquila\" or \"llama\", found \"gpt2\""];
    refused_key("model_type", json!("gpt2"), Status::Unsupported, &parts);
    refused_key("model_type", Value::Null, Status::Format, &["found none"]);
    refused_key("model_type", json!(7), Status::Format, &["expected a string, found 7"]);
    let parts = ["AquilaForCausalLM", "found \"MambaForCausalLM\""];
    refused_key("architectures", json!(["MambaForCausalLM"]), Status::Unsupported, &parts);
    refused_key("hidden_act", json!("gelu"), Status::Unsupported, &["expected \"silu\", found \"gelu\""]);
    refused_key("quantization_config", json!({"bits": 4}), Status::Unsupported, &["not supported"]);
    refused_key("sliding_window", json!(4096), Status::Unsupported, &["found 4096"]);
    let yarn = json!({"rope_type": "llama3", "factor": 8.0});
    refused_key("rope_scaling", yarn, Status::Unsupported, &["found \"llama3\""]);
}

#[test]
fn numbers_that_are_none() {
    let number = |key: &str, value: Value| {
        let found = format!("found {value}");
        refused_key(key, value, Status::Format, &["expected", &found]);
    };
    let keys = [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
    ];
    for key in keys {
        let values = [
            json!(-1),
            json!(0),
            json!(2147483648u32),
            json!(9223372036854775808u64),
            json!(1.5),
            json!("8"),
            json!([8]),
            json!(true),
        ];
        for value in values {
            number(key, value);
        }
    }
    for key in ["rms_norm_eps", "rope_theta"] {
        for value in [json!(0), json!(-1e-6), json!(1e300), json!(1e-300), json!("1e-6")] {
            number(key, value);
        }
    }
    number("tie_word_embeddings", json!("no"));
    number("eos_token_id", json!("</s>"));
    number("rope_scaling", json!("linear"));
}

/// JSON itself has no such numbers: the message shows the line with the key.
#[test]
fn numbers_outside_json() {
    for number in ["1e309", "NaN", "Infinity", "-Infinity", "01", "0x10", "1_000"] {
        let text = small().config().to_string();
        let text = text.replace("\"rms_norm_eps\":1e-6", &format!("\"rms_norm_eps\":{number}"));
        assert!(text.contains(number));
        refused_text(&text, Status::Format, &["line 1 column", "rms_norm_eps"]);
    }
}

#[test]
fn heads_that_do_not_divide() {
    refused_key("num_attention_heads", json!(3), Status::Format, &["a divisor of hidden_size 8, found 3"]);
    let mut config = small().config();
    config["num_attention_heads"] = json!(4);
    config["num_key_value_heads"] = json!(3);
    refused_text(&config.to_string(), Status::Format, &["a divisor of num_attention_heads 4, found 3"]);
    refused_key("head_dim", json!(3), Status::Format, &["an even number", "found 3"]);
    let mut config = small().config();
    config["num_attention_heads"] = json!(1 << 20);
    config["num_key_value_heads"] = json!(1 << 20);
    config["head_dim"] = json!(1024);
    refused_text(&config.to_string(), Status::Format, &["num_attention_heads", "1048576 heads of 1024"]);
}

#[test]
fn more_layers_than_tensors() {
    let dir = small_dir();
    let mut config = small().config();
    config["num_hidden_layers"] = json!(1000);
    std::fs::write(dir.join(CONFIG), config.to_string()).unwrap();
    let parts = ["model.safetensors: tensor model.layers.1.input_layernorm.weight: expected [8], found none"];
    refused(dir.path(), Status::Format, &parts);
    config["num_hidden_layers"] = json!(1);
    config["attention_bias"] = json!(true);
    std::fs::write(dir.join(CONFIG), config.to_string()).unwrap();
    refused(dir.path(), Status::Format, &["q_proj.bias", "attention_bias is true", "none"]);
}

#[test]
fn text_that_is_no_config() {
    refused_text("", Status::Format, &["line 1"]);
    refused_text("{", Status::Format, &["line 1"]);
    refused_text("[1, 2]", Status::Format, &["an object"]);
    refused_text("<html></html>", Status::Format, &["line 1 column 1"]);
    refused_text(&"[".repeat(100_000), Status::Format, &["line 1"]);
    refused_text(&format!("{{\"a\":{}", "[".repeat(100_000)), Status::Format, &["recursion limit"]);
    refused_text(&format!("{{\"a\":[0{}]}}", ",0".repeat(1 << 20)), Status::Format, &["at most 1048576"]);
    refused_text("{\"model_type\":\"aquila\",\"model_type\":\"llama\"}", Status::Format, &["stands twice"]);
    let dir = small_dir();
    std::fs::write(dir.join(CONFIG), b"{\"model_type\": \"\xff\"}").unwrap();
    refused(dir.path(), Status::Format, &[CONFIG, "line 1"]);
    let dir = small_dir();
    std::fs::write(dir.join("generation_config.json"), "{\"eos_token_id\": {}}").unwrap();
    refused(dir.path(), Status::Format, &["generation_config.json", "eos_token_id"]);
}
