//! `aquila bench`: prefill and decode speed of the bare executor, and how near the machine's limits
//! that is. Random token ids serve as input, so a model without a tokenizer is measured too.

use super::{Failure, Outcome, args, console, interrupt};
use aquila::engine::measure::limits::{self, Dot, ReadProbe};
use aquila::engine::measure::{Case, Kind, Rig};
use aquila::engine::params::{GenParams, Input};
use aquila::open::LoadOptions;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args, Debug)]
#[command(after_help = "All lists are separated by commas; every combination is measured. The share of the \
limit is, for decoding, the weights and cached keys and values read a second over the read bandwidth measured \
just before; for prefill, the operations a second over the peak of dot products in registers.")]
pub struct BenchArgs {
    /// A model directory (config.json with safetensors or .bin files) or a GGUF file
    model: PathBuf,
    /// Prompt lengths of the prefill tests; 0: none
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "512")]
    prompt: Vec<usize>,
    /// Tokens made in each decode test; 0: none
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "32")]
    r#gen: Vec<usize>,
    /// Tokens that are in the context before each test
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Sequences decoded side by side
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = positive)]
    batch: Vec<usize>,
    /// Worker threads; 0: the processors this process may use
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0")]
    threads: Vec<u32>,
    /// Types of the weights in use: f32, f16, bf16, q8, q4 [default: as stored]
    #[arg(long, value_delimiter = ',')]
    dtype: Vec<String>,
    /// Type of cached keys and values: f32, f16, bf16, i8 [default: like the weights]
    #[arg(long)]
    kv_dtype: Option<String>,
    /// Keep converted weights in this directory, and map them at the next load
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Also time N loads, from the call to the first token, after one that fills the caches
    #[arg(long, value_name = "N", default_value_t = 0)]
    load: usize,
    /// Runs of each test; the median counts
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    repeat: usize,
    /// Where to run: auto, cpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Copy the weights into memory instead of mapping the files
    #[arg(long)]
    no_mmap: bool,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Say nothing but results and errors
    #[arg(long, short)]
    quiet: bool,
}

pub fn main(args: &BenchArgs) -> Outcome {
    console::show_log(args.quiet, false);
    let cases = cases(args);
    if cases.is_empty() && args.load == 0 {
        return Err(Failure::Usage("nothing to measure: --prompt, --gen and --load are all 0".into()));
    }
    interrupt::install();
    let dtypes: Vec<Option<String>> = match args.dtype.as_slice() {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    for &threads in &args.threads {
        for dtype in &dtypes {
            if !cases.is_empty() {
                measure_engine(args, threads, dtype.clone(), cases.clone())?;
            }
            if args.load > 0 {
                measure_loads(args, threads, dtype.clone())?;
            }
        }
    }
    Ok(())
}

/// Every combination, prefill first, in the order of the lists.
fn cases(args: &BenchArgs) -> Vec<Case> {
    let mut cases = Vec::new();
    for &depth in &args.depth {
        for &tokens in args.prompt.iter().filter(|&&n| n > 0) {
            cases.push(Case { kind: Kind::Prefill, tokens, depth, batch: 1 });
        }
    }
    for &depth in &args.depth {
        for &tokens in args.r#gen.iter().filter(|&&n| n > 0) {
            for &batch in &args.batch {
                cases.push(Case { kind: Kind::Decode, tokens, depth, batch });
            }
        }
    }
    cases
}

fn options(args: &BenchArgs, threads: u32, dtype: Option<String>) -> LoadOptions {
    LoadOptions {
        device: args.device.clone(),
        dtype,
        kv_dtype: args.kv_dtype.clone(),
        cache_dir: args.cache_dir.clone(),
        threads,
        no_mmap: args.no_mmap,
        ..LoadOptions::default()
    }
}

/// Times loads as a program has them, tokenizer and engine included: until the load returns, and until the first token.
fn measure_loads(args: &BenchArgs, threads: u32, dtype: Option<String>) -> Outcome {
    let options = options(args, threads, dtype);
    let (mut loads, mut firsts) = (Vec::new(), Vec::new());
    for turn in 0..=args.load {
        let start = Instant::now();
        let engine =
            args::with_progress(args.quiet, |progress| aquila::open::load(&args.model, &options, progress))?;
        let loaded = start.elapsed();
        let params = GenParams { max_tokens: 1, ignore_eos: true, ..GenParams::default() };
        engine.generate(Input::Tokens(vec![0]), params)?;
        // The first one writes the packed cache where one is allowed, and reads the files from the disk.
        if turn > 0 {
            loads.push(loaded.as_secs_f64());
            firsts.push(start.elapsed().as_secs_f64());
        }
        engine.close();
    }
    let (load, first) = (median(&loads), median(&firsts));
    let dtype = options.dtype.as_deref().unwrap_or("as stored");
    console::output(&if args.json {
        let line = json!({
            "test": "load",
            "dtype": dtype,
            "load_seconds": load,
            "first_token_seconds": first,
            "repeats": firsts,
        });
        format!("{line}\n")
    } else {
        format!("load {dtype}: {load:.2} s, first token after {first:.2} s (medians of {})\n", args.load)
    })
}

/// Opens an executor just large enough for the tests and runs them.
fn measure_engine(args: &BenchArgs, threads: u32, dtype: Option<String>, mut cases: Vec<Case>) -> Outcome {
    let mut options = options(args, threads, dtype);
    fit(args, &mut options, &mut cases)?;
    if !args.quiet {
        args::announce(&args.model, &options)?;
    }
    let (spec, plan, executor) = args::with_progress(args.quiet, |progress| {
        aquila::open::open_executor(&args.model, &options, progress)
    })?;
    let rig = Rig::new(spec, plan, executor);
    let setup = Setup::of(&rig, &options)?;
    if !args.json {
        console::output(&format!("{}\n{}", args.model.display(), setup.header(&rig)))?;
    }
    run_cases(args, rig, &setup, &cases)
}

/// Sets the options to the context, batch and KV memory that the tests need, and leaves out tests
/// that the model or the memory cannot hold, largest first, saying so.
fn fit(args: &BenchArgs, options: &mut LoadOptions, cases: &mut Vec<Case>) -> Outcome {
    let plan = aquila::open::plan(&args.model, options)?;
    let (context, _) = plan.context;
    let block_tokens = plan.memory.block_tokens.max(1);
    cases.retain(|case| {
        let fits = case.context() <= context as usize;
        if !fits {
            skip(case, &format!("needs a context of {}, the model has {context}", case.context()));
        }
        fits
    });
    loop {
        let most = |size: &dyn Fn(&Case) -> usize| cases.iter().map(size).max().unwrap_or(0);
        let context = most(&|case| case.context().next_multiple_of(block_tokens));
        let blocks = most(&|case| case.blocks(block_tokens));
        if blocks == 0 {
            return Err(Failure::Error(aquila::error!(NoMemory, "none of the tests can be run")));
        }
        options.max_context = u32::try_from(context).unwrap_or(u32::MAX);
        options.max_batch = u32::try_from(most(&|case| case.batch)).unwrap_or(u32::MAX);
        options.kv_memory = (blocks as u64)
            .saturating_mul(block_tokens as u64)
            .saturating_mul(plan.memory.kv_bytes_per_token);
        let Some(why) = aquila::open::plan(&args.model, options)?.memory.refusal else {
            return Ok(());
        };
        cases.retain(|case| {
            let smaller = case.blocks(block_tokens) < blocks;
            if !smaller {
                skip(case, &why);
            }
            smaller
        });
    }
}

fn skip(case: &Case, why: &str) {
    console::message(&format!(
        "skipped: {} of {} at depth {}, batch {}: {why}",
        name(case.kind),
        case.tokens,
        case.depth,
        case.batch
    ));
}

/// The name of a kind of test in the table and in JSON.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Prefill => "prefill",
        Kind::Decode => "decode",
    }
}

/// What the executor's own facts say about a measurement.
struct Setup {
    threads: usize,
    dtype: String,
    dot: Dot,
    read: ReadProbe,
}

impl Setup {
    fn of(rig: &Rig, options: &LoadOptions) -> Result<Self, Failure> {
        let facts = rig.describe();
        let fact = |name: &str| facts.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value);
        let threads = fact("threads").parse().unwrap_or(options.threads.max(1) as usize);
        // "f16 weights, f32 arithmetic": the first word is the type of the weights in use.
        let arithmetic = fact("arithmetic");
        let stored = arithmetic.split(' ').next().unwrap_or_default();
        Ok(Setup {
            threads,
            dtype: options.dtype.clone().unwrap_or_else(|| stored.into()),
            dot: match arithmetic {
                _ if arithmetic.contains("bf16 dot") => Dot::Bf16,
                _ if arithmetic.contains("8-bit dot") => Dot::Int8,
                _ => Dot::F32,
            },
            read: ReadProbe::new(threads)?,
        })
    }

    /// Two lines of facts and the heads of the table's columns.
    fn header(&self, rig: &Rig) -> String {
        let facts: Vec<String> =
            rig.describe().iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let peak = limits::dot_peak(self.threads, self.dot).unwrap_or(0.0);
        format!(
            "{}\nread bandwidth {:.1} GB/s, peak of dot products {:.1} GFLOP/s\n\n\
             {:<8}{:>7}{:>7}{:>6}{:>8}  {:<6}{:>12}{:>8}{:>8}\n",
            facts.join(", "),
            self.read.bytes_per_second() / 1e9,
            peak / 1e9,
            "test",
            "tokens",
            "depth",
            "batch",
            "threads",
            "dtype",
            "tokens/s",
            "spread",
            "limit"
        )
    }

    /// The limit that bounds a test, measured now: operations or bytes a second; and how much of it
    /// the test needs in all.
    fn limit(&self, rig: &Rig, case: &Case) -> (f64, f64) {
        match case.kind {
            Kind::Prefill => {
                (limits::dot_peak(self.threads, self.dot).unwrap_or(0.0), case.operations(rig.spec()))
            }
            Kind::Decode => (self.read.bytes_per_second(), case.decode_bytes(rig.plan())),
        }
    }
}

fn run_cases(args: &BenchArgs, mut rig: Rig, setup: &Setup, cases: &[Case]) -> Outcome {
    let bar = console::count_bar((cases.len() * args.repeat) as u64, args.quiet);
    for case in cases {
        bar.set_message(format!("{} {}", name(case.kind), case.tokens));
        let result = rig.check(case).and_then(|()| measure(&mut rig, setup, case, args.repeat, &bar));
        match result {
            // The bar is taken away while a line is written beside it.
            Ok(Some(measured)) => bar.suspend(|| {
                console::output(&if args.json { measured.json(setup) } else { measured.row(setup) })
            })?,
            Ok(None) => return Err(Failure::Interrupted),
            Err(error) => bar.suspend(|| skip(case, &error.message)),
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// A test's outcome.
struct Measured {
    case: Case,
    /// Tokens a second of each run, all sequences together.
    rates: Vec<f64>,
    median: f64,
    /// Bytes or operations a second, measured just before.
    limit: f64,
    limit_share: f64,
    weight_bytes_per_token: u64,
}

/// Runs a test `repeat` times; `None` where Ctrl-C came between.
fn measure(
    rig: &mut Rig,
    setup: &Setup,
    case: &Case,
    repeat: usize,
    bar: &ProgressBar,
) -> aquila::Result<Option<Measured>> {
    rig.warm_up(case)?;
    let (limit, needed) = setup.limit(rig, case);
    let mut rates = Vec::with_capacity(repeat);
    for _ in 0..repeat {
        if interrupt::pressed() {
            return Ok(None);
        }
        let seconds = rig.run(case)?.as_secs_f64().max(1e-9);
        rates.push(case.work_tokens() as f64 / seconds);
        bar.inc(1);
    }
    let median = median(&rates);
    let seconds = case.work_tokens() as f64 / median;
    let weight_reads = rig.steps(case) as f64 / case.work_tokens() as f64;
    Ok(Some(Measured {
        case: *case,
        rates,
        median,
        limit,
        limit_share: if limit > 0.0 { needed / seconds / limit } else { 0.0 },
        weight_bytes_per_token: (rig.plan().weight_bytes_per_token as f64 * weight_reads) as u64,
    }))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    (lower + upper) / 2.0
}

impl Measured {
    fn json(&self, setup: &Setup) -> String {
        let round = |x: f64, digits: f64| (x * digits).round() / digits;
        let line = json!({
            "test": name(self.case.kind),
            "tokens": self.case.tokens,
            "depth": self.case.depth,
            "batch": self.case.batch,
            "threads": setup.threads,
            "dtype": setup.dtype,
            "tokens_per_second": round(self.median, 1e3),
            "repeats": self.rates.iter().map(|&x| round(x, 1e3)).collect::<Vec<_>>(),
            "weight_bytes_per_token": self.weight_bytes_per_token,
            "limit": round(self.limit, 1.0),
            "limit_share": round(self.limit_share, 1e4),
        });
        format!("{line}\n")
    }

    fn row(&self, setup: &Setup) -> String {
        let (low, high) =
            self.rates.iter().fold((f64::MAX, 0.0f64), |(low, high), &x| (low.min(x), high.max(x)));
        format!(
            "{:<8}{:>7}{:>7}{:>6}{:>8}  {:<6}{:>12.2}{:>7.1}%{:>7.1}%\n",
            name(self.case.kind),
            self.case.tokens,
            self.case.depth,
            self.case.batch,
            setup.threads,
            setup.dtype,
            self.median,
            100.0 * (high - low) / self.median,
            100.0 * self.limit_share
        )
    }
}

/// A number of at least one.
fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of at least 1".into()),
        Ok(n) => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn medians() {
        assert_eq!(super::median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(super::median(&[7.0]), 7.0);
    }
}
