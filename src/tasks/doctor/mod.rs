//! `aquila doctor`: whether this machine is fit for the library, and the command that mends what is not.

mod host;
mod npu;

use super::{Outcome, console};
use clap::Args;
use serde_json::{Value, json};

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but slower than it could, or with something to know.
    Warning,
    /// Something will not work.
    Problem,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    topic: String,
    verdict: Verdict,
    text: String,
    /// The command, or the words, that mend it.
    mend: Option<String>,
}

impl Line {
    fn ok(topic: impl Into<String>, text: impl Into<String>) -> Line {
        Line { topic: topic.into(), verdict: Verdict::Ok, text: text.into(), mend: None }
    }

    fn warning(topic: impl Into<String>, text: impl Into<String>, mend: impl Into<String>) -> Line {
        Line { verdict: Verdict::Warning, mend: Some(mend.into()), ..Line::ok(topic, text) }
    }

    fn problem(topic: impl Into<String>, text: impl Into<String>, mend: impl Into<String>) -> Line {
        Line { verdict: Verdict::Problem, mend: Some(mend.into()), ..Line::ok(topic, text) }
    }
}

pub fn main(args: &DoctorArgs) -> Outcome {
    console::show_log(true, false);
    let mut lines = host::look();
    lines.extend(npu::look(&aquila::open::diagnose_npu()));
    let text = if args.json { to_json(&lines).to_string() + "\n" } else { to_text(&lines) };
    console::output(&text)?;
    match lines.iter().filter(|line| line.verdict == Verdict::Problem).count() {
        0 => Ok(()),
        1 => Err(aquila::error!(State, "doctor found a problem").into()),
        many => Err(aquila::error!(State, "doctor found {many} problems").into()),
    }
}

fn to_json(lines: &[Line]) -> Value {
    let findings: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "topic": line.topic,
                "verdict": line.verdict.name(),
                "text": line.text,
                "mend": line.mend,
            })
        })
        .collect();
    let worst = lines.iter().map(|line| line.verdict).max().unwrap_or(Verdict::Ok);
    json!({ "version": env!("CARGO_PKG_VERSION"), "verdict": worst.name(), "findings": findings })
}

fn to_text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let (verdict, topic) = (line.verdict.name(), &line.topic);
        text += &format!("{verdict:<8} {topic:<18} {}\n", console::harmless(&line.text));
        if let Some(mend) = &line.mend {
            text += &format!("{:27} -> {}\n", "", console::harmless(mend));
        }
    }
    text
}
