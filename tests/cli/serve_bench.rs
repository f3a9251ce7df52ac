//! `aquila serve-bench`. Speeds themselves are not tested: a shared machine has no right ones.

use super::{expect_code, model, run, stderr, stdout, text};
use crate::support::TinyTokenizer;
use serde_json::Value;

#[test]
fn each_test_is_a_json_line_with_the_keys_that_are_promised() {
    let model = model(|m| m.tokenizer = TinyTokenizer::None);
    let path = text(model.path());
    let small = ["--clients", "3", "--gen", "4", "--prefix", "64", "--repeat", "1"];
    let output = run(&[&["serve-bench", path, "--json", "-q"], &small[..]].concat());
    expect_code(&output, 0);
    assert_eq!(stderr(&output), "");
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for (number, line) in lines.iter().enumerate() {
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["test", "unit", "alone", "so", "ratio", "aim"]);
        // So small a model may end its texts before their delays are counted and before it can be cancelled: null.
        let found = |key: &str| line[key].as_f64().map_or(number >= 2, |n| n > 0.0);
        assert!(found("alone") && found("so"), "{line}");
    }
    assert_eq!(lines[0]["test"], "3 requests together");
}

#[test]
fn a_prefix_beyond_the_context_is_wrong_usage() {
    let model = model(|_| ());
    let output = run(&["serve-bench", text(model.path()), "--prefix", "100000", "-q"]);
    expect_code(&output, 2);
    assert!(stderr(&output).contains("--prefix 100000: the model's context is"), "{}", stderr(&output));
}
