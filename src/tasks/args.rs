//! Options that several commands share, and their translation into the library's.

use super::{Failure, console, interrupt};
use aquila::engine::params::GenParams;
use aquila::open::LoadOptions;
use aquila::sampling::SamplingParams;
use aquila::text::{ChatTemplate, Constraint};
use clap::Args;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How a model is loaded.
#[derive(Args, Debug)]
#[command(next_help_heading = "Loading")]
pub struct LoadArgs {
    /// Where to run: auto, cpu, npu:0, npu:0,1
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Type of the weights in use: f32, f16, bf16, q8, q4; on an NPU f16, bf16, w8a8 [default: as stored]
    #[arg(long)]
    pub dtype: Option<String>,
    /// Type of cached keys and values: f32, f16, bf16, i8 [default: like the weights]
    #[arg(long)]
    pub kv_dtype: Option<String>,
    /// Worker threads; 0: the processors this process may use
    #[arg(long, default_value_t = 0)]
    pub threads: u32,
    /// Longest text in tokens, prompt included; 0: the model's
    #[arg(long, default_value_t = 0)]
    pub context: u32,
    /// Tokenizer: a tokenizer.json, or a directory [default: beside the weights]
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Keep converted weights in this directory, and map them at the next load
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Host memory to stay within, for example 8G; 0: what the machine has
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub host_memory: u64,
    /// Device memory to stay within, on each device; 0: what the device has
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub device_memory: u64,
    /// Memory for cached keys and values; 0: what the budgets leave
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub kv_memory: u64,
    /// Copy the weights into memory instead of mapping the files
    #[arg(long)]
    pub no_mmap: bool,
    /// Keep the weights from being swapped out
    #[arg(long)]
    pub lock_memory: bool,
    /// Look at every weight for NaN and infinity while loading, and at every checksum of the packed cache
    #[arg(long)]
    pub verify: bool,
}

impl LoadArgs {
    /// The library's options.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device.clone(),
            dtype: self.dtype.clone(),
            kv_dtype: self.kv_dtype.clone(),
            tokenizer: self.tokenizer.clone(),
            cache_dir: self.cache_dir.clone(),
            host_memory: self.host_memory,
            device_memory: self.device_memory,
            kv_memory: self.kv_memory,
            max_context: self.context,
            threads: self.threads,
            no_mmap: self.no_mmap,
            lock_memory: self.lock_memory,
            verify: self.verify,
            ..LoadOptions::default()
        }
    }
}

/// How text is generated.
#[derive(Args, Debug)]
#[command(next_help_heading = "Generation")]
pub struct GenArgs {
    /// Most new tokens; 0: what the context leaves
    #[arg(long, short = 'n', default_value_t = 0)]
    pub max_tokens: u32,
    /// 0 takes the likeliest token; larger values are more varied
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// Choose among the likeliest tokens whose probabilities reach P; 1: all
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Leave out tokens below this share of the likeliest one's probability; 0: none
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Locally typical sampling: keep this much probability; 1: all
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub typical_p: f32,
    /// Above 1 makes tokens that were already seen less likely; 1: off
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,
    /// Taken from the score of a token that was generated before; 0: off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Taken from the score once for each time a token was generated; 0: off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// The same seed gives the same text [default: another one each time]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Text that ends the answer; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Token id that ends the answer; may be given several times
    #[arg(long, value_name = "ID")]
    pub stop_token: Vec<u32>,
    /// Go on past the model's own end of text
    #[arg(long)]
    pub ignore_eos: bool,
    /// Put the prompt in front of the answer
    #[arg(long)]
    pub echo: bool,
    /// Show special tokens as text
    #[arg(long)]
    pub show_special: bool,
    /// Do not add the special tokens that the tokenizer puts around a prompt
    #[arg(long)]
    pub no_special: bool,
    /// Take special-token text in the prompt as ordinary text
    #[arg(long)]
    pub no_parse_special: bool,
    /// Verify up to N tokens a step that are looked up in the text so far: the same answer, sooner where it
    /// repeats the prompt; 0: off
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub speculate: u32,
    /// Where the context is full go on without the middle of the text; needs --max-tokens
    #[arg(long)]
    pub shift: bool,
    /// Tokens at the beginning that --shift leaves
    #[arg(long, value_name = "N", default_value_t = 0, requires = "shift")]
    pub keep: u32,
    /// The answer is JSON that fits the JSON schema in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["regex", "grammar"])]
    pub json_schema: Option<PathBuf>,
    /// The answer matches this regular expression
    #[arg(long, value_name = "RE", conflicts_with = "grammar", allow_hyphen_values = true)]
    pub regex: Option<String>,
    /// The answer fits the grammar in this file, in Lark's form
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
}

impl GenArgs {
    /// The seed: the one asked for, or a new one each run.
    pub fn choose_seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
            // Short enough to type, and different for two runs within a second.
            (now ^ (u64::from(std::process::id()) << 20)) % 1_000_000_000
        })
    }

    /// What the answer must fit, its file read.
    pub fn constraint(&self) -> Result<Option<Constraint>, Failure> {
        let read = |option: &str, path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|cause| Failure::Usage(format!("{option} {}: {cause}", path.display())))
        };
        Ok(if let Some(path) = &self.json_schema {
            Some(Constraint::json_schema(read("--json-schema", path)?))
        } else if let Some(path) = &self.grammar {
            Some(Constraint::lark(read("--grammar", path)?))
        } else {
            self.regex.as_ref().map(Constraint::regex)
        })
    }

    /// The library's parameters, but for the constraint.
    pub fn params(&self, seed: u64) -> GenParams {
        GenParams {
            max_tokens: self.max_tokens,
            sampling: SamplingParams {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                typical_p: self.typical_p,
                repeat_penalty: self.repeat_penalty,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                seed,
                ..SamplingParams::default()
            },
            stop: self.stop.clone(),
            stop_tokens: self.stop_token.clone(),
            ignore_eos: self.ignore_eos,
            echo: self.echo,
            show_special: self.show_special,
            no_add_special: self.no_special,
            no_parse_special: self.no_parse_special,
            speculate: self.speculate,
            shift: self.shift,
            n_keep: self.keep,
            ..GenParams::default()
        }
    }
}

/// The template that `--template` names: a built-in one by its name, else the text of a file.
pub fn template(name: &str) -> Result<String, Failure> {
    if ChatTemplate::builtin(name).is_some() {
        return Ok(name.into());
    }
    std::fs::read_to_string(name).map_err(|cause| {
        Failure::Usage(format!(
            "--template {name}: no built-in template of that name, and as a file: {cause}"
        ))
    })
}

/// Loads with a progress bar; Ctrl-C abandons the load.
pub fn with_progress<T>(
    quiet: bool,
    load: impl FnOnce(aquila::backend::Progress<'_>) -> aquila::Result<T>,
) -> Result<T, Failure> {
    let bar = console::byte_bar(quiet);
    let result = load(&mut |stage: &str, done, total| {
        // Each of these draws, so only what is new is told.
        if bar.message() != stage {
            bar.set_message(stage.to_string());
        }
        if bar.length() != Some(total) {
            bar.set_length(total);
        }
        bar.set_position(done);
        if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    match result {
        Err(_) if interrupt::pressed() => Err(Failure::Interrupted),
        result => Ok(result?),
    }
}

/// Models from this size on are announced before they are loaded.
const ANNOUNCED_BYTES: u64 = 1 << 30;

/// Says in one line what a large model will take, before it is taken.
pub fn announce(model: &Path, options: &LoadOptions) -> Result<(), Failure> {
    if bytes_on_disk(model) <= ANNOUNCED_BYTES {
        return Ok(());
    }
    let plan = aquila::open::plan(model, options)?;
    let memory = &plan.memory;
    console::message(&format!(
        "loading {} parameters: {} mapped, {} private ({} of it for {} cached tokens), {} available",
        console::count(plan.parameters),
        console::bytes(memory.weight_bytes_mapped),
        console::bytes(memory.private_bytes()),
        console::bytes(memory.kv_bytes()),
        memory.kv_tokens(),
        console::bytes(memory.host_available),
    ));
    Ok(())
}

/// Bytes of the file, or of the files directly in the directory; 0 where it cannot be read, which the
/// load will explain.
fn bytes_on_disk(model: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(model) else {
        return std::fs::metadata(model).map_or(0, |m| m.len());
    };
    // `metadata` of the path follows links, as a directory of links into a cache needs.
    entries.flatten().filter_map(|e| std::fs::metadata(e.path()).ok()).map(|m| m.len()).sum()
}

/// A number of bytes: `1500000`, `512M`, `8G`, `8GiB`. The letters are powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let power = match unit.to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("unknown unit {unit:?}, expected K, M, G or T")),
    };
    let value: f64 = number.parse().map_err(|_| format!("expected a number such as 8G, found {text:?}"))?;
    let bytes = value * 1024f64.powi(power);
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(format!("{text} is too large")) }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("1500000"), Ok(1_500_000));
        assert_eq!(size("8G"), Ok(8 << 30));
        assert_eq!(size("1.5gib"), Ok(3 << 29));
        assert_eq!(size("512MB"), Ok(512 << 20));
        for bad in ["", "G", "8X", "-1", "1e9", "99999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
