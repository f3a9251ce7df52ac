//! What the disk does: directories that are none, limits, writers that die, writers side by side.

use super::{files, logits, only_file, options, verified, warnings, without};
use crate::data::real_data;
use crate::support::{TempDir, TinyModel, TinyTokenizer};
use aquila::{Status, open};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn tiny() -> TempDir {
    let model = TempDir::new();
    TinyModel { tokenizer: TinyTokenizer::None, ..TinyModel::default() }.write_dir(model.path());
    model
}

fn aquila() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aquila"));
    command.env_remove("MAX_SEQ_LEN").env_remove("AQUILA_CPU").stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn a_directory_that_cannot_be_written_costs_a_warning() {
    let (model, dir) = (tiny(), TempDir::new());
    let expected = logits(model.path(), &without(&options("q8", dir.path()))).unwrap();
    let file = dir.join("file");
    fs::write(&file, "text").unwrap();
    // Nobody, root included, makes a file in /proc.
    for bad in [&dir.join("missing"), &file, Path::new("/proc")] {
        let (found, said) = warnings(|| logits(model.path(), &options("q8", bad)).unwrap());
        assert!(found == expected);
        let last = said.last().unwrap();
        assert!(
            last.contains("the load goes on without") && last.contains(&*bad.to_string_lossy()),
            "{said:?}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), b"text");
    assert_eq!(only_file(dir.path()), file, "no directory is made unasked");
}

#[test]
fn an_abandoned_load_leaves_nothing() {
    let (model, dir) = (tiny(), TempDir::new());
    for stop_at in [1, 5, 17] {
        let mut calls = 0;
        let mut stop = |stage: &str, _, _| {
            assert_eq!(stage, "packing");
            calls += 1;
            assert_eq!(files(dir.path()).len(), 1, "the temporary file");
            if calls == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = open::open_executor(model.path(), &options("q4", dir.path()), &mut stop).err().unwrap();
        assert_eq!(error.status, Status::Cancelled);
        assert!(files(dir.path()).is_empty());
    }
}

#[test]
fn what_dead_writers_left_is_removed_and_a_live_ones_is_not() {
    let (model, dir) = (tiny(), TempDir::new());
    let (dead, live) = (dir.join(".aquila-1-0-a.tmp"), dir.join(".aquila-1-0-b.tmp"));
    let (foreign, link) = (dir.join("notes.tmp"), dir.join(".aquila-link.tmp"));
    for file in [&dead, &live, &foreign] {
        fs::write(file, "part of a cache").unwrap();
    }
    std::os::unix::fs::symlink(&foreign, &link).unwrap();
    let lock = fs::File::open(&live).unwrap();
    lock.lock().unwrap();
    logits(model.path(), &options("q8", dir.path())).unwrap();
    assert!(!dead.exists() && live.exists() && foreign.exists() && link.exists());
}

#[test]
fn a_limit_of_file_sizes_is_a_warning_and_not_a_signal() {
    let (model, dir) = (TempDir::new(), TempDir::new());
    TinyModel::default().write_dir(model.path());
    let script = "ulimit -f 8; exec \"$0\" run \"$1\" hello -n 4 --ignore-eos --dtype q8 --cache-dir \"$2\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_aquila")])
        .args([model.path(), dir.path()])
        .env_remove("MAX_SEQ_LEN")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("the limit is") && files(dir.path()).is_empty(), "{}", said(&output));
}

#[test]
fn writers_side_by_side_leave_one_good_file() {
    let (model, dir) = (tiny(), TempDir::new());
    let options = options("q8", dir.path());
    let expected = logits(model.path(), &without(&options)).unwrap();
    for _ in 0..4 {
        let quantize = || {
            aquila()
                .args(["quantize", "--dtype", "q8", "--force", "--cache-dir"])
                .args([dir.path(), model.path()])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let processes = [quantize(), quantize(), quantize()];
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(logits(model.path(), &options).unwrap() == expected));
            }
        });
        for process in processes {
            let output = process.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
        }
        only_file(dir.path());
        let (found, said) = warnings(|| logits(model.path(), &verified(&options)).unwrap());
        assert!(found == expected && said.is_empty(), "{said:?}");
    }
}

#[test]
fn a_writer_that_is_killed_leaves_nothing_that_matters() {
    let Some(data) = real_data() else { return };
    let (model, dir) = (data.join("smollm2-f32"), TempDir::new());
    let mut process = aquila()
        .args(["quantize", "--dtype", "q4", "--cache-dir"])
        .args([dir.path(), &model])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while files(dir.path()).is_empty() {
        assert!(process.try_wait().unwrap().is_none(), "it ended before it began to write");
        std::thread::sleep(Duration::from_millis(1));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(only_file(dir.path()).to_string_lossy().ends_with(".tmp"), "it was killed while it wrote");
    let options = options("q4", dir.path());
    let (found, said) = warnings(|| logits(&model, &options).unwrap());
    assert!(said.is_empty() && only_file(dir.path()).to_string_lossy().ends_with(".aquila"), "{said:?}");
    assert!(found == logits(&model, &without(&options)).unwrap());
}

#[test]
fn quantize_says_what_it_made_and_keeps_what_is_good() {
    let (model, dir) = (tiny(), TempDir::new());
    let run = |more: &[&str]| {
        let cache = dir.join("new/caches");
        aquila().arg("quantize").arg(model.path()).arg("--cache-dir").arg(cache).args(more).output().unwrap()
    };
    let first = run(&["--dtype", "q4"]);
    assert!(first.status.success() && first.stderr.is_empty(), "{}", said(&first));
    let text = said(&first);
    assert!(text.contains("bits a weight") && text.contains("written in"), "{text}");
    let file = only_file(&dir.join("new/caches"));
    assert!(text.starts_with(&*file.to_string_lossy()), "{text}");
    let again = run(&["--dtype", "q4"]);
    assert!(again.status.success() && said(&again).contains("was there already"), "{}", said(&again));
    let forced = run(&["--dtype", "q4", "--force"]);
    assert!(forced.status.success() && said(&forced).contains("written in"), "{}", said(&forced));
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let mended = run(&["--dtype", "q4"]);
    assert!(mended.status.success() && said(&mended).contains("damaged payload"), "{}", said(&mended));
    let (_, warned) =
        warnings(|| logits(model.path(), &verified(&options("q4", &dir.join("new/caches")))).unwrap());
    assert!(warned.is_empty(), "{warned:?}");
    assert_eq!(run(&["--dtype", "q4", "--quiet"]).stdout, b"");
    for (bad, code, word) in [("f32", 2, "nothing to convert"), ("q5", 2, "\"q5\""), ("w8a8", 1, "w8a8")] {
        let output = run(&["--dtype", bad]);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(word), "{}", said(&output));
    }
    let output =
        aquila().arg("quantize").arg(model.path()).args(["--dtype", "q8", "--cache-dir"]).arg(&file).output();
    let output = output.unwrap();
    assert!(
        output.status.code() == Some(1) && said(&output).contains("cannot make the directory"),
        "{}",
        said(&output)
    );
}
