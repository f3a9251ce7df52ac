//! Generation: parameters, the whole text at once, or piece by piece.

use super::constraint::{self, AQUILA_CONSTRAINT_NONE};
use super::engine::{EngineObject, aquila_engine, pin_engine};
use super::event::{Spoken, aquila_event};
use super::guard::{self, status_call, value_call};
use super::handles::{self, Pin};
use super::options::{self, sized};
use super::result::{ResultObject, aquila_result};
use super::status::{aquila_error, aquila_status};
use super::text::token_ids;
use crate::base::error::Result;
use crate::base::limits;
use crate::engine::params::{Event, Finish, GenParams, Input};
use crate::engine::{Next, Request};
use crate::sampling::SamplingParams;
use std::ffi::{c_char, c_void};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ptr;
use std::time::{Duration, UNIX_EPOCH};

/// Go on past the model's own end-of-sequence ids.
pub const AQUILA_GEN_IGNORE_EOS: u32 = 1;
/// Put the prompt's text in front.
pub const AQUILA_GEN_ECHO: u32 = 2;
/// Leave the stop string in the text.
pub const AQUILA_GEN_KEEP_STOP: u32 = 4;
/// Show special tokens as text.
pub const AQUILA_GEN_SHOW_SPECIAL: u32 = 8;
/// Do not add what the tokenizer's own rules add to a prompt.
pub const AQUILA_GEN_NO_ADD_SPECIAL: u32 = 128;
/// Neither take over what the KV cache holds of prompts that begin alike, nor leave it for others. On a session: share
/// it with that session and its copies alone.
pub const AQUILA_GEN_NO_CACHE: u32 = 32;
/// Where the context is full, go on without the middle of the text: the first n_keep tokens stay, and of the others the
/// newest, as many as fill half of the rest. What follows is what the model says after just these. A prompt, or a
/// session, that leaves no room is cut the same way. Needs max_tokens.
pub const AQUILA_GEN_SHIFT: u32 = 64;
/// Do not recognise special-token text in the prompt.
pub const AQUILA_GEN_NO_PARSE_SPECIAL: u32 = 256;
/// The prompt is a chat: a JSON array of messages, or an object with "messages", "tools" and options, as
/// aquila_apply_template takes them, rendered by the model's chat template with the assistant's turn opened.
/// No text that the JSON holds becomes a special token.
pub const AQUILA_GEN_MESSAGES: u32 = 512;

/// As a seed: another text each time.
pub const AQUILA_SEED_RANDOM: u64 = u64::MAX;

/// Added to the logit of one token.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_logit_bias {
    /// The token's id.
    pub token: i32,
    /// What is added: finite, or -INFINITY, which forbids the token.
    pub bias: f32,
}

/// How to generate. Fill with aquila_gen_params_init, then change fields. Everything is copied before
/// the call returns. The order of the choice is: constraint, logit_bias, penalties, top_k, typical_p, top_p,
/// min_p, temperature, the draw.
///
/// A constraint (AQUILA_CONSTRAINT_...) lets the model choose, at each place, among exactly those tokens after
/// which the text can still be completed, and lets it end the text exactly when it is complete: by an
/// end-of-sequence id (AQUILA_FINISH_EOS) or one of `stop_tokens` (AQUILA_FINISH_STOP). Where nothing can
/// follow, the text ends by itself (AQUILA_FINISH_STOP). Ends that come before leave it incomplete:
/// `max_tokens`, the context, the deadline, a cancel, a string of `stop`, or a stop token that spells text; a
/// stop token that fits nowhere is never chosen.
///
/// It is compiled by the call that submits the request, on its thread; the first of an engine also prepares
/// the vocabulary, which takes some tenths of a second and tens of megabytes for 100,000 tokens. One that is
/// not understood, is too complex or fits no text is AQUILA_ERR_CONSTRAINT, with the place. A text that cannot
/// be completed with the model's tokens, or only with too much work, ends with that error, and never with a
/// wrong token. Special tokens come only from a grammar that names them. A constraint says what a text looks
/// like and not what is wanted: say that in the prompt.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_gen_params {
    /// sizeof(aquila_gen_params).
    pub struct_size: u32,
    /// AQUILA_GEN_... bits.
    pub flags: u32,
    /// Most new tokens; 0: what the context leaves.
    pub max_tokens: u32,
    /// New tokens before an end-of-sequence id or stop token may end the text; at most `max_tokens`, if
    /// that is set.
    pub min_tokens: u32,
    /// 0: greedy. Else logits are divided by it; at most 100.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches it; 0 to 1, 1: all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0 to 1, 0: all.
    pub min_p: f32,
    /// Keep this mass of tokens nearest the entropy; 0 to 1, 1: all.
    pub typical_p: f32,
    /// Keep so many of the most probable tokens; 0 or -1: all.
    pub top_k: i32,
    /// Last tokens that the penalties look at; -1: all; 0: none.
    pub penalty_last_n: i32,
    /// Divides positive and multiplies negative logits of tokens seen, in prompt or text; 0.01 to 100,
    /// 1: off.
    pub repeat_penalty: f32,
    /// Subtracted for each time a token was generated; -100 to 100, 0: off.
    pub frequency_penalty: f32,
    /// Subtracted if a token was generated; -100 to 100, 0: off.
    pub presence_penalty: f32,
    /// Strings in `stop`: at most 64, each of 1 to 4096 bytes.
    pub n_stop: u32,
    /// The same seed gives the same text. AQUILA_SEED_RANDOM: another each time.
    pub seed: u64,
    /// Strings that end the text, and are not part of it unless AQUILA_GEN_KEEP_STOP.
    pub stop: *const *const c_char,
    /// Ids that end the text, beside the model's own.
    pub stop_tokens: *const i32,
    /// Changes of single logits, made before everything else.
    pub logit_bias: *const aquila_logit_bias,
    /// Ids in `stop_tokens`.
    pub n_stop_tokens: u32,
    /// Changes in `logit_bias`.
    pub n_logit_bias: u32,
    /// Most tokens a step that are looked up in the text so far and verified beside the next one; at most
    /// 64, 0: none. The text stays the same, to the bit; it comes sooner where it repeats its prompt or
    /// itself (rewriting, editing, quoting). The engine proposes fewer where they prove wrong, none while
    /// other requests fill its steps, and never more than a step verifies at little cost: 7 on a CPU.
    pub speculate: u32,
    /// In what language `constraint` is written: AQUILA_CONSTRAINT_...; AQUILA_CONSTRAINT_NONE: the text is free.
    pub constraint_kind: u32,
    /// Milliseconds from the submission after which the text ends with what was made (AQUILA_FINISH_DEADLINE);
    /// waiting in line and tokenising are within it; 0: no limit.
    pub deadline_ms: i64,
    /// Requests of higher priority go first, and others give place and KV cache to them and go on later; 0: ordinary.
    pub priority: i32,
    /// How many of the most likely tokens are told at each place, by the model alone as logprobs are; at most 20.
    pub n_logprobs: u32,
    /// What the new text must fit, as `constraint_kind` says; NULL without one. The prompt is no part of it.
    pub constraint: *const c_char,
    /// Tokens at the beginning that AQUILA_GEN_SHIFT leaves; at most half of the context. A begin-of-sequence token stays
    /// in any case.
    pub n_keep: u32,
    /// 0.
    pub reserved: u32,
}

sized!(aquila_gen_params {
    struct_size, flags, max_tokens, min_tokens, temperature, top_p, min_p, typical_p, top_k,
    penalty_last_n, repeat_penalty, frequency_penalty, presence_penalty, n_stop, seed, stop, stop_tokens,
    logit_bias, n_stop_tokens, n_logit_bias, speculate, constraint_kind, deadline_ms, priority, n_logprobs,
    constraint, n_keep, reserved,
} defaults());

/// The defaults of the library, as C has them.
fn defaults() -> aquila_gen_params {
    let params = GenParams::default();
    let sampling = &params.sampling;
    aquila_gen_params {
        struct_size: size_of::<aquila_gen_params>() as u32,
        flags: 0,
        max_tokens: params.max_tokens,
        min_tokens: params.min_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        typical_p: sampling.typical_p,
        top_k: sampling.top_k as i32,
        penalty_last_n: sampling.penalty_last_n,
        repeat_penalty: sampling.repeat_penalty,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        n_stop: 0,
        seed: AQUILA_SEED_RANDOM,
        stop: ptr::null(),
        stop_tokens: ptr::null(),
        logit_bias: ptr::null(),
        n_stop_tokens: 0,
        n_logit_bias: 0,
        speculate: params.speculate,
        constraint_kind: AQUILA_CONSTRAINT_NONE,
        deadline_ms: 0,
        priority: params.priority,
        n_logprobs: params.logprobs,
        constraint: ptr::null(),
        n_keep: params.n_keep,
        reserved: 0,
    }
}

impl aquila_gen_params {
    /// The parameters as the engine takes them, for a vocabulary of `vocab` ids.
    ///
    /// # Safety
    /// The arrays have as many elements as their counts say, and the strings are NUL-terminated.
    pub(super) unsafe fn to_params(self, vocab: usize) -> Result<GenParams> {
        const KNOWN: u32 = AQUILA_GEN_IGNORE_EOS
            | AQUILA_GEN_ECHO
            | AQUILA_GEN_KEEP_STOP
            | AQUILA_GEN_SHOW_SPECIAL
            | AQUILA_GEN_NO_CACHE
            | AQUILA_GEN_SHIFT
            | AQUILA_GEN_NO_ADD_SPECIAL
            | AQUILA_GEN_NO_PARSE_SPECIAL
            | AQUILA_GEN_MESSAGES;
        options::check_flags("aquila_gen_params: flags", self.flags, KNOWN)?;
        crate::ensure!(
            self.reserved == 0,
            Unsupported,
            "aquila_gen_params: reserved is {}, expected 0",
            self.reserved
        );
        crate::ensure!(
            self.deadline_ms >= 0,
            Argument,
            "deadline_ms: {}, expected 0 or more",
            self.deadline_ms
        );
        // Before the arrays are read: an absurd count is a mistake, not an array.
        for (name, count, most) in [
            ("n_stop", self.n_stop, limits::STOP_STRINGS_MAX),
            ("n_stop_tokens", self.n_stop_tokens, vocab),
            ("n_logit_bias", self.n_logit_bias, vocab),
        ] {
            crate::ensure!(count as usize <= most, Argument, "{name}: {count}, expected at most {most}");
        }
        let flag = |bit| self.flags & bit != 0;
        // SAFETY: the caller's promise.
        let (stop, stop_tokens, sampling, constraint) = unsafe {
            (
                self.stop_strings()?,
                self.stop_ids(vocab)?,
                self.sampling(vocab)?,
                constraint::read(self.constraint_kind, self.constraint)?,
            )
        };
        Ok(GenParams {
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            sampling,
            stop,
            stop_tokens,
            ignore_eos: flag(AQUILA_GEN_IGNORE_EOS),
            echo: flag(AQUILA_GEN_ECHO),
            keep_stop: flag(AQUILA_GEN_KEEP_STOP),
            show_special: flag(AQUILA_GEN_SHOW_SPECIAL),
            no_add_special: flag(AQUILA_GEN_NO_ADD_SPECIAL),
            no_parse_special: flag(AQUILA_GEN_NO_PARSE_SPECIAL),
            speculate: self.speculate,
            priority: self.priority,
            deadline: (self.deadline_ms > 0).then(|| Duration::from_millis(self.deadline_ms as u64)),
            logprobs: self.n_logprobs,
            no_cache: flag(AQUILA_GEN_NO_CACHE),
            shift: flag(AQUILA_GEN_SHIFT),
            n_keep: self.n_keep,
            constraint,
        })
    }

    /// # Safety
    /// As for [`Self::to_params`].
    unsafe fn stop_strings(&self) -> Result<Vec<String>> {
        // SAFETY: the caller's promise.
        let strings = unsafe { guard::array("stop", self.stop, self.n_stop as usize) }?;
        let mut stop = Vec::new();
        for (at, &string) in strings.iter().enumerate() {
            // SAFETY: the caller's promise.
            stop.push(unsafe { guard::text(&format!("stop[{at}]"), string) }?.to_owned());
        }
        Ok(stop)
    }

    /// # Safety
    /// As for [`Self::to_params`].
    unsafe fn stop_ids(&self, vocab: usize) -> Result<Vec<u32>> {
        // SAFETY: the caller's promise.
        let ids = unsafe { guard::array("stop_tokens", self.stop_tokens, self.n_stop_tokens as usize) }?;
        token_ids("stop_tokens", ids, vocab)
    }

    /// # Safety
    /// As for [`Self::to_params`].
    unsafe fn sampling(&self, vocab: usize) -> Result<SamplingParams> {
        crate::ensure!(self.top_k >= -1, Argument, "top_k: {}, expected -1, 0 or more", self.top_k);
        // SAFETY: the caller's promise.
        let biases = unsafe { guard::array("logit_bias", self.logit_bias, self.n_logit_bias as usize) }?;
        let tokens: Vec<i32> = biases.iter().map(|bias| bias.token).collect();
        let tokens = token_ids("logit_bias", &tokens, vocab)?;
        Ok(SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k.max(0) as u32,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            penalty_last_n: self.penalty_last_n,
            seed: if self.seed == AQUILA_SEED_RANDOM { random_seed() } else { self.seed },
            logit_bias: tokens.into_iter().zip(biases.iter().map(|bias| bias.bias)).collect(),
        })
    }
}

/// Another number each time, in every process. The keys of the standard library's hash maps come from the
/// system's random numbers, but only once a thread: the children of a fork inherit them, and would all
/// tell the same story. Process and time keep them apart.
fn random_seed() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u128(UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos());
    hasher.finish()
}

/// Receives the events of a generation, on the thread that called aquila_stream and never two at once.
/// Return non-zero to stop: the text ends there, with AQUILA_FINISH_CANCELLED. It may call any function
/// of the library, and free any handle, also the engine's. It must not longjmp or throw.
pub type aquila_stream_fn =
    Option<unsafe extern "C" fn(event: *const aquila_event, user: *mut c_void) -> i32>;

/// Fills generation parameters with the defaults: greedy, to the end of the context.
///
/// Parameters: `params`, the struct; `size`, sizeof(aquila_gen_params) of the caller's header, which
/// becomes its struct_size.
/// Threads: any, at any time.
///
/// # Safety
/// `params`, unless NULL, points to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_gen_params_init(params: *mut aquila_gen_params, size: usize) {
    // SAFETY: the caller's promise is the same.
    value_call((), || unsafe { options::init(params, size) })
}

/// Generates a whole text and waits for it.
///
/// Parameters: `prompt`, NUL-terminated UTF-8; `params`, NULL for the defaults; `result`, where the
/// handle is written, NULL on failure.
/// Returns: AQUILA_OK; AQUILA_ERR_CONTEXT_FULL for a prompt that leaves no room; AQUILA_ERR_OVERLOADED at
/// once where the waiting line is full; AQUILA_ERR_ARGUMENT, naming the field; AQUILA_ERR_CONSTRAINT, naming
/// the place, for a constraint that is not understood or cannot be met; AQUILA_ERR_UNSUPPORTED for a model
/// without tokenizer, or chat template where one is needed; AQUILA_ERR_NO_MEMORY; AQUILA_ERR_CLOSED where the
/// engine was freed, before or meanwhile; AQUILA_ERR_FORKED in a child process; AQUILA_ERR_STATE where the
/// model's output has no finite number, or for good, after AQUILA_ERR_INTERNAL, which ends all requests of the
/// engine.
/// Ownership: the result is the caller's, to be given back with aquila_result_free.
/// Threads: any, at any time, many at once on one engine.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_generate(
    engine: *mut aquila_engine,
    prompt: *const c_char,
    params: *const aquila_gen_params,
    result: *mut *mut aquila_result,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(result);
        status_call(error, || {
            let out = guard::out("result", result)?;
            let engine = pin_engine(engine)?;
            let generation = submit(&engine, prompt, params)?.wait()?;
            *out = handles::insert(ResultObject::new(generation)).map_err(|(error, _)| error)?;
            Ok(())
        })
    }
}

/// Generates a text and hands it on piece by piece: whole characters, and no part of a stop string.
///
/// Parameters: `prompt` and `params`, as for aquila_generate; `stream`, called for each event on this
/// thread; `user`, handed to it as it is.
/// Returns: as aquila_generate. AQUILA_OK means that the last event was AQUILA_EVENT_FINISH, also where
/// the function stopped it; no event follows one with AQUILA_EVENT_FINISH, and its return value is
/// ignored. Where the function freed the engine, no further event comes and the call returns
/// AQUILA_ERR_CLOSED.
/// Threads: any, at any time, many at once on one engine.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_stream(
    engine: *mut aquila_engine,
    prompt: *const c_char,
    params: *const aquila_gen_params,
    stream: aquila_stream_fn,
    user: *mut c_void,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let stream =
                stream.ok_or_else(|| crate::error!(Argument, "stream: NULL, expected a function"))?;
            let engine = pin_engine(engine)?;
            let request = submit(&engine, prompt, params)?;
            // SAFETY: the host gave the function and its `user` for the length of this call.
            deliver(&engine, &request, |event| stream(event, user) != 0)
        })
    }
}

/// # Safety
/// As for [`aquila_generate`].
unsafe fn submit(
    engine: &Pin<EngineObject>,
    prompt: *const c_char,
    params: *const aquila_gen_params,
) -> Result<Request> {
    // SAFETY: the caller's promise.
    let (prompt, params) =
        unsafe { (guard::owned("prompt", guard::text("prompt", prompt)?)?, options::read(params)?) };
    let input = match params.flags & AQUILA_GEN_MESSAGES {
        0 => Input::Text(prompt),
        _ => Input::Messages(prompt),
    };
    let engine = engine.engine();
    // SAFETY: the caller's promise.
    engine.submit(input, unsafe { params.to_params(engine.info().vocab as usize) }?)
}

/// Reads a request's events to the end and hands them to `call`, which says whether to stop.
fn deliver(
    engine: &Pin<EngineObject>,
    request: &Request,
    mut call: impl FnMut(&aquila_event) -> bool,
) -> Result<()> {
    let mut stopped = false;
    let mut spoken = Spoken::default();
    loop {
        let event = match request.next(None)? {
            Next::Event(event) => event,
            Next::Timeout => continue,
            Next::Done => return Ok(()),
        };
        let last = match event {
            // A fast engine may have come to its own end before the stop reached it; the caller saw the
            // text end where the function stopped it.
            Event::Finish { .. } if stopped => Some((Finish::Cancelled, None)),
            Event::Finish { reason, error } => Some((reason, error)),
            // What was made before the cancellation took effect is not wanted any more.
            _ if stopped => None,
            Event::Prefill { done, total } => {
                stopped = call(&aquila_event::prefill(done, total));
                None
            }
            Event::Text { text, tokens, logprobs, top } => {
                stopped = call(&spoken.text(text, tokens, logprobs, top));
                None
            }
        };
        if let Some((reason, error)) = last {
            let failure = if reason == Finish::Error { error } else { None };
            call(&spoken.finish(reason, failure.as_ref(), &request.timings()));
            return failure.map_or(Ok(()), Err);
        }
        if engine.is_closed() {
            // Freed by the function just called, or by another thread, which is ending the request.
            request.cancel();
            crate::bail!(Closed, "engine: this aquila_engine was freed");
        }
        if stopped {
            request.cancel();
        }
    }
}
