//! `aquila run`: a prompt in, a stream of text out, and a line of times.

use super::args::{GenArgs, LoadArgs};
use super::{Failure, Outcome, args, chat, console, interrupt};
use aquila::Status;
use aquila::engine::params::{Event, Finish, GenParams, Input, Timings};
use aquila::engine::{Engine, Job, Next, Request, Session};
use clap::Args;
use std::io::{ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args, Debug)]
pub struct RunArgs {
    /// A model directory (config.json with safetensors or .bin files) or a GGUF file
    model: PathBuf,
    /// The prompt; `-` or nothing reads it from the standard input. With --chat on a terminal and no
    /// prompt a conversation begins
    prompt: Option<String>,
    /// Take the prompt as a user's message and apply the model's chat template
    #[arg(long, group = "talks")]
    chat: bool,
    /// Answer a chat: a file with a JSON array of messages, or an object with "messages", "tools" and
    /// options; `-` reads it from the standard input
    #[arg(long, value_name = "FILE", group = "talks", conflicts_with = "prompt")]
    messages: Option<PathBuf>,
    /// Begin the chat with this system message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Chat template: the name of a built-in one, or a file with Jinja text [default: the model's]
    #[arg(long, value_name = "NAME|FILE", requires = "talks")]
    template: Option<String>,
    /// Continue the text that is kept in this file, and keep it with the answer; without such a file begin one
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    session: Option<PathBuf>,
    /// Say nothing but the answer and errors
    #[arg(long, short)]
    quiet: bool,
    /// Tell more while loading
    #[arg(long, short, conflicts_with = "quiet")]
    verbose: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    generation: GenArgs,
}

impl RunArgs {
    /// The messages that stand before the first question.
    pub fn opening(&self) -> Vec<serde_json::Value> {
        self.system.iter().map(|text| message("system", text)).collect()
    }
}

/// One message of a chat.
pub fn message(role: &str, content: &str) -> serde_json::Value {
    serde_json::json!({ "role": role, "content": content })
}

pub fn main(args: &RunArgs) -> Outcome {
    console::show_log(args.quiet, args.verbose);
    let talk = args.chat && args.prompt.is_none() && std::io::stdin().is_terminal();
    let prompt = match &args.messages {
        _ if talk => None,
        Some(file) if file.as_os_str() != "-" => Some(read_messages(file)?),
        _ => Some(read_prompt(args)?),
    };
    let mut options = args.load.options();
    options.chat_template = args.template.as_deref().map(args::template).transpose()?;
    let constraint = args.generation.constraint()?;
    interrupt::install();
    if !args.quiet {
        args::announce(&args.model, &options)?;
    }
    let engine =
        args::with_progress(args.quiet, |progress| aquila::open::load(&args.model, &options, progress))?;
    let seed = args.generation.choose_seed();
    let params = GenParams { constraint, ..args.generation.params(seed) };
    let outcome = match prompt {
        None => chat::converse(&engine, args.opening(), &params, args.quiet),
        Some(prompt) => run_once(&engine, args, prompt, params),
    };
    engine.close();
    outcome
}

fn run_once(engine: &Engine, args: &RunArgs, prompt: String, params: GenParams) -> Outcome {
    let input = if args.messages.is_some() {
        Input::Messages(prompt)
    } else if args.chat {
        let mut messages = args.opening();
        messages.push(message("user", &prompt));
        Input::Messages(serde_json::Value::Array(messages).to_string())
    } else {
        Input::Text(prompt)
    };
    let shown_seed =
        (params.sampling.temperature > 0.0 && args.generation.seed.is_none()).then_some(params.sampling.seed);
    let session = args.session.as_deref().map(|path| open_session(engine, path)).transpose()?;
    let job = Job { session: session.as_ref(), ..Job::new(input, params) };
    let answer = stream(engine, job, args.quiet)?;
    end_line(&answer.text)?;
    if let (Some(session), Some(path)) = (&session, &args.session) {
        session.save(path)?;
    }
    if !args.quiet {
        report(&answer, shown_seed);
    }
    if answer.interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}

/// The session of a file, or an empty one where there is none yet.
fn open_session(engine: &Engine, path: &Path) -> aquila::Result<Session> {
    match engine.restore_session(path) {
        Err(error) if error.status == Status::NotFound => engine.session(),
        found => found,
    }
}

fn read_messages(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|cause| {
        let status = if cause.kind() == ErrorKind::NotFound { Status::NotFound } else { Status::Io };
        Failure::Error(aquila::Error::new(status, format!("--messages {}: {cause}", file.display())))
    })
}

/// The prompt of the command line, or the standard input without its last line break.
fn read_prompt(args: &RunArgs) -> Result<String, Failure> {
    if let Some(text) = args.prompt.as_deref().filter(|text| *text != "-") {
        return Ok(text.into());
    }
    if std::io::stdin().is_terminal() && !args.quiet {
        // Else a newcomer who forgot the prompt sees a program that does nothing.
        console::message("no prompt is given: type it; Ctrl-D on a line of its own ends it");
    }
    let mut bytes = Vec::new();
    let most = aquila::base::limits::PROMPT_BYTES_MAX as u64 + 1;
    std::io::stdin()
        .lock()
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(|cause| aquila::error!(Io, "standard input: {cause}"))?;
    let mut text = String::from_utf8(bytes).map_err(|cause| {
        let at = cause.utf8_error().valid_up_to();
        Failure::Error(aquila::error!(Format, "standard input: expected UTF-8, byte {at} is not"))
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// A streamed answer.
pub struct Answer {
    pub text: String,
    finish: Finish,
    timings: Timings,
    /// Ctrl-C ended it.
    pub interrupted: bool,
}

/// Runs a request and writes its text to the standard output as it comes.
pub fn stream(engine: &Engine, job: Job<'_>, quiet: bool) -> Result<Answer, Failure> {
    let request = engine.run(job)?;
    let guard_terminal = std::io::stdout().is_terminal();
    let mut prefill = None;
    let mut text = String::new();
    let finish = loop {
        // A request in prefill has nothing to say for long; the wait is short so that Ctrl-C is seen.
        let next = request.next(Some(Duration::from_millis(50)))?;
        if interrupt::pressed() {
            request.cancel();
        }
        match next {
            Next::Timeout => {}
            Next::Event(Event::Prefill { done, total }) => {
                let bar = prefill.get_or_insert_with(|| console::count_bar(total.into(), quiet));
                bar.set_message("prompt");
                bar.set_position(done.into());
            }
            Next::Event(Event::Text { text: part, .. }) => {
                if let Some(bar) = prefill.take() {
                    bar.finish_and_clear();
                }
                let shown = if guard_terminal { console::harmless(&part) } else { part.clone() };
                text.push_str(&part);
                console::output(&shown).inspect_err(|_| request.cancel())?;
            }
            Next::Event(Event::Finish { reason, error }) => {
                if let Some(bar) = prefill.take() {
                    bar.finish_and_clear();
                }
                break match error {
                    Some(error) => {
                        end_line(&text)?;
                        return Err(error.into());
                    }
                    None => reason,
                };
            }
            Next::Done => break Finish::Error,
        }
    };
    let interrupted = interrupt::pressed() && finish == Finish::Cancelled;
    Ok(Answer { text, finish, timings: Request::timings(&request), interrupted })
}

/// Ends the last line of an answer that did not end it itself.
pub fn end_line(text: &str) -> Outcome {
    if text.ends_with('\n') { Ok(()) } else { console::output("\n") }
}

/// The line of times on the standard error.
pub fn report(answer: &Answer, seed: Option<u64>) {
    let times = &answer.timings;
    let rate = |tokens: u32, ms: f64| if ms > 0.0 { f64::from(tokens) * 1000.0 / ms } else { 0.0 };
    let computed = times.prompt_tokens.saturating_sub(times.cached_tokens);
    let cached = match times.cached_tokens {
        0 => String::new(),
        n => format!(" ({n} cached)"),
    };
    // The first token came with the prompt's last step: one alone has no rate.
    let made = match times.output_tokens.saturating_sub(1) {
        0 => String::new(),
        more => format!(" at {:.1}/s", rate(more, times.decode_ms)),
    };
    let mut line = format!(
        "prompt {}{cached} at {:.1}/s, first token after {}, answer {}{made}, {}",
        console::tokens(times.prompt_tokens),
        rate(computed, times.prefill_ms),
        console::milliseconds(times.first_token_ms),
        console::tokens(times.output_tokens),
        match answer.finish {
            Finish::Eos => "end of text",
            Finish::Stop => "stop text",
            Finish::Length => "limit of tokens",
            Finish::Context => "context full",
            Finish::Cancelled => "stopped",
            Finish::Deadline => "deadline",
            Finish::Error => "failed",
        }
    );
    if times.proposed_tokens > 0 {
        let (right, all) = (times.accepted_tokens, times.proposed_tokens);
        line.push_str(&format!(", {right} of {} looked up", console::tokens(all)));
    }
    if let Some(seed) = seed {
        line.push_str(&format!(", seed {seed}"));
    }
    console::message(&line);
}
