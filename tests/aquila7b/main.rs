//! Aquila-7B's shape and vocabulary: one layer of it, with random weights in f16. A program of its own with one test,
//! because it looks at the memory of its process.

#[path = "../support/data.rs"]
mod data;
#[allow(dead_code)]
#[path = "../reference/golden.rs"]
mod golden;

use aquila::open::{self, LoadOptions};
use data::real_data;
use golden::{Run, check, load, read};

const EOS: u32 = 100007; // </s>
const MIB: u64 = 1 << 20;

fn options() -> LoadOptions {
    LoadOptions {
        device: "cpu".into(),
        kv_dtype: Some("f32".into()),
        max_context: 256,
        kv_memory: 64 * MIB,
        ..LoadOptions::default()
    }
}

/// Memory of this process that no file backs, in bytes.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the state of this process");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

#[test]
fn it_is_planned_mapped_and_gives_the_reference_tokens() {
    let Some(data) = real_data() else { return };
    let model = data.join("aquila7b-1l-f16");

    let plan = open::plan(&model, &options()).expect("a plan");
    assert_eq!(
        (plan.spec.hidden, plan.spec.ffn, plan.spec.heads, plan.spec.vocab),
        (4096, 11008, 32, 100008)
    );
    // All matrices are used where they lie; norms may be widened.
    assert!(plan.memory.weight_bytes_mapped > plan.weight_bytes / 1000 * 999, "{:?}", plan.memory);
    assert!(plan.memory.weight_bytes_private < MIB, "{:?}", plan.memory);
    let beyond_cache = plan.memory.private_bytes() - plan.memory.kv_bytes();
    assert!(beyond_cache < 1024 * MIB, "{:?}", plan.memory);

    let before = anonymous_bytes();
    let engine = load(&model, &options());
    for run in &read::<Vec<Run>>("aquila7b-1l-greedy.json") {
        check(&engine, run, EOS);
    }
    let taken = anonymous_bytes().saturating_sub(before);
    // Beside what was planned: the tokenizer's tables and the threads' stacks.
    let planned = plan.memory.private_bytes() + 128 * MIB;
    assert!(taken < planned, "taken {} MiB, planned {} MiB", taken / MIB, planned / MIB);
}
