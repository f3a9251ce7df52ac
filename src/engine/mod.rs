//! Who runs when. An [`Engine`] owns one thread that steps one executor; any number of host threads
//! submit requests to it and read their events.

pub mod measure;
pub mod params;

use crate::backend::MemoryPlan;
use crate::base::error::Result;
use crate::text::{ChatTemplate, Tokenizer};
use params::{Event, GenParams, Generation, Input, Timings};
use std::time::Duration;

/// A loaded model with its thread. Cheap to clone; all clones are the same engine.
#[derive(Clone)]
pub struct Engine {}

/// A request in flight. Dropping it cancels it.
pub struct Request {}

/// What waiting for an event gave.
#[derive(Clone, Debug)]
pub enum Next {
    /// An event.
    Event(Event),
    /// The last event was already read.
    Done,
    /// The time passed; nothing is lost.
    Timeout,
}

/// Facts of a loaded engine.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// "cpu", "npu:0", …
    pub device: String,
    /// Rows of the embedding.
    pub vocab: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Tokens a sequence may have: the least of the model's, `max_context` and `MAX_SEQ_LEN`.
    pub context: u32,
    /// Ranks.
    pub tensor_parallel: u32,
    /// Begin-of-sequence id, −1 without one.
    pub bos: i32,
    /// The first stop id, −1 without one.
    pub eos: i32,
    /// All ids that end a text.
    pub stop_ids: Vec<u32>,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Stored bytes of all weights.
    pub weight_bytes: u64,
    /// What the engine took.
    pub plan: MemoryPlan,
    /// Threads, instruction level, arithmetic: pairs of name and value.
    pub executor: Vec<(&'static str, String)>,
    /// Name of the chat template, if there is one.
    pub chat_template: Option<String>,
}

impl Engine {
    /// Submits a request. Returns as soon as the prompt is tokenised; `ContextFull` where it leaves no
    /// room for a token, `Overloaded` where the waiting line is full, `Closed` after `close`.
    pub fn submit(&self, _input: Input, _params: GenParams) -> Result<Request> {
        Err(crate::error!(Closed, "the engine was freed"))
    }

    /// Submits and waits to the end.
    pub fn generate(&self, input: Input, params: GenParams) -> Result<Generation> {
        self.submit(input, params)?.wait()
    }

    /// Facts.
    pub fn info(&self) -> &EngineInfo {
        unreachable!()
    }

    /// The tokenizer, or `Unsupported` where the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        Err(crate::error!(Unsupported, "no tokenizer"))
    }

    /// The chat template, or `Unsupported` naming what was looked for.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        Err(crate::error!(Unsupported, "no template"))
    }

    /// Ends all requests with `Closed`, joins the engine's thread and gives its memory back. Later
    /// calls on any clone give `Closed`. Idempotent; not from inside the engine's own thread.
    pub fn close(&self) {}
}

impl Request {
    /// Waits for the next event, at most `timeout` (`None`: without limit).
    pub fn next(&self, _timeout: Option<Duration>) -> Result<Next> {
        Ok(Next::Done)
    }

    /// Reads all events to the end. An error of the step is returned as the error.
    pub fn wait(&self) -> Result<Generation> {
        Err(crate::error!(Closed, "the engine was freed"))
    }

    /// Asks the request to end at the next step border; its last event says `Cancelled`. Never blocks.
    pub fn cancel(&self) {}

    /// Times and counts so far.
    pub fn timings(&self) -> Timings {
        Timings::default()
    }
}
