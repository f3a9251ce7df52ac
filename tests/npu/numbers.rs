//! What the executor computes, against f32 on the CPU: a real model on real text, and small ones with all that a model may have.

use crate::quality::{Quality, WINDOW, by_steps, compare};
use crate::simulator::{CARDS, expect_clean, in_child, in_child_of, is_child, real_model};
use crate::support::{TempDir, TinyModel, TinyType};
use aquila::backend::{Executor, Row, Step, StepSequence, Want, WantedRow};
use aquila::open::{self, LoadOptions};
use std::ops::ControlFlow;
use std::path::Path;

/// Mean divergence in nats of f16 on the device from f32 on the CPU.
const F16_DIVERGENCE: f64 = 1e-3;
/// That of bf16 in transformers 4.57.6 on torch 2.8.0 from its own f32, on the same text (`tests/oracle/bf16_divergence.py`), and
/// how much more ours may have.
const BF16_TRANSFORMERS: f64 = 1.519e-3;
const BF16_FACTOR: f64 = 1.2;

fn options(device: &str) -> LoadOptions {
    LoadOptions {
        device: device.into(),
        dtype: (device == "cpu").then(|| "f32".into()),
        max_context: WINDOW as u32,
        max_batch: 1,
        ..LoadOptions::default()
    }
}

fn open(model: &Path, options: &LoadOptions) -> Box<dyn Executor> {
    let mut go = |_: &str, _, _| ControlFlow::Continue(());
    open::open_executor(model, options, &mut go).unwrap().2
}

/// How a window is computed: as a prompt, in chunks over each other where the device can, and its end token by token.
fn steps(executor: &dyn Executor) -> Vec<usize> {
    const SINGLE: usize = 32;
    let prompts = if executor.capabilities().prefill_over_cache {
        vec![96, 64, WINDOW - 96 - 64 - SINGLE]
    } else {
        vec![WINDOW - SINGLE]
    };
    prompts.into_iter().chain([1; SINGLE]).collect()
}

fn measure(device: &str, dtype: Option<&str>, model: &Path) -> Quality {
    let window: Vec<u32> =
        include_str!("window.txt").split_whitespace().map(|id| id.parse().unwrap()).collect();
    let windows = [window];
    let mut cpu = open(model, &LoadOptions { max_batch: 64, ..options("cpu") });
    let reference = by_steps(&mut *cpu, &windows[0], [64; WINDOW / 64]);
    let dtype = dtype.map(str::to_owned);
    // So many sequences that all of a prompt's rows may have logits, and not as much memory as those could use.
    let mut npu = open(model, &LoadOptions { dtype, max_batch: 224, kv_memory: 64 << 20, ..options(device) });
    let steps = steps(&*npu);
    let found = by_steps(&mut *npu, &windows[0], steps);
    drop(npu);
    expect_clean();
    compare(&reference, &found, &windows)
}

#[test]
fn a_real_model_in_f16_is_close_to_f32() {
    let Some(model) = real_model("smollm2-f32") else { return };
    if is_child() {
        let device = std::env::var("NPU_TEST_DEVICE").unwrap();
        let quality = measure(&device, None, &model);
        println!("measured (simulated): {quality:?}");
        assert!(quality.divergence <= F16_DIVERGENCE, "{quality:?}");
        assert_eq!(quality.clear_misses, 0, "{quality:?}");
        return;
    }
    for card in CARDS {
        for device in ["npu:0", "npu:0,1"] {
            let settings =
                [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_DEVICES", "2"), ("NPU_TEST_DEVICE", device)];
            in_child("numbers::a_real_model_in_f16_is_close_to_f32", &settings);
        }
    }
}

#[test]
fn a_real_model_in_bf16_is_as_close_as_transformers() {
    let Some(model) = real_model("smollm2-f32") else { return };
    if is_child() {
        let quality = measure("npu:0", Some("bf16"), &model);
        println!("measured (simulated): {quality:?}");
        assert!(quality.divergence <= BF16_FACTOR * BF16_TRANSFORMERS, "{quality:?}");
        return;
    }
    in_child("numbers::a_real_model_in_bf16_is_as_close_as_transformers", &[]);
}

/// Hidden states and logits of all kinds of rows at once, for each card, with and without graphs, of both ABIs.
#[test]
fn every_kind_of_row_gives_what_the_cpu_gives() {
    if is_child() {
        return every_kind_of_row();
    }
    for card in CARDS {
        for (abi, graphs) in [(1, "1"), (1, "0"), (0, "1"), (0, "0")] {
            let settings =
                [("AQUILA_SIM_SOC", card), ("AQUILA_ASCEND_GRAPHS", graphs), ("AQUILA_SIM_DEVICES", "2")];
            in_child_of(abi, "numbers::every_kind_of_row_gives_what_the_cpu_gives", &settings);
        }
    }
}

fn every_kind_of_row() {
    let biased = TinyModel { biases: true, ..TinyModel::default() };
    let tied = TinyModel { tied: true, vocab: 300, seed: 3, ..TinyModel::default() };
    let bf16 = TinyModel { dtype: TinyType::Bf16, layers: 7, ..TinyModel::default() };
    for model in [TinyModel::default(), biased, tied, bf16] {
        let dir = TempDir::new();
        model.write_dir(dir.path());
        for device in ["npu:0", "npu:0,1"] {
            compare_rows(dir.path(), device, &model);
        }
    }
    expect_clean();
}

/// One sequence of 21 tokens, another of 9, two single rows behind them, and where the device can rows over the cache.
fn compare_rows(model: &Path, device: &str, tiny: &TinyModel) {
    let options = |device: &str| LoadOptions { max_context: 128, max_batch: 4, ..options(device) };
    let mut results: Vec<Vec<Vec<f32>>> = Vec::new();
    let mut npu = open(model, &options(device));
    let chunks = npu.capabilities().prefill_over_cache;
    let mut cpu = open(model, &options("cpu"));
    for executor in [&mut cpu, &mut npu] {
        let block = executor.capabilities().block_tokens as u32;
        // Sequence i has blocks 8·i/… of its own: as many as a context takes.
        let per_sequence = 128u32.div_ceil(block);
        let table = |sequence: u32| (0..per_sequence).map(move |i| sequence * per_sequence + i);
        let mut all = Vec::new();
        let mut run = |parts: &[(u32, usize, usize)], hidden: bool| {
            let (mut tokens, mut positions, mut slots, mut tables) = (vec![], vec![], vec![], vec![]);
            let mut sequences = Vec::new();
            for &(sequence, from, to) in parts {
                let first_row = tokens.len();
                for position in from..to {
                    let blocks: Vec<u32> = table(sequence).collect();
                    tokens.push((sequence * 31 + position as u32 * 7) % tiny.vocab as u32);
                    positions.push(position as u32);
                    slots.push(blocks[position / block as usize] * block + position as u32 % block);
                }
                let first_block = tables.len();
                tables.extend(table(sequence));
                let blocks = per_sequence as usize;
                sequences.push(StepSequence { first_row, rows: to - from, context: to, first_block, blocks });
            }
            let want = |row: usize| if hidden && row.is_multiple_of(3) { Want::Hidden } else { Want::Logits };
            let wanted: Vec<_> = (0..tokens.len()).map(|row| WantedRow { row, want: want(row) }).collect();
            for wanted in wanted.chunks(8) {
                let step = Step {
                    tokens: &tokens,
                    positions: &positions,
                    slots: &slots,
                    sequences: &sequences,
                    block_tables: &tables,
                    wanted,
                    carry: &[],
                };
                let ticket = executor.submit(&step).unwrap();
                let rows = executor.collect(ticket).unwrap();
                for index in 0..wanted.len() {
                    let (Row::Logits(row) | Row::Hidden(row)) = rows.row(index) else { panic!("{wanted:?}") };
                    all.push(row.to_vec());
                }
            }
        };
        run(&[(0, 0, 21)], true);
        run(&[(1, 0, 9), (2, 0, 1)], false);
        run(&[(0, 21, 22), (1, 9, 10)], true);
        // Single rows beside a prompt, in one step.
        run(&[(2, 1, 2), (3, 0, 12), (0, 22, 23)], true);
        if chunks {
            run(&[(3, 12, 30), (1, 10, 11), (2, 2, 5)], true);
        }
        run(&[(3, if chunks { 30 } else { 12 }, if chunks { 31 } else { 13 })], false);
        results.push(all);
    }
    let [expected, found] = &results[..] else { unreachable!() };
    assert_eq!(expected.len(), found.len());
    // Values are of the order of 1 to 4: some ten steps of their type.
    let bound = if tiny.dtype == TinyType::Bf16 { 0.25 } else { 0.06 };
    for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len());
        let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < bound && !worst.is_nan(), "{device}: row {index}: {worst}");
    }
}

/// The tap sees what the layers give.
#[test]
fn the_tap_sees_each_layer() {
    if is_child() {
        let dir = TempDir::new();
        let tiny = TinyModel { layers: 5, ..TinyModel::default() };
        tiny.write_dir(dir.path());
        let mut taps: Vec<Vec<Vec<f32>>> = Vec::new();
        for device in ["cpu", "npu:0,1"] {
            let mut executor = open(dir.path(), &LoadOptions { max_context: 128, ..options(device) });
            let tokens: Vec<u32> = (0..12).map(|i| i * 5).collect();
            let positions: Vec<u32> = (0..12).collect();
            let blocks = [0, 1, 2, 3, 4, 5, 6, 7];
            let step = Step {
                tokens: &tokens,
                positions: &positions,
                slots: &positions,
                sequences: &[StepSequence { first_row: 0, rows: 12, context: 12, first_block: 0, blocks: 1 }],
                block_tables: &blocks,
                wanted: &[WantedRow { row: 11, want: Want::Logits }],
                carry: &[],
            };
            let mut seen = Vec::new();
            let ticket = executor.run_tapped(&step, &mut |layer, rows| {
                assert_eq!(layer, seen.len());
                seen.push(rows.to_vec());
            });
            executor.collect(ticket.unwrap()).unwrap();
            taps.push(seen);
        }
        assert_eq!(taps[1].len(), 5);
        for (layer, (expected, found)) in taps[0].iter().zip(&taps[1]).enumerate() {
            let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 0.06, "layer {layer}: {worst}");
        }
        return expect_clean();
    }
    for card in CARDS {
        let settings = [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_DEVICES", "2")];
        in_child("numbers::the_tap_sees_each_layer", &settings);
    }
}
