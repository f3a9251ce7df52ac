//! `aquila run --session`: a text that goes on from run to run.

use super::{aquila, expect_code, model, run, stderr, stdout, text};
use std::time::Duration;

const COMMON: [&str; 3] = ["--max-tokens=20", "--ignore-eos", "--quiet"];

#[test]
fn a_text_goes_on_where_the_run_before_left_it() {
    let model = model(|_| {});
    let path = text(model.path());
    let file = model.path().join("kept");
    let file = text(&file);
    let once = |prompt: &str, quiet: &[&str]| {
        let output =
            run(&[&["run", path, prompt, "--session", file, "-n", "20", "--ignore-eos"], quiet].concat());
        expect_code(&output, 0);
        (stdout(&output).to_string(), stderr(&output).to_string())
    };
    let (first, _) = once("hello world", &[]);
    let (second, times) = once("", &[]);
    assert!(times.contains("cached"), "{times}");
    let output = run(&["run", path, "hello world", "-n", "40", "--ignore-eos", "--quiet"]);
    let whole = stdout(&output).to_string();
    assert_eq!(format!("{}{second}", first.trim_end_matches('\n')), whole);
    // A file of something else is not written over.
    std::fs::write(file, "a letter").unwrap();
    let output = run(&["run", path, "hello", "--session", file]);
    expect_code(&output, 1);
    assert!(stderr(&output).contains("kept: "), "{}", stderr(&output));
    assert_eq!(std::fs::read(file).unwrap(), b"a letter");
    let output = run(&["run", path, "hello", "--chat", "--session", file]);
    expect_code(&output, 2);
}

/// Killed at any moment, the file is the old one or the new one.
#[test]
fn a_run_that_is_killed_leaves_a_whole_file() {
    let model = model(|_| {});
    let path = text(model.path());
    let kept = model.path().join("kept");
    let file = text(&kept);
    let command = || {
        let mut command = aquila();
        command.args(["run", path, "a", "--session", file]).args(COMMON);
        command
    };
    expect_code(&command().output().unwrap(), 0);
    let start = std::time::Instant::now();
    expect_code(&command().output().unwrap(), 0);
    let usual = start.elapsed();
    std::fs::remove_file(&kept).unwrap();
    expect_code(&command().output().unwrap(), 0);
    let first = std::fs::read(&kept).unwrap();
    let mut seen = [0, 0];
    for trial in 0..40u32 {
        std::fs::write(&kept, &first).unwrap();
        let mut child = command().stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(usual * trial / 36 + Duration::from_millis(1));
        let _ = child.kill();
        child.wait().unwrap();
        let found = std::fs::read(&kept).unwrap();
        seen[usize::from(found != first)] += 1;
        // Whatever it is, it is taken up; and what the dead one left is cleared away.
        if found != first || trial % 10 == 0 {
            expect_code(&command().output().unwrap(), 0);
        }
    }
    assert!(seen[0] > 0, "no run was killed in time: {seen:?}");
    let left = std::fs::read_dir(model.path()).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".aquila-")).count();
    assert!(left <= 1, "{left} temporary files: only the last one killed may have left one");
}
