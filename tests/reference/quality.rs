//! What quantising costs: the distribution of the next token against that of f32 weights in f32 arithmetic, on
//! real text and a real model.
//!
//! The budgets are this model's: of 135 million parameters, so small that it feels every rounding; larger ones lose
//! less. The model's own weights are 4-bit ones (a Q4_1 file), whose levels `q4` must hit a second time, between
//! levels of its own: the worst case for it.

use crate::data::real_data;
use aquila::backend::{Row, Step, StepSequence, Want, WantedRow};
use aquila::open::{self, LoadOptions};
use aquila::text::{EncodeOptions, Tokenizer};
use std::ops::ControlFlow;
use std::path::Path;

/// Tokens of a window; each window is a sequence of its own.
const WINDOW: usize = 256;
const WINDOWS: usize = 4;
/// Rows whose logits one step gives.
const ROWS: usize = 64;

/// What a type of weights does to a model.
#[derive(Debug)]
struct Quality {
    /// Mean Kullback–Leibler divergence from the reference, in nats.
    divergence: f64,
    /// How often the likeliest token is the reference's.
    agreement: f64,
    /// Perplexity over that of the reference.
    perplexity: f64,
}

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
    let blocks: Vec<u32> = (0..WINDOW.div_ceil(plan.block_tokens) as u32).collect();
    let mut all = Vec::new();
    for window in windows {
        for start in (0..WINDOW).step_by(ROWS) {
            let positions: Vec<u32> = (start as u32..(start + ROWS) as u32).collect();
            let wanted: Vec<_> = (0..ROWS).map(|row| WantedRow { row, want: Want::Logits }).collect();
            let context = start + ROWS;
            let sequence =
                StepSequence { first_row: 0, rows: ROWS, context, first_block: 0, blocks: blocks.len() };
            let step = Step {
                tokens: &window[start..start + ROWS],
                positions: &positions,
                slots: &positions,
                sequences: &[sequence],
                block_tables: &blocks,
                wanted: &wanted,
                carry: &[],
            };
            let ticket = executor.submit(&step).unwrap();
            let rows = executor.collect(ticket).unwrap();
            for row in 0..ROWS {
                let Row::Logits(logits) = rows.row(row) else { panic!("logits were wanted") };
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
                let log_sum = sum.ln() as f32 + largest;
                all.push(logits.iter().map(|x| x - log_sum).collect());
            }
        }
    }
    (all, plan.weight_bytes_mapped + plan.weight_bytes_private)
}

fn likeliest(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best })
        .0
}

fn compare(reference: &[Vec<f32>], found: &[Vec<f32>], windows: &[Vec<u32>]) -> Quality {
    let count = reference.len() as f64;
    let (mut divergence, mut agreement, mut nats, mut scored) = (0.0, 0.0, 0.0, 0.0);
    for (index, (p, q)) in reference.iter().zip(found).enumerate() {
        let terms = p.iter().zip(q).map(|(&p, &q)| f64::from(p).exp() * f64::from(p - q));
        divergence += terms.sum::<f64>();
        agreement += f64::from(u8::from(likeliest(p) == likeliest(q)));
        if let Some(&next) = windows[index / WINDOW].get(index % WINDOW + 1) {
            nats += f64::from(p[next as usize] - q[next as usize]);
            scored += 1.0;
        }
    }
    Quality {
        divergence: divergence / count,
        agreement: agreement / count,
        perplexity: (nats / scored).exp(),
    }
}

/// The windows of prose that comes with the project, as tokens of `model`.
fn prose(model: &Path) -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::open(model).unwrap();
    let text = concat!(include_str!("../../README.md"), include_str!("../../ARCHITECTURE.md"));
    let tokens = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false }).unwrap();
    let windows: Vec<_> = tokens.chunks_exact(WINDOW).take(WINDOWS).map(<[u32]>::to_vec).collect();
    assert_eq!(windows.len(), WINDOWS);
    windows
}

#[test]
fn quantised_weights_stay_within_their_budgets() {
    let Some(data) = real_data() else { return };
    let model = data.join("smollm2-f32");
    let windows = prose(&model);
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
    let windows = prose(truth);
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
