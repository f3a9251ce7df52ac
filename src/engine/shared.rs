//! What the host's threads and the engine's thread share.

use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::fork::Process;
use crate::engine::EngineInfo;
use crate::engine::kv_content::Errand;
use crate::engine::metrics::Counters;
use crate::engine::params::GenParams;
use crate::engine::request::Served;
use crate::engine::session::SessionHold;
use crate::loading::session_file::Identity;
use crate::text::constraint::{Ends, Grammars, Matcher};
use crate::text::{ChatTemplate, Tokenizer};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A request on its way to the engine's thread.
pub(crate) struct Arrival {
    pub(crate) state: Served,
    pub(crate) prompt: Vec<u32>,
    pub(crate) params: GenParams,
    /// The prompt's text, to be put in front with `echo`.
    pub(crate) echo: Option<String>,
    pub(crate) task: Task,
    /// The session that its text belongs to.
    pub(crate) session: Option<SessionHold>,
    /// What the text must fit, at its beginning.
    pub(crate) matcher: Option<Box<Matcher>>,
}

/// What is done with a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A text is made that follows it.
    Generate,
    /// Its tokens from this one on are told how likely they are.
    Score(usize),
    /// Its hidden states are put together.
    Embed,
}

/// Whether the engine takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It does.
    Running,
    /// A panic was caught on its thread; nothing it holds can be trusted.
    Poisoned,
    /// It was freed.
    Closed,
}

/// The door between the threads. Lock order: `inbox` is never held together with a request's or a session's lock.
pub(crate) struct Inbox {
    pub(crate) life: Life,
    pub(crate) arrivals: VecDeque<Arrival>,
    pub(crate) errands: Vec<Errand>,
    /// Something happened that the engine's thread must look at (a cancel, a close).
    pub(crate) woken: bool,
}

/// What all clones of an engine share.
pub(crate) struct Shared {
    pub(crate) info: EngineInfo,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) chat: Option<ChatTemplate>,
    /// Made with the first constrained request, on its caller's thread; others that come meanwhile wait for it.
    pub(crate) grammars: Mutex<Option<Arc<Grammars>>>,
    pub(crate) max_waiting: usize,
    pub(crate) process: Process,
    pub(crate) clock: Clock,
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) bell: Condvar,
    /// Requests that the engine's thread took in and that wait for a step.
    pub(crate) waiting: AtomicUsize,
    pub(crate) next_id: AtomicU64,
    /// Sessions that were not dropped.
    pub(crate) sessions: AtomicUsize,
    /// What saved sessions must agree in.
    pub(crate) identity: Identity,
    pub(crate) counters: Counters,
}

impl Shared {
    /// Compiles the constraint of a request, if it has one.
    pub(crate) fn compile(&self, params: &GenParams) -> Result<Option<Box<Matcher>>> {
        let Some(constraint) = &params.constraint else { return Ok(None) };
        let ends = Ends { eos: self.eos_ids(params), stops: params.stop_tokens.clone() };
        Ok(Some(Box::new(self.grammars()?.compile(constraint, ends)?)))
    }

    fn grammars(&self) -> Result<Arc<Grammars>> {
        let tokenizer = self.tokenizer()?;
        let mut made = self.grammars.lock();
        if let Some(grammars) = &*made {
            return Ok(grammars.clone());
        }
        let grammars = Arc::new(Grammars::new(tokenizer, self.info.vocab as usize)?);
        Ok(made.insert(grammars).clone())
    }

    /// The ids that end the text of a request as the model's own end.
    pub(crate) fn eos_ids(&self, params: &GenParams) -> Vec<u32> {
        if params.ignore_eos { Vec::new() } else { self.info.stop_ids.clone() }
    }

    /// Hands a request to the engine's thread, or says why not. It gets its `name` only here: one that is refused ends
    /// like any other that is dropped, and nobody must hear of it.
    pub(crate) fn admit(&self, arrival: Arrival, name: usize) -> Result<()> {
        let mut inbox = self.inbox.lock();
        inbox.life.check()?;
        let waiting = inbox.arrivals.len() + self.waiting.load(Ordering::Relaxed);
        if waiting >= self.max_waiting {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            crate::bail!(Overloaded, "{waiting} requests wait already, at most {} may", self.max_waiting);
        }
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        // Before it runs: its first event may come before this function returns.
        arrival.state.set_name(name);
        inbox.arrivals.push_back(arrival);
        self.bell.notify_one();
        Ok(())
    }

    /// Hands an errand to the engine's thread, or says why not.
    pub(crate) fn send_errand(&self, errand: Errand) -> Result<()> {
        let mut inbox = self.inbox.lock();
        inbox.life.check()?;
        inbox.errands.push(errand);
        self.bell.notify_one();
        Ok(())
    }

    /// Makes the engine's thread look around.
    pub(crate) fn wake(&self) {
        self.inbox.lock().woken = true;
        self.bell.notify_one();
    }
}

impl Life {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Life::Running => Ok(()),
            Life::Poisoned => Err(crate::error!(
                State,
                "an internal error ended this engine; free it and load again (the log says what failed)"
            )),
            Life::Closed => Err(crate::error!(Closed, "the engine was freed")),
        }
    }
}
