//! Small decoders with one feature each, and small GGUF files of every quantised type: the logits, and the tokens that
//! follow greedily.

use crate::golden::{f32_options, load, path, read};
use aquila::backend::{Row, Step, StepSequence, Want, WantedRow};
use aquila::engine::params::{GenParams, Input};
use aquila::open::{self, LoadOptions};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// See `tests/oracle/make_tiny_golden.py`.
#[derive(Deserialize)]
struct Expected {
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    context: u32,
    ids: Vec<u32>,
    rows: BTreeMap<usize, Vec<f32>>,
    error: f32,
    greedy: Option<Vec<u32>>,
}

fn options(run: &Run) -> LoadOptions {
    LoadOptions { max_context: run.context, ..f32_options() }
}

/// The logits after each wanted position of one prompt, in one step.
fn logits(case: &str, model: &Path, run: &Run) -> Vec<Vec<f32>> {
    let (_, plan, mut executor) =
        open::open_executor(model, &options(run), &mut |_, _, _| ControlFlow::Continue(()))
            .unwrap_or_else(|e| panic!("{case}: {e}"));
    let rows: Vec<u32> = (0..run.ids.len() as u32).collect();
    let blocks: Vec<u32> = (0..run.ids.len().div_ceil(plan.block_tokens) as u32).collect();
    let wanted: Vec<WantedRow> = run.rows.keys().map(|&row| WantedRow { row, want: Want::Logits }).collect();
    let step = Step {
        tokens: &run.ids,
        positions: &rows,
        slots: &rows,
        sequences: &[StepSequence {
            first_row: 0,
            rows: run.ids.len(),
            context: run.ids.len(),
            first_block: 0,
            blocks: blocks.len(),
        }],
        block_tables: &blocks,
        wanted: &wanted,
        carry: &[],
    };
    let ticket = executor.submit(&step).unwrap_or_else(|e| panic!("{case}: {e}"));
    let done = executor.collect(ticket).unwrap_or_else(|e| panic!("{case}: {e}"));
    let row = |index| match done.row(index) {
        Row::Logits(logits) => logits.to_vec(),
        other => panic!("{case}: logits were wanted, found {other:?}"),
    };
    (0..wanted.len()).map(row).collect()
}

fn check(case: &str, model: &str, expected: &str) {
    let model = path(model);
    for run in &read::<Expected>(expected).runs {
        // `error` is f32's against f64 in transformers; another order of sums is as good up to a factor.
        let tolerance = 20.0 * run.error;
        for ((position, expected), found) in run.rows.iter().zip(logits(case, &model, run)) {
            assert_eq!(found.len(), expected.len(), "{case}: the vocabulary");
            for (id, (a, b)) in found.iter().zip(expected).enumerate() {
                assert!(
                    (a - b).abs() <= tolerance,
                    "{case}: prompt of {}, position {position}, id {id}: {a}, expected {b} ± {tolerance}",
                    run.ids.len()
                );
            }
        }
        if let Some(greedy) = &run.greedy {
            let engine = load(&model, &options(run));
            let params =
                GenParams { max_tokens: greedy.len() as u32, ignore_eos: true, ..GenParams::default() };
            let found = engine.generate(Input::Tokens(run.ids.clone()), params).expect("a generation");
            assert_eq!(&found.tokens, greedy, "{case}: after a prompt of {}", run.ids.len());
        }
    }
}

macro_rules! cases {
    ($($name:ident: $case:literal)*) => {
        $(#[test] fn $name() { check($case, concat!("tiny/", $case), concat!("tiny/", $case, "/expected.json")); })*

        #[test]
        fn no_case_is_left_out() {
            let mut named = vec![$($case.to_string()),*];
            named.sort();
            let mut found: Vec<String> = std::fs::read_dir(path("tiny")).expect("the cases")
                .map(|entry| entry.expect("a case").file_name().to_string_lossy().into_owned()).collect();
            found.sort();
            assert_eq!(named, found);
        }
    };
}

cases! {
    grouped_heads_and_a_tied_head: "gqa-tied"
    a_head_each_and_an_untied_head: "mha-untied"
    one_kv_head: "one-kv-head"
    biases: "attention-bias"
    a_head_width_of_its_own: "head-dim"
    a_rope_base_of_a_million: "rope-theta"
    linear_rope_scaling: "rope-linear"
    dynamic_rope_scaling: "rope-dynamic"
    clamped_scores: "score-clamp"
}

#[test]
fn gguf_types_of_32_numbers_a_block() {
    check("blocks32", "gguf/blocks32.gguf", "gguf/blocks32.json");
}

#[test]
fn gguf_types_of_256_numbers_a_block() {
    check("blocks256", "gguf/blocks256.gguf", "gguf/blocks256.json");
}
