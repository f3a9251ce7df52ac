//! `aquila bench`. Speeds themselves are not tested: a shared machine has no right ones.

use super::{expect_code, model, run, stderr, stdout, text};
use crate::support::TinyTokenizer;
use serde_json::Value;

const KEYS: [&str; 11] = [
    "test",
    "tokens",
    "depth",
    "batch",
    "threads",
    "dtype",
    "tokens_per_second",
    "repeats",
    "weight_bytes_per_token",
    "limit",
    "limit_share",
];

#[test]
fn loads_are_timed_to_the_first_token() {
    let model = model(|_| {});
    let path = text(model.path());
    let output = run(&["bench", path, "--prompt=0", "--gen=0", "--load=2", "--dtype=q8", "--json"]);
    expect_code(&output, 0);
    let line: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((&line["test"], &line["dtype"]), (&"load".into(), &"q8".into()));
    assert_eq!(line["repeats"].as_array().unwrap().len(), 2);
    let seconds = |key: &str| line[key].as_f64().unwrap();
    assert!(0.0 < seconds("load_seconds") && seconds("load_seconds") < seconds("first_token_seconds"));
    let output = run(&["bench", path, "--prompt=0", "--gen=0", "--load=1", "-q"]);
    assert!(stdout(&output).starts_with("load as stored: "), "{}", stdout(&output));
    expect_code(&run(&["bench", path, "--prompt=0", "--gen=0"]), 2);
}

#[test]
fn json_is_one_object_a_line_with_just_the_keys_that_are_promised() {
    let model = model(|m| m.tokenizer = TinyTokenizer::None);
    let path = text(model.path());
    let output = run(&[
        "bench",
        path,
        "--prompt",
        "16,40",
        "--gen",
        "4",
        "--depth",
        "0,50",
        "--batch",
        "1,3",
        "--threads",
        "1,2",
        "--repeat",
        "2",
        "--json",
    ]);
    expect_code(&output, 0);
    assert_eq!(stderr(&output), "");
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // For each thread count: two prompts and two batches, each at two depths.
    assert_eq!(lines.len(), 2 * (2 * 2 + 2 * 2));
    for line in &lines {
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, KEYS);
        assert_eq!(line["dtype"], "f32");
        assert_eq!(line["repeats"].as_array().unwrap().len(), 2);
        assert!(line["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(line["limit_share"].as_f64().unwrap() >= 0.0);
    }
    let find = |test: &str, depth: u64, batch: u64, threads: u64| {
        lines
            .iter()
            .find(|l| {
                l["test"] == test && l["depth"] == depth && l["batch"] == batch && l["threads"] == threads
            })
            .unwrap_or_else(|| panic!("{test} {depth} {batch} {threads}"))
    };
    find("prefill", 50, 1, 2);
    let (one, three) = (find("decode", 0, 1, 1), find("decode", 0, 3, 1));
    // Three sequences share one reading of the weights.
    let per_token = one["weight_bytes_per_token"].as_u64().unwrap();
    assert_eq!(three["weight_bytes_per_token"].as_u64().unwrap(), per_token / 3);
    assert!(per_token > 4 * 288 * 64, "at least the head is read");
}

#[test]
fn tests_that_cannot_be_run_are_skipped_aloud() {
    let model = model(|_| {});
    let path = text(model.path());
    let output = run(&["bench", path, "--prompt", "100,200", "--gen", "0", "--repeat", "1"]);
    expect_code(&output, 0);
    assert!(stdout(&output).contains("prefill"), "{}", stdout(&output));
    assert!(stderr(&output).contains("skipped: prefill of 200"), "{}", stderr(&output));
    assert!(!stderr(&output).contains('\x1b'));
    let output = run(&["bench", path, "--prompt", "200", "--gen", "0"]);
    expect_code(&output, 1);
    let output = run(&["bench", path, "--prompt", "0", "--gen", "0"]);
    expect_code(&output, 2);
    let output = run(&["bench", path, "--dtype", "w8a8", "--repeat", "1"]);
    expect_code(&output, 1);
    assert!(stderr(&output).contains("w8a8"), "{}", stderr(&output));
}
