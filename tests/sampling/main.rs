//! The sampler against a plain one in f64, its distribution, and broken logits.

use aquila::Status;
use aquila::sampling::{Allowed, Largest, Likely, Sampler, SamplingParams, most_likely};
use proptest::prelude::*;

/// Everything by the book, slowly: the probability of each id that may be drawn.
fn naive(
    params: &SamplingParams,
    raw: &[f32],
    prompt: &[u32],
    output: &[u32],
    banned: &[u32],
) -> Vec<(u32, f64)> {
    let mut logits: Vec<f64> = raw.iter().map(|&l| f64::from(l)).collect();
    for &(id, bias) in &params.logit_bias {
        logits[id as usize] += f64::from(bias);
    }
    let all: Vec<(u32, bool)> =
        prompt.iter().map(|&t| (t, false)).chain(output.iter().map(|&t| (t, true))).collect();
    let window =
        if params.penalty_last_n < 0 { all.len() } else { (params.penalty_last_n as usize).min(all.len()) };
    let window = &all[all.len() - window..];
    for (id, logit) in logits.iter_mut().enumerate() {
        let seen = window.iter().filter(|(t, _)| *t as usize == id).count();
        let made = window.iter().filter(|(t, out)| *t as usize == id && *out).count();
        if seen > 0 {
            let penalty = f64::from(params.repeat_penalty);
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if made > 0 {
            *logit -= f64::from(params.frequency_penalty) * made as f64 + f64::from(params.presence_penalty);
        }
    }
    let mut left: Vec<(u32, f64)> = (0u32..).zip(logits).collect();
    left.retain(|(id, logit)| *logit > f64::NEG_INFINITY && !banned.contains(id));
    left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if params.temperature == 0.0 {
        left.truncate(1);
        return left.into_iter().map(|(id, _)| (id, 1.0)).collect();
    }
    if params.top_k > 0 {
        left.truncate(params.top_k as usize);
    }
    if params.typical_p < 1.0 {
        let p = softmax(&left, 1.0);
        let entropy: f64 = p.iter().map(|(_, p)| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
        let mut order: Vec<usize> = (0..left.len()).collect();
        let distance = |at: usize| (-p[at].1.ln() - entropy).abs();
        order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        let kept = front(order.iter().map(|&at| p[at].1), f64::from(params.typical_p));
        let mut kept = order[..kept].to_vec();
        kept.sort_unstable();
        left = kept.into_iter().map(|at| left[at]).collect();
    }
    if params.top_p < 1.0 {
        let kept = front(softmax(&left, 1.0).into_iter().map(|(_, p)| p), f64::from(params.top_p));
        left.truncate(kept);
    }
    if params.min_p > 0.0 {
        let p = softmax(&left, 1.0);
        let best = p[0].1;
        left = left
            .into_iter()
            .zip(p)
            .filter(|(_, (_, p))| *p >= best * f64::from(params.min_p))
            .map(|(c, _)| c)
            .collect();
    }
    softmax(&left, f64::from(params.temperature))
}

fn softmax(logits: &[(u32, f64)], temperature: f64) -> Vec<(u32, f64)> {
    let largest = logits.iter().map(|l| l.1).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|l| ((l.1 - largest) / temperature).exp()).sum();
    logits.iter().map(|&(id, l)| (id, ((l - largest) / temperature).exp() / sum)).collect()
}

fn front(probabilities: impl Iterator<Item = f64>, mass: f64) -> usize {
    let (mut reached, mut count) = (0.0, 0);
    for p in probabilities {
        (reached, count) = (reached + p, count + 1);
        if reached >= mass {
            break;
        }
    }
    count
}

fn parameters() -> impl Strategy<Value = SamplingParams> {
    let share = || prop_oneof![Just(1.0f32), 0.0f32..1.0];
    let penalty = || prop_oneof![Just(0.0f32), -2.0f32..2.0];
    (
        (prop_oneof![Just(0.0f32), 0.05f32..3.0], prop_oneof![Just(0u32), 1u32..6, 1u32..60]),
        (share(), prop_oneof![Just(0.0f32), 0.0f32..1.0], share()),
        (prop_oneof![Just(1.0f32), 0.5f32..2.0], penalty(), penalty(), -1i32..12),
        prop::collection::vec((0u32..40, prop_oneof![-20.0f32..20.0, Just(f32::NEG_INFINITY)]), 0..4),
    )
        .prop_map(
            |((temperature, top_k), (top_p, min_p, typical_p), (repeat, frequency, presence, last), bias)| {
                SamplingParams {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    typical_p,
                    repeat_penalty: repeat,
                    frequency_penalty: frequency,
                    presence_penalty: presence,
                    penalty_last_n: last,
                    seed: 1,
                    logit_bias: bias,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Over a few steps with penalties that build up: what is chosen may be chosen, greedy is the very
    /// token, and the log-probability is that of the raw logits.
    #[test]
    fn chooses_what_the_plain_sampler_may(
        params in parameters(),
        steps in prop::collection::vec(prop::collection::vec(prop_oneof![-9.0f32..9.0, (-3i8..3).prop_map(f32::from)], 40), 1..6),
        prompt in prop::collection::vec(0u32..50, 0..8),
        banned in prop::collection::vec(0u32..40, 0..3),
    ) {
        let mut sampler = Sampler::new(params.clone(), 40).unwrap();
        sampler.see_prompt(&prompt);
        let mut output = Vec::new();
        for (index, logits) in steps.iter().enumerate() {
            let expected = naive(&params, logits, &prompt, &output, &banned);
            let choice = sampler.choose(logits, &banned, index as u64).unwrap();
            let probability = expected.iter().find(|(id, _)| *id == choice.token).map_or(0.0, |(_, p)| *p);
            // A filter's border may fall between f32 and f64: then the token is the first beyond it.
            if probability == 0.0 {
                let widened = SamplingParams {
                    top_p: (params.top_p + 1e-5).min(1.0), typical_p: (params.typical_p + 1e-5).min(1.0),
                    min_p: (params.min_p - 1e-5).max(0.0), ..params.clone()
                };
                let wider = naive(&widened, logits, &prompt, &output, &banned);
                prop_assert!(wider.iter().any(|(id, _)| *id == choice.token), "{choice:?} {expected:?}");
            }
            let all: Vec<(u32, f64)> = (0u32..).zip(logits.iter().map(|&l| f64::from(l))).collect();
            let logprob = softmax(&all, 1.0)[choice.token as usize].1.ln();
            prop_assert!((f64::from(choice.logprob) - logprob).abs() < 1e-5, "{choice:?} {logprob}");
            output.push(choice.token);
        }
    }

    /// Any bit patterns at all: an id below the vocabulary, or an error that says what is broken.
    #[test]
    fn any_bits_give_a_token_or_an_error(
        bits in prop::collection::vec(prop_oneof![any::<u32>(), prop::sample::select(vec![
            0, 0x8000_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7F7F_FFFF, 0xFF7F_FFFF, 1,
        ])], 40),
        params in parameters(),
    ) {
        let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let mut sampler = Sampler::new(params, 40).unwrap();
        sampler.see_prompt(&[1, 2, 3, u32::MAX]);
        for index in 0..3 {
            match sampler.choose(&logits, &[], index) {
                Ok(choice) => prop_assert!(choice.token < 40 && !choice.logprob.is_nan() && choice.logprob <= 0.0),
                Err(error) => prop_assert!(error.status == Status::State && error.message.contains("no finite logit")),
            }
        }
        if logits.iter().any(|logit| logit.is_nan()) {
            prop_assert!(sampler.choose(&logits, &[], 9).is_err());
        }
    }
}

/// Chi-squared over 200,000 draws: each option's frequencies are the plain sampler's probabilities.
#[test]
fn frequencies_are_the_probabilities() {
    let logits: Vec<f32> = (0..300).map(|i| ((i * 37 % 101) as f32 / 20.0).sin() * 3.0).collect();
    let base = SamplingParams { temperature: 0.8, seed: 42, ..SamplingParams::default() };
    for params in [
        base.clone(),
        SamplingParams { top_k: 7, ..base.clone() },
        SamplingParams { top_p: 0.6, ..base.clone() },
        SamplingParams { min_p: 0.3, temperature: 1.7, ..base.clone() },
        SamplingParams { typical_p: 0.5, ..base.clone() },
        SamplingParams { top_k: 200, top_p: 0.95, min_p: 0.02, typical_p: 0.97, temperature: 0.3, ..base },
    ] {
        let expected = naive(&params, &logits, &[], &[], &[]);
        let mut sampler = Sampler::new(params.clone(), logits.len()).unwrap();
        let mut counts = vec![0u32; logits.len()];
        const DRAWS: u32 = 20_000;
        for index in 0..DRAWS {
            counts[sampler.choose(&logits, &[], u64::from(index)).unwrap().token as usize] += 1;
        }
        let mut squares = 0.0;
        for &(id, p) in &expected {
            let wanted = p * f64::from(DRAWS);
            squares += (f64::from(counts[id as usize]) - wanted).powi(2) / wanted;
            counts[id as usize] = 0;
        }
        assert!(counts.iter().all(|&count| count == 0), "{params:?}: drew what it may not");
        let freedom = expected.len() as f64 - 1.0;
        // Five standard deviations above the mean of chi-squared.
        assert!(
            squares < freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0,
            "{params:?}: {squares} for {freedom}"
        );
    }
}

#[test]
fn the_seed_and_the_index_alone_decide() {
    let logits: Vec<f32> = (0..1000).map(|i| (i % 13) as f32 / 4.0).collect();
    let params = |seed| SamplingParams { temperature: 1.0, seed, ..SamplingParams::default() };
    let run = |seed, from: u64| -> Vec<u32> {
        let mut sampler = Sampler::new(params(seed), 1000).unwrap();
        (from..20).map(|index| sampler.choose(&logits, &[], index).unwrap().token).collect()
    };
    assert_eq!(run(5, 0), run(5, 0));
    assert_eq!(run(5, 0)[10..], run(5, 10));
    assert_ne!(run(5, 0), run(6, 0));
    assert_ne!(run(5, 0), run(5 | 1 << 40, 0));
}

#[test]
fn broken_and_extreme_logits() {
    let choose = |temperature: f32, logits: &[f32], banned: &[u32]| {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        Sampler::new(params, logits.len()).unwrap().choose(logits, banned, 0)
    };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for t in [0.0, 1.0, 1e-30, 100.0] {
        for logits in [[nan, 1.0, 2.0], [1.0, nan, 2.0], [1.0, 2.0, nan], [nan; 3], [-inf; 3]] {
            let error = choose(t, &logits, &[]).unwrap_err();
            assert_eq!(error.status, Status::State);
            assert!(error.message.contains("no finite logit"), "{error}");
        }
        assert_eq!(choose(t, &[1.0, 5.0, 2.0], &[0, 1, 2]).unwrap_err().status, Status::State);
        assert_eq!(choose(t, &[1.0, inf, 2.0], &[]).unwrap().token, 1);
        assert_eq!(choose(t, &[1.0, inf, 2.0], &[]).unwrap().logprob, 0.0);
        assert_eq!(choose(t, &[-inf, -inf, -3.0], &[]).unwrap().token, 2);
        assert_eq!(choose(t, &[f32::MIN, f32::MAX, f32::MIN], &[]).unwrap().token, 1);
        let both = choose(t, &[inf, 0.0, inf], &[]).unwrap();
        assert!(both.token != 1 && (both.logprob + 2f32.ln()).abs() < 1e-6);
    }
    // Ties, and −0 equal to 0, go to the lowest id; a ban to the next.
    assert_eq!(choose(0.0, &[-0.0, 0.0, 0.0], &[]).unwrap().token, 0);
    assert_eq!(choose(0.0, &[1.0, 7.0, 7.0], &[]).unwrap().token, 1);
    assert_eq!(choose(0.0, &[1.0, 7.0, 7.0], &[1]).unwrap().token, 2);
    // A bias of −∞ on a logit of +∞ makes NaN: never chosen.
    let params = SamplingParams { logit_bias: vec![(1, -inf)], ..SamplingParams::default() };
    assert_eq!(Sampler::new(params, 3).unwrap().choose(&[1.0, inf, 2.0], &[], 0).unwrap().token, 2);
    let wrong = Sampler::new(SamplingParams::default(), 3).unwrap().choose(&[1.0], &[], 0).unwrap_err();
    assert_eq!(wrong.status, Status::Internal);
}

proptest! {
    /// The most likely tokens are the first ones of all, sorted; ties go to the lower id.
    #[test]
    fn the_most_likely_tokens_are_those_of_a_full_sort(
        logits in proptest::collection::vec(prop_oneof![(-20i32..20).prop_map(|n| n as f32 / 4.0), Just(f32::NEG_INFINITY)], 1..200),
        count in 1usize..21,
    ) {
        let mut found = vec![Likely { token: 7, logprob: 0.5 }];
        most_likely(&logits, count, &mut found);
        let (kept, found) = found.split_first().unwrap();
        prop_assert_eq!(kept.token, 7, "what was there stays");
        if logits.iter().all(|&logit| logit == f32::NEG_INFINITY) {
            prop_assert!(found.is_empty());
            return Ok(());
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let largest = f64::from(logits[order[0]]);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        prop_assert_eq!(found.len(), count.min(logits.len()));
        for (found, &expected) in found.iter().zip(&order) {
            prop_assert_eq!(found.token as usize, expected);
            let logprob = f64::from(logits[expected]) - largest - sum.ln();
            prop_assert!((f64::from(found.logprob) - logprob).abs() < 1e-5 || logprob == f64::NEG_INFINITY);
        }
    }
}

proptest! {
    /// Choosing among some tokens is choosing with the logits of all others at −∞; but for the log-probability, which is
    /// that of the model.
    #[test]
    fn choosing_among_some_is_choosing_without_the_others(
        params in parameters(),
        logits in proptest::collection::vec((-20i32..20).prop_map(|n| n as f32 / 4.0), 100..101),
        words in proptest::collection::vec(any::<u32>() , 4..6),
        banned in proptest::collection::vec(0u32..100, 0..4),
        index: u64,
    ) {
        let vocab = logits.len();
        let is_allowed = |id: usize| words.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
        let mut masked = logits.clone();
        (0..vocab).filter(|&id| !is_allowed(id)).for_each(|id| masked[id] = f32::NEG_INFINITY);
        let sampler = |logits: &[f32], allowed| {
            let Ok(mut sampler) = Sampler::new(params.clone(), vocab) else { return None };
            Some(sampler.choose_among(logits, allowed, &banned, index))
        };
        let (Some(some), Some(all)) = (sampler(&logits, Some(Allowed(&words))), sampler(&masked, None)) else {
            return Ok(());
        };
        match (some, all) {
            (Ok(some), Ok(all)) => {
                prop_assert_eq!(some.token, all.token);
                prop_assert_eq!(Some(some.logprob), aquila::sampling::logprob_of(&logits, some.token));
            }
            (Err(some), Err(_)) => prop_assert_eq!(some.status, Status::Constraint),
            (some, all) => prop_assert!(false, "{:?} {:?}", some, all),
        }
    }
}

/// The `count` largest of a row as a device finds them: falling, equal ones in whatever order, and of those that are equal
/// at the last place whichever come.
fn largest_of(logits: &[f32], count: usize, salt: u32) -> (Vec<f32>, Vec<u32>) {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let shuffled = |id: u32| (id ^ salt).wrapping_mul(0x9E37_79B1);
    let logit = |id: u32| logits[id as usize];
    ids.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(shuffled(a).cmp(&shuffled(b))));
    ids.truncate(count);
    (ids.iter().map(|&id| logit(id)).collect(), ids)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// A choice among the largest logits is that of the whole row, from the same random number, in whatever order equal ones
    /// come; where equal ones are missing it is said, and only then.
    #[test]
    fn choosing_among_the_largest_is_choosing_from_all(
        params in parameters(),
        logits in prop_oneof![
            prop::collection::vec(-9.0f32..9.0, 150),
            prop::collection::vec((-20i32..20).prop_map(|n| n as f32 / 4.0), 150),
            prop::collection::vec(prop_oneof![Just(f32::NEG_INFINITY), -9.0f32..9.0], 150),
            prop::collection::vec(prop_oneof![12 => Just(0.0), 1 => Just(f32::INFINITY), 1 => Just(3.0)], 150),
        ],
        top_k in 1u32..64,
        count in prop_oneof![Just(64usize), 2usize..64],
        salt: u32,
        indices in prop::collection::vec(any::<u64>(), 1..6),
    ) {
        let plain = SamplingParams { repeat_penalty: 1.0, frequency_penalty: 0.0, presence_penalty: 0.0, ..params };
        let params = SamplingParams { top_k, logit_bias: Vec::new(), ..plain };
        prop_assert_eq!(params.needs_only_largest(count), params.temperature > 0.0 && (top_k as usize) < count);
        if !params.needs_only_largest(count) {
            return Ok(());
        }
        let (found, ids) = largest_of(&logits, count, salt);
        let largest = Largest { logits: &found, ids: &ids };
        let ends_within = found[count - 1] < found[top_k as usize - 1] || found[count - 1] == f32::NEG_INFINITY;
        let mut whole = Sampler::new(params.clone(), 150).unwrap();
        let mut sampler = Sampler::new(params, 150).unwrap();
        for index in indices {
            let all = whole.choose(&logits, &[], index);
            match sampler.choose_largest(largest, index) {
                Ok(Some(token)) => {
                    prop_assert!(ends_within);
                    prop_assert_eq!(token, all.unwrap().token);
                }
                Ok(None) => prop_assert!(!ends_within),
                Err(error) => prop_assert_eq!(error.message, all.unwrap_err().message),
            }
        }
    }

    /// Whatever a device answers there is an id below the vocabulary, a request for the whole row, or an error.
    #[test]
    fn any_largest_logits_give_a_token_or_an_error(
        bits in prop::collection::vec(any::<u32>(), 0..20),
        ids in prop::collection::vec(0u32..45, 0..20),
        sorted: bool,
        params in parameters(),
    ) {
        let mut logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        if sorted {
            logits.sort_by(|a, b| b.total_cmp(a));
        }
        let chosen = Sampler::new(params, 40).unwrap().choose_largest(Largest { logits: &logits, ids: &ids }, 0);
        match chosen {
            Ok(token) => prop_assert!(token.is_none_or(|token| token < 40)),
            Err(error) => prop_assert!(matches!(error.status, Status::State | Status::Internal)),
        }
    }
}

/// What must see all logits is not chosen from the largest.
#[test]
fn only_plain_top_k_needs_no_more_than_the_largest() {
    let plain =
        SamplingParams { temperature: 0.7, top_k: 5, top_p: 0.9, min_p: 0.1, ..SamplingParams::default() };
    assert!(plain.needs_only_largest(6) && !plain.needs_only_largest(5) && !plain.needs_only_largest(0));
    for other in [
        SamplingParams { temperature: 0.0, ..plain.clone() },
        SamplingParams { top_k: 0, ..plain.clone() },
        SamplingParams { repeat_penalty: 1.1, ..plain.clone() },
        SamplingParams { presence_penalty: 0.1, ..plain.clone() },
        SamplingParams { logit_bias: vec![(3, 1.0)], ..plain.clone() },
    ] {
        assert!(!other.needs_only_largest(100), "{other:?}");
    }
    assert!(SamplingParams { repeat_penalty: 1.1, penalty_last_n: 0, ..plain }.needs_only_largest(100));
}
