//! `aquila quantize`: converts the weights of a model once and keeps them in a packed cache, which later loads with
//! the same type of weights map.

use super::{Failure, Outcome, args, console, interrupt};
use aquila::open::LoadOptions;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args, Debug)]
#[command(
    after_help = "Loads with the same --dtype and --cache-dir then map the file instead of converting. It belongs \
to these source files: when they change it is made again. Without --force a good file is checked and kept."
)]
pub struct QuantizeArgs {
    /// A model directory (config.json with safetensors or .bin files) or a GGUF file
    model: PathBuf,
    /// Type of the weights: q8, q4; also f32, f16, bf16 where they are stored as another
    #[arg(long)]
    dtype: String,
    /// Directory of the packed cache; made if it is missing
    #[arg(long, value_name = "DIR")]
    cache_dir: PathBuf,
    /// Make it again even if a good one is there
    #[arg(long)]
    force: bool,
    /// Worker threads; 0: the processors this process may use
    #[arg(long, default_value_t = 0)]
    threads: u32,
    /// Where the weights will be used: auto, cpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Look at every weight for NaN and infinity first
    #[arg(long)]
    verify: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

pub fn main(args: &QuantizeArgs) -> Outcome {
    console::show_log(args.quiet, false);
    interrupt::install();
    let options = LoadOptions {
        device: args.device.clone(),
        dtype: Some(args.dtype.clone()),
        cache_dir: Some(args.cache_dir.clone()),
        threads: args.threads,
        verify: args.verify,
        ..LoadOptions::default()
    };
    // What is wrong with the model is said before a directory is made for it.
    aquila::open::plan(&args.model, &options)?;
    std::fs::create_dir_all(&args.cache_dir)
        .map_err(|cause| Failure::Error(aquila::Error::io("make the directory", &args.cache_dir, &cause)))?;
    let start = Instant::now();
    let cache = args::with_progress(args.quiet, |progress| {
        aquila::open::quantize(&args.model, &options, args.force, progress)
    })?;
    if args.quiet {
        return Ok(());
    }
    let bits = |bytes: u64| bytes as f64 * 8.0 / cache.weights.max(1) as f64;
    console::output(&format!(
        "{}\n{} weights in {} tensors: {} ({:.2} bits a weight) before, {} ({:.3} bits a weight) after\n{}\n",
        cache.path.display(),
        console::count(cache.weights),
        cache.tensors,
        console::bytes(cache.stored_bytes),
        bits(cache.stored_bytes),
        console::bytes(cache.packed_bytes),
        bits(cache.packed_bytes),
        match cache.found {
            true => "it was there already, and every checksum is right".into(),
            false => format!("written in {}", console::milliseconds(start.elapsed().as_secs_f64() * 1000.0)),
        }
    ))
}
