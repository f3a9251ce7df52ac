//! The engine over executors of two kinds: the asynchronous mock with the manners of an accelerator,
//! and the CPU. What a request gives must not depend on the device, on what else runs, on preemption
//! or on failures of others.

mod mock;
mod model;

use aquila::backend::cpu::CpuBackend;
use aquila::backend::cpu::isa::Level;
use aquila::backend::{Backend, ExecutorOptions, MemoryPlan};
use aquila::base::clock::Clock;
use aquila::engine::params::{Event, Finish, GenParams, Input};
use aquila::engine::{Engine, EngineInfo, Next, Parts};
use aquila::{Status, sampling::SamplingParams};
use mock::{Manner, Mock, Seen};
use model::Plain;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CONTEXT: usize = 300;

fn plain() -> Arc<Plain> {
    let spec = model::spec(CONTEXT);
    let weights = model::weights(&spec, true);
    Arc::new(Plain::new(spec, weights))
}

fn info(kv_blocks: usize, block_tokens: usize) -> EngineInfo {
    EngineInfo {
        device: "mock".into(),
        vocab: 50,
        layers: 2,
        hidden: 24,
        context: CONTEXT as u32,
        tensor_parallel: 1,
        bos: -1,
        eos: -1,
        stop_ids: Vec::new(),
        parameters: 0,
        weight_bytes: 0,
        plan: MemoryPlan { kv_blocks, block_tokens, ..MemoryPlan::default() },
        executor: Vec::new(),
        chat_template: None,
    }
}

struct Bench {
    engine: Engine,
    plain: Arc<Plain>,
    seen: Arc<Mutex<Seen>>,
}

fn bench(manner: Manner) -> Bench {
    let (plain, seen) = (plain(), Arc::default());
    let info = info(manner.kv_blocks, manner.block_tokens);
    let executor = Box::new(Mock::new(plain.clone(), manner, Arc::clone(&seen)));
    let parts = Parts { info, tokenizer: None, chat: None, executor, max_waiting: 64, clock: Clock::real() };
    Bench { engine: Engine::start(parts).unwrap(), plain, seen }
}

fn greedy(new: u32) -> GenParams {
    GenParams { max_tokens: new, ..GenParams::default() }
}

fn prompt(seed: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((seed * 31 + i * 7 + i * i * 3) % 50) as u32).collect()
}

/// Every manner a device can have.
fn manners() -> Vec<(&'static str, Manner)> {
    let base = Manner::default();
    vec![
        ("chunked", base.clone()),
        ("small blocks", Manner { block_tokens: 16, kv_blocks: 40, ..base.clone() }),
        ("selecting", Manner { device_select: true, ..base.clone() }),
        ("whole prompts", Manner { whole_prompts: true, step_tokens: CONTEXT, ..base.clone() }),
        (
            "whole prompts, selecting",
            Manner { whole_prompts: true, device_select: true, step_tokens: CONTEXT, ..base },
        ),
    ]
}

#[test]
fn a_request_gives_what_the_plain_decoder_gives() {
    for (name, manner) in manners() {
        let bench = bench(manner);
        for (seed, len, new) in [(1, 1, 20), (2, 130, 10), (3, 17, 1)] {
            let prompt = prompt(seed, len);
            let made = bench.engine.generate(Input::Tokens(prompt.clone()), greedy(new)).unwrap();
            assert_eq!(made.tokens, bench.plain.greedy(&prompt, new as usize), "{name}, {len} tokens");
            assert_eq!(made.finish, Finish::Length);
            assert_eq!(made.timings.output_tokens, new);
            assert_eq!(made.timings.prompt_tokens as usize, len);
        }
    }
}

#[test]
fn requests_at_once_give_what_each_gives_alone() {
    for (name, manner) in manners() {
        let bench = bench(manner);
        let jobs: Vec<_> = (0..20).map(|i| (prompt(i, 1 + i * 11), 3 + (i * 5) % 17)).collect();
        let requests: Vec<_> = jobs
            .iter()
            .map(|(p, n)| bench.engine.submit(Input::Tokens(p.clone()), greedy(*n as u32)).unwrap())
            .collect();
        for ((prompt, new), request) in jobs.iter().zip(&requests) {
            let made = request.wait().unwrap();
            assert_eq!(made.tokens, bench.plain.greedy(prompt, *new), "{name}");
        }
        let seen = bench.seen.lock().unwrap();
        assert!(seen.largest_step > 1, "{name}: nothing was batched");
    }
}

#[test]
fn the_cpu_gives_what_the_plain_decoder_gives() {
    let plain = plain();
    let backend = CpuBackend::new(Level::detect());
    let options = ExecutorOptions {
        dtype: None,
        kv_dtype: None,
        threads: 2,
        context: CONTEXT,
        max_batch: 8,
        host_memory: 0,
        device_memory: 0,
        kv_memory: 0,
        copied_bytes: 0,
        lock_memory: false,
    };
    let weights = model::weights(&plain.spec, true);
    let plan = backend.plan(&plain.spec, &weights, &options).unwrap();
    let mut progress = |_: &str, _, _| ControlFlow::Continue(());
    let executor =
        backend.open(Arc::new(plain.spec.clone()), weights, &options, &plan, &mut progress).unwrap();
    let info = EngineInfo { plan, ..info(0, 0) };
    let parts = Parts { info, tokenizer: None, chat: None, executor, max_waiting: 64, clock: Clock::real() };
    let engine = Engine::start(parts).unwrap();
    let jobs: Vec<_> = (0..12).map(|i| (prompt(i, 1 + i * 19), 3 + (i * 5) % 17)).collect();
    let requests: Vec<_> = jobs
        .iter()
        .map(|(p, n)| engine.submit(Input::Tokens(p.clone()), greedy(*n as u32)).unwrap())
        .collect();
    for ((prompt, new), request) in jobs.iter().zip(&requests) {
        assert_eq!(request.wait().unwrap().tokens, plain.greedy(prompt, *new));
    }
}

#[test]
fn a_selecting_device_is_kept_a_step_ahead() {
    let bench = bench(Manner { device_select: true, ..Manner::default() });
    bench.engine.generate(Input::Tokens(prompt(1, 5)), greedy(30)).unwrap();
    let seen = bench.seen.lock().unwrap();
    assert_eq!((seen.most_in_flight, seen.carried), (2, 29));
    drop(seen);
    // What the device cannot choose goes through the host, one step at a time.
    let sampling = SamplingParams { repeat_penalty: 1.3, ..SamplingParams::default() };
    let made = bench.engine.generate(Input::Tokens(prompt(1, 5)), GenParams { sampling, ..greedy(10) });
    assert_eq!(made.unwrap().logprobs.len(), 10);
    assert_eq!(bench.seen.lock().unwrap().carried, 29);
}

#[test]
fn running_out_of_blocks_changes_no_text() {
    // 20 blocks of 16 hold one full context and little more, so the younger requests are put back.
    for device_select in [false, true] {
        let bench = bench(Manner { kv_blocks: 20, block_tokens: 16, device_select, ..Manner::default() });
        let jobs: Vec<_> = (0..8).map(|i| (prompt(i, 40 + i * 9), 60)).collect();
        let requests: Vec<_> = jobs
            .iter()
            .map(|(p, n)| bench.engine.submit(Input::Tokens(p.clone()), greedy(*n)).unwrap())
            .collect();
        for ((prompt, new), request) in jobs.iter().zip(&requests) {
            assert_eq!(request.wait().unwrap().tokens, bench.plain.greedy(prompt, *new as usize));
        }
    }
}

#[test]
fn the_context_bounds_prompt_and_answer() {
    let bench = bench(Manner::default());
    let full = bench.engine.submit(Input::Tokens(prompt(1, CONTEXT)), greedy(1)).err().unwrap();
    assert_eq!(full.status, Status::ContextFull);
    assert!(full.message.contains("300 tokens"), "{}", full.message);
    let made = bench.engine.generate(Input::Tokens(prompt(1, CONTEXT - 1)), greedy(0)).unwrap();
    assert_eq!((made.tokens.len(), made.finish), (1, Finish::Context));
    let made = bench.engine.generate(Input::Tokens(prompt(1, CONTEXT - 3)), greedy(9)).unwrap();
    assert_eq!((made.tokens.len(), made.finish), (3, Finish::Context));
    let none = bench.engine.submit(Input::Tokens(Vec::new()), greedy(1)).err().unwrap();
    assert_eq!(none.status, Status::Argument);
    let wild = bench.engine.submit(Input::Tokens(vec![1, 50]), greedy(1)).err().unwrap();
    assert!(wild.message.contains("token 1 is 50"), "{}", wild.message);
    let text = bench.engine.submit(Input::Text("hello".into()), greedy(1)).err().unwrap();
    assert_eq!(text.status, Status::Unsupported);
}

#[test]
fn stop_tokens_end_a_text_and_min_tokens_hold_them_off() {
    let bench = bench(Manner::default());
    let prompt = prompt(4, 9);
    let free = bench.plain.greedy(&prompt, 30);
    let stop = free[4];
    let first = free.iter().position(|&t| t == stop).unwrap();
    let stopping = GenParams { stop_tokens: vec![stop], ..greedy(30) };
    let made = bench.engine.generate(Input::Tokens(prompt.clone()), stopping.clone()).unwrap();
    assert_eq!(made.tokens, free[..first]);
    assert_eq!((made.finish, made.timings.output_tokens as usize), (Finish::Stop, first + 1));
    let later = GenParams { min_tokens: 20, ..stopping };
    let made = bench.engine.generate(Input::Tokens(prompt), later).unwrap();
    assert!(made.tokens.len() >= 20 && !made.tokens[..20].contains(&stop));
}

#[test]
fn cancel_ends_a_request_and_leaves_the_others() {
    for (name, manner) in manners() {
        let bench = bench(Manner { step_time: Duration::from_millis(2), ..manner });
        let long = bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(250)).unwrap();
        let other = bench.engine.submit(Input::Tokens(prompt(2, 4)), greedy(20)).unwrap();
        while !matches!(long.next(None).unwrap(), Next::Event(Event::Text { .. })) {}
        long.cancel();
        let made = long.wait().unwrap();
        assert_eq!(made.finish, Finish::Cancelled, "{name}");
        assert!(made.timings.output_tokens < 250);
        assert_eq!(other.wait().unwrap().tokens, bench.plain.greedy(&prompt(2, 4), 20), "{name}");
        assert!(matches!(long.next(None).unwrap(), Next::Done));
    }
}

#[test]
fn a_failed_step_ends_its_requests_only() {
    for device_select in [false, true] {
        let manner = Manner {
            failing_submits: vec![3],
            failing_collects: vec![12],
            device_select,
            ..Manner::default()
        };
        let bench = bench(manner);
        let tokens = Input::Tokens(prompt(1, 4));
        let error = bench.engine.generate(tokens.clone(), greedy(100)).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (Status::Device, "launch 3 failed"));
        let error = bench.engine.generate(tokens.clone(), greedy(100)).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (Status::Device, "step 12 failed"));
        let made = bench.engine.generate(tokens, greedy(30)).unwrap();
        assert_eq!(made.tokens, bench.plain.greedy(&prompt(1, 4), 30));
    }
}

#[test]
fn a_panic_poisons_the_engine_and_spares_the_process() {
    let bench = bench(Manner { panicking_submit: Some(2), ..Manner::default() });
    let running = bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(100)).unwrap();
    let error = running.wait().unwrap_err();
    assert_eq!(error.status, Status::Internal);
    assert!(error.message.contains("the device's driver has a bug"), "{}", error.message);
    let later = bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(1)).err().unwrap();
    assert_eq!(later.status, Status::State);
    bench.engine.close();
    let closed = bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(1)).err().unwrap();
    assert_eq!(closed.status, Status::Closed);
}

#[test]
fn close_ends_everything_and_is_idempotent() {
    let bench = bench(Manner { step_time: Duration::from_millis(2), ..Manner::default() });
    let requests: Vec<_> =
        (0..12).map(|i| bench.engine.submit(Input::Tokens(prompt(i, 4)), greedy(200)).unwrap()).collect();
    let reader = std::thread::spawn({
        let request = bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(200)).unwrap();
        move || request.wait().unwrap_err().status
    });
    std::thread::sleep(Duration::from_millis(20));
    let other = bench.engine.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| other.close());
        bench.engine.close();
    });
    assert_eq!(reader.join().unwrap(), Status::Closed);
    for request in &requests {
        assert_eq!(request.wait().unwrap_err().status, Status::Closed);
    }
}

#[test]
fn the_waiting_line_is_bounded() {
    let bench = bench(Manner { step_time: Duration::from_millis(5), ..Manner::default() });
    let mut requests = Vec::new();
    let error = loop {
        match bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(250)) {
            Ok(request) => requests.push(request),
            Err(error) => break error,
        }
        assert!(requests.len() < 200);
    };
    assert_eq!(error.status, Status::Overloaded);
    assert!(requests.len() >= 64);
}

#[test]
fn a_timeout_loses_nothing_and_prefill_is_reported() {
    let bench = bench(Manner { step_time: Duration::from_millis(30), step_tokens: 64, ..Manner::default() });
    let request = bench.engine.submit(Input::Tokens(prompt(1, 200)), greedy(3)).unwrap();
    let (mut tokens, mut timeouts, mut prefills) = (Vec::new(), 0, Vec::new());
    loop {
        match request.next(Some(Duration::from_millis(5))).unwrap() {
            Next::Timeout => timeouts += 1,
            Next::Event(Event::Prefill { done, total }) => prefills.push((done, total)),
            Next::Event(Event::Text { tokens: t, .. }) => tokens.extend(t),
            Next::Event(Event::Finish { reason, .. }) => assert_eq!(reason, Finish::Length),
            Next::Done => break,
        }
    }
    assert!(timeouts > 0);
    assert_eq!(tokens, bench.plain.greedy(&prompt(1, 200), 3));
    assert_eq!(prefills.last(), Some(&(200, 200)));
    assert!(prefills.len() >= 3, "{prefills:?}");
}
