//! Damaged and hostile checkpoints: each kind has its status and a message with file, item, expected
//! and found, within bounded memory and time.

#[path = "../support/allocations.rs"]
mod allocations;
#[path = "../support/mod.rs"]
mod support;

mod config;
mod directory;
mod flagai;
mod gguf;
mod index;
mod memory;
mod mutation;
mod safetensors;
mod torch_pickle;
mod torch_zip;
mod truncation;

use aquila::Status;
use aquila::model::Checkpoint;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{TempDir, TinyModel, TinyTokenizer};

/// Opens `path` and expects a refusal with this status whose message has all of these parts.
///
/// The memory taken meanwhile is at most a few times what lies on disk, whatever a header claims.
fn refused(path: &Path, status: Status, parts: &[&str]) {
    refused_within(path, status, parts, 4 * size_of(path) + (2 << 20));
}

/// The same with another bound for the memory.
fn refused_within(path: &Path, status: Status, parts: &[&str], most: u64) {
    let start = Instant::now();
    let (result, peak) = memory::peak_of(|| Checkpoint::open(path, false));
    let error = match result {
        Ok(_) => panic!("{parts:?}: opened"),
        Err(error) => error,
    };
    assert_eq!(error.status, status, "{error}");
    for part in parts {
        assert!(error.message.contains(part), "no {part:?} in: {error}");
    }
    assert!(error.message.len() < 1000, "a message of {} bytes", error.message.len());
    assert!(peak < most, "{peak} bytes taken for {}, expected at most {most}: {error}", size_of(path));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}: {error}", start.elapsed());
}

fn size_of(path: &Path) -> u64 {
    let Ok(facts) = std::fs::metadata(path) else { return 0 };
    if !facts.is_dir() {
        return facts.len();
    }
    std::fs::read_dir(path).unwrap().map(|entry| size_of(&entry.unwrap().path())).sum()
}

/// A model of a few kilobytes.
fn small() -> TinyModel {
    TinyModel {
        layers: 1,
        hidden: 8,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 12,
        vocab: 16,
        tokenizer: TinyTokenizer::None,
        ..TinyModel::default()
    }
}

/// A valid small model in a directory of its own.
fn small_dir() -> TempDir {
    let dir = TempDir::new();
    small().write_dir(dir.path());
    Checkpoint::open(dir.path(), false).expect("valid before it is spoilt");
    dir
}
