//! The engine over the executor: requests of all kinds beside each other, sessions, and many of them.

use crate::simulator::{self, CARDS, expect_clean, in_child, is_child};
use crate::support::{TempDir, TinyModel};
use aquila::engine::params::{GenParams, Input};
use aquila::engine::{Engine, Job};
use aquila::open::{self, LoadOptions};
use aquila::sampling::SamplingParams;
use std::ops::ControlFlow;
use std::path::Path;

fn engine(model: &Path, device: &str, change: impl FnOnce(&mut LoadOptions)) -> Engine {
    let mut options = LoadOptions { device: device.into(), max_batch: 4, ..LoadOptions::default() };
    change(&mut options);
    open::load(model, &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap()
}

fn tokens(length: usize, seed: u32) -> Input {
    Input::Tokens((0..length as u32).map(|i| (seed * 97 + i * i * 13 + i * 7) % 250).collect())
}

fn greedy(max_tokens: u32) -> GenParams {
    GenParams { max_tokens, ignore_eos: true, no_cache: true, ..GenParams::default() }
}

fn sampled(max_tokens: u32) -> GenParams {
    let sampling = SamplingParams { temperature: 0.8, top_k: 20, seed: 5, ..SamplingParams::default() };
    GenParams { sampling, ..greedy(max_tokens) }
}

/// Answers must be those of a request that runs alone: greedy ones selected on the device and carried from step to step,
/// sampled ones of logits that the host sees.
#[test]
fn requests_beside_each_other_get_their_own_answers() {
    if !is_child() {
        for card in CARDS {
            for device in ["npu:0", "npu:0,1"] {
                let settings =
                    [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_DEVICES", "2"), ("NPU_TEST_DEVICE", device)];
                in_child("serving::requests_beside_each_other_get_their_own_answers", &settings);
            }
        }
        return;
    }
    let device = std::env::var("NPU_TEST_DEVICE").unwrap();
    let dir = TempDir::new();
    TinyModel { context: 400, ..TinyModel::default() }.write_dir(dir.path());
    let engine = engine(dir.path(), &device, |_| {});
    let jobs: Vec<(Input, GenParams)> = (0..12)
        .map(|i| {
            let length = [3, 140, 17, 1, 260, 40][i % 6];
            let params = if i % 3 == 2 { sampled(20) } else { greedy(24) };
            (tokens(length, i as u32), params)
        })
        .collect();
    let alone: Vec<_> =
        jobs.iter().map(|(input, params)| engine.generate(input.clone(), params.clone()).unwrap()).collect();
    let together: Vec<_> =
        jobs.iter().map(|(input, params)| engine.submit(input.clone(), params.clone()).unwrap()).collect();
    for (index, (alone, request)) in alone.iter().zip(&together).enumerate() {
        let together = request.wait().unwrap();
        assert_eq!(alone.tokens, together.tokens, "request {index}");
        assert_eq!(alone.finish, together.finish, "request {index}");
    }
    // The greedy ones are the CPU's too, wherever it is sure: a tiny model of random weights always is.
    let cpu = self::engine(dir.path(), "cpu", |options| options.dtype = Some("f32".into()));
    let (input, params) = &jobs[0];
    assert_eq!(cpu.generate(input.clone(), params.clone()).unwrap().tokens, alone[0].tokens);
    drop((engine, together));
    expect_clean();
}

/// A session's blocks go to a file and come back, and its text goes on as if nothing had been.
#[test]
fn a_session_is_saved_and_restored() {
    if !is_child() {
        for card in CARDS {
            let settings = [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_DEVICES", "2")];
            in_child("serving::a_session_is_saved_and_restored", &settings);
        }
        return;
    }
    let dir = TempDir::new();
    TinyModel { context: 512, ..TinyModel::default() }.write_dir(dir.path());
    let file = dir.join("session");
    let go_on = |engine: &Engine, restore: bool| {
        let session = if restore { engine.restore_session(&file) } else { engine.session() }.unwrap();
        let say = |input| {
            let job = Job { session: Some(&session), ..Job::new(input, greedy(9)) };
            engine.run(job).unwrap().wait().unwrap().tokens
        };
        if !restore {
            say(tokens(300, 1));
            session.save(&file).unwrap();
        }
        say(tokens(11, 2))
    };
    let first = engine(dir.path(), "npu:0,1", |_| {});
    let expected = go_on(&first, false);
    drop(first);
    let second = engine(dir.path(), "npu:0,1", |_| {});
    assert_eq!(go_on(&second, true), expected);
    drop(second);
    expect_clean();
}

/// What is scored and embedded is what the CPU says.
#[test]
fn texts_are_scored_and_embedded() {
    if !is_child() {
        for card in CARDS {
            in_child("serving::texts_are_scored_and_embedded", &[("AQUILA_SIM_SOC", card)]);
        }
        return;
    }
    let dir = TempDir::new();
    TinyModel { context: 300, ..TinyModel::default() }.write_dir(dir.path());
    let mut results = Vec::new();
    for device in ["cpu", "npu:0"] {
        let engine = engine(dir.path(), device, |options| {
            options.dtype = (device == "cpu").then(|| "f32".into());
        });
        let scores = engine.score("One two three", &[" four", " five six seven"]).unwrap();
        let embedding = engine.embed(&["Of a text of some length the mean is taken.", "Short"]).unwrap();
        results.push((scores, embedding.concat()));
    }
    let [(scores, embedding), (npu_scores, npu_embedding)] = &results[..] else { unreachable!() };
    for (expected, found) in scores.iter().zip(npu_scores) {
        assert!((expected - found).abs() < 0.05, "{scores:?} {npu_scores:?}");
    }
    assert_eq!(embedding.len(), npu_embedding.len());
    let worst = embedding.iter().zip(npu_embedding).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 0.01, "{worst}");
    expect_clean();
}

/// Memory of the host's process that is its own, in bytes.
fn private_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let of = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    of("Private_Clean:") + of("Private_Dirty:")
}

/// Ten thousand requests take no more of the device and of the host than the first hundred.
#[test]
fn many_requests_leave_nothing_behind() {
    if !is_child() {
        in_child("serving::many_requests_leave_nothing_behind", &[("AQUILA_SIM_JITTER", "0")]);
        return;
    }
    let dir = TempDir::new();
    TinyModel { layers: 1, ..TinyModel::default() }.write_dir(dir.path());
    let engine = engine(dir.path(), "npu:0", |options| options.max_batch = 16);
    let run = |count: usize| {
        for first in (0..count).step_by(100) {
            let requests: Vec<_> = (0..100)
                .map(|i| {
                    let params = if i % 4 == 0 { sampled(2) } else { greedy(2) };
                    engine.submit(tokens(4 + i % 5, (first + i) as u32), params).unwrap()
                })
                .collect();
            requests.iter().for_each(|request| assert_eq!(request.wait().unwrap().tokens.len(), 2));
        }
    };
    run(1000);
    let (device, host) = (simulator::used(0), private_bytes());
    run(9000);
    assert_eq!(simulator::used(0), device);
    let grown = private_bytes().saturating_sub(host);
    println!(
        "measured (simulated): 9,000 requests after the first 1,000: device +0, host +{} KiB",
        grown >> 10
    );
    assert!(grown < 4 << 20, "{grown} bytes");
    drop(engine);
    expect_clean();
}
