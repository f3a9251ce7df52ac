//! `aquila convert`: a model in another kind of file, or of another type.

use super::{Outcome, args, console, interrupt};
use aquila::base::dtype::DType;
use aquila::export::{ConvertOptions, ConvertReport, SHARD_BYTES, Target, WeightFormat};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  aquila convert ./aquila-7b --to gguf --dtype q8_0 --output aquila-7b.gguf\n  \
aquila convert model.gguf --to safetensors --output ./model\n\nThe tokenizer comes along. Nothing that is there is \
replaced, and what fails leaves nothing."
)]
pub struct ConvertArgs {
    /// A model directory (config.json with safetensors or .bin files) or a GGUF file
    model: PathBuf,
    /// What to make: safetensors or bin (a directory as Hugging Face's), flagai (one of BAAI's training code), gguf (a file)
    #[arg(long, value_parser = target)]
    to: Target,
    /// The directory or file to make, which must not be there yet
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Type of the weights: f32, f16, bf16, and for gguf q8_0 [default: as stored; where the target has no such type f16]
    #[arg(long, value_parser = dtype)]
    dtype: Option<DType>,
    /// Most bytes of one weight file of a directory, for example 5G
    #[arg(long, value_name = "SIZE", default_value_t = SHARD_BYTES, value_parser = args::size)]
    shard_size: u64,
    /// Say nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "safetensors" => Ok(Target::Directory(WeightFormat::Safetensors)),
        "bin" => Ok(Target::Directory(WeightFormat::TorchBin)),
        "flagai" => Ok(Target::FlagAi),
        "gguf" => Ok(Target::Gguf),
        _ => Err("expected safetensors, bin, flagai or gguf".into()),
    }
}

fn dtype(text: &str) -> Result<DType, String> {
    let known = [DType::F32, DType::F16, DType::BF16, DType::Q8_0];
    let found = known.into_iter().find(|dtype| dtype.name() == text);
    found.ok_or_else(|| "expected f32, f16, bf16 or q8_0".into())
}

pub fn main(args: &ConvertArgs) -> Outcome {
    console::show_log(args.quiet, false);
    interrupt::install();
    let options = ConvertOptions { target: args.to, dtype: args.dtype, shard_bytes: args.shard_size };
    let start = Instant::now();
    let report = args::with_progress(args.quiet, |progress| {
        aquila::export::convert(&args.model, &args.output, &options, progress)
    })?;
    if args.quiet { Ok(()) } else { tell(&args.output, &report, start) }
}

/// What was written, and what was lost.
pub fn tell(output: &Path, report: &ConvertReport, start: Instant) -> Outcome {
    for warning in &report.warnings {
        console::message(&format!("warning: {warning}"));
    }
    console::output(&format!(
        "{}: {} tensors, {}, in {}\n",
        output.display(),
        report.tensors,
        console::bytes(report.bytes),
        console::milliseconds(start.elapsed().as_secs_f64() * 1000.0)
    ))
}
