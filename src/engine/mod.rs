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
//! | `active`, `output`, `shift` | a request on the engine's thread: tokens, sampler, text; a context that is full |
//! | `measured` | texts that are scored or embedded |
//! | `session`, `kv_content` | texts that grow from request to request; their KV blocks in files |
//! | `run` | the engine's thread |
//! | `shared` | what the threads share |
//! | `metrics` | what an engine counts, as numbers and as text |
//! | `measure` | speed of a bare executor, beside the machine's limits |

mod active;
pub mod event_queue;
pub mod kv_blocks;
mod kv_content;
pub mod measure;
mod measured;
pub mod metrics;
mod offer;
mod output;
mod pace;
pub mod params;
pub mod prefix;
mod prompt;
mod request;
mod run;
pub mod scheduler;
pub mod session;
mod shared;
mod shift;
pub mod speculation;

use crate::backend::{Capabilities, Executor, MemoryPlan};
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::fork::Process;
use crate::loading::session_file::Identity;
use crate::text::{ChatTemplate, Tokenizer};
use event_queue::EventQueue;
use metrics::{Counters, EngineStats};
use params::{GenParams, Generation, Input};
use parking_lot::{Condvar, Mutex};
use prompt::Prompt;
use shared::{Arrival, Inbox, Life, Shared, Task};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub use request::{Next, Request};
use request::{RequestState, Served};
pub use session::Session;

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
    /// Tells the model from others: a hash of names, sizes and both ends of its weight files.
    pub fingerprint: u64,
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

/// What saved sessions of an engine must agree in.
fn identity(info: &EngineInfo, can: &Capabilities) -> Identity {
    let arithmetic = info.executor.iter().find(|(name, _)| *name == "arithmetic");
    Identity {
        model: info.fingerprint,
        arithmetic: arithmetic.map_or(String::new(), |(_, value)| value.clone()),
        block_form: can.block_form.clone(),
        block_tokens: can.block_tokens,
        block_bytes: can.block_bytes,
    }
}

impl Engine {
    /// Starts the thread of an engine. `NoMemory` where the executor's KV cache cannot hold one full
    /// context; `Unsupported` where it takes whole prompts only, and none as long as the context.
    pub fn start(parts: Parts) -> Result<Engine> {
        let Parts { mut info, tokenizer, chat, executor, max_waiting, clock } = parts;
        info.executor = executor.describe();
        let identity = identity(&info, executor.capabilities());
        let kv_blocks = info.plan.kv_blocks;
        let shared = Arc::new(Shared {
            info,
            tokenizer,
            chat,
            grammars: Mutex::new(None),
            max_waiting,
            process: Process::current(),
            clock,
            inbox: Mutex::new(Inbox {
                life: Life::Running,
                arrivals: VecDeque::new(),
                errands: Vec::new(),
                woken: false,
            }),
            bell: Condvar::new(),
            waiting: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            sessions: AtomicUsize::new(0),
            identity,
            counters: Counters::default(),
        });
        let handle = run::start(shared.clone(), executor, kv_blocks)?;
        let thread = EngineThread { shared: shared.clone(), handle: Mutex::new(Some(handle)) };
        Ok(Engine { shared, thread: Arc::new(thread) })
    }

    /// Submits a request. Returns as soon as the prompt is tokenised; `ContextFull` where it leaves no
    /// room for a token, `Constraint` for a constraint that is not understood or cannot be met, `Overloaded` where the
    /// waiting line is full, `Busy` where another request runs on its session, `Closed` after `close`, `State` after
    /// an internal error, `Forked` in a child process.
    pub fn submit(&self, input: Input, params: GenParams) -> Result<Request> {
        self.run(Job::new(input, params))
    }

    /// The same with all that a request may have.
    pub fn run(&self, job: Job<'_>) -> Result<Request> {
        let (request, admission) = self.prepare(job)?;
        admission.admit(0)?;
        Ok(request)
    }

    /// The first half of [`Engine::run`]: everything that can be wrong with the input is found, and nothing runs
    /// yet.
    pub fn prepare(&self, job: Job<'_>) -> Result<(Request, Admission)> {
        let Job { input, mut params, queue, session } = job;
        let shared = &self.shared;
        shared.process.check()?;
        shared.inbox.lock().life.check()?;
        params.check(shared.info.vocab as usize, shared.info.context)?;
        let start = shared.clock.now_ns();
        let session = session.map(|session| session.hold(shared, params.no_cache)).transpose()?;
        let history = session.as_ref().map_or(Vec::new(), |session| session.tokens());
        let prompt = prompt::prepare(shared, input, &params, history)?;
        params.stop.extend(prompt.template_stops);
        let matcher = shared.compile(&params)?;
        let tokenize_ms = shared.clock.now_ns().saturating_sub(start) as f64 / 1e6;
        let (tokens, deadline) = (prompt.tokens.len(), params.deadline);
        let (request, state) = self.request(start, tokenize_ms, tokens, deadline, queue);
        let Prompt { tokens: prompt, echo, .. } = prompt;
        let task = Task::Generate;
        let arrival = Arrival { state, prompt, params, echo, task, session, matcher };
        Ok((request, Admission { arrival, shared: shared.clone() }))
    }

    /// The two sides of a new request of `tokens` tokens.
    fn request(
        &self,
        submitted_ns: u64,
        tokenize_ms: f64,
        tokens: usize,
        deadline: Option<Duration>,
        queue: Option<Arc<EventQueue>>,
    ) -> (Request, Served) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let state = RequestState::new(id, submitted_ns, tokenize_ms, tokens, deadline, queue);
        let state = Arc::new(state);
        (Request { state: state.clone(), shared: self.shared.clone() }, Served(state))
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

/// What a request is made of.
pub struct Job<'a> {
    /// What to generate from.
    pub input: Input,
    /// How.
    pub params: GenParams,
    /// Where the request is listed when it has something to say, under the name that [`Admission::admit`] gives it.
    pub queue: Option<Arc<EventQueue>>,
    /// The session whose text the input continues.
    pub session: Option<&'a Session>,
}

impl Job<'_> {
    /// One without queue and session.
    pub fn new(input: Input, params: GenParams) -> Self {
        Job { input, params, queue: None, session: None }
    }
}

/// A request that was prepared, to be handed to the engine. Dropping it instead ends the request.
pub struct Admission {
    arrival: Arrival,
    shared: Arc<Shared>,
}

impl Admission {
    /// Hands the request over; errors as those of [`Engine::submit`]. `name`: what the request's queue hands out for
    /// it, not 0; a request that is refused is never handed out. Without a queue it has no meaning.
    pub fn admit(self, name: usize) -> Result<()> {
        self.shared.admit(self.arrival, name)
    }
}

impl Shared {
    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer> {
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
