//! A device that finds the largest logits: requests get the tokens that whole rows give, and whole rows where they need
//! them.

use crate::mock::Manner;
use crate::{bench, prompt};
use aquila::engine::params::{GenParams, Input};
use aquila::sampling::SamplingParams;

/// More than any top-k here.
const CANDIDATES: usize = 12;

fn sampled(seed: u64) -> GenParams {
    let sampling =
        SamplingParams { temperature: 1.3, top_k: 5, top_p: 0.97, seed, ..SamplingParams::default() };
    GenParams { max_tokens: 12, sampling, ..GenParams::default() }
}

/// The tokens of some requests at once, and how many rows of candidates and of logits the device was asked for.
fn serve(manner: Manner, requests: &[(Vec<u32>, GenParams)]) -> (Vec<Vec<u32>>, usize, usize) {
    let bench = bench(manner);
    let submit = |(prompt, params): &(Vec<u32>, GenParams)| {
        bench.engine.submit(Input::Tokens(prompt.clone()), params.clone()).unwrap()
    };
    let running: Vec<_> = requests.iter().map(submit).collect();
    let made: Vec<_> = running.iter().map(|request| request.wait().unwrap()).collect();
    let seen = bench.seen.lock().unwrap();
    if seen.candidate_rows > 0 {
        // Log-probabilities need all logits. Those of a request are all there, or none are.
        assert!(made.iter().all(|made| made.logprobs.is_empty() || made.logprobs.len() == made.tokens.len()));
    }
    (made.into_iter().map(|made| made.tokens).collect(), seen.candidate_rows, seen.logit_rows)
}

fn requests() -> Vec<(Vec<u32>, GenParams)> {
    (0..8).map(|i| (prompt(i, [1, 130, 17][i % 3]), sampled(i as u64))).collect()
}

fn manners() -> Vec<Manner> {
    let whole_prompts = Manner { whole_prompts: true, step_tokens: crate::CONTEXT, ..Manner::default() };
    let selects = Manner { device_select: true, ..Manner::default() };
    vec![Manner::default(), whole_prompts, selects]
}

#[test]
fn sampled_tokens_are_those_of_whole_rows() {
    for manner in manners() {
        let (whole, candidates, _) = serve(manner.clone(), &requests());
        assert_eq!(candidates, 0);
        let (tokens, candidates, logits) = serve(Manner { candidates: CANDIDATES, ..manner }, &requests());
        assert_eq!(tokens, whole);
        assert_eq!((candidates, logits), (8 * 12, 0));
    }
}

/// Many logits are equal, and the device keeps others of them than the sampler would: then the row is computed again, and
/// the tokens are still the same.
#[test]
fn undecided_rows_are_computed_again() {
    for manner in manners() {
        let manner = Manner { coarse: true, ..manner };
        let (whole, _, _) = serve(manner.clone(), &requests());
        let (tokens, candidates, logits) = serve(Manner { candidates: CANDIDATES, ..manner }, &requests());
        assert_eq!(tokens, whole);
        assert!(candidates >= 8 && logits > 0, "{candidates} rows of candidates, {logits} of logits");
        assert!(logits <= 8 * 12, "after one undecided row a request takes whole ones");
    }
}

#[test]
fn requests_that_need_whole_rows_get_them() {
    let with = |change: fn(&mut GenParams)| {
        let mut params = sampled(3);
        change(&mut params);
        (prompt(4, 20), params)
    };
    let requests = [
        with(|p| p.logprobs = 2),
        with(|p| p.min_tokens = 3),
        with(|p| p.sampling.repeat_penalty = 1.2),
        with(|p| p.sampling.logit_bias = vec![(7, 2.0)]),
        with(|p| p.sampling.top_k = 0),
        with(|p| p.sampling.top_k = CANDIDATES as u32),
    ];
    let (whole, _, _) = serve(Manner::default(), &requests);
    let manner = Manner { candidates: CANDIDATES, device_select: true, ..Manner::default() };
    let (tokens, candidates, logits) = serve(manner, &requests);
    assert_eq!(tokens, whole);
    assert_eq!((candidates, logits), (0, requests.len() * 12));
}
