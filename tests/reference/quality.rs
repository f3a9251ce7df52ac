//! What quantising costs: the distribution of the next token against that of f32 weights in f32 arithmetic, on
//! real text and a real model.
//!
//! The budgets are this model's: of 135 million parameters, so small that it feels every rounding; larger ones lose
//! less. The model's own weights are 4-bit ones (a Q4_1 file), whose levels `q4` must hit a second time, between
//! levels of its own: the worst case for it.

use crate::data::real_data;
use crate::shared_quality::{WINDOW, by_steps, compare, prose};
use aquila::open::{self, LoadOptions};
use std::ops::ControlFlow;
use std::path::Path;

const WINDOWS: usize = 4;
/// Rows whose logits one step gives.
const ROWS: usize = 64;

/// Log-probabilities after each position of each window, and the bytes of the weights. `dtype` may be empty: as
/// stored.
fn distributions(model: &Path, dtype: &str, windows: &[Vec<u32>]) -> (Vec<Vec<f32>>, u64) {
    let options = LoadOptions {
        dtype: Some(dtype.into()).filter(|_| !dtype.is_empty()),
        kv_dtype: Some("f32".into()),
        max_context: WINDOW as u32,
        max_batch: ROWS as u32,
        ..LoadOptions::default()
    };
    let mut go = |_: &str, _, _| ControlFlow::Continue(());
    let (_, plan, mut executor) = open::open_executor(model, &options, &mut go).unwrap();
    let all =
        windows.iter().flat_map(|window| by_steps(&mut *executor, window, [ROWS; WINDOW / ROWS])).collect();
    (all, plan.weight_bytes_mapped + plan.weight_bytes_private)
}

#[test]
fn quantised_weights_stay_within_their_budgets() {
    let Some(data) = real_data() else { return };
    let model = data.join("smollm2-f32");
    let windows = prose(&model, WINDOWS);
    let (reference, _) = distributions(&model, "f32", &windows);
    for (dtype, divergence, agreement, perplexity) in
        [("bf16", 5e-4, 0.985, 0.003), ("q8", 0.01, 0.93, 0.01), ("q4", 0.12, 0.81, 0.12)]
    {
        let quality = compare(&reference, &distributions(&model, dtype, &windows).0, &windows);
        println!("{dtype}: {quality:?}");
        assert!(quality.divergence <= divergence, "{dtype}: {quality:?}");
        assert!(quality.agreement >= agreement, "{dtype}: {quality:?}");
        assert!((quality.perplexity - 1.0).abs() <= perplexity, "{dtype}: {quality:?}");
    }
}

/// Rows of the table in README.md beside this file: `AQUILA_QUALITY` names a model, the truth at f32, and
/// then models with `=` and the dtype to load them with (nothing: as stored), all separated by blanks.
#[test]
#[ignore = "makes a table of the models that AQUILA_QUALITY names"]
fn table() {
    let named = std::env::var("AQUILA_QUALITY").unwrap_or_default();
    let mut models = named.split_whitespace();
    let Some(truth) = models.next().map(Path::new) else { return };
    let windows = prose(truth, WINDOWS);
    let (reference, bytes) = distributions(truth, "f32", &windows);
    for model in models {
        let (path, dtype) = model.split_once('=').unwrap();
        let (found, held) = distributions(Path::new(path), dtype, &windows);
        let quality = compare(&reference, &found, &windows);
        println!(
            "{model} | {:.2} | {:.5} | {:.1} % | {:.3}",
            32.0 * held as f64 / bytes as f64,
            quality.divergence,
            100.0 * quality.agreement,
            quality.perplexity
        );
    }
}
