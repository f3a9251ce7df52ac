//! A step in steady state takes no memory, for everything was taken when the executor was opened; nor does
//! the engine's loop around it.
//!
//! One test alone in its program, so that no other test's allocations are counted.

#[path = "../support/allocations.rs"]
mod allocations;
#[path = "../support/mod.rs"]
mod support;

use aquila::backend::cpu::CpuBackend;
use aquila::backend::cpu::isa::Level;
use aquila::backend::{Backend, ExecutorOptions, Step, StepSequence, Want, WantedRow};
use aquila::base::dtype::DType;
use aquila::engine::Request;
use aquila::engine::params::{GenParams, Input};
use aquila::model::spec::{DecoderSpec, RopeScaling, RopeSpec};
use aquila::model::weights::{Role, RowMap, Weight, WeightSet};
use aquila::open::{self, LoadOptions};
use aquila::sampling::SamplingParams;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{TempDir, TinyModel};

/// A decoder whose weights, in every type, are small and whose q rows lie in two pieces along k.
fn weights(spec: &DecoderSpec, dtype: DType) -> WeightSet {
    let mut set = WeightSet::default();
    let (q, kv, hidden, ffn) = (spec.q_width(), spec.kv_width(), spec.hidden, spec.ffn);
    let mut add = |layer, role, rows: usize, cols: usize| {
        let part = |cols: usize| {
            let bytes = vec![0x11u8; rows * cols * dtype.block_bytes()];
            Weight::whole("w", rows, cols, dtype, bytes.into(), RowMap::Identity).unwrap()
        };
        let weight = match role {
            Role::Query => Weight::join_cols("w", vec![part(cols / 3), part(cols - cols / 3)]).unwrap(),
            _ => part(cols),
        };
        set.insert(layer, role, weight);
    };
    add(0, Role::Embedding, spec.vocab, hidden);
    add(0, Role::FinalNorm, 1, hidden);
    for layer in 0..spec.layers {
        for (role, rows, cols) in [
            (Role::AttentionNorm, 1, hidden),
            (Role::Query, q, hidden),
            (Role::Key, kv, hidden),
            (Role::Value, kv, hidden),
            (Role::Output, hidden, q),
            (Role::FfnNorm, 1, hidden),
            (Role::Gate, ffn, hidden),
            (Role::Up, ffn, hidden),
            (Role::Down, hidden, ffn),
        ] {
            add(layer, role, rows, cols);
        }
    }
    set
}

#[test]
fn steady_decode_takes_no_memory() {
    let before = allocations::calls();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(allocations::calls() > before, "nothing is counted");
    steps_take_no_memory();
    the_engines_loop_takes_no_memory();
}

/// Waits until a request has made `tokens` tokens.
fn wait_for(request: &Request, tokens: u32) {
    let start = Instant::now();
    while request.timings().output_tokens < tokens {
        assert!(start.elapsed() < Duration::from_secs(300), "no token any more");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Two requests that nobody reads from, with text and stop strings, one of them speculating: what is unread
/// grows by doubling, and nothing else is taken from one token to the next.
fn the_engines_loop_takes_no_memory() {
    let dir = TempDir::new();
    TinyModel { context: 1200, ..TinyModel::default() }.write_dir(dir.path());
    let options = LoadOptions { device: "cpu".into(), threads: 2, ..LoadOptions::default() };
    let engine = open::load(dir.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    let sampling = SamplingParams { temperature: 0.9, top_k: 40, repeat_penalty: 1.1, ..Default::default() };
    let params = |sampling, speculate| GenParams {
        speculate,
        max_tokens: 1000,
        ignore_eos: true,
        stop: vec!["never said".into()],
        sampling,
        ..GenParams::default()
    };
    let submit = |sampling, n| engine.submit(Input::Tokens(vec![5; 30]), params(sampling, n)).unwrap();
    let requests = [submit(sampling, 0), submit(SamplingParams::default(), 7)];
    requests.iter().for_each(|request| wait_for(request, 200));
    let before = allocations::calls();
    requests.iter().for_each(|request| wait_for(request, 1000));
    let calls = allocations::calls() - before;
    assert!(requests[1].timings().accepted_tokens > 100, "{:?}", requests[1].timings());
    // Text, tokens and their probabilities double three times on the way; the ends take a little too.
    assert!(calls <= 2 * 3 * 4 + 16, "{calls} allocations for 1600 tokens");
}

fn steps_take_no_memory() {
    let spec = DecoderSpec {
        layers: 2,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 96,
        vocab: 100,
        norm_eps: 1e-6,
        rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
        context: 64,
        score_clamp: None,
        tied: true,
    };
    let options = ExecutorOptions {
        dtype: None,
        kv_dtype: None,
        threads: 2,
        context: 64,
        max_batch: 2,
        host_memory: 0,
        device_memory: 0,
        kv_memory: 0,
        lock_memory: false,
        copy_weights: false,
    };
    let slots: Vec<u32> = (0..32).collect();
    let sequence = |first_row, rows, context, first_block| StepSequence {
        first_row,
        rows,
        context,
        first_block,
        blocks: 2,
    };
    let wanted = [WantedRow { row: 0, want: Want::Logits }, WantedRow { row: 1, want: Want::Hidden }];
    let prefill = Step {
        tokens: &[7; 20],
        positions: &slots[..20],
        slots: &slots[..20],
        sequences: &[sequence(0, 20, 20, 0)],
        block_tables: &[0, 1],
        wanted: &wanted,
        carry: &[],
    };
    let decode = Step {
        tokens: &[7, 8],
        positions: &[20, 0],
        slots: &[20, 32],
        sequences: &[sequence(0, 1, 21, 0), sequence(1, 1, 1, 2)],
        block_tables: &[0, 1, 2, 3],
        ..prefill
    };
    for level in Level::available() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (backend, set) = (CpuBackend::new(level), weights(&spec, dtype));
            let plan = backend.plan(&spec, &set, &options).unwrap();
            let mut progress = |_: &str, _, _| ControlFlow::Continue(());
            let spec = Arc::new(spec.clone());
            let mut executor = backend.open(spec, set, &options, &plan, &mut progress).unwrap();
            // The threads' own start may allocate, the first job awaits it.
            executor.submit(&prefill).unwrap();
            let before = allocations::calls();
            for _ in 0..3 {
                for step in [&prefill, &decode] {
                    let ticket = executor.submit(step).unwrap();
                    assert!(matches!(
                        executor.collect(ticket).unwrap().row(0),
                        aquila::backend::Row::Logits(_)
                    ));
                }
                executor.copy_blocks(&[(0, 1)]).unwrap();
            }
            let calls = allocations::calls() - before;
            assert_eq!(calls, 0, "{level} {dtype}");
        }
    }
}
