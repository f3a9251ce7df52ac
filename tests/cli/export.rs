//! `aquila split`, `join` and `convert`.

use crate::support::TempDir;
use crate::{expect_code, model, run, stderr, stdout, text};

/// The way of the guide: cut, run from the directory above, the last line of its script; and together again.
#[test]
fn a_model_is_cut_run_and_joined() {
    let model = model(|_| {});
    let whole = run(&["run", text(model.path()), "hello world", "-q", "-n", "8"]);
    let out = TempDir::new();
    let cut = run(&[
        "split",
        text(model.path()),
        "--world-size",
        "2",
        "--output",
        text(out.path()),
        "--format",
        "bin",
    ]);
    expect_code(&cut, 0);
    assert_eq!(stdout(&cut).lines().last(), Some("Tensor parallelism weights have been successfully saved."));
    assert!(stdout(&cut).contains("2 parts of"), "{}", stdout(&cut));
    let answer = run(&["run", text(out.path()), "hello world", "-q", "-n", "8"]);
    expect_code(&answer, 0);
    assert_eq!(stdout(&answer), stdout(&whole));
    // The usual mistakes.
    let inside = run(&["run", text(&out.join("part_model")), "x"]);
    expect_code(&inside, 1);
    assert!(stderr(&inside).contains("expected the directory above part_model"), "{}", stderr(&inside));
    let again = run(&["split", text(model.path()), "--world-size", "4", "--output", text(out.path())]);
    expect_code(&again, 2);
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));
    let three = run(&["split", text(model.path()), "--world-size", "3"]);
    expect_code(&three, 2);
    assert!(stderr(&three).contains("divisor of the model's 4 attention heads"), "{}", stderr(&three));

    let joined = out.join("joined");
    expect_code(&run(&["join", text(out.path()), "-o", text(&joined)]), 0);
    let answer = run(&["run", text(&joined), "hello world", "-q", "-n", "8"]);
    assert_eq!(stdout(&answer), stdout(&whole));
    expect_code(&run(&["join", text(model.path()), "-o", text(&out.join("none"))]), 1);
}

#[test]
fn a_model_is_converted_and_what_is_lost_is_said() {
    let model = model(|model| model.architecture = "AquilaModel");
    let whole = run(&["run", text(model.path()), "hello world", "-q", "-n", "8"]);
    let out = TempDir::new();
    for to in ["safetensors", "bin", "flagai", "gguf"] {
        let path = out.join(to);
        let output = run(&["convert", text(model.path()), "--to", to, "-o", text(&path)]);
        expect_code(&output, 0);
        assert!(stdout(&output).contains("21 tensors"), "{}", stdout(&output));
        assert_eq!(stderr(&output).contains("±1024"), to == "gguf", "{}", stderr(&output));
        let answer = run(&["run", text(&path), "hello world", "-q", "-n", "8"]);
        assert_eq!(stdout(&answer), stdout(&whole), "{to}");
    }
    let wrong = run(&["convert", text(model.path()), "--to", "onnx", "-o", text(&out.join("x"))]);
    expect_code(&wrong, 2);
    assert!(stderr(&wrong).contains("safetensors, bin, flagai or gguf"), "{}", stderr(&wrong));
    let quiet = run(&["convert", text(model.path()), "--to", "gguf", "-o", text(&out.join("q")), "-q"]);
    assert!(stdout(&quiet).is_empty() && stderr(&quiet).is_empty());
}
