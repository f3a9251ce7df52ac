//! How far two ways to compute a model are apart: the distribution of the next token on real text.

#![allow(dead_code)] // each test uses a part of it

use aquila::backend::{Executor, Row, Step, StepSequence, Want, WantedRow};
use aquila::text::{EncodeOptions, Tokenizer};
use std::ops::Range;
use std::path::Path;

/// Tokens of a window; each window is a sequence of its own.
pub const WINDOW: usize = 256;

/// What a way to compute does to a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    /// Mean Kullback–Leibler divergence from the reference, in nats.
    pub divergence: f64,
    /// How often the likeliest token is the reference's.
    pub agreement: f64,
    /// Perplexity over that of the reference.
    pub perplexity: f64,
    /// Root of the mean square of a log-probability's error.
    pub rms: f64,
    /// Rows whose likeliest token differs although the reference's two likeliest are further apart than 4 × `rms`.
    pub clear_misses: usize,
}

/// Log-probabilities of the next token, of logits.
pub fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    let log_sum = sum.ln() as f32 + largest;
    logits.iter().map(|x| x - log_sum).collect()
}

/// The likeliest token; of equal ones the first.
pub fn likeliest(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best })
        .0
}

/// How far the likeliest token is ahead of the next.
fn lead(row: &[f32]) -> f32 {
    let best = likeliest(row);
    let others = row.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, &x)| x);
    row[best] - others.fold(f32::NEG_INFINITY, f32::max)
}

/// Compares rows of log-probabilities, one for each token of each window.
pub fn compare(reference: &[Vec<f32>], found: &[Vec<f32>], windows: &[Vec<u32>]) -> Quality {
    assert_eq!(reference.len(), found.len());
    let count = reference.len() as f64;
    let mut quality = Quality::default();
    let (mut nats, mut scored, mut squares, mut numbers) = (0.0, 0.0, 0.0, 0.0);
    for (index, (p, q)) in reference.iter().zip(found).enumerate() {
        let terms = p.iter().zip(q).map(|(&p, &q)| f64::from(p).exp() * f64::from(p - q));
        quality.divergence += terms.sum::<f64>() / count;
        quality.agreement += f64::from(u8::from(likeliest(p) == likeliest(q))) / count;
        squares += p.iter().zip(q).map(|(&p, &q)| f64::from(p - q).powi(2)).sum::<f64>();
        numbers += p.len() as f64;
        let window = &windows[index / WINDOW % windows.len()];
        if let Some(&next) = window.get(index % WINDOW + 1) {
            nats += f64::from(p[next as usize] - q[next as usize]);
            scored += 1.0;
        }
    }
    quality.perplexity = (nats / f64::max(scored, 1.0)).exp();
    quality.rms = (squares / numbers).sqrt();
    let clear = |p: &[f32]| f64::from(lead(p)) > 4.0 * quality.rms;
    let misses = reference.iter().zip(found).filter(|(p, q)| likeliest(p) != likeliest(q) && clear(p));
    quality.clear_misses = misses.count();
    quality
}

/// Windows of prose that comes with the project, as tokens of `model`.
pub fn prose(model: &Path, count: usize) -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::open(model).unwrap();
    let text = concat!(include_str!("../../README.md"), include_str!("../../ARCHITECTURE.md"));
    let tokens = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false }).unwrap();
    let windows: Vec<_> = tokens.chunks_exact(WINDOW).take(count).map(<[u32]>::to_vec).collect();
    assert_eq!(windows.len(), count);
    windows
}

/// Log-probabilities after each token of a window, computed step by step: each step takes the next of `steps` rows.
pub fn by_steps(
    executor: &mut dyn Executor,
    window: &[u32],
    steps: impl IntoIterator<Item = usize>,
) -> Vec<Vec<f32>> {
    let block_tokens = executor.capabilities().block_tokens;
    let blocks: Vec<u32> = (0..window.len().div_ceil(block_tokens) as u32).collect();
    let (mut rows, mut start) = (Vec::new(), 0);
    for step in steps {
        let part = start..(start + step).min(window.len());
        start = part.end;
        let ticket =
            executor.submit(&wanting(window, &part, &blocks, &Buffers::of(&part, blocks.len()))).unwrap();
        let results = executor.collect(ticket).unwrap();
        for row in 0..part.len() {
            let Row::Logits(logits) = results.row(row) else { panic!("logits were wanted") };
            rows.push(log_probabilities(logits));
        }
    }
    assert_eq!(rows.len(), window.len());
    rows
}

struct Buffers {
    positions: Vec<u32>,
    wanted: Vec<WantedRow>,
    sequence: [StepSequence; 1],
}

impl Buffers {
    fn of(part: &Range<usize>, blocks: usize) -> Buffers {
        let rows = part.len();
        Buffers {
            positions: (part.start as u32..part.end as u32).collect(),
            wanted: (0..rows).map(|row| WantedRow { row, want: Want::Logits }).collect(),
            sequence: [StepSequence { first_row: 0, rows, context: part.end, first_block: 0, blocks }],
        }
    }
}

/// The step for a part of a window. Slots are positions, because its blocks are the first ones.
fn wanting<'a>(window: &'a [u32], part: &Range<usize>, blocks: &'a [u32], buffers: &'a Buffers) -> Step<'a> {
    Step {
        tokens: &window[part.clone()],
        positions: &buffers.positions,
        slots: &buffers.positions,
        sequences: &buffers.sequence,
        block_tables: blocks,
        wanted: &buffers.wanted,
        carry: &[],
    }
}
