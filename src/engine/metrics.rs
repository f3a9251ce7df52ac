//! What an engine counts: written by its thread and by those that submit, read by anyone at any time. Each number
//! is right; numbers that are read together may be of slightly different moments.

use crate::engine::params::Finish;
use crate::engine::shared::Shared;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the times that are counted, in seconds; one more counts all.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How often a time lay in which range, and the sum of all.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(crate) fn add(&self, ns: u64) {
        let seconds = ns as f64 / 1e9;
        let at = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// In the text form, under `name`.
    fn write(&self, text: &mut String, name: &str) {
        let mut count = 0;
        for (at, bucket) in self.counts.iter().enumerate() {
            count += bucket.load(Relaxed);
            let bound = BOUNDS.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let sum = self.sum_ns.load(Relaxed) as f64 / 1e9;
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
    }
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) output_tokens: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) put_back: AtomicU64,
    pub(crate) running: AtomicU64,
    pub(crate) kv_blocks_held: AtomicU64,
    pub(crate) kv_blocks_idle: AtomicU64,
    pub(crate) queued: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) between_tokens: Histogram,
    pub(crate) finished: [AtomicU64; FINISHED.len()],
}

/// How requests end, as the text form names it, in the order of [`Counters::finished`].
const FINISHED: [&str; 7] = ["eos", "stop", "length", "context", "cancelled", "deadline", "error"];

impl Counters {
    /// A request of `prompt` tokens is in a step for the first time, `waited_ns` after it was submitted; `cached`
    /// of its tokens need not be computed.
    pub(crate) fn started(&self, prompt: usize, cached: usize, waited_ns: u64) {
        self.prompt_tokens.fetch_add(prompt as u64, Relaxed);
        self.cached_tokens.fetch_add(cached as u64, Relaxed);
        self.queued.add(waited_ns);
    }

    /// A request that was taken in has ended.
    pub(crate) fn finished(&self, reason: Finish) {
        let at = match reason {
            Finish::Eos => 0,
            Finish::Stop => 1,
            Finish::Length => 2,
            Finish::Context => 3,
            Finish::Cancelled => 4,
            Finish::Deadline => 5,
            Finish::Error => 6,
        };
        self.finished[at].fetch_add(1, Relaxed);
    }
}

/// The counts of an engine at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Requests that hold KV blocks.
    pub running: u64,
    /// Requests that wait for a place.
    pub waiting: u64,
    /// Sessions that are held.
    pub sessions: u64,
    /// KV positions of blocks that requests hold.
    pub kv_tokens_used: u64,
    /// KV positions of blocks that nobody holds and that a prompt which begins alike would find.
    pub kv_tokens_cached: u64,
    /// Memory that the engine took when it was loaded, in bytes; mapped files are not counted.
    pub host_bytes: u64,
    /// Requests that were taken in.
    pub requests: u64,
    /// Requests that were refused because the waiting line was full.
    pub refused: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Those of them that were not computed because their KV blocks were cached.
    pub cached_tokens: u64,
    /// Tokens made.
    pub output_tokens: u64,
    /// Steps of the executor.
    pub steps: u64,
    /// How often a running request gave its KV blocks to another one.
    pub preemptions: u64,
}

impl EngineStats {
    pub(crate) fn of(shared: &Shared) -> Self {
        let c = &shared.counters;
        let block = shared.info.plan.block_tokens as u64;
        EngineStats {
            running: c.running.load(Relaxed),
            waiting: shared.waiting.load(Relaxed) as u64,
            sessions: shared.sessions.load(Relaxed) as u64,
            kv_tokens_used: c.kv_blocks_held.load(Relaxed) * block,
            kv_tokens_cached: c.kv_blocks_idle.load(Relaxed) * block,
            host_bytes: shared.info.plan.private_bytes(),
            requests: c.requests.load(Relaxed),
            refused: c.refused.load(Relaxed),
            prompt_tokens: c.prompt_tokens.load(Relaxed),
            cached_tokens: c.cached_tokens.load(Relaxed),
            output_tokens: c.output_tokens.load(Relaxed),
            steps: c.steps.load(Relaxed),
            preemptions: c.put_back.load(Relaxed),
        }
    }
}

/// All counts in the text form of Prometheus (version 0.0.4).
pub(crate) fn text(shared: &Shared) -> String {
    let stats = EngineStats::of(shared);
    let c = &shared.counters;
    let mut text = String::new();
    let mut number = |kind: &str, name: &str, help: &str, value: u64| {
        let _ =
            writeln!(text, "# HELP aquila_{name} {help}\n# TYPE aquila_{name} {kind}\naquila_{name} {value}");
    };
    number("gauge", "requests_running", "Requests that hold KV blocks.", stats.running);
    number("gauge", "requests_waiting", "Requests that wait for a place.", stats.waiting);
    number("gauge", "sessions", "Sessions that are held.", stats.sessions);
    number("gauge", "kv_tokens", "KV positions in all.", shared.info.plan.kv_tokens());
    number("gauge", "kv_tokens_used", "KV positions of blocks that requests hold.", stats.kv_tokens_used);
    number(
        "gauge",
        "kv_tokens_cached",
        "KV positions kept for prompts that begin alike.",
        stats.kv_tokens_cached,
    );
    number("gauge", "host_bytes", "Memory that the engine took, mapped files not counted.", stats.host_bytes);
    number("counter", "requests_total", "Requests taken in.", stats.requests);
    number(
        "counter",
        "requests_refused_total",
        "Requests refused: the waiting line was full.",
        stats.refused,
    );
    number("counter", "prompt_tokens_total", "Tokens of prompts.", stats.prompt_tokens);
    number("counter", "cached_tokens_total", "Tokens of prompts found in the KV cache.", stats.cached_tokens);
    number("counter", "output_tokens_total", "Tokens made.", stats.output_tokens);
    number("counter", "steps_total", "Steps of the executor.", stats.steps);
    number(
        "counter",
        "preemptions_total",
        "Requests that gave their KV blocks to another.",
        stats.preemptions,
    );
    let _ = writeln!(text, "# HELP aquila_finished_total Requests that ended, and why.");
    let _ = writeln!(text, "# TYPE aquila_finished_total counter");
    for (reason, count) in FINISHED.iter().zip(&c.finished) {
        let _ = writeln!(text, "aquila_finished_total{{reason=\"{reason}\"}} {}", count.load(Relaxed));
    }
    for (name, help, histogram) in [
        ("queue_seconds", "From submission to the first step.", &c.queued),
        ("first_token_seconds", "From submission to the first token.", &c.first_token),
        ("token_seconds", "From one token of a request to its next.", &c.between_tokens),
    ] {
        let _ = writeln!(text, "# HELP aquila_{name} {help}\n# TYPE aquila_{name} histogram");
        histogram.write(&mut text, &format!("aquila_{name}"));
    }
    text
}
