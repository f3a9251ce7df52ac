//! `aquila serve-bench`: what a service sees of an engine: requests together against one after another, the first token
//! with and without a cached beginning, the delay between tokens while long prompts come, and how soon a cancelled
//! request ends. Random token ids serve as input, so a model without a tokenizer is measured too.

use super::{Failure, Outcome, args, console, interrupt};
use aquila::engine::params::{Event, Finish, GenParams, Input};
use aquila::engine::{Engine, Next, Request};
use aquila::open::LoadOptions;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Args, Debug)]
#[command(
    after_help = "Greedy choice throughout; medians of the rounds. The bounds in the last column are what the \
library aims at on a machine that does nothing else."
)]
pub struct ServeBenchArgs {
    /// A model directory (config.json with safetensors or .bin files) or a GGUF file
    model: PathBuf,
    /// Requests at once
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
    /// Tokens that each of them makes
    #[arg(long, value_name = "TOKENS", default_value = "32", value_parser = clap::value_parser!(u32).range(2..))]
    r#gen: u32,
    /// Tokens of the long prompts, and of the beginning that prompts share
    #[arg(long, value_name = "TOKENS", default_value = "1500", value_parser = clap::value_parser!(u32).range(32..))]
    prefix: u32,
    /// Rounds of each test
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Type of the weights in use: f32, f16, bf16, q8, q4 [default: as stored]
    #[arg(long)]
    dtype: Option<String>,
    /// Type of cached keys and values: f32, f16, bf16, i8 [default: like the weights]
    #[arg(long)]
    kv_dtype: Option<String>,
    /// Keep converted weights in this directory, and map them at the next load
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Worker threads; 0: the processors this process may use
    #[arg(long, value_name = "N", default_value = "0")]
    threads: u32,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Say nothing but results and errors
    #[arg(long, short)]
    quiet: bool,
}

/// Delays of a request that are not counted.
const SETTLING: usize = 4;
/// Tokens behind a shared beginning, which differ.
const OWN: usize = 20;

pub fn main(args: &ServeBenchArgs) -> Outcome {
    console::show_log(args.quiet, false);
    interrupt::install();
    let context = args.prefix + OWN as u32 + args.r#gen.max(16);
    let options = LoadOptions {
        dtype: args.dtype.clone(),
        kv_dtype: args.kv_dtype.clone(),
        cache_dir: args.cache_dir.clone(),
        threads: args.threads,
        max_context: context,
        ..LoadOptions::default()
    };
    let engine =
        args::with_progress(args.quiet, |progress| aquila::open::load(&args.model, &options, progress))?;
    if engine.info().context < context {
        let message = format!("--prefix {}: the model's context is {}", args.prefix, engine.info().context);
        return Err(Failure::Usage(message));
    }
    let mut bench = ServeBench { args, engine, seed: 1 };
    if !args.json {
        console::output(&format!(
            "{}\n{:<46}{:>12}{:>12}{:>9}  aim\n",
            args.model.display(),
            "",
            "alone",
            "so",
            "ratio"
        ))?;
    }
    for test in [ServeBench::together, ServeBench::first_token, ServeBench::delays, ServeBench::cancel] {
        let row = test(&mut bench)?;
        if interrupt::pressed() {
            return Err(Failure::Interrupted);
        }
        console::output(&if args.json { row.json() } else { row.line() })?;
    }
    Ok(())
}

/// A line of the table: a figure without and with what is tested, and the bound of their ratio.
struct Row {
    name: String,
    unit: &'static str,
    alone: f64,
    so: f64,
    aim: &'static str,
}

impl Row {
    fn line(&self) -> String {
        let Row { name, unit, alone, so, aim } = self;
        let name = format!("{name}, {unit}");
        format!("{name:<46}{alone:>12.2}{so:>12.2}{:>9.2}  {aim}\n", so / alone)
    }

    fn json(&self) -> String {
        let Row { name, unit, alone, so, aim } = self;
        format!(
            "{}\n",
            json!({"test": name, "unit": unit, "alone": alone, "so": so, "ratio": so / alone, "aim": aim})
        )
    }
}

struct ServeBench<'a> {
    args: &'a ServeBenchArgs,
    engine: Engine,
    seed: u64,
}

impl ServeBench<'_> {
    /// Ids that no prompt had before.
    fn prompt(&mut self, len: usize) -> Vec<u32> {
        let vocab = u64::from(self.engine.info().vocab);
        (0..len)
            .map(|_| {
                // Knuth's multiplier for 64-bit congruential generators.
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((self.seed >> 33) % vocab) as u32
            })
            .collect()
    }

    fn submit(&self, prompt: Vec<u32>, tokens: u32) -> aquila::Result<Request> {
        let params = GenParams { max_tokens: tokens, ignore_eos: true, ..GenParams::default() };
        self.engine.submit(Input::Tokens(prompt), params)
    }

    /// Tokens a second of all clients together, against one after another.
    fn together(&mut self) -> aquila::Result<Row> {
        let (clients, tokens) = (self.args.clients, self.args.r#gen);
        let rate = |time: Duration| f64::from(clients * tokens) / time.as_secs_f64();
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for _ in 0..self.args.repeat {
            let prompts: Vec<_> = (0..2 * clients).map(|_| self.prompt(8)).collect();
            let (first, second) = prompts.split_at(clients as usize);
            let start = Instant::now();
            for prompt in first {
                self.submit(prompt.clone(), tokens)?.wait()?;
            }
            alone.push(rate(start.elapsed()));
            let start = Instant::now();
            let requests: Vec<_> =
                second.iter().map(|prompt| self.submit(prompt.clone(), tokens)).collect::<Result<_, _>>()?;
            for request in &requests {
                request.wait()?;
            }
            together.push(rate(start.elapsed()));
        }
        let name = format!("{clients} requests together");
        Ok(Row {
            name,
            unit: "tokens/s",
            alone: median(alone),
            so: median(together),
            aim: ">= 3 (q8, 8 requests)",
        })
    }

    /// Milliseconds to the first token of a prompt whose beginning is new, and of one whose beginning is cached.
    fn first_token(&mut self) -> aquila::Result<Row> {
        let (mut new, mut cached) = (Vec::new(), Vec::new());
        for _ in 0..self.args.repeat {
            let shared = self.prompt(self.args.prefix as usize);
            for times in [&mut new, &mut cached] {
                let prompt = [shared.as_slice(), &self.prompt(OWN)].concat();
                times.push(self.submit(prompt, 1)?.wait()?.timings.first_token_ms);
            }
        }
        let name = format!("first token, {} tokens cached", self.args.prefix);
        Ok(Row { name, unit: "ms", alone: median(new), so: median(cached), aim: "<= 0.05" })
    }

    /// The 99th of a hundred delays between tokens of running requests, without and with long prompts coming in.
    fn delays(&mut self) -> aquila::Result<Row> {
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..self.args.repeat {
            for (delays, prompts) in [(&mut quiet, false), (&mut busy, true)] {
                delays.extend(self.delays_with(prompts)?);
            }
        }
        let name = format!("p99 of token delays, prompts of {}", self.args.prefix);
        Ok(Row { name, unit: "ms", alone: p99(quiet), so: p99(busy), aim: "<= 3" })
    }

    /// Delays of half the clients' tokens, while prompts come if `prompts`.
    fn delays_with(&mut self, prompts: bool) -> aquila::Result<Vec<f64>> {
        let answers: Vec<_> = (0..self.args.clients.div_ceil(2))
            .map(|_| {
                let prompt = self.prompt(8);
                self.submit(prompt, self.args.prefix)
            })
            .collect::<Result<_, _>>()?;
        let long: Vec<_> = (0..2).map(|_| self.prompt(self.args.prefix as usize)).collect();
        let measuring = AtomicBool::new(true);
        let mut delays = Vec::new();
        std::thread::scope(|scope| -> aquila::Result<()> {
            let readers: Vec<_> =
                answers.iter().map(|request| scope.spawn(|| read_delays(request, &measuring))).collect();
            let outcome = if prompts {
                long.into_iter().try_for_each(|prompt| self.submit(prompt, 1)?.wait().map(drop))
            } else {
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            };
            measuring.store(false, Ordering::Relaxed);
            for reader in readers {
                delays.extend(reader.join().unwrap_or_default());
            }
            outcome
        })?;
        Ok(delays)
    }

    /// Milliseconds of the longest of a hundred steps, and from cancelling a running request to its last event.
    fn cancel(&mut self) -> aquila::Result<Row> {
        let (mut steps, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..10 * self.args.repeat {
            let prompt = self.prompt(8);
            let request = self.submit(prompt, self.args.prefix)?;
            let (mut last, mut texts) = (None, 0);
            // A text that ends by itself before cannot be cancelled.
            let ended = loop {
                match request.next(None)? {
                    Next::Event(Event::Text { .. }) => {
                        if let Some(last) = last.replace(Instant::now()) {
                            steps.push(last.elapsed().as_secs_f64() * 1e3);
                        }
                        texts += 1;
                        if texts == 4 {
                            break false;
                        }
                    }
                    Next::Event(Event::Prefill { .. }) | Next::Timeout => {}
                    Next::Event(Event::Finish { .. }) | Next::Done => break true,
                }
            };
            if ended {
                continue;
            }
            let start = Instant::now();
            request.cancel();
            if request.wait()?.finish == Finish::Cancelled {
                ends.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        let name = "p99 of steps, from cancel to the last event".into();
        Ok(Row { name, unit: "ms", alone: p99(steps), so: p99(ends), aim: "<= 1" })
    }
}

/// Milliseconds between the texts of a request until its end or the end of measuring; then it is cancelled.
fn read_delays(request: &Request, measuring: &AtomicBool) -> Vec<f64> {
    let (mut delays, mut last) = (Vec::new(), None);
    while measuring.load(Ordering::Relaxed) && !interrupt::pressed() {
        match request.next(Some(Duration::from_millis(50))) {
            Ok(Next::Event(Event::Text { .. })) => {
                if let Some(last) = last.replace(Instant::now()) {
                    delays.push(last.elapsed().as_secs_f64() * 1e3);
                }
            }
            Ok(Next::Timeout | Next::Event(Event::Prefill { .. })) => {}
            Ok(Next::Done | Next::Event(Event::Finish { .. })) | Err(_) => break,
        }
    }
    request.cancel();
    // At first all of them come in, one prompt after another.
    delays.drain(..delays.len().min(SETTLING));
    delays
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * 99 / 100).copied().unwrap_or(f64::NAN)
}
