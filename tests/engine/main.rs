//! The engine over executors of two kinds: the asynchronous mock with the manners of an accelerator,
//! and the CPU. What a request gives must not depend on the device, on what else runs, on preemption
//! or on failures of others.

#[path = "../support/mod.rs"]
mod support;

mod choice;
mod constraint;
mod mock;
mod model;
mod serving;
mod sessions;
mod speculation;

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
use std::sync::mpsc::Sender;
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
        fingerprint: 0,
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
        lock_memory: false,
        copy_weights: false,
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

/// The manner of a device that takes each step only when it is told to, and all once the sender is gone.
/// The sender must go before the engine, which waits for its device.
fn gated(manner: Manner) -> (Sender<()>, Manner) {
    let (opener, gate) = std::sync::mpsc::channel();
    (opener, Manner { gate: Some(Arc::new(Mutex::new(gate))), ..manner })
}

#[test]
fn cancel_ends_a_request_and_leaves_the_others() {
    for (name, manner) in manners() {
        let (opener, manner) = gated(manner);
        let bench = bench(manner);
        let opener = opener;
        let long = bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(250)).unwrap();
        let other = bench.engine.submit(Input::Tokens(prompt(2, 4)), greedy(20)).unwrap();
        (0..10).for_each(|_| opener.send(()).unwrap());
        while !matches!(long.next(None).unwrap(), Next::Event(Event::Text { .. })) {}
        long.cancel();
        drop(opener);
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
    let (opener, manner) = gated(Manner::default());
    let bench = bench(manner);
    let opener = opener;
    let requests: Vec<_> =
        (0..12).map(|i| bench.engine.submit(Input::Tokens(prompt(i, 4)), greedy(200)).unwrap()).collect();
    let reader = std::thread::spawn({
        let request = bench.engine.submit(Input::Tokens(prompt(1, 4)), greedy(200)).unwrap();
        move || request.wait().unwrap_err().status
    });
    opener.send(()).unwrap();
    let other = bench.engine.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| other.close());
        scope.spawn(|| bench.engine.close());
        // Closing waits for the step that the device is at.
        while other.check().is_ok() {
            std::thread::yield_now();
        }
        drop(opener);
    });
    assert_eq!(reader.join().unwrap(), Status::Closed);
    for request in &requests {
        assert_eq!(request.wait().unwrap_err().status, Status::Closed);
    }
}

#[test]
fn the_waiting_line_is_bounded() {
    let (opener, manner) = gated(Manner::default());
    let bench = bench(manner);
    let opener = opener; // goes before the engine, which waits for its device
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
    drop(opener);
}

#[test]
fn a_timeout_loses_nothing_and_prefill_is_reported() {
    let (opener, manner) = gated(Manner { step_tokens: 64, ..Manner::default() });
    let bench = bench(manner);
    let opener = opener;
    let request = bench.engine.submit(Input::Tokens(prompt(1, 200)), greedy(3)).unwrap();
    let (mut tokens, mut timeouts, mut prefills) = (Vec::new(), 0, Vec::new());
    loop {
        match request.next(Some(Duration::from_millis(5))).unwrap() {
            // The device takes a step only when the reader has waited in vain.
            Next::Timeout => {
                timeouts += 1;
                let _ = opener.send(());
            }
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

/// Progress was once told when a step began, and a reader who came late heard the answer before it.
#[test]
fn prefill_is_told_when_it_is_computed_and_before_the_answer() {
    let (opener, manner) = gated(Manner { step_tokens: 64, ..Manner::default() });
    let bench = bench(manner);
    let opener = opener; // goes before the engine, which waits for its device
    let request = bench.engine.submit(Input::Tokens(prompt(1, 100)), greedy(2)).unwrap();
    // The device has the first chunk and does not come to its end.
    while bench.seen.lock().unwrap().steps == 0 {
        std::thread::yield_now();
    }
    assert!(matches!(request.next(Some(Duration::from_millis(1))).unwrap(), Next::Timeout));
    opener.send(()).unwrap();
    assert!(matches!(request.next(None).unwrap(), Next::Event(Event::Prefill { done: 64, total: 100 })));
    drop(opener);
    while request.timings().output_tokens < 2 {
        std::thread::yield_now();
    }
    assert!(matches!(request.next(None).unwrap(), Next::Event(Event::Prefill { done: 100, total: 100 })));
    assert_eq!(request.wait().unwrap().tokens, bench.plain.greedy(&prompt(1, 100), 2));
}

/// A thousand requests may wait: one that was not stepped yet must not hold memory by the vocabulary.
#[test]
fn waiting_requests_hold_no_sampler() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let (plain, seen) = (plain(), Arc::<Mutex<Seen>>::default());
    let (opener, manner) = gated(Manner { step_tokens: 8, ..Manner::default() });
    let info = EngineInfo { vocab: 4_000_000, ..info(manner.kv_blocks, manner.block_tokens) };
    let executor = Box::new(Mock::new(plain, manner, seen.clone()));
    let parts = Parts { info, tokenizer: None, chat: None, executor, max_waiting: 64, clock: Clock::real() };
    let engine = Engine::start(parts).unwrap();
    let opener = opener;
    let sampling = SamplingParams { repeat_penalty: 1.1, ..SamplingParams::default() };
    let submit = |len| {
        let params = GenParams { sampling: sampling.clone(), ..greedy(4) };
        engine.submit(Input::Tokens(prompt(1, len)), params).unwrap()
    };
    let wait_for_step = |number| {
        while seen.lock().unwrap().steps < number {
            std::thread::yield_now();
        }
    };
    // The first prompt fills many steps; the others are taken in behind it.
    let first = submit(200);
    wait_for_step(1);
    let before = resident();
    let others: Vec<_> = (0..12).map(|_| submit(4)).collect();
    opener.send(()).unwrap();
    wait_for_step(2);
    let grown = resident().saturating_sub(before);
    drop((first, others, opener));
    assert!(grown < 200 << 20, "{} MiB for 12 requests that wait", grown >> 20);
}

/// Such a device would never get to a prompt that is longer than its step, and all requests would fail.
#[test]
fn a_device_for_whole_prompts_must_take_a_whole_context() {
    let manner = Manner { whole_prompts: true, step_tokens: CONTEXT - 1, ..Manner::default() };
    let info = info(manner.kv_blocks, manner.block_tokens);
    let executor = Box::new(Mock::new(plain(), manner, Arc::default()));
    let parts = Parts { info, tokenizer: None, chat: None, executor, max_waiting: 64, clock: Clock::real() };
    let error = Engine::start(parts).err().unwrap();
    assert_eq!(error.status, Status::Unsupported);
    assert!(error.message.contains("context is 300") && error.message.contains("at most 299"), "{error}");
}

/// The draws of a request depend on its seed and its own tokens alone: not on what runs beside it, nor on
/// being put back and computed again in the middle.
#[test]
fn a_seed_gives_the_same_text_in_a_crowd_and_after_preemption() {
    let params = |i: u64| {
        let sampling = SamplingParams {
            temperature: 1.0,
            top_p: 0.9,
            repeat_penalty: 1.2,
            presence_penalty: 0.3,
            penalty_last_n: 20,
            seed: i % 3,
            ..SamplingParams::default()
        };
        GenParams { sampling, ..greedy(60) }
    };
    let input = |i: u64| Input::Tokens(prompt(i as usize / 3, 40 + i as usize * 9));
    let roomy = bench(Manner::default());
    let alone: Vec<_> = (0..8).map(|i| roomy.engine.generate(input(i), params(i)).unwrap().tokens).collect();
    assert_ne!(alone[0], alone[1]);
    let tight = bench(Manner { kv_blocks: 20, block_tokens: 16, ..Manner::default() });
    let requests: Vec<_> = (0..8).map(|i| tight.engine.submit(input(i), params(i)).unwrap()).collect();
    for (request, alone) in requests.iter().zip(&alone) {
        assert_eq!(&request.wait().unwrap().tokens, alone);
    }
}
