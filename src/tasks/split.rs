//! `aquila split`: cuts a model for several cards; `aquila join` puts it together again.

use super::{Outcome, args, console, convert, interrupt};
use aquila::base::dtype::DType;
use aquila::export::{ConvertOptions, SHARD_BYTES, SplitOptions, Target, WeightFormat};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

/// What the script of the Ascend guide prints at its end.
const SAVED: &str = "Tensor parallelism weights have been successfully saved.";

/// How weights are written.
#[derive(Args, Debug)]
pub struct WeightArgs {
    /// Kind of the weight files: safetensors, bin (which torch.load reads)
    #[arg(long, default_value = "safetensors", value_parser = format)]
    pub format: WeightFormat,
    /// Type of the weights: f32, f16, bf16 [default: as stored; quantised ones f16]
    #[arg(long, value_parser = dtype)]
    pub dtype: Option<DType>,
    /// Most bytes of one weight file, for example 5G
    #[arg(long, value_name = "SIZE", default_value_t = SHARD_BYTES, value_parser = args::size)]
    pub shard_size: u64,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

fn format(text: &str) -> Result<WeightFormat, String> {
    match text {
        "safetensors" => Ok(WeightFormat::Safetensors),
        "bin" => Ok(WeightFormat::TorchBin),
        _ => Err("expected safetensors or bin".into()),
    }
}

fn dtype(text: &str) -> Result<DType, String> {
    let found = [DType::F32, DType::F16, DType::BF16].into_iter().find(|dtype| dtype.name() == text);
    found.ok_or_else(|| "expected f32, f16 or bf16".into())
}

#[derive(Args, Debug)]
#[command(
    after_help = "The parts are made in part_model/0, part_model/1 and so on, in the model's directory or in DIR. \
Give the directory above part_model as the model: on NPUs each card takes its part, on the CPU they are joined while \
loading.\n\nExample: aquila split ./aquila-7b --world-size 2 && aquila run ./aquila-7b \"…\" --device npu:0,1"
)]
pub struct SplitArgs {
    /// A model directory (config.json with safetensors or .bin files) or a GGUF file
    model: PathBuf,
    /// Cards: a divisor of the attention heads and of the feed-forward, and a divisor or multiple of the key heads
    #[arg(long, value_name = "N")]
    world_size: u32,
    /// Make part_model in this directory [default: the model's]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightArgs,
}

#[derive(Args, Debug)]
pub struct JoinArgs {
    /// The directory above part_model
    model: PathBuf,
    /// The directory of the whole model, which must not be there yet
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    weights: WeightArgs,
}

pub fn split(args: &SplitArgs) -> Outcome {
    let WeightArgs { format, dtype, shard_size, quiet } = args.weights;
    console::show_log(quiet, false);
    interrupt::install();
    let options = SplitOptions {
        world_size: args.world_size,
        output: args.output.clone(),
        format,
        dtype,
        shard_bytes: shard_size,
    };
    let start = Instant::now();
    let report =
        args::with_progress(quiet, |progress| aquila::export::split(&args.model, &options, progress))?;
    if quiet {
        return Ok(());
    }
    let mut text = format!(
        "{}: {} parts of {} in {}\n",
        report.parts.display(),
        report.world_size,
        console::bytes(report.part_bytes),
        console::milliseconds(start.elapsed().as_secs_f64() * 1000.0)
    );
    if report.kv_copies > 1 {
        text.push_str(&format!(
            "Each key head is on {} cards, for there are more cards than key heads.\n",
            report.kv_copies
        ));
    }
    if let Some(rows) = report.padded_vocab {
        text.push_str(&format!(
            "The head was filled up with zeros to {rows} rows (padded_vocab_size in config.json).\n"
        ));
    }
    console::output(&format!("{text}{SAVED}\n"))
}

pub fn join(args: &JoinArgs) -> Outcome {
    let WeightArgs { format, dtype, shard_size, quiet } = args.weights;
    console::show_log(quiet, false);
    interrupt::install();
    let target = Target::Directory(format);
    let options = ConvertOptions { target, dtype, shard_bytes: shard_size };
    let start = Instant::now();
    let report = args::with_progress(quiet, |progress| {
        aquila::export::join(&args.model, &args.output, &options, progress)
    })?;
    if quiet { Ok(()) } else { convert::tell(&args.output, &report, start) }
}
