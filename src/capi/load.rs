//! Loading: options, plan, load, free.

use super::engine::{EngineObject, aquila_engine};
use super::guard::{self, status_call, value_call};
use super::handles;
use super::options::{self, sized};
use super::status::{aquila_error, aquila_status};
use crate::base::error::Result;
use crate::open::{self, LoadOptions, Plan};
use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::ptr;

/// Copy the weights into memory instead of mapping the files. A mapped file must not be changed or
/// shortened while the engine lives: the system ends a process that reads beyond its end.
pub const AQUILA_LOAD_NO_MMAP: u32 = 1;
/// Keep the weights resident (mlock).
pub const AQUILA_LOAD_MLOCK: u32 = 2;
/// Look at every weight for NaN and infinity, and compare all of a packed cache with its checksums.
pub const AQUILA_LOAD_VERIFY: u32 = 4;

/// Told of progress while loading: the stage, and how much of it is done (bytes). Runs on the thread
/// that called aquila_load, never after it returned. Return non-zero to abandon the load
/// (AQUILA_ERR_CANCELLED). It must not longjmp or throw.
pub type aquila_progress_fn =
    Option<unsafe extern "C" fn(stage: *const c_char, done: u64, total: u64, user: *mut c_void) -> i32>;

/// How a model is loaded. Fill with aquila_load_options_init, then change fields. All strings are
/// UTF-8 (paths: any bytes), copied before the call returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_load_options {
    /// sizeof(aquila_load_options).
    pub struct_size: u32,
    /// AQUILA_LOAD_... bits.
    pub flags: u32,
    /// "auto" or NULL, "cpu", "npu:0", "npu:0,1".
    pub device: *const c_char,
    /// How weights are held: NULL as stored, quantised types of GGUF in 4 or 8 bits; "f32", "f16", "bf16", or
    /// quantised while loading: "q8", "q4" (with 8 bits for embedding and head). On an NPU NULL, "f16", "bf16" or "w8a8":
    /// weights of the layers and their inputs in 8 bits.
    pub dtype: *const c_char,
    /// How keys and values are held: NULL like the weights (f16 where those are quantised); "f32", "f16", "bf16", or
    /// "i8": bytes with a scale for each key and value of a head, half the memory of 16 bits.
    pub kv_dtype: *const c_char,
    /// A tokenizer.json, or a directory that holds the tokenizer's files; NULL beside the weights.
    pub tokenizer: *const c_char,
    /// Name of a built-in chat template, or Jinja text; NULL from the model.
    pub chat_template: *const c_char,
    /// A directory where weights that are converted while loading are kept, in a file that the next load maps instead
    /// of converting them; NULL: no file is written. The file is made again when the model's files change or it is
    /// damaged. Where it cannot be read or written the load goes on without it, with a warning in the log. Weights that
    /// are used as stored are not kept.
    pub cache_dir: *const c_char,
    /// Host bytes to stay within; 0: what the machine has.
    pub host_memory: u64,
    /// Bytes to stay within on each device; 0: what it has.
    pub device_memory: u64,
    /// Bytes for the KV cache; 0: what the budgets leave.
    pub kv_memory: u64,
    /// Longest sequence in tokens; 0: the model's. The variable MAX_SEQ_LEN may lower it further.
    pub max_context: u32,
    /// Most sequences in one step, at most 256; 0: chosen.
    pub max_batch: u32,
    /// Most waiting requests, beyond which AQUILA_ERR_OVERLOADED; 0: a default.
    pub max_waiting: u32,
    /// Worker threads, at most 256; 0: what affinity and the control group's quota allow.
    pub threads: u32,
    /// Progress function; NULL for none.
    pub progress: aquila_progress_fn,
    /// Handed to it as it is.
    pub progress_user: *mut c_void,
}

sized!(aquila_load_options {
    struct_size, flags, device, dtype, kv_dtype, tokenizer, chat_template, cache_dir, host_memory,
    device_memory, kv_memory, max_context, max_batch, max_waiting, threads, progress, progress_user,
} aquila_load_options {
    struct_size: size_of::<aquila_load_options>() as u32,
    flags: 0,
    device: ptr::null(),
    dtype: ptr::null(),
    kv_dtype: ptr::null(),
    tokenizer: ptr::null(),
    chat_template: ptr::null(),
    cache_dir: ptr::null(),
    host_memory: 0,
    device_memory: 0,
    kv_memory: 0,
    max_context: 0,
    max_batch: 0,
    max_waiting: 0,
    threads: 0,
    progress: None,
    progress_user: ptr::null_mut(),
});

impl aquila_load_options {
    /// # Safety
    /// Every string is NULL or NUL-terminated.
    unsafe fn to_options(self) -> Result<LoadOptions> {
        const KNOWN: u32 = AQUILA_LOAD_NO_MMAP | AQUILA_LOAD_MLOCK | AQUILA_LOAD_VERIFY;
        options::check_flags("aquila_load_options: flags", self.flags, KNOWN)?;
        // SAFETY: the caller's promise, for all of these.
        unsafe {
            let text = |name, string| Ok(guard::optional_text(name, string)?.map(str::to_owned));
            Ok(LoadOptions {
                device: text("device", self.device)?.unwrap_or_default(),
                dtype: text("dtype", self.dtype)?,
                kv_dtype: text("kv_dtype", self.kv_dtype)?,
                tokenizer: optional_path("tokenizer", self.tokenizer)?,
                cache_dir: optional_path("cache_dir", self.cache_dir)?,
                chat_template: text("chat_template", self.chat_template)?,
                host_memory: self.host_memory,
                device_memory: self.device_memory,
                kv_memory: self.kv_memory,
                max_context: self.max_context,
                max_batch: self.max_batch,
                max_waiting: self.max_waiting,
                threads: self.threads,
                no_mmap: self.flags & AQUILA_LOAD_NO_MMAP != 0,
                lock_memory: self.flags & AQUILA_LOAD_MLOCK != 0,
                verify: self.flags & AQUILA_LOAD_VERIFY != 0,
            })
        }
    }

    /// The host's progress function as Rust sees it.
    fn progress(self) -> impl FnMut(&str, u64, u64) -> ControlFlow<()> {
        move |stage, done, total| {
            let Some(progress) = self.progress else { return ControlFlow::Continue(()) };
            let stage = CString::new(stage).unwrap_or_default();
            // SAFETY: the host gave this function and its `user` for the length of this load.
            match unsafe { progress(stage.as_ptr(), done, total, self.progress_user) } {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        }
    }
}

/// # Safety
/// `string` is NULL or NUL-terminated.
unsafe fn optional_path(name: &str, string: *const c_char) -> Result<Option<PathBuf>> {
    if string.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same.
    Ok(Some(unsafe { guard::path(name, string) }?.to_owned()))
}

/// What a load would take, in bytes unless said. Set struct_size before the call.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_plan {
    /// sizeof(aquila_plan).
    pub struct_size: u32,
    /// 1 if the load fits into memory and budgets, else 0.
    pub fits: u32,
    /// All weights as stored.
    pub weight_bytes: u64,
    /// Activations and scratch.
    pub workspace_bytes: u64,
    /// Keys and values of one token.
    pub kv_bytes_per_token: u64,
    /// Tokens that the KV cache would hold, all sequences together.
    pub kv_tokens: u64,
    /// Host memory available now.
    pub host_available: u64,
    /// Device memory available now; 0 on the CPU.
    pub device_available: u64,
    /// Memory that the load would take at most: KV cache, workspace, and the weights that are not used where
    /// they lie in mapped files. A good packed cache is such a file; one that is still to be written is not counted
    /// on.
    pub private_bytes: u64,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Tokens that one sequence may have.
    pub max_context: u32,
    /// Decoder layers.
    pub layers: u32,
}

sized!(aquila_plan {
    struct_size, fits, weight_bytes, workspace_bytes, kv_bytes_per_token, kv_tokens, host_available,
    device_available, private_bytes, parameters, max_context, layers,
} aquila_plan {
    struct_size: size_of::<aquila_plan>() as u32,
    fits: 0,
    weight_bytes: 0,
    workspace_bytes: 0,
    kv_bytes_per_token: 0,
    kv_tokens: 0,
    host_available: 0,
    device_available: 0,
    private_bytes: 0,
    parameters: 0,
    max_context: 0,
    layers: 0,
});

impl From<&Plan> for aquila_plan {
    fn from(plan: &Plan) -> Self {
        let memory = &plan.memory;
        aquila_plan {
            struct_size: size_of::<aquila_plan>() as u32,
            fits: u32::from(memory.refusal.is_none()),
            weight_bytes: plan.weight_bytes,
            workspace_bytes: memory.workspace_bytes,
            kv_bytes_per_token: memory.kv_bytes_per_token,
            kv_tokens: memory.kv_tokens(),
            host_available: memory.host_available,
            device_available: memory.device_available,
            private_bytes: memory.private_bytes(),
            parameters: plan.parameters,
            max_context: plan.context.0,
            layers: plan.spec.layers as u32,
        }
    }
}

/// Fills load options with the defaults: as stored, on the best device, within what the machine has.
///
/// Parameters: `options`, the struct; `size`, sizeof(aquila_load_options) of the caller's header, which
/// becomes its struct_size.
/// Threads: any, at any time.
///
/// # Safety
/// `options`, unless NULL, points to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_load_options_init(options: *mut aquila_load_options, size: usize) {
    // SAFETY: the caller's promise is the same.
    value_call((), || unsafe { options::init(options, size) })
}

/// Reads a checkpoint's headers and says what loading it would take. Takes nothing.
///
/// Parameters: `model`, a directory (Hugging Face's or FlagAI's, or one that holds `part_model`) or a GGUF file; `options`,
/// as for aquila_load, NULL for the defaults; `plan`, filled.
/// Returns: AQUILA_OK also where it does not fit (`fits` is 0 then); AQUILA_ERR_NOT_FOUND,
/// AQUILA_ERR_IO, AQUILA_ERR_FORMAT, AQUILA_ERR_UNSUPPORTED for what is wrong with the checkpoint;
/// AQUILA_ERR_ARGUMENT for an option out of range.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_plan_load(
    model: *const c_char,
    options: *const aquila_load_options,
    plan: *mut aquila_plan,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let model = guard::path("model", model)?;
            let options = options::read(options)?.to_options()?;
            options::check_out("plan", plan)?;
            let found = open::plan(model, &options)?;
            options::write("plan", plan, &aquila_plan::from(&found))
        })
    }
}

/// Loads a model and starts its engine.
///
/// Parameters: `model`, a directory (Hugging Face's or FlagAI's, or one that holds `part_model`, a model cut for several
/// cards) or a GGUF file; `options`, NULL for the defaults;
/// `engine`, where the handle is written, NULL on failure.
/// Returns: AQUILA_OK; AQUILA_ERR_NOT_FOUND, AQUILA_ERR_IO, AQUILA_ERR_FORMAT, AQUILA_ERR_UNSUPPORTED
/// for what is wrong with the checkpoint, with file, tensor, expected and found in the message;
/// AQUILA_ERR_ARGUMENT for an option, or MAX_SEQ_LEN, out of range; AQUILA_ERR_NO_MEMORY or
/// AQUILA_ERR_DEVICE_MEMORY before anything large is taken;
/// AQUILA_ERR_CANCELLED where the progress function abandoned it.
/// Ownership: the engine is the caller's, to be given back with aquila_free.
/// Threads: any, at any time. The progress function runs on the calling thread.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_load(
    model: *const c_char,
    options: *const aquila_load_options,
    engine: *mut *mut aquila_engine,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(engine);
        status_call(error, || {
            let out = guard::out("engine", engine)?;
            let model = guard::path("model", model)?;
            let options = options::read(options)?;
            let engine = open::load(model, &options.to_options()?, &mut options.progress())?;
            let stored = handles::insert(EngineObject::new(engine));
            *out = stored.map_err(|(error, engine)| {
                engine.tear_down();
                error
            })?;
            Ok(())
        })
    }
}

/// Frees an engine: its running requests end with AQUILA_ERR_CLOSED, its threads are joined and its
/// memory is given back before this returns. Results made with it stay valid.
///
/// Parameters: `engine`; NULL, a freed handle and one from before a fork are fine: nothing happens.
/// Threads: any, at any time, also while other threads use the engine: their calls end with
/// AQUILA_ERR_CLOSED. Inside a callback it closes the engine at once and tears it down when the
/// outermost library call of this thread returns.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_free(engine: *mut aquila_engine) {
    value_call((), || {
        let running = handles::pin::<EngineObject, _>(engine)?;
        running.check_process()?;
        drop(running);
        if let Some(engine) = handles::close::<EngineObject, _>(engine) {
            guard::tear_down_outermost(engine);
        }
        Ok(())
    })
}
