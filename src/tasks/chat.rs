//! The conversation on a terminal: questions are read line by line, answers are streamed, the whole
//! history goes into each next turn.

use super::run::{self, message};
use super::{Failure, Outcome, console, interrupt};
use aquila::Status;
use aquila::engine::params::{GenParams, Input};
use aquila::engine::{Engine, Job};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsFd;

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
    let mut keyboard = Keyboard::open()?;
    let mut warned = false;
    loop {
        let question = match keyboard.line(warned)? {
            Line::End => return console::output("\n"),
            Line::Interrupted => {
                console::output("\n")?;
                console::message("Ctrl-C again or /exit ends");
                warned = true;
                continue;
            }
            Line::Text(text) => text,
        };
        interrupt::answered();
        warned = false;
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
    let answer = run::stream(engine, Job::new(input, params.clone()), quiet);
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

/// The terminal, read line by line. Not the standard library's `stdin`, whose buffer cannot be asked
/// whether it is empty and whose `read_line` goes on reading after a signal.
struct Keyboard(BufReader<File>);

impl Keyboard {
    fn open() -> Result<Self, Failure> {
        let input = std::io::stdin().as_fd().try_clone_to_owned();
        Ok(Keyboard(BufReader::new(input.map_err(unreadable)?.into())))
    }

    /// Shows the mark and reads a line. With `warned` the next Ctrl-C is left to end the program.
    fn line(&mut self, warned: bool) -> Result<Line, Failure> {
        // The mark goes to the standard error: the standard output holds the answers only.
        let mut err = std::io::stderr();
        let _ = err.write_all(b"> ").and_then(|()| err.flush());
        let mut line = Vec::new();
        loop {
            if self.0.buffer().is_empty() && !interrupt::wait_for_input(self.0.get_ref().as_fd(), warned) {
                return Ok(Line::Interrupted);
            }
            let bytes = match self.0.fill_buf() {
                Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(unreadable)?,
            };
            let end = bytes.iter().position(|&b| b == b'\n');
            line.extend(bytes.iter().take(end.unwrap_or(bytes.len())));
            let (taken, ended) = (end.map_or(bytes.len(), |end| end + 1), bytes.is_empty());
            self.0.consume(taken);
            if ended && line.is_empty() {
                return Ok(Line::End);
            }
            if ended || end.is_some() {
                // A terminal in another encoding: the model sees the question as far as it is text.
                return Ok(Line::Text(String::from_utf8_lossy(&line).into_owned()));
            }
        }
    }
}

fn unreadable(cause: std::io::Error) -> Failure {
    Failure::Error(aquila::error!(Io, "standard input: {cause}"))
}
