//! The largest logits, found on the device: the same tokens as of whole rows, and a small copy back.

use crate::calls::{self, Decoding};
use crate::simulator::{self, CARDS, expect_clean, in_child, is_child};
use crate::support::{TempDir, TinyModel, TinyType};
use aquila::backend::Want;
use aquila::engine::params::{GenParams, Input};
use aquila::open::{self, LoadOptions};
use aquila::sampling::SamplingParams;
use std::ops::ControlFlow;

/// Requests that are chosen for among candidates, and the same ones with log-probabilities asked for, which need whole rows.
/// In whatever order the device puts equal logits, of which 16 bits make many.
#[test]
fn sampled_tokens_are_those_of_whole_rows() {
    if !is_child() {
        for card in CARDS {
            for (device, ties) in [("npu:0", "first"), ("npu:0,1", "last")] {
                let settings = [
                    ("AQUILA_SIM_SOC", card),
                    ("AQUILA_SIM_DEVICES", "2"),
                    ("AQUILA_SIM_SORT", ties),
                    ("NPU_TEST_DEVICE", device),
                ];
                in_child("choice::sampled_tokens_are_those_of_whole_rows", &settings);
            }
        }
        return;
    }
    let device = std::env::var("NPU_TEST_DEVICE").unwrap();
    for dtype in [TinyType::F16, TinyType::Bf16] {
        let dir = TempDir::new();
        // Filled up to whole tiles on a 310P, and on two ranks: what is filled up must not be among the candidates.
        TinyModel { context: 200, vocab: 1003, dtype, ..TinyModel::default() }.write_dir(dir.path());
        let options = LoadOptions { device: device.clone(), max_batch: 3, ..LoadOptions::default() };
        let engine = open::load(dir.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
        let facts = &engine.info().executor;
        assert!(
            facts.iter().any(|(name, fact)| *name == "choice" && fact.contains("below 128")),
            "{facts:?}"
        );
        for (index, (length, top_k)) in [(1, 3), (5, 40), (140, 127), (17, 90)].into_iter().enumerate() {
            let prompt: Vec<u32> = (0..length).map(|i| (i * i * 13 + i * 7) % 1000).collect();
            let sampling = SamplingParams {
                temperature: 1.1,
                top_k,
                top_p: [1.0, 0.9][index % 2],
                min_p: [0.0, 0.02][index / 2],
                seed: index as u64,
                ..SamplingParams::default()
            };
            let plain = GenParams {
                max_tokens: 16,
                ignore_eos: true,
                no_cache: true,
                sampling,
                ..GenParams::default()
            };
            let whole = GenParams { logprobs: 1, ..plain.clone() };
            let plain = engine.generate(Input::Tokens(prompt.clone()), plain).unwrap();
            let whole = engine.generate(Input::Tokens(prompt), whole).unwrap();
            assert_eq!(plain.tokens, whole.tokens, "{length} tokens, top-k {top_k}");
            assert_eq!((plain.logprobs.len(), whole.logprobs.len()), (0, 16));
        }
    }
    expect_clean();
}

const VOCAB: usize = 4096;
const TOKENS: usize = 4;

/// Of a row of which the device found the largest logits only these come to the host, 8 bytes each.
#[test]
fn candidates_are_a_small_copy_back() {
    if !is_child() {
        let dir = TempDir::new();
        for card in CARDS {
            let file = dir.join(card);
            let settings = [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_TRACE", file.to_str().unwrap())];
            in_child("choice::candidates_are_a_small_copy_back", &settings);
            let trace = std::fs::read_to_string(&file).unwrap();
            assert_eq!(copied_back(&trace, "logits"), TOKENS * VOCAB * 4);
            assert_eq!(copied_back(&trace, "candidates"), TOKENS * 128 * 8);
        }
        return;
    }
    let dir = TempDir::new();
    TinyModel { layers: 1, vocab: VOCAB, context: 256, ..TinyModel::default() }.write_dir(dir.path());
    for (want, label) in [(Want::Logits, "logits"), (Want::Candidates, "candidates")] {
        let executor = calls::open(dir.path(), 1);
        let mut decoding = Decoding { executor, want, position: 0, last: None };
        simulator::mark(&format!("before {label}"));
        for _ in 0..TOKENS {
            let ticket = decoding.submit();
            decoding.executor.collect(ticket).unwrap();
        }
        simulator::mark(label);
    }
    expect_clean();
}

/// Bytes that were copied to the host before the mark `label`, and behind the one that announces it.
fn copied_back(trace: &str, label: &str) -> usize {
    const TO_HOST: &str = " kind=2";
    let part = trace.split(&format!("== before {label}\n")).nth(1).unwrap();
    let part = part.split(&format!("== {label}\n")).next().unwrap();
    let copies = part.lines().filter(|line| line.contains("aclrtMemcpy") && line.contains(TO_HOST));
    let count = |line: &str| line.split("count=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
    copies.map(|line| count(line).unwrap()).sum()
}
