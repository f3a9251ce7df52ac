//! What the program says beside its output: messages, progress bars, numbers with units. All of it
//! goes to the standard error; bars only where that is a terminal.

use super::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

/// Shows `aquila: message`. A closed standard error is not worth a panic.
pub fn message(text: &str) {
    let _ = writeln!(std::io::stderr(), "aquila: {text}");
}

/// A bar of `total` units on the standard error, invisible where that is no terminal or `quiet` is
/// asked for. `template` is indicatif's.
fn bar(total: u64, template: &str, quiet: bool) -> ProgressBar {
    let target = if quiet || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// A bar that counts bytes.
pub fn byte_bar(quiet: bool) -> ProgressBar {
    bar(0, "{msg:12} [{bar:30}] {binary_bytes}/{binary_total_bytes} {eta}", quiet)
}

/// A bar that counts things.
pub fn count_bar(total: u64, quiet: bool) -> ProgressBar {
    let bar = bar(total, "{msg} [{bar:30}] {pos}/{len} {elapsed}", quiet);
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(500));
    }
    bar
}

/// Writes to the standard output and flushes: a stream is read as it comes.
pub fn output(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|cause| {
        if cause.kind() == ErrorKind::BrokenPipe {
            Failure::PipeClosed
        } else {
            Failure::Error(aquila::error!(Io, "standard output: {cause}"))
        }
    })
}

/// `text` without the control characters that could steer a terminal, line breaks and tabs excepted.
/// A model may write an escape sequence as well as any other text.
pub fn harmless(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Bytes for a person: `13.59 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} bytes");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 10.0 { 2 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A count for a person: `7.30 billion`.
pub fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}

/// `1 token`, `5 tokens`.
pub fn tokens(n: u32) -> String {
    format!("{n} token{}", if n == 1 { "" } else { "s" })
}

/// Milliseconds for a person: `35 ms`, `12.3 s`.
pub fn milliseconds(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// Shows warnings of the library (and with `--verbose` what else it tells) as messages.
struct Messages;

impl log::Log for Messages {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        match record.level() {
            log::Level::Error | log::Level::Warn => message(&format!("warning: {}", record.args())),
            _ => message(&record.args().to_string()),
        }
    }
    fn flush(&self) {}
}

/// Lets the library's log through: warnings; with `verbose` its information too; with `quiet` nothing.
pub fn show_log(quiet: bool, verbose: bool) {
    let level = match (quiet, verbose) {
        (true, _) => log::LevelFilter::Off,
        (false, true) => log::LevelFilter::Info,
        (false, false) => log::LevelFilter::Warn,
    };
    if log::set_logger(&Messages).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_readable() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(14_591_074_304), "13.6 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(count(134_515_008), "134.5 million");
        assert_eq!(count(7_295_537_152), "7.30 billion");
        assert_eq!((tokens(1), tokens(5)), ("1 token".into(), "5 tokens".into()));
        assert_eq!(milliseconds(35.4), "35 ms");
        assert_eq!(milliseconds(12_340.0), "12.3 s");
    }

    #[test]
    fn escape_sequences_lose_their_escape() {
        assert_eq!(harmless("a\x1b[2Jb\u{9b}c\r\n\t中"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}\n\t中");
    }
}
