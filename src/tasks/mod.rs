//! The commands of the program `aquila`. They use the library's public Rust API and nothing else, and
//! so prove it.
//!
//! | module | what it is |
//! |---|---|
//! | `args` | options shared by the commands, and their translation into the library's |
//! | `run` | `aquila run`: one prompt, or one chat turn |
//! | `chat` | the conversation on a terminal |
//! | `info` | `aquila info` |
//! | `bench` | `aquila bench` |
//! | `serve_bench` | `aquila serve-bench` |
//! | `quantize` | `aquila quantize` |
//! | `convert` | `aquila convert` |
//! | `split` | `aquila split` and `aquila join` |
//! | `doctor` | `aquila doctor` |
//! | `console` | messages, progress bars, units |
//! | `interrupt` | Ctrl-C |

mod args;
mod bench;
mod chat;
mod console;
mod convert;
mod doctor;
mod info;
mod interrupt;
mod quantize;
mod run;
mod serve_bench;
mod split;

use aquila::Status;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::sync::LazyLock;

/// The command did what it was asked.
const EXIT_OK: u8 = 0;
/// It failed: the message says why.
const EXIT_FAILED: u8 = 1;
/// It was asked for something that does not exist: an unknown option, a value out of its range.
const EXIT_USAGE: u8 = 2;
/// Ended by Ctrl-C, as a shell expects it: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 ended by Ctrl-C.
Errors go to the standard error as \"aquila: message\".";

/// Version, target and kind of build.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\ntarget: {}-{}\nbuild: {}\ndevices: cpu, npu (Ascend, where CANN is)",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        if cfg!(debug_assertions) { "debug" } else { "release" },
    )
});

/// Runs BAAI's Aquila language models on this machine.
#[derive(Parser)]
#[command(name = "aquila", version, long_version = LONG_VERSION.as_str(), after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate text from a prompt, or chat
    Run(Box<run::RunArgs>),
    /// Say what a checkpoint is and what loading it will cost; loads nothing
    Info(info::InfoArgs),
    /// Measure prefill and decode speed beside the machine's limits
    Bench(bench::BenchArgs),
    /// Measure what a service sees: requests together, cached beginnings, delays, cancelling
    ServeBench(serve_bench::ServeBenchArgs),
    /// Convert weights to 8 or 4 bits ahead, and keep them for later loads
    Quantize(quantize::QuantizeArgs),
    /// Cut a model for several cards: part_model/0, part_model/1, …
    Split(split::SplitArgs),
    /// Put a model that was cut together again
    Join(split::JoinArgs),
    /// Write a model in another kind of file, or of another type
    Convert(convert::ConvertArgs),
    /// Look whether this machine is fit, and say what mends what is not
    Doctor(doctor::DoctorArgs),
}

/// How a command failed.
enum Failure {
    /// An error of the library or of the system, to be shown.
    Error(aquila::Error),
    /// A wrong option, to be shown.
    Usage(String),
    /// The user pressed Ctrl-C.
    Interrupted,
    /// The reader of the standard output has gone; nothing is wrong and nobody listens.
    PipeClosed,
}

impl From<aquila::Error> for Failure {
    fn from(error: aquila::Error) -> Self {
        Failure::Error(error)
    }
}

type Outcome = Result<(), Failure>;

/// Reads the command line, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(show_clap(&error)),
    };
    let outcome = match cli.command {
        Command::Run(args) => run::main(&args),
        Command::Info(args) => info::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::ServeBench(args) => serve_bench::main(&args),
        Command::Quantize(args) => quantize::main(&args),
        Command::Split(args) => split::split(&args),
        Command::Join(args) => split::join(&args),
        Command::Convert(args) => convert::main(&args),
        Command::Doctor(args) => doctor::main(&args),
    };
    ExitCode::from(match outcome {
        Ok(()) | Err(Failure::PipeClosed) => EXIT_OK,
        Err(Failure::Interrupted) => EXIT_INTERRUPTED,
        Err(Failure::Usage(message)) => {
            console::message(&message);
            EXIT_USAGE
        }
        Err(Failure::Error(error)) => {
            console::message(&error.message);
            if error.status == Status::Argument { EXIT_USAGE } else { EXIT_FAILED }
        }
    })
}

/// Shows what clap has to say: help and version on the standard output, errors like all others.
fn show_clap(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        // A closed pipe (`aquila --help | head -1`) is no failure.
        let _ = error.print();
        return EXIT_OK;
    }
    let text = error.to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return EXIT_USAGE;
    }
    console::message(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
    EXIT_USAGE
}
