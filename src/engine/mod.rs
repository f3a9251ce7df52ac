//! Who runs when. An [`Engine`] owns one thread that steps one executor; any number of host threads
//! submit requests to it and read their events.
//!
//! | file | what |
//! |---|---|
//! | `params` | what a request asks for and gives back |
//! | `request` | a request as its two sides share it |
//! | `event_queue` | one waiting thread for many requests |
//! | `prompt` | from input to token ids, on the caller's thread |
//! | `scheduler`, `kv_blocks`, `prefix` | who runs in the next step, in which KV blocks; pure |
//! | `pace` | how much of a prompt a step takes along beside answers; pure |
//! | `speculation` | tokens that may come next, looked up in the text so far; pure |
//! | `active`, `output`, `measured` | a request on the engine's thread: tokens, sampler, text; scores, embeddings |
//! | `run` | the engine's thread |
//! | `shared` | what the threads share |
//! | `metrics` | what an engine counts, as numbers and as text |
//! | `measure` | speed of a bare executor, beside the machine's limits |

mod active;
pub mod event_queue;
pub mod kv_blocks;
pub mod measure;
mod measured;
pub mod metrics;
mod output;
mod pace;
pub mod params;
pub mod prefix;
mod prompt;
mod request;
mod run;
pub mod scheduler;
mod shared;
pub mod speculation;

use crate::backend::{Executor, MemoryPlan};
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::fork::Process;
use crate::text::{ChatTemplate, Tokenizer};
use event_queue::EventQueue;
use metrics::{Counters, EngineStats};
use params::{GenParams, Generation, Input};
use parking_lot::{Condvar, Mutex};
use shared::{Arrival, Inbox, Life, Shared, Task};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use request::RequestState;
pub use request::{Next, Request};

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

/// All that an engine is made of.
pub struct Parts {
    /// Facts; `executor` is filled in from the executor itself.
    pub info: EngineInfo,
    /// Text to ids and back; `None` for a checkpoint without tokenizer.
    pub tokenizer: Option<Tokenizer>,
    /// Messages to a prompt.
    pub chat: Option<ChatTemplate>,
    /// Runs the steps.
    pub executor: Box<dyn Executor>,
    /// Most requests that may wait.
    pub max_waiting: usize,
    /// Real, or stepped by a test.
    pub clock: Clock,
}

/// A loaded model with its thread. Cheap to clone; all clones are the same engine, and all methods may
/// be called from any thread at once. The last clone to go closes it.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    thread: Arc<EngineThread>,
}

/// Ends and joins the engine's thread when it goes.
struct EngineThread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl EngineThread {
    fn close(&self) {
        if !self.shared.process.is_current() {
            return; // the thread does not exist in a forked child, and its locks may be held for ever
        }
        self.shared.inbox.lock().life = Life::Closed;
        self.shared.bell.notify_one();
        let handle = self.handle.lock().take();
        if let Some(handle) = handle
            && handle.thread().id() != std::thread::current().id()
        {
            // The thread catches its own panics, so join cannot fail.
            let _ = handle.join();
        }
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        self.close();
    }
}

impl Engine {
    /// Starts the thread of an engine. `NoMemory` where the executor's KV cache cannot hold one full
    /// context; `Unsupported` where it takes whole prompts only, and none as long as the context.
    pub fn start(parts: Parts) -> Result<Engine> {
        let Parts { mut info, tokenizer, chat, executor, max_waiting, clock } = parts;
        info.executor = executor.describe();
        let kv_blocks = info.plan.kv_blocks;
        let shared = Arc::new(Shared {
            info,
            tokenizer,
            chat,
            max_waiting,
            process: Process::current(),
            clock,
            inbox: Mutex::new(Inbox { life: Life::Running, arrivals: VecDeque::new(), woken: false }),
            bell: Condvar::new(),
            waiting: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            counters: Counters::default(),
        });
        let handle = run::start(shared.clone(), executor, kv_blocks)?;
        let thread = EngineThread { shared: shared.clone(), handle: Mutex::new(Some(handle)) };
        Ok(Engine { shared, thread: Arc::new(thread) })
    }

    /// Submits a request. Returns as soon as the prompt is tokenised; `ContextFull` where it leaves no
    /// room for a token, `Overloaded` where the waiting line is full, `Closed` after `close`, `State`
    /// after an internal error, `Forked` in a child process.
    pub fn submit(&self, input: Input, params: GenParams) -> Result<Request> {
        let (request, admission) = self.prepare(input, params, None)?;
        admission.admit()?;
        Ok(request)
    }

    /// The first half of [`Engine::submit`]: everything that can be wrong with the input is found, and nothing runs
    /// yet. `queue`: where the request is listed when it has something to say, under the name that
    /// [`Admission::set_name`] gives it.
    pub fn prepare(
        &self,
        input: Input,
        mut params: GenParams,
        queue: Option<Arc<EventQueue>>,
    ) -> Result<(Request, Admission)> {
        let shared = &self.shared;
        shared.process.check()?;
        shared.inbox.lock().life.check()?;
        params.check(shared.info.vocab as usize)?;
        let start = shared.clock.now_ns();
        let prompt = prompt::prepare(shared, input, &params)?;
        params.stop.extend(prompt.template_stops);
        let tokenize_ms = shared.clock.now_ns().saturating_sub(start) as f64 / 1e6;
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (tokens, deadline) = (prompt.tokens.len(), params.deadline);
        let state = Arc::new(RequestState::new(id, start, tokenize_ms, tokens, deadline, queue));
        let request = Request { state: state.clone(), shared: shared.clone() };
        let state = request::Served(state);
        let arrival =
            Arrival { state, prompt: prompt.tokens, params, echo: prompt.echo, task: Task::Generate };
        Ok((request, Admission { arrival, shared: shared.clone() }))
    }

    /// How likely each of `choices` is after `prompt`: the sum of the log-probabilities of its tokens, which are those
    /// that prompt and choice together have beyond the prompt's own. Blocks until all are done. `Argument` for an empty
    /// prompt or choice, `ContextFull`, and as [`Engine::submit`].
    pub fn score(&self, prompt: &str, choices: &[&str]) -> Result<Vec<f64>> {
        let params = GenParams::default();
        let encode =
            |text: String| prompt::prepare(&self.shared, Input::Text(text), &params).map(|p| p.tokens);
        let start = encode(prompt.to_owned())?;
        let mut texts = Vec::new();
        for (at, choice) in choices.iter().enumerate() {
            let place = |e: crate::Error| e.at(format!("choices[{at}]"));
            let text = encode([prompt, choice].concat()).map_err(place)?;
            // A token may reach over the border; then it belongs to the choice.
            let same = start.iter().zip(&text).take_while(|(a, b)| a == b).count();
            crate::ensure!(same < text.len(), Argument, "choices[{at}]: it adds no token to the prompt");
            crate::ensure!(same > 0, Argument, "prompt: none of its tokens is left with choices[{at}]");
            texts.push((text, same));
        }
        let sum = |request: Request| Ok(request.wait()?.logprobs.iter().map(|&l| f64::from(l)).sum());
        // The first leaves the prompt's KV blocks to the others.
        let mut texts = texts.into_iter();
        let Some((text, from)) = texts.next() else { return Ok(Vec::new()) };
        let mut scores = vec![sum(self.submit_task(text, Task::Score(from))?)?];
        let others: Vec<_> =
            texts.map(|(text, from)| self.submit_task(text, Task::Score(from))).collect::<Result<_>>()?;
        for request in others {
            scores.push(sum(request)?);
        }
        Ok(scores)
    }

    /// Where each of `texts` lies among others: the mean of the hidden states after the final norm, of length 1,
    /// `[hidden]`. Blocks until all are done. Errors as [`Engine::submit`].
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let params = GenParams::default();
        let mut requests = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let prompt = prompt::prepare(&self.shared, Input::Text(text.to_string()), &params);
            let tokens = prompt.map_err(|e| e.at(format!("texts[{at}]")))?.tokens;
            requests.push(self.submit_task(tokens, Task::Embed)?);
        }
        requests
            .into_iter()
            .map(|request| {
                request.wait()?;
                Ok(request.take_embedding())
            })
            .collect()
    }

    fn submit_task(&self, tokens: Vec<u32>, task: Task) -> Result<Request> {
        let shared = &self.shared;
        shared.process.check()?;
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(RequestState::new(id, shared.clock.now_ns(), 0.0, tokens.len(), None, None));
        let request = Request { state: state.clone(), shared: shared.clone() };
        let state = request::Served(state);
        shared.admit(Arrival { state, prompt: tokens, params: GenParams::default(), echo: None, task })?;
        Ok(request)
    }

    /// Submits and waits to the end.
    pub fn generate(&self, input: Input, params: GenParams) -> Result<Generation> {
        self.submit(input, params)?.wait()
    }

    /// What is going on, and what was done since the engine was loaded.
    pub fn stats(&self) -> EngineStats {
        EngineStats::of(&self.shared)
    }

    /// The same, and times, in the text form that Prometheus reads.
    pub fn metrics_text(&self) -> String {
        metrics::text(&self.shared)
    }

    /// Facts.
    pub fn info(&self) -> &EngineInfo {
        &self.shared.info
    }

    /// The tokenizer, or `Unsupported` where the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.shared.tokenizer()
    }

    /// The chat template, or `Unsupported` naming what was looked for.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.shared.chat()
    }

    /// `Ok` while the engine takes requests; else why not: `Closed`, `State`, `Forked`.
    pub fn check(&self) -> Result<()> {
        self.shared.process.check()?;
        self.shared.inbox.lock().life.check()
    }

    /// Ends all requests with `Closed`, joins the engine's thread and gives its memory back. Later
    /// calls on any clone give `Closed`. Idempotent; does nothing in a forked child.
    pub fn close(&self) {
        self.thread.close();
    }
}

/// A request that was prepared, to be handed to the engine. Dropping it instead ends the request.
pub struct Admission {
    arrival: Arrival,
    shared: Arc<Shared>,
}

impl Admission {
    /// What the request's queue hands out for it; not 0.
    pub fn set_name(&self, name: usize) {
        self.arrival.state.set_name(name);
    }

    /// Hands the request over; errors as those of [`Engine::submit`].
    pub fn admit(self) -> Result<()> {
        self.shared.admit(self.arrival)
    }
}

impl Shared {
    fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            crate::error!(
                Unsupported,
                "this checkpoint has no tokenizer (tokenizer.json, or vocab.json and merges.txt); \
                 give token ids, or name one in the load options"
            )
        })
    }

    fn chat(&self) -> Result<&ChatTemplate> {
        self.chat.as_ref().ok_or_else(|| {
            crate::error!(
                Unsupported,
                "this model has no chat template (looked for the load option, chat_template.jinja, \
                 tokenizer_config.json, the GGUF key, a built-in one for the model's name)"
            )
        })
    }
}
