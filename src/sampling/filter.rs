//! Filters over candidates: which tokens the draw may take.
//!
//! Sorting a hundred thousand candidates for each token would cost more than all else here, so a filter
//! that needs the likeliest ones first selects and sorts only as many as it turns out to need.

use super::Allowed;
use super::params::SamplingParams;
use super::softmax::exp;
use std::cmp::Ordering;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its logit after bias and penalties; finite.
    pub logit: f32,
    /// Its id.
    pub id: u32,
}

/// The larger logit first, of equal ones the lower id: a total order, since no logit is NaN.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// All tokens that can be drawn, in the order of their ids.
pub fn gather(logits: &[f32], banned: &[u32], candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let all = (0u32..).zip(logits).map(|(id, &logit)| Candidate { logit, id });
    candidates.extend(all.filter(|c| c.logit > f32::NEG_INFINITY));
    if !banned.is_empty() {
        candidates.retain(|c| !banned.contains(&c.id));
    }
}

/// The same of the allowed ones.
pub fn gather_among(logits: &[f32], allowed: Allowed<'_>, banned: &[u32], candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let some = allowed.of(logits).filter(|(id, logit)| *logit > f32::NEG_INFINITY && !banned.contains(id));
    candidates.extend(some.map(|(id, logit)| Candidate { logit, id }));
}

/// The k likeliest tokens and perhaps some more, in one pass that mostly compares: when twice k are
/// gathered, the lesser half goes, and only larger logits come in from then on.
pub fn gather_top(logits: &[f32], banned: &[u32], k: usize, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        // An equal logit of a higher id would come after those that are in.
        if logit > floor && !banned.contains(&id) {
            candidates.push(Candidate { logit, id });
            if candidates.len() == 2 * k {
                let (_, last, _) = candidates.select_nth_unstable_by(k - 1, likelier);
                floor = last.logit;
                candidates.truncate(k);
            }
        }
    }
}

/// Of infinite logits only these are left, as equals.
pub fn level_infinite(candidates: &mut Vec<Candidate>) {
    if largest(candidates) == f32::INFINITY {
        candidates.retain(|c| c.logit == f32::INFINITY);
        candidates.iter_mut().for_each(|c| c.logit = 0.0);
    }
}

/// How many candidates are sorted at first where it is unknown how many are needed.
const FIRST_SORTED: usize = 256;

/// Applies top-k, typical-p, top-p and min-p in this order; one candidate is always left of a non-empty
/// list. Their order is by likelihood after the first three, else as it was: never one that depends on
/// how the selection works inside.
pub fn apply(params: &SamplingParams, candidates: &mut Vec<Candidate>) {
    let mut sorted = false;
    if params.top_k > 0 {
        let k = params.top_k as usize;
        if k < candidates.len() {
            candidates.select_nth_unstable_by(k - 1, likelier);
            candidates.truncate(k);
        }
        candidates.sort_unstable_by(likelier);
        sorted = true;
    }
    if params.typical_p < 1.0 {
        typical(params.typical_p, candidates);
        sorted = true;
    }
    if params.top_p < 1.0 {
        let (scale, mass) = (Scale::of(candidates), f64::from(params.top_p));
        if !sorted {
            drop_unlikely(candidates, mass, scale);
        }
        keep_mass(candidates, mass, scale, likelier, sorted);
    }
    if params.min_p > 0.0 {
        let best = largest(candidates);
        let least = f64::from(best) + f64::from(params.min_p).ln();
        candidates.retain(|c| f64::from(c.logit) >= least || c.logit == best);
    }
}

/// What turns a logit into a probability.
#[derive(Clone, Copy)]
struct Scale {
    largest: f32,
    sum: f64,
}

fn largest(candidates: &[Candidate]) -> f32 {
    candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

impl Scale {
    fn of(candidates: &[Candidate]) -> Self {
        let largest = largest(candidates);
        let sum = candidates.iter().map(|c| f64::from(exp(c.logit - largest))).sum();
        Scale { largest, sum }
    }

    fn probability(self, candidate: &Candidate) -> f64 {
        f64::from(exp(candidate.logit - self.largest)) / self.sum
    }
}

/// Drops tokens that top-p cannot keep: all those below the n-th part of 1 − mass have less than 1 − mass
/// together, so the others reach the mass without them.
fn drop_unlikely(candidates: &mut Vec<Candidate>, mass: f64, scale: Scale) {
    let least = (1.0 - mass) / candidates.len().max(1) as f64;
    // A thousandth off, far more than rounding can move a probability.
    let floor = f64::from(scale.largest) + (least * scale.sum * 0.999).ln();
    candidates.retain(|c| f64::from(c.logit) >= floor);
}

/// Keeps the shortest front part, in the given order, whose probability reaches `mass`; sorted.
fn keep_mass(
    candidates: &mut Vec<Candidate>,
    mass: f64,
    scale: Scale,
    order: impl Fn(&Candidate, &Candidate) -> Ordering + Copy,
    already_sorted: bool,
) {
    let (mut reached, mut done) = (0f64, 0);
    let mut part = if already_sorted { candidates.len() } else { FIRST_SORTED };
    loop {
        // Candidates before `done` are the first in order and sorted; sort the next part behind them.
        let end = (done + part).min(candidates.len());
        if !already_sorted {
            let rest = &mut candidates[done..];
            if end - done < rest.len() {
                rest.select_nth_unstable_by(end - done, order);
            }
            candidates[done..end].sort_unstable_by(order);
        }
        for (at, candidate) in candidates.iter().enumerate().take(end).skip(done) {
            reached += scale.probability(candidate);
            if reached >= mass {
                candidates.truncate(at + 1);
                return;
            }
        }
        if end == candidates.len() {
            return;
        }
        (done, part) = (end, part * 4);
    }
}

/// Locally typical sampling (Meister and others, 2022): the tokens whose information is nearest the
/// entropy, until their probability reaches `mass`. Leaves them sorted by likelihood.
fn typical(mass: f32, candidates: &mut Vec<Candidate>) {
    let scale = Scale::of(candidates);
    let log_sum = scale.sum.ln();
    let information = |c: &Candidate| log_sum - (f64::from(c.logit) - f64::from(scale.largest));
    let entropy: f64 = candidates.iter().map(|c| scale.probability(c) * information(c)).sum();
    let distance = |c: &Candidate| (information(c) - entropy).abs();
    let order = |a: &Candidate, b: &Candidate| distance(a).total_cmp(&distance(b)).then(likelier(a, b));
    keep_mass(candidates, f64::from(mass), scale, order, false);
    candidates.sort_unstable_by(likelier);
}

/// Draws from the softmax of logits / temperature with a number in [0, 1). `None` of an empty list.
pub fn draw(candidates: &[Candidate], temperature: f32, uniform: f64) -> Option<u32> {
    let largest = largest(candidates);
    // Divided in f64: the quotient of a tiny temperature must not be NaN, only very negative.
    let weight =
        |c: &Candidate| f64::from(exp((f64::from(c.logit - largest) / f64::from(temperature)) as f32));
    let mut left = uniform * candidates.iter().map(weight).sum::<f64>();
    let mut last = None;
    for candidate in candidates {
        let weight = weight(candidate);
        if weight > 0.0 {
            last = Some(candidate.id);
            if left < weight {
                return last;
            }
            left -= weight;
        }
    }
    // Rounding can leave a crumb after the last candidate.
    last
}
