//! Speculation changes when tokens come, and nothing else: ids, probabilities, text and end are those of
//! plain decoding, whatever is asked for and whatever happens meanwhile.

use super::support::{TempDir, TinyModel};
use super::{Bench, bench, gated, greedy, info, manners, plain, prompt};
use crate::mock::{Manner, Mock};
use aquila::base::clock::Clock;
use aquila::engine::params::{Event, Finish, GenParams, Generation, Input};
use aquila::engine::{Engine, Next, Parts};
use aquila::open::{self, LoadOptions};
use aquila::{Status, sampling::SamplingParams};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::sync::Arc;

fn speculating(params: &GenParams) -> GenParams {
    GenParams { speculate: 7, ..params.clone() }
}

/// A prompt that says the same again and again.
fn refrain(seed: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((seed * 31 + (i % 9) * (i % 9) * 5) % 50) as u32).collect()
}

#[track_caller]
fn assert_same(with: &Generation, without: &Generation) {
    assert_eq!(with.tokens, without.tokens);
    let bits = |g: &Generation| g.logprobs.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(with), bits(without));
    assert_eq!((&with.text, with.finish), (&without.text, without.finish));
    assert_eq!(with.timings.output_tokens, without.timings.output_tokens);
    assert_eq!((without.timings.proposed_tokens, without.timings.accepted_tokens), (0, 0));
    assert!(with.timings.accepted_tokens <= with.timings.proposed_tokens);
}

#[test]
fn each_accepted_token_saves_a_step() {
    let bench = bench(Manner::default());
    let input = Input::Tokens(refrain(1, 60));
    let params = GenParams {
        // A text of three ids says much twice.
        sampling: SamplingParams {
            temperature: 1.0,
            seed: 3,
            logit_bias: vec![(5, 40.0), (6, 40.0), (7, 40.0)],
            ..SamplingParams::default()
        },
        ..greedy(200)
    };
    for params in [greedy(200), params] {
        let without = bench.engine.generate(input.clone(), params.clone()).unwrap();
        let before = bench.seen.lock().unwrap().steps;
        let with = bench.engine.generate(input.clone(), speculating(&params)).unwrap();
        let steps = bench.seen.lock().unwrap().steps - before;
        assert_same(&with, &without);
        let timings = with.timings;
        assert!(timings.accepted_tokens > 20, "{timings:?}");
        assert!(timings.proposed_tokens > timings.accepted_tokens, "{timings:?}");
        assert_eq!(steps, u64::from(timings.output_tokens - timings.accepted_tokens));
    }
}

#[test]
fn devices_that_cannot_verify_are_asked_for_nothing() {
    for (name, manner) in manners() {
        let selects = manner.device_select || manner.whole_prompts;
        let few = Manner { cheap_rows: 1, ..manner.clone() };
        for (manner, off) in [(manner, selects), (few, true)] {
            let Bench { engine, plain, .. } = bench(manner);
            let made = engine.generate(Input::Tokens(refrain(1, 60)), speculating(&greedy(60))).unwrap();
            assert_eq!(made.tokens, plain.greedy(&refrain(1, 60), 60), "{name}");
            assert_eq!(made.timings.proposed_tokens == 0, off, "{name}");
        }
    }
}

#[test]
fn a_crowd_is_not_speculated_for() {
    let (opener, manner) = gated(Manner::default());
    let bench = bench(manner);
    let opener = opener; // goes before the engine, which waits for its device
    let params = speculating(&greedy(40));
    let requests: Vec<_> =
        (0..5).map(|i| bench.engine.submit(Input::Tokens(refrain(i, 20)), params.clone()).unwrap()).collect();
    // The first step may hold the first prompts alone; from the third on all five decode to the end.
    drop(opener);
    for (i, request) in requests.iter().enumerate() {
        let made = request.wait().unwrap();
        assert_eq!(made.tokens, bench.plain.greedy(&refrain(i, 20), 40));
        assert!(made.timings.proposed_tokens <= 7 * 3, "{:?}", made.timings);
    }
}

#[test]
fn cancelling_a_speculating_request_leaves_the_others() {
    let (opener, manner) = gated(Manner::default());
    let bench = bench(manner);
    let opener = opener; // goes before the engine, which waits for its device
    let long = bench.engine.submit(Input::Tokens(refrain(1, 40)), speculating(&greedy(250))).unwrap();
    let other = bench.engine.submit(Input::Tokens(refrain(2, 40)), speculating(&greedy(60))).unwrap();
    (0..10).for_each(|_| opener.send(()).unwrap());
    let mut tokens = Vec::new();
    while tokens.len() < 4 {
        if let Next::Event(Event::Text { tokens: t, .. }) = long.next(None).unwrap() {
            tokens.extend(t);
        }
    }
    long.cancel();
    drop(opener);
    let made = long.wait().unwrap();
    tokens.extend(made.tokens);
    assert_eq!(made.finish, Finish::Cancelled);
    assert_eq!(tokens, bench.plain.greedy(&refrain(1, 40), 250)[..tokens.len()]);
    assert_eq!(other.wait().unwrap().tokens, bench.plain.greedy(&refrain(2, 40), 60));
}

#[test]
fn a_failed_step_of_proposals_ends_its_request_only() {
    let bench = bench(Manner { failing_submits: vec![4], failing_collects: vec![20], ..Manner::default() });
    let input = || Input::Tokens(refrain(1, 40));
    for part in ["launch 4 failed", "step 20 failed"] {
        let error = bench.engine.generate(input(), speculating(&greedy(200))).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (Status::Device, part));
    }
    let made = bench.engine.generate(input(), speculating(&greedy(60))).unwrap();
    assert_eq!(made.tokens, bench.plain.greedy(&refrain(1, 40), 60));
}

#[test]
fn an_absurd_number_is_refused() {
    let params = GenParams { speculate: 65, ..greedy(1) };
    let error = bench(Manner::default()).engine.generate(Input::Tokens(vec![1]), params).unwrap_err();
    assert_eq!(error.status, Status::Argument);
    assert!(error.message.contains("speculate: 65, expected at most 64"), "{error}");
}

/// A request of a random kind.
fn request() -> impl Strategy<Value = (Vec<u32>, GenParams)> {
    let sampling = (0usize..4, 0u64..100, 1usize..5, 0u32..60).prop_map(|(kind, seed, ids, from)| {
        let few = (0..ids as u32).map(|i| ((from + i * 7) % 50, 30.0)).collect();
        let base = SamplingParams { seed, logit_bias: few, ..SamplingParams::default() };
        match kind {
            0 => SamplingParams { logit_bias: Vec::new(), ..base },
            1 => SamplingParams { repeat_penalty: 1.3, penalty_last_n: 6, ..base },
            2 => SamplingParams { temperature: 0.8, top_p: 0.9, top_k: 5, ..base },
            _ => SamplingParams {
                temperature: 1.3,
                min_p: 0.05,
                presence_penalty: 0.4,
                frequency_penalty: 0.2,
                repeat_penalty: 1.1,
                ..base
            },
        }
    });
    let ends = (0u32..70, 0u32..10, proptest::collection::vec(0u32..50, 0..2));
    let tokens = (0usize..50, 1usize..290, any::<bool>());
    (sampling, ends, tokens, 1u32..12).prop_map(|(sampling, ends, (seed, len, again), speculate)| {
        let (max_tokens, min_tokens, stop_tokens) = ends;
        // The text to the end of the context is long: only behind a long prompt.
        let max_tokens = if len < 230 { max_tokens.max(1) } else { max_tokens };
        let min_tokens = if max_tokens == 0 { min_tokens } else { min_tokens.min(max_tokens) };
        let tokens = if again { refrain(seed, len) } else { prompt(seed, len) };
        (
            tokens,
            GenParams { max_tokens, min_tokens, sampling, stop_tokens, speculate, ..GenParams::default() },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Requests of all kinds, several at once, with room and without, on devices of several widths: each
    /// gives what it gives alone without speculation.
    #[test]
    fn speculation_changes_nothing(
        jobs in proptest::collection::vec(request(), 1..6),
        (kv_blocks, cheap_rows) in (19usize..40, 2usize..9),
        at_once: bool,
    ) {
        let bench = bench(Manner { kv_blocks, block_tokens: 16, cheap_rows, ..Manner::default() });
        let run = |speculate: bool| -> Vec<Generation> {
            let submit = |(tokens, params): &(Vec<u32>, GenParams)| {
                let speculate = if speculate { params.speculate } else { 0 };
                let params = GenParams { speculate, ..params.clone() };
                bench.engine.submit(Input::Tokens(tokens.clone()), params).unwrap()
            };
            if at_once && speculate {
                let requests: Vec<_> = jobs.iter().map(submit).collect();
                return requests.iter().map(|request| request.wait().unwrap()).collect();
            }
            jobs.iter().map(|job| submit(job).wait().unwrap()).collect()
        };
        for (with, without) in run(true).iter().zip(&run(false)) {
            assert_same(with, without);
        }
    }
}

/// Small real weights on the CPU with a tokenizer: text, stop strings, the end of the context.
#[test]
fn on_the_cpu_text_and_end_are_the_same() {
    let dir = TempDir::new();
    TinyModel { context: 400, ..TinyModel::default() }.write_dir(dir.path());
    for dtype in ["f32", "q8"] {
        let options = LoadOptions {
            device: "cpu".into(),
            dtype: Some(dtype.into()),
            threads: 2,
            max_batch: 2,
            ..LoadOptions::default()
        };
        let engine = open::load(dir.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
        let prompt = Input::Text("one two three, one two three, one two".into());
        let base = GenParams { ignore_eos: true, max_tokens: 90, ..GenParams::default() };
        let few = (40..46).map(|id| (id, 30.0)).collect();
        let sampling = SamplingParams { temperature: 0.9, seed: 5, logit_bias: few, ..Default::default() };
        let mut accepted = 0;
        let mut check = |params: GenParams| {
            let without = engine.generate(prompt.clone(), params.clone()).unwrap();
            let with = engine.generate(prompt.clone(), speculating(&params)).unwrap();
            assert_same(&with, &without);
            accepted += with.timings.accepted_tokens;
            // Beside others, too.
            let submit = || engine.submit(prompt.clone(), speculating(&params)).unwrap();
            let requests: Vec<_> = (0..3).map(|_| submit()).collect();
            requests.iter().for_each(|request| assert_same(&request.wait().unwrap(), &without));
            without
        };
        for sampling in [SamplingParams::default(), sampling] {
            let base = GenParams { sampling, ..base.clone() };
            let free = check(base.clone());
            for max_tokens in [1, 2, 3, 50, 51, 52, 53, 54, 0] {
                check(GenParams { max_tokens, ..base.clone() });
            }
            // Stop strings from many places of the text, short ones and one that was said before.
            let characters: Vec<char> = free.text.chars().collect();
            for from in (characters.len() / 2..characters.len() - 3).step_by(13) {
                let stop = vec![characters[from..from + 3].iter().collect()];
                let made = check(GenParams { stop: stop.clone(), ..base.clone() });
                assert!(made.finish == Finish::Stop && !made.text.contains(&stop[0]));
                check(GenParams { stop, keep_stop: true, min_tokens: 20, ..base.clone() });
            }
            check(GenParams { stop_tokens: vec![free.tokens[60]], min_tokens: 40, ..base.clone() });
        }
        assert!(accepted > 100, "{dtype}: {accepted}");
    }
}

#[test]
fn a_context_that_ends_in_an_accepted_run_ends_there() {
    let manner = Manner { kv_blocks: 19, block_tokens: 16, ..Manner::default() };
    let info = info(manner.kv_blocks, manner.block_tokens);
    let executor = Box::new(Mock::new(plain(), manner, Arc::default()));
    let parts = Parts { info, tokenizer: None, chat: None, executor, max_waiting: 4, clock: Clock::real() };
    let engine = Engine::start(parts).unwrap();
    for len in 230..300 {
        let input = Input::Tokens(refrain(4, len));
        let without = engine.generate(input.clone(), greedy(0)).unwrap();
        let with = engine.generate(input, speculating(&greedy(0))).unwrap();
        assert_eq!((with.finish, with.tokens.len()), (Finish::Context, 300 - len));
        assert_same(&with, &without);
    }
}
