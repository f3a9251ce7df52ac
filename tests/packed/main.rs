//! The packed cache as a user meets it: the same answers with it and without, and whatever is wrong with file,
//! directory or disk costs a warning and never an answer.

#[path = "../support/data.rs"]
mod data;
#[path = "../support/mod.rs"]
mod support;

mod damage;
mod disk;
mod same;

use aquila::backend::{Row, Step, StepSequence, Want, WantedRow};
use aquila::open::{self, LoadOptions};
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Once;

thread_local! {
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Collect;

impl log::Log for Collect {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            WARNINGS.with_borrow_mut(|all| all.push(record.args().to_string()));
        }
    }
    fn flush(&self) {}
}

/// The warnings of this thread while `work` runs; a load logs on the thread that called it.
fn warnings<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    static SET: Once = Once::new();
    SET.call_once(|| {
        log::set_logger(&Collect).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    WARNINGS.take();
    let result = work();
    (result, WARNINGS.take())
}

fn options(dtype: &str, dir: &Path) -> LoadOptions {
    LoadOptions {
        device: "cpu".into(),
        dtype: Some(dtype.into()),
        cache_dir: Some(dir.into()),
        threads: 2,
        max_context: 64,
        max_batch: 16,
        ..LoadOptions::default()
    }
}

fn without(options: &LoadOptions) -> LoadOptions {
    LoadOptions { cache_dir: None, ..options.clone() }
}

fn verified(options: &LoadOptions) -> LoadOptions {
    LoadOptions { verify: true, ..options.clone() }
}

/// The bits of the logits of 12 rows.
fn logits(model: &Path, options: &LoadOptions) -> aquila::Result<Vec<u32>> {
    const ROWS: usize = 12;
    let mut go = |_: &str, done, total| {
        assert!(done <= total);
        ControlFlow::Continue(())
    };
    let (spec, _, mut executor) = open::open_executor(model, options, &mut go)?;
    let tokens: Vec<u32> = (0..ROWS as u32).map(|i| (i * 37 + 5) % spec.vocab as u32).collect();
    let positions: Vec<u32> = (0..ROWS as u32).collect();
    let wanted: Vec<_> = (0..ROWS).map(|row| WantedRow { row, want: Want::Logits }).collect();
    let sequence = StepSequence { first_row: 0, rows: ROWS, context: ROWS, first_block: 0, blocks: 1 };
    let step = Step {
        tokens: &tokens,
        positions: &positions,
        slots: &positions,
        sequences: &[sequence],
        block_tables: &[0],
        wanted: &wanted,
        carry: &[],
    };
    let ticket = executor.submit(&step)?;
    let rows = executor.collect(ticket)?;
    let mut bits = Vec::new();
    for row in 0..ROWS {
        let Row::Logits(logits) = rows.row(row) else { panic!("logits were wanted") };
        bits.extend(logits.iter().map(|x| x.to_bits()));
    }
    Ok(bits)
}

/// The files in a directory, hidden ones too.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// The one file in a directory.
fn only_file(dir: &Path) -> PathBuf {
    let all = files(dir);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

/// Sets the header's checksum right after a change of the header.
fn seal(bytes: &mut [u8]) {
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..120]);
    bytes[120..128].copy_from_slice(&sum.to_le_bytes());
}

/// Start and end of each payload, from the table.
fn payloads(bytes: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let count = u32::from_le_bytes(bytes[48..52].try_into().unwrap()) as usize;
    let lines = (0..count).map(|i| 128 + 64 * i);
    lines.map(|line| (number(line + 32), number(line + 32) + number(line + 40))).collect()
}
