//! The engine: the object behind its handle, and facts about it.

use super::guard::{self, status_call};
use super::handles::{self, Noun, Pin, Table};
use super::options::{self, sized};
use super::status::{aquila_error, aquila_status};
use super::text::put_text;
use crate::base::error::Result;
use crate::base::fork::Process;
use crate::engine::Engine;
use crate::engine::metrics::EngineStats;
use std::ffi::c_char;
use std::ptr;

/// A loaded model with its threads: any number of threads may use one engine at once. A handle, never
/// dereferenced: using a freed one gives AQUILA_ERR_CLOSED, not a crash.
pub struct aquila_engine;

/// What an engine's handle stands for.
pub(super) struct EngineObject {
    engine: Engine,
    process: Process,
}

impl Noun for EngineObject {
    const KIND: u64 = 1;
    const NAME: &'static str = "aquila_engine";
    fn table() -> &'static Table<Self> {
        static TABLE: Table<EngineObject> = Table::new();
        &TABLE
    }
}

impl EngineObject {
    pub fn new(engine: Engine) -> Self {
        EngineObject { engine, process: Process::current() }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// `Forked` in a child of the process that loaded it.
    pub fn check_process(&self) -> Result<()> {
        self.process.check()
    }

    /// Ends requests, joins threads and gives memory back.
    pub fn tear_down(&self) {
        self.engine.close();
    }
}

/// Holds the engine of a handle for a call.
pub(super) fn pin_engine(handle: *const aquila_engine) -> Result<Pin<EngineObject>> {
    let engine = handles::pin::<EngineObject, _>(handle).map_err(|e| e.at("engine"))?;
    engine.check_process()?;
    Ok(engine)
}

/// Facts of a loaded engine. Set struct_size before the call.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_engine_info {
    /// sizeof(aquila_engine_info).
    pub struct_size: u32,
    /// Rows of the embedding: ids are below it.
    pub vocab: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Tokens that one sequence may have.
    pub max_context: u32,
    /// Devices that share the model.
    pub tensor_parallel: u32,
    /// Begin-of-sequence id; -1 without one.
    pub bos: i32,
    /// The first id that ends a text; -1 without one.
    pub eos: i32,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Stored bytes of all weights.
    pub weight_bytes: u64,
    /// Tokens that the KV cache holds, all sequences together.
    pub kv_tokens: u64,
}

sized!(aquila_engine_info {
    struct_size, vocab, layers, hidden, max_context, tensor_parallel, bos, eos, parameters,
    weight_bytes, kv_tokens,
} aquila_engine_info {
    struct_size: size_of::<aquila_engine_info>() as u32,
    vocab: 0,
    layers: 0,
    hidden: 0,
    max_context: 0,
    tensor_parallel: 0,
    bos: -1,
    eos: -1,
    parameters: 0,
    weight_bytes: 0,
    kv_tokens: 0,
});

/// Facts of an engine as numbers.
///
/// Parameters: `info`, filled.
/// Returns: AQUILA_OK, AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED or AQUILA_ERR_FORKED.
/// Threads: any, at any time.
///
/// # Safety
/// `info` is NULL or points to as many writable bytes as its struct_size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_get_info(
    engine: *mut aquila_engine,
    info: *mut aquila_engine_info,
) -> aquila_status {
    // SAFETY: the caller's promise is the same.
    unsafe { status_call(ptr::null_mut(), || write_info(engine, info)) }
}

/// # Safety
/// As for [`aquila_get_info`].
unsafe fn write_info(engine: *mut aquila_engine, info: *mut aquila_engine_info) -> Result<()> {
    let engine = pin_engine(engine)?;
    let facts = engine.engine().info();
    let value = aquila_engine_info {
        struct_size: size_of::<aquila_engine_info>() as u32,
        vocab: facts.vocab,
        layers: facts.layers,
        hidden: facts.hidden,
        max_context: facts.context,
        tensor_parallel: facts.tensor_parallel,
        bos: facts.bos,
        eos: facts.eos,
        parameters: facts.parameters,
        weight_bytes: facts.weight_bytes,
        kv_tokens: facts.plan.kv_tokens(),
    };
    // SAFETY: the caller's promise.
    unsafe { options::write("info", info, &value) }
}

/// Facts of an engine as a JSON object: all of aquila_engine_info, and "device", "stop_ids",
/// "chat_template" (its name, or null), "memory" (an object of bytes) and "executor" (an object of
/// strings: threads, instruction level, arithmetic).
///
/// Parameters, Returns: text is returned as by aquila_detokenize.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_engine_json(
    engine: *mut aquila_engine,
    text: *mut c_char,
    capacity: usize,
    size: *mut usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let size = guard::optional_out("size", size)?;
            let engine = pin_engine(engine)?;
            put_text(&json(engine.engine()), text, capacity, size)
        })
    }
}

fn json(engine: &Engine) -> String {
    let facts = engine.info();
    let executor: serde_json::Map<_, _> =
        facts.executor.iter().map(|(name, value)| (name.to_string(), value.as_str().into())).collect();
    serde_json::json!({
        "device": facts.device,
        "vocab": facts.vocab,
        "layers": facts.layers,
        "hidden": facts.hidden,
        "max_context": facts.context,
        "tensor_parallel": facts.tensor_parallel,
        "bos": facts.bos,
        "eos": facts.eos,
        "stop_ids": facts.stop_ids,
        "parameters": facts.parameters,
        "weight_bytes": facts.weight_bytes,
        "kv_tokens": facts.plan.kv_tokens(),
        "chat_template": facts.chat_template,
        "memory": {
            "weights_mapped": facts.plan.weight_bytes_mapped,
            "weights_private": facts.plan.weight_bytes_private,
            "workspace": facts.plan.workspace_bytes,
            "kv_cache": facts.plan.kv_bytes(),
        },
        "executor": executor,
    })
    .to_string()
}

/// What an engine does now, and what it has done since it was loaded. Set struct_size before the call. Each number
/// is right; numbers of one call may be of slightly different moments.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_engine_stats {
    /// sizeof(aquila_engine_stats).
    pub struct_size: u32,
    /// Requests that hold KV cache.
    pub running: u32,
    /// Requests that wait for a place.
    pub waiting: u32,
    /// Sessions that were not freed.
    pub sessions: u32,
    /// Tokens of the KV cache that requests hold.
    pub kv_tokens_used: u64,
    /// Tokens of the KV cache that are kept for prompts which begin alike; their room is given to requests that need
    /// it.
    pub kv_tokens_cached: u64,
    /// Memory that the engine took when it was loaded, in bytes; mapped files are not counted.
    pub host_bytes: u64,
    /// Requests that were taken in.
    pub requests: u64,
    /// Requests that were refused with AQUILA_ERR_OVERLOADED.
    pub refused: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Those of them that were found in the KV cache and not computed.
    pub cached_tokens: u64,
    /// Tokens made.
    pub output_tokens: u64,
    /// Steps: each runs through the model once, with tokens of many requests.
    pub steps: u64,
    /// How often a request gave its KV cache to another one, to be computed again.
    pub preemptions: u64,
}

sized!(aquila_engine_stats {
    struct_size, running, waiting, sessions, kv_tokens_used, kv_tokens_cached, host_bytes, requests, refused,
    prompt_tokens, cached_tokens, output_tokens, steps, preemptions,
} aquila_engine_stats::from(EngineStats::default()));

impl From<EngineStats> for aquila_engine_stats {
    fn from(stats: EngineStats) -> Self {
        aquila_engine_stats {
            struct_size: size_of::<aquila_engine_stats>() as u32,
            running: u32::try_from(stats.running).unwrap_or(u32::MAX),
            waiting: u32::try_from(stats.waiting).unwrap_or(u32::MAX),
            sessions: u32::try_from(stats.sessions).unwrap_or(u32::MAX),
            kv_tokens_used: stats.kv_tokens_used,
            kv_tokens_cached: stats.kv_tokens_cached,
            host_bytes: stats.host_bytes,
            requests: stats.requests,
            refused: stats.refused,
            prompt_tokens: stats.prompt_tokens,
            cached_tokens: stats.cached_tokens,
            output_tokens: stats.output_tokens,
            steps: stats.steps,
            preemptions: stats.preemptions,
        }
    }
}

/// What an engine does now, and what it has done.
///
/// Parameters: `stats`, filled.
/// Returns: AQUILA_OK, AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED or AQUILA_ERR_FORKED.
/// Threads: any, at any time. It does not wait for a step.
///
/// # Safety
/// `stats` is NULL or points to as many writable bytes as its struct_size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_get_stats(
    engine: *mut aquila_engine,
    stats: *mut aquila_engine_stats,
) -> aquila_status {
    // SAFETY: the caller's promise is the same.
    unsafe {
        status_call(ptr::null_mut(), || {
            let engine = pin_engine(engine)?;
            options::write("stats", stats, &aquila_engine_stats::from(engine.engine().stats()))
        })
    }
}

/// The same, how requests ended, and histograms of waiting, first token and the time between tokens, in the text form
/// of Prometheus (text/plain; version=0.0.4): to be served at /metrics as it is. All names begin with "aquila_".
///
/// Parameters, Returns: text is returned as by aquila_detokenize.
/// Threads: any, at any time. It does not wait for a step.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_metrics_text(
    engine: *mut aquila_engine,
    text: *mut c_char,
    capacity: usize,
    size: *mut usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let size = guard::optional_out("size", size)?;
            let engine = pin_engine(engine)?;
            put_text(&engine.engine().metrics_text(), text, capacity, size)
        })
    }
}
