//! The conversation on a terminal: questions are read line by line, answers are streamed, the whole
//! history goes into each next turn.

use super::run::{self, message};
use super::{Failure, Outcome, console, interrupt};
use aquila::Status;
use aquila::engine::Engine;
use aquila::engine::params::{GenParams, Input};
use serde_json::Value;
use std::io::{BufRead, ErrorKind, Write};

const HELP: &str =
    "/exit ends, /reset forgets the conversation, Ctrl-C stops an answer and, twice, the program";

/// What the user typed.
enum Line {
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D.
    End,
}

/// Talks until the user leaves.
pub fn converse(engine: &Engine, opening: Vec<Value>, params: &GenParams, quiet: bool) -> Outcome {
    // A model without a template is refused before the first question is typed.
    engine.chat_template()?;
    // The history must hold answers, not answers behind prompts.
    let params = &GenParams { echo: false, ..params.clone() };
    let mut history = opening.clone();
    if !quiet {
        console::message(HELP);
    }
    loop {
        let question = match read_line()? {
            Line::End => return console::output("\n"),
            Line::Interrupted => {
                console::output("\n")?;
                console::message("Ctrl-C again or /exit ends");
                continue;
            }
            Line::Text(text) => text,
        };
        interrupt::answered();
        match question.trim() {
            "" => {}
            "/exit" | "/quit" => return Ok(()),
            "/reset" => history.clone_from(&opening),
            "/help" | "/?" => console::message(HELP),
            question => turn(engine, &mut history, question, params, quiet)?,
        }
    }
}

/// One question and its answer. A turn that fails leaves the history as it was.
fn turn(
    engine: &Engine,
    history: &mut Vec<Value>,
    question: &str,
    params: &GenParams,
    quiet: bool,
) -> Outcome {
    history.push(message("user", question));
    let input = Input::Messages(Value::from(history.as_slice()).to_string());
    let answer = run::stream(engine, input, params.clone(), quiet);
    interrupt::answered();
    match answer {
        Ok(answer) => {
            run::end_line(&answer.text)?;
            history.push(message("assistant", &answer.text));
            if !quiet {
                run::report(&answer, None);
            }
            Ok(())
        }
        Err(Failure::Error(error)) if error.status == Status::ContextFull => {
            history.pop();
            console::message(&format!("{}; /reset begins anew", error.message));
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// Shows the prompt and reads a line. The standard library's own `read_line` would go on reading
/// after a signal, so the bytes are taken here as they come.
fn read_line() -> Result<Line, Failure> {
    // The mark goes to the standard error: the standard output holds the answers only.
    let mut err = std::io::stderr();
    let _ = err.write_all(b"> ").and_then(|()| err.flush());
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    loop {
        let (taken, complete) = match input.fill_buf() {
            Ok([]) if line.is_empty() => return Ok(Line::End),
            Ok([]) => (0, true),
            Ok(bytes) => match bytes.iter().position(|&b| b == b'\n') {
                Some(end) => {
                    line.extend(bytes.iter().take(end));
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(bytes);
                    (bytes.len(), false)
                }
            },
            Err(cause) if cause.kind() == ErrorKind::Interrupted && interrupt::pressed() => {
                return Ok(Line::Interrupted);
            }
            // Another signal, such as a resized window.
            Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
            Err(cause) => return Err(Failure::Error(aquila::error!(Io, "standard input: {cause}"))),
        };
        input.consume(taken);
        if complete {
            // A terminal in another encoding: the question is shown to the model as far as it is text.
            return Ok(Line::Text(String::from_utf8_lossy(&line).into_owned()));
        }
    }
}
