//! `aquila run`.

use super::{aquila, expect_code, model, run, stderr, stdout, text};
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn the_same_seed_gives_the_same_text_and_times_go_to_the_standard_error() {
    let model = model(|_| {});
    let path = text(model.path());
    let sample = |seed: &str| {
        let output = run(&[
            "run",
            path,
            "hello world",
            "--max-tokens",
            "24",
            "--ignore-eos",
            "--temperature",
            "1.5",
            "--seed",
            seed,
        ]);
        expect_code(&output, 0);
        assert!(stdout(&output).ends_with('\n'));
        let times = stderr(&output);
        assert!(times.starts_with("aquila: "), "{times}");
        for part in
            ["aquila: prompt 2 tokens at ", "first token after", "answer 24 tokens at ", "limit of tokens"]
        {
            assert!(times.contains(part), "{part}: {times}");
        }
        stdout(&output).to_string()
    };
    assert_eq!(sample("7"), sample("7"));
    assert_ne!(sample("7"), sample("8"));
}

#[test]
fn quiet_says_only_the_answer_and_nothing_controls_a_terminal() {
    let model = model(|_| {});
    let path = text(model.path());
    let output = run(&["run", path, "hello", "-n", "8", "--ignore-eos", "--quiet"]);
    expect_code(&output, 0);
    assert_eq!(stderr(&output), "");
    let loud = run(&["run", path, "hello", "-n", "8", "--ignore-eos"]);
    assert_eq!(stdout(&loud), stdout(&output));
    assert!(!stderr(&loud).contains(['\x1b', '\r']), "{:?}", stderr(&loud));
}

#[test]
fn the_prompt_may_come_from_the_standard_input() {
    let model = model(|_| {});
    let path = text(model.path());
    let common = ["-n", "8", "--ignore-eos", "--echo"];
    let direct = aquila().args(["run", path, "hello world"]).args(common).output().unwrap();
    expect_code(&direct, 0);
    assert!(stdout(&direct).starts_with("hello world"));
    for dash in [&["-"][..], &[]] {
        let mut child = aquila()
            .args(["run", path])
            .args(dash)
            .args(common)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"hello world\n").unwrap();
        let output = child.wait_with_output().unwrap();
        expect_code(&output, 0);
        assert_eq!(stdout(&output), stdout(&direct));
    }
}

#[test]
fn input_that_is_no_text_is_refused_by_its_place() {
    let mut child = aquila()
        .args(["run", "/no/such/model"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"ab\xffcd").unwrap();
    let output = child.wait_with_output().unwrap();
    expect_code(&output, 1);
    assert!(stderr(&output).contains("byte 2"), "{}", stderr(&output));
}

#[test]
fn options_out_of_range_are_usage_errors_that_name_the_field() {
    let model = model(|_| {});
    let path = text(model.path());
    for (option, value, field) in [
        ("--temperature", "-1", "temperature"),
        ("--top-p", "1.5", "top_p"),
        ("--stop-token", "9999", "9999"),
        ("--threads", "9999", "threads: expected at most 256, found 9999"),
    ] {
        let output = run(&["run", path, "hello", option, value]);
        expect_code(&output, 2);
        assert!(stderr(&output).contains(field), "{option}: {}", stderr(&output));
    }
    let output = run(&["run", path, &"hello ".repeat(200)]);
    expect_code(&output, 1);
    assert!(stderr(&output).contains("128"), "the context is named: {}", stderr(&output));
    let output = run(&["run", path, "hello", "--dtype", "w8a8"]);
    expect_code(&output, 1);
    assert!(stderr(&output).contains("w8a8"), "{}", stderr(&output));
}

#[test]
fn a_closed_pipe_ends_the_program_quietly() {
    let model = model(|m| m.context = 16384);
    let mut child = aquila()
        .args(["run", text(model.path()), "hello", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0u8; 1];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
    assert!(start.elapsed() < Duration::from_secs(20), "it went on writing to nobody");
}

#[test]
fn ctrl_c_stops_the_answer_and_is_told_to_the_shell() {
    let model = model(|m| m.context = 16384);
    let mut child = aquila()
        .args(["run", text(model.path()), "hello", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut [0u8; 1]).unwrap();
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut rest = Vec::new();
    pipe.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("stopped"), "the times are still told: {}", stderr(&output));
    assert!(rest.ends_with(b"\n"));
}

#[test]
fn speculation_gives_the_same_answer_and_says_what_it_looked_up() {
    let model = model(|_| {});
    let args = ["run", text(model.path()), "hello hello hello hello", "-n", "90", "--ignore-eos"];
    let plain = run(&args);
    let fast = aquila().args(args).args(["--speculate", "7"]).output().unwrap();
    expect_code(&fast, 0);
    assert_eq!(stdout(&fast), stdout(&plain));
    assert!(stderr(&fast).contains(" looked up"), "{}", stderr(&fast));
    assert!(!stderr(&plain).contains("looked up"));
}

#[test]
fn a_constraint_shapes_the_answer() {
    let model = model(|_| {});
    let path = text(model.path());
    let (schema, grammar) = (model.join("schema.json"), model.join("grammar.lark"));
    std::fs::write(&schema, r#"{"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2}"#)
        .unwrap();
    std::fs::write(&grammar, "start: \"x\" /[yz]/").unwrap();
    let said = |option: &str, value: &str| {
        let output = run(&["run", path, "hello", option, value, "--temperature", "2", "--quiet"]);
        expect_code(&output, 0);
        stdout(&output).trim_end_matches('\n').to_string()
    };
    let json: Vec<u8> = said("--json-schema", text(&schema)).into_bytes();
    assert_eq!(serde_json::from_slice::<Vec<u32>>(&json).unwrap(), [1, 1]);
    assert!(["xy", "xz"].contains(&said("--grammar", text(&grammar)).as_str()));
    assert_eq!(said("--regex", "-a-").as_str(), "-a-");
    for (args, code, part) in [
        (&["--regex", "("][..], 1, "regular expression: line 1, column 1: unclosed group"),
        (&["--json-schema", text(&grammar)], 1, "JSON schema: no JSON"),
        (&["--grammar", "/no/such/file"], 2, "--grammar /no/such/file: No such file"),
        (&["--regex", "a", "--grammar", text(&grammar)], 2, "cannot be used with"),
    ] {
        let output = aquila().args(["run", path, "hello"]).args(args).output().unwrap();
        expect_code(&output, code);
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}
