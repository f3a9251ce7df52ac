//! A request as its two sides share it: the host reads events, the engine's thread writes them.

use crate::base::error::{Error, Result};
use crate::engine::event_queue::{EventQueue, Listener};
use crate::engine::params::{Event, Finish, Generation, Timings};
use crate::engine::shared::Shared;
use crate::sampling::Likely;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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

/// What was made and not read yet.
#[derive(Debug, Default)]
struct Output {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    top: Vec<Likely>,
    embedding: Vec<f32>,
    prefill: Option<(u32, u32)>,
    finish: Option<(Finish, Option<Error>)>,
    finish_was_read: bool,
    timings: Timings,
}

impl Output {
    fn has_unread(&self) -> bool {
        let text = !self.text.is_empty() || !self.tokens.is_empty();
        text || self.prefill.is_some() || (self.finish.is_some() && !self.finish_was_read)
    }
}

/// A token as the reader is told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made<'a> {
    pub(crate) id: u32,
    /// `None` where the device chose.
    pub(crate) logprob: Option<f32>,
    pub(crate) top: &'a [Likely],
}

/// The shared part of a request.
#[derive(Debug)]
pub(crate) struct RequestState {
    pub(crate) id: u64,
    /// When it was submitted, on the engine's clock.
    pub(crate) submitted_ns: u64,
    /// What rendering and tokenising took.
    pub(crate) tokenize_ms: f64,
    /// When it must have ended, on the engine's clock.
    deadline_ns: u64,
    cancelled: AtomicBool,
    output: Mutex<Output>,
    changed: Condvar,
    /// Where it is listed when it has something to say, besides waking its reader.
    listener: Option<Listener>,
}

impl RequestState {
    pub(crate) fn new(
        id: u64,
        submitted_ns: u64,
        tokenize_ms: f64,
        prompt_tokens: usize,
        deadline: Option<Duration>,
        queue: Option<Arc<EventQueue>>,
    ) -> Self {
        let after = |deadline: Duration| u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let timings = Timings {
            tokenize_ms,
            prompt_tokens: u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
            ..Timings::default()
        };
        RequestState {
            id,
            submitted_ns,
            tokenize_ms,
            deadline_ns: deadline.map_or(u64::MAX, |deadline| submitted_ns.saturating_add(after(deadline))),
            cancelled: AtomicBool::new(false),
            output: Mutex::new(Output { timings, ..Output::default() }),
            changed: Condvar::new(),
            listener: queue.map(Listener::new),
        }
    }

    /// Why it must end now, if it must.
    pub(crate) fn ends_early(&self, now_ns: u64) -> Option<Finish> {
        if self.cancelled.load(Ordering::Acquire) {
            return Some(Finish::Cancelled);
        }
        (now_ns >= self.deadline_ns).then_some(Finish::Deadline)
    }

    /// What its queue hands out for it.
    pub(crate) fn set_name(&self, name: usize) {
        if let Some(listener) = &self.listener {
            listener.set_name(name);
        }
    }

    /// Wakes whoever waits for an event, with what was written down.
    fn announce(&self, output: MutexGuard<'_, Output>) {
        if let Some(listener) = &self.listener {
            listener.set_unread(true);
        }
        drop(output);
        self.changed.notify_all();
        if let Some(listener) = &self.listener {
            listener.announce();
        }
    }

    /// A part of the prompt is computed.
    pub(crate) fn prefilled(&self, done: usize, total: usize) {
        let clip = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut output = self.output.lock();
        output.prefill = Some((clip(done), clip(total)));
        self.announce(output);
    }

    /// A token was made; `text` is what became readable with it.
    pub(crate) fn made(&self, token: Option<Made<'_>>, text: &str, timings: Timings) {
        let mut output = self.output.lock();
        output.text.push_str(text);
        if let Some(Made { id, logprob, top }) = token {
            output.tokens.push(id);
            output.logprobs.extend(logprob);
            output.top.extend_from_slice(top);
        }
        output.timings = timings;
        self.announce(output);
    }

    /// The text was embedded.
    pub(crate) fn embedded(&self, embedding: Vec<f32>) {
        self.output.lock().embedding = embedding;
    }

    /// The request has ended. Only the first call counts.
    pub(crate) fn finish(&self, reason: Finish, error: Option<Error>, timings: Option<Timings>) {
        let mut output = self.output.lock();
        if output.finish.is_none() {
            output.finish = Some((reason, error));
            if let Some(timings) = timings {
                output.timings = timings;
            }
        }
        self.announce(output);
    }

    /// Times and counts so far.
    pub(crate) fn timings(&self) -> Timings {
        self.output.lock().timings
    }

    fn take_event(output: &mut Output) -> Option<Next> {
        // A reader that is late still hears of the prompt before the answer to it.
        if let Some((done, total)) = output.prefill.take() {
            return Some(Next::Event(Event::Prefill { done, total }));
        }
        if !output.text.is_empty() || !output.tokens.is_empty() {
            return Some(Next::Event(Event::Text {
                text: std::mem::take(&mut output.text),
                tokens: std::mem::take(&mut output.tokens),
                logprobs: std::mem::take(&mut output.logprobs),
                top: std::mem::take(&mut output.top),
            }));
        }
        if output.finish_was_read {
            return Some(Next::Done);
        }
        let (reason, error) = output.finish.clone()?;
        output.finish_was_read = true;
        Some(Next::Event(Event::Finish { reason, error }))
    }
}

/// The engine's hold on a request. Whoever drops it ends the request, so that no reader waits for ever,
/// not even where a panic lost it.
#[derive(Debug)]
pub(crate) struct Served(pub(crate) Arc<RequestState>);

impl Deref for Served {
    type Target = RequestState;
    fn deref(&self) -> &RequestState {
        &self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.0.output.lock().finish.is_none() {
            let lost = crate::error!(Internal, "a bug in the library: the engine lost this request");
            self.0.finish(Finish::Error, Some(lost), None);
        }
    }
}

/// A request in flight. Dropping it cancels it. All methods may be called from any thread; events
/// go to whoever reads first.
pub struct Request {
    pub(crate) state: Arc<RequestState>,
    pub(crate) shared: Arc<Shared>,
}

impl Request {
    /// Waits for the next event, at most `timeout` (`None`: without limit). `Forked` in a child of the
    /// process that submitted it.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Next> {
        self.shared.process.check()?;
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut output = self.state.output.lock();
        loop {
            if let Some(next) = RequestState::take_event(&mut output) {
                if let Some(listener) = &self.state.listener {
                    let more = output.has_unread();
                    listener.set_unread(more);
                    drop(output);
                    if more {
                        listener.announce();
                    }
                }
                return Ok(next);
            }
            match deadline {
                None => self.state.changed.wait(&mut output),
                Some(deadline) => {
                    let late = self.state.changed.wait_until(&mut output, deadline).timed_out();
                    if late {
                        return Ok(RequestState::take_event(&mut output).unwrap_or(Next::Timeout));
                    }
                }
            }
        }
    }

    /// Reads all events to the end and puts them together. The error of a failed step is returned as
    /// the error. What other callers of `next` took is not in the result.
    pub fn wait(&self) -> Result<Generation> {
        let (mut text, mut tokens, mut logprobs, mut top) =
            (String::new(), Vec::new(), Vec::new(), Vec::new());
        loop {
            match self.next(None)? {
                Next::Event(Event::Text { text: t, tokens: n, logprobs: l, top: m }) => {
                    text.push_str(&t);
                    tokens.extend(n);
                    logprobs.extend(l);
                    top.extend(m);
                }
                Next::Event(Event::Finish { error: Some(error), .. }) => return Err(error),
                Next::Event(Event::Finish { reason, error: None }) => {
                    return Ok(Generation {
                        text,
                        tokens,
                        logprobs,
                        top,
                        finish: reason,
                        timings: self.timings(),
                    });
                }
                Next::Event(Event::Prefill { .. }) | Next::Timeout => {}
                Next::Done => {
                    return Err(crate::error!(State, "all events of this request were already read"));
                }
            }
        }
    }

    /// Takes the embedding of a text that was embedded to the end.
    pub(crate) fn take_embedding(&self) -> Vec<f32> {
        std::mem::take(&mut self.state.output.lock().embedding)
    }

    /// Asks the request to end at the next step border; its last event then says `Cancelled`. Never
    /// blocks on a step.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::Release);
        if self.shared.process.is_current() {
            self.shared.wake();
        }
    }

    /// Times and counts so far.
    pub fn timings(&self) -> Timings {
        if !self.shared.process.is_current() {
            return Timings::default();
        }
        self.state.timings()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(listener) = &self.state.listener {
            listener.forget();
        }
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    /// A panic between the inbox and the engine's tables once left the reader waiting for ever.
    #[test]
    fn a_request_that_is_lost_ends_with_an_error_and_one_that_ended_is_left_alone() {
        for ended in [false, true] {
            let state = Arc::new(RequestState::new(1, 0, 0.0, 1, None, None));
            let served = Served(state.clone());
            if ended {
                served.finish(Finish::Length, None, None);
            }
            drop(served);
            let end = RequestState::take_event(&mut state.output.lock());
            let Some(Next::Event(Event::Finish { reason, error })) = end else { panic!("{end:?}") };
            assert_eq!(reason, if ended { Finish::Length } else { Finish::Error });
            assert_eq!(error.map(|e| e.status), (!ended).then_some(Status::Internal));
        }
    }
}
