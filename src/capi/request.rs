//! Requests: generations that run while their caller does something else.

use super::engine::{aquila_engine, pin_engine};
use super::event::{Spoken, aquila_event};
use super::generate::{AQUILA_GEN_MESSAGES, aquila_gen_params};
use super::guard::{self, outcome_call, status_call, value_call};
use super::handles::{self, Noun, Pin, Table};
use super::options::{self, sized};
use super::queue::{QueueObject, aquila_queue};
use super::result::{ResultObject, aquila_result};
use super::session::{aquila_session, pin_session};
use super::status::{AQUILA_DONE, AQUILA_OK, AQUILA_TIMEOUT, aquila_error, aquila_status};
use super::text::{sized_text, token_ids};
use crate::base::error::{Error, Result};
use crate::engine::params::{Event, Finish, Generation, Input, Timings};
use crate::engine::{Job, Next, Request};
use crate::sampling::Likely;
use parking_lot::Mutex;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::time::{Duration, Instant};

/// A generation in flight. A handle, never dereferenced.
pub struct aquila_request;

/// The input is text, tokenised by the model's own rules; with AQUILA_GEN_MESSAGES in the parameters it is a chat.
pub const AQUILA_INPUT_TEXT: u32 = 0;
/// The input is an array of int32_t ids; nothing is added to it.
pub const AQUILA_INPUT_TOKENS: u32 = 1;
/// The input is a chat: a JSON array of messages, or an object with "messages", "tools" and options, as with
/// AQUILA_GEN_MESSAGES.
pub const AQUILA_INPUT_MESSAGES: u32 = 2;

/// What to generate from, how, and who is told. Set all to 0, then struct_size and what is wanted. Everything is
/// copied before the call returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_job {
    /// sizeof(aquila_job).
    pub struct_size: u32,
    /// AQUILA_INPUT_...
    pub input_kind: u32,
    /// The input.
    pub input: *const c_void,
    /// Its bytes, or AQUILA_NTS for a NUL-terminated string; of tokens, how many.
    pub input_size: usize,
    /// NULL: the defaults.
    pub params: *const aquila_gen_params,
    /// Where the request is given out when it has an event; NULL: nowhere.
    pub queue: *mut aquila_queue,
    /// The caller's own, for aquila_request_user.
    pub user: *mut c_void,
    /// The session that the input continues: text and tokens are put behind what it has, without a begin-of-sequence
    /// token; an empty input goes on from there. A chat is the whole one each time: it takes the place of what the
    /// session had, and where both begin alike nothing is computed again. When the request ends, the session has the
    /// input and what was made of it, also after a cancel and a deadline; after an error it is as it was. NULL: none.
    pub session: *mut aquila_session,
}

sized!(aquila_job {
    struct_size, input_kind, input, input_size, params, queue, user, session,
} aquila_job {
    struct_size: size_of::<aquila_job>() as u32,
    input_kind: AQUILA_INPUT_TEXT,
    input: ptr::null(),
    input_size: 0,
    params: ptr::null(),
    queue: ptr::null_mut(),
    user: ptr::null_mut(),
    session: ptr::null_mut(),
});

/// What a request's handle stands for.
pub(super) struct RequestObject {
    request: Request,
    /// The caller's `user`, an address that is only handed back.
    user: usize,
    reading: Mutex<Reading>,
}

/// What was read of a request: kept whole, so that a result holds what single events told before.
#[derive(Default)]
struct Reading {
    spoken: Spoken,
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    top: Vec<Likely>,
    finish: Option<(Finish, Option<Error>, Timings)>,
}

impl Noun for RequestObject {
    const KIND: u64 = 3;
    const NAME: &'static str = "aquila_request";
    fn table() -> &'static Table<Self> {
        static TABLE: Table<RequestObject> = Table::new();
        &TABLE
    }
}

fn pin_request(handle: *const aquila_request) -> Result<Pin<RequestObject>> {
    handles::pin::<RequestObject, _>(handle).map_err(|e| e.at("request"))
}

impl Reading {
    /// Waits for the next event until `deadline` and takes it in.
    fn next(&mut self, request: &Request, deadline: Option<Instant>) -> Result<Next> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let next = request.next(left)?;
        match &next {
            Next::Event(Event::Text { text, tokens, logprobs, top }) => {
                self.text.push_str(text);
                self.tokens.extend_from_slice(tokens);
                self.logprobs.extend_from_slice(logprobs);
                self.top.extend_from_slice(top);
            }
            Next::Event(Event::Finish { reason, error }) => {
                self.finish = Some((*reason, error.clone(), request.timings()));
            }
            Next::Event(Event::Prefill { .. }) | Next::Done | Next::Timeout => {}
        }
        Ok(next)
    }

    /// The whole generation, or the error it ended with; `None` before its end.
    fn generation(&self) -> Option<Result<Generation>> {
        let (finish, error, timings) = self.finish.as_ref()?;
        Some(match error {
            Some(error) => Err(error.clone()),
            None => Ok(Generation {
                text: self.text.clone(),
                tokens: self.tokens.clone(),
                logprobs: self.logprobs.clone(),
                top: self.top.clone(),
                finish: *finish,
                timings: *timings,
            }),
        })
    }
}

/// Starts a request and returns as soon as its prompt is tokenised. The engine runs it together with all others.
///
/// Parameters: `job`, what to do; `request`, where the handle is written, NULL on failure.
/// Returns: AQUILA_OK; AQUILA_ERR_CONTEXT_FULL for a prompt that leaves no room; AQUILA_ERR_OVERLOADED at
/// once where the waiting line is full; AQUILA_ERR_BUSY while another request runs on its session;
/// AQUILA_ERR_ARGUMENT, naming the field; AQUILA_ERR_CONSTRAINT, naming the place, for a constraint that is not
/// understood or cannot be met; AQUILA_ERR_UNSUPPORTED for a model without tokenizer, or chat template where one
/// is needed; AQUILA_ERR_NO_MEMORY; AQUILA_ERR_CLOSED where the engine, the queue or the session was freed;
/// AQUILA_ERR_FORKED in a child process;
/// AQUILA_ERR_STATE after AQUILA_ERR_INTERNAL.
/// Ownership: the request is the caller's, to be given back with aquila_request_free.
/// Threads: any, at any time. It does not wait for a step.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_submit(
    engine: *mut aquila_engine,
    job: *const aquila_job,
    request: *mut *mut aquila_request,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(request);
        status_call(error, || {
            let out = guard::out("request", request)?;
            let engine = pin_engine(engine)?;
            guard::check_pointer("job", job)?;
            *out = submit(engine.engine(), options::read(job)?)?;
            Ok(())
        })
    }
}

/// # Safety
/// As for [`aquila_submit`].
unsafe fn submit(engine: &crate::engine::Engine, job: aquila_job) -> Result<*mut aquila_request> {
    let vocab = engine.info().vocab as usize;
    // SAFETY: the caller's promise.
    let (input, params) = unsafe {
        let params = options::read(job.params).map_err(|e| e.at("params"))?;
        let messages = params.flags & AQUILA_GEN_MESSAGES != 0;
        (input(&job, messages, vocab)?, params.to_params(vocab)?)
    };
    let queue = match job.queue.is_null() {
        true => None,
        false => Some(handles::pin::<QueueObject, _>(job.queue).map_err(|e| e.at("queue"))?.queue().clone()),
    };
    let session = match job.session.is_null() {
        true => None,
        false => Some(pin_session(job.session)?),
    };
    let session = session.as_ref().map(|session| session.session());
    let (request, admission) = engine.prepare(Job { input, params, queue, session })?;
    let object = RequestObject { request, user: job.user.expose_provenance(), reading: Mutex::default() };
    let handle = handles::insert::<_, aquila_request>(object).map_err(|(error, _)| error)?;
    if let Err(error) = admission.admit(handle.addr()) {
        drop(handles::close::<RequestObject, _>(handle));
        return Err(error);
    }
    Ok(handle)
}

/// # Safety
/// As for [`aquila_submit`].
unsafe fn input(job: &aquila_job, messages: bool, vocab: usize) -> Result<Input> {
    // SAFETY: the caller's promise.
    unsafe {
        let text = || guard::owned("input", sized_text("input", job.input.cast::<c_char>(), job.input_size)?);
        match job.input_kind {
            AQUILA_INPUT_TEXT if !messages => Ok(Input::Text(text()?)),
            AQUILA_INPUT_TEXT | AQUILA_INPUT_MESSAGES => Ok(Input::Messages(text()?)),
            AQUILA_INPUT_TOKENS => {
                crate::ensure!(
                    !messages,
                    Argument,
                    "input_kind: tokens, and AQUILA_GEN_MESSAGES in the parameters"
                );
                let ids = guard::array("input", job.input.cast::<i32>(), job.input_size)?;
                Ok(Input::Tokens(token_ids("input", ids, vocab)?))
            }
            other => Err(crate::error!(Argument, "input_kind: {other}, expected one of AQUILA_INPUT_...")),
        }
    }
}

/// Waits for the next event of a request. Events that nobody read yet are put together: a slow reader has fewer
/// and longer ones, and the same text.
///
/// Parameters: `event`, filled, with its struct_size set before; `timeout_ms`, 0 to only look, AQUILA_FOREVER
/// without limit.
/// Returns: AQUILA_OK with an event; AQUILA_TIMEOUT without one; AQUILA_DONE after the last one, which is an
/// AQUILA_EVENT_FINISH; AQUILA_ERR_BUSY while another thread reads this request; AQUILA_ERR_ARGUMENT,
/// AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED. A request that failed says so with its last event, also one whose
/// engine was freed.
/// Ownership: what the event points to is the request's, until the next aquila_next or aquila_request_free.
/// Threads: any, one at a time for a request.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_next(
    request: *mut aquila_request,
    event: *mut aquila_event,
    timeout_ms: i64,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        outcome_call(error, || {
            options::check_out("event", event)?;
            let deadline = deadline(timeout_ms)?;
            let request = pin_request(request)?;
            let mut reading = read(&request)?;
            let value = match reading.next(&request.request, deadline)? {
                Next::Timeout => return Ok(AQUILA_TIMEOUT),
                Next::Done => return Ok(AQUILA_DONE),
                Next::Event(Event::Prefill { done, total }) => aquila_event::prefill(done, total),
                Next::Event(Event::Text { text, tokens, logprobs, top }) => {
                    reading.spoken.text(text, tokens, logprobs, top)
                }
                Next::Event(Event::Finish { reason, error }) => {
                    let timings = request.request.timings();
                    reading.spoken.finish(reason, error.as_ref(), &timings)
                }
            };
            options::write("event", event, &value)?;
            Ok(AQUILA_OK)
        })
    }
}

/// Waits for the end of a request and gives all that it made, also what aquila_next told before.
///
/// Parameters: `timeout_ms`, 0 to only look, AQUILA_FOREVER without limit; `result`, where the handle is written,
/// NULL without one.
/// Returns: AQUILA_OK with a result, of a cancelled request and one past its deadline, too: what was made;
/// AQUILA_TIMEOUT without one, nothing is lost; the error of a request that failed; AQUILA_ERR_BUSY while another
/// thread reads this request; AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED. Called again it
/// answers the same.
/// Ownership: the result is the caller's, to be given back with aquila_result_free. It does not need the request.
/// Threads: any, one at a time for a request.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_wait(
    request: *mut aquila_request,
    timeout_ms: i64,
    result: *mut *mut aquila_result,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(result);
        outcome_call(error, || {
            let out = guard::out("result", result)?;
            let deadline = deadline(timeout_ms)?;
            let request = pin_request(request)?;
            let mut reading = read(&request)?;
            let generation = loop {
                if let Some(generation) = reading.generation() {
                    break generation?;
                }
                if matches!(reading.next(&request.request, deadline)?, Next::Timeout) {
                    return Ok(AQUILA_TIMEOUT);
                }
            };
            *out = handles::insert(ResultObject::new(generation)).map_err(|(error, _)| error)?;
            Ok(AQUILA_OK)
        })
    }
}

fn deadline(timeout_ms: i64) -> Result<Option<Instant>> {
    // A time beyond what the clock can say is no limit.
    Ok(guard::timeout(timeout_ms)?.and_then(|timeout: Duration| Instant::now().checked_add(timeout)))
}

fn read(request: &RequestObject) -> Result<parking_lot::MutexGuard<'_, Reading>> {
    request
        .reading
        .try_lock()
        .ok_or_else(|| crate::error!(Busy, "request: another thread is reading its events"))
}

/// Asks a request to end. Its last event then says AQUILA_FINISH_CANCELLED, unless it ended by itself before.
///
/// Parameters: `request`; NULL and a freed handle are fine: nothing happens.
/// Threads: any, at any time, also while another thread waits for the request. It does not wait for a step. Not
/// from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_cancel(request: *mut aquila_request) {
    value_call((), || {
        pin_request(request)?.request.cancel();
        Ok(())
    })
}

/// The `user` of the job that made a request.
///
/// Returns: NULL also for NULL and for a freed request.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_request_user(request: *const aquila_request) -> *mut c_void {
    value_call(ptr::null_mut(), || Ok(ptr::with_exposed_provenance_mut(pin_request(request)?.user)))
}

/// Frees a request. One that still runs is cancelled; this does not wait for it.
///
/// Parameters: `request`; NULL and a freed handle are fine: nothing happens.
/// Threads: any, at any time: a thread that waits for the request is told its end. What its events pointed to must
/// not be in use.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_request_free(request: *mut aquila_request) {
    value_call((), || {
        if let Some(request) = handles::close::<RequestObject, _>(request) {
            request.request.cancel();
        }
        Ok(())
    })
}
