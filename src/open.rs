//! Path and options in, a running engine out. The only file that names the backends.

use crate::backend::ascend::backend::AscendBackend;
use crate::backend::ascend::diagnosis::{self, Diagnosis};
use crate::backend::ascend::probe;
use crate::backend::cpu::CpuBackend;
use crate::backend::{
    Backend, ComputeType, Executor, ExecutorOptions, KvType, MemoryPlan, PackedCache, Progress,
};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result, Status};
use crate::base::limits;
use crate::engine::{Engine, EngineInfo, Parts};
use crate::model::checkpoint::Checkpoint;
use crate::model::spec::DecoderSpec;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text_side::TextSide;

mod text_side;

/// How a model is loaded. The default loads as stored on the best device, within what the machine has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// "auto", "cpu", "npu:0", "npu:0,1"; empty: "auto".
    pub device: String,
    /// `None` as stored (quantised types of GGUF are kept in 4 or 8 bits); "f32", "f16", "bf16", "q8", "q4", and on an NPU
    /// "w8a8".
    pub dtype: Option<String>,
    /// `None` like the weights (f16 where those are quantised); "f32", "f16", "bf16".
    pub kv_dtype: Option<String>,
    /// A tokenizer.json, or a directory that holds the tokenizer's files; `None` beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// Name of a built-in template or Jinja text; `None` from the model.
    pub chat_template: Option<String>,
    /// A directory where converted weights are kept and later mapped; `None`: none are written. A cache that cannot be
    /// used or written is a warning in the log, never an error of the load.
    pub cache_dir: Option<PathBuf>,
    /// Host bytes to stay within; 0: what the machine has.
    pub host_memory: u64,
    /// Device bytes to stay within; 0: what the device has.
    pub device_memory: u64,
    /// Bytes for the KV cache; 0: what the budgets leave.
    pub kv_memory: u64,
    /// Longest sequence in tokens; 0: the model's.
    pub max_context: u32,
    /// Most sequences a step; 0: chosen.
    pub max_batch: u32,
    /// Most waiting requests; 0: a default.
    pub max_waiting: u32,
    /// Worker threads; 0: affinity and the control group's quota.
    pub threads: u32,
    /// Copy the weights instead of mapping the files.
    pub no_mmap: bool,
    /// Keep the weights resident.
    pub lock_memory: bool,
    /// Look at every weight for NaN and infinity, and compare a packed cache with its checksums.
    pub verify: bool,
}

/// What a checkpoint is and what loading it will take.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The decoder.
    pub spec: crate::model::spec::DecoderSpec,
    /// The device that `device` chose.
    pub device: String,
    /// Context in tokens and the name of the limit that won: "model", "max_context", "MAX_SEQ_LEN".
    pub context: (u32, &'static str),
    /// Bytes and blocks.
    pub memory: MemoryPlan,
    /// What was recognised of the checkpoint, for a person: layout, format, dtypes, tokenizer, chat template. Name and
    /// value.
    pub checkpoint: Vec<(&'static str, String)>,
    /// What was taken where its files say nothing, or nothing that can be true: defaults of absent keys, ids that end a
    /// text. A sentence each.
    pub assumed: Vec<String>,
    /// What looks wrong in it: ids that are no special tokens, unknown keys.
    pub warnings: Vec<String>,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Stored bytes of all weights.
    pub weight_bytes: u64,
}

/// Reads headers only and says what `load` would take. The errors are those of `load`; too little
/// memory is no error here but `Plan::memory.refusal`.
pub fn plan(model: &Path, options: &LoadOptions) -> Result<Plan> {
    let opened = Opened::new(model, options)?;
    let text = TextSide::open(&opened.checkpoint, options)?;
    let Opened { checkpoint, backend, context, memory, .. } = opened;
    let mut facts = checkpoint.facts.clone();
    facts.extend(text.facts(&checkpoint));
    Ok(Plan {
        device: backend.name(),
        context,
        memory,
        checkpoint: facts,
        assumed: [checkpoint.assumed.clone(), text.assumed(&checkpoint)].concat(),
        warnings: [checkpoint.warnings.clone(), text.warnings(&checkpoint)].concat(),
        parameters: checkpoint.parameters(),
        weight_bytes: checkpoint.weights.stored_bytes(),
        spec: checkpoint.spec,
    })
}

/// Loads a model and starts its engine. `progress` is told of stages and bytes and may abandon
/// (`Cancelled`). Everything is checked and planned before memory is taken; on an error everything is
/// given back.
pub fn load(model: &Path, options: &LoadOptions, progress: Progress<'_>) -> Result<Engine> {
    let opened = Opened::new(model, options)?;
    let text = TextSide::open(&opened.checkpoint, options)?;
    for warning in opened.checkpoint.warnings.iter().chain(&text.warnings(&opened.checkpoint)) {
        log::warn!(target: "aquila::load", "{}: {warning}", model.display());
    }
    let info = EngineInfo {
        device: opened.backend.name(),
        vocab: opened.checkpoint.spec.vocab as u32,
        layers: opened.checkpoint.spec.layers as u32,
        hidden: opened.checkpoint.spec.hidden as u32,
        context: opened.context.0,
        tensor_parallel: opened.backend.ranks() as u32,
        bos: id_or_none(text.bos(opened.checkpoint.ids.bos)),
        eos: id_or_none(text.stop_ids.first().copied()),
        stop_ids: text.stop_ids,
        parameters: opened.checkpoint.parameters(),
        weight_bytes: opened.checkpoint.weights.stored_bytes(),
        fingerprint: opened.checkpoint.fingerprint(),
        plan: opened.memory.clone(),
        executor: Vec::new(),
        chat_template: text.chat.as_ref().map(|(chat, _)| chat.name().to_owned()),
    };
    let (_, _, executor) = opened.execute(options, progress)?;
    let max_waiting = match options.max_waiting {
        0 => limits::WAITING_DEFAULT,
        n => n,
    };
    Engine::start(Parts {
        info,
        tokenizer: text.tokenizer,
        chat: text.chat.map(|(chat, _)| chat),
        executor,
        max_waiting: max_waiting as usize,
        clock: Clock::real(),
    })
}

/// Converts the weights of a model as `options.dtype` says and keeps them in `options.cache_dir`, an existing
/// directory, so that later loads map them. A good cache is checked and left alone unless `force` is set. Errors are
/// those of `load`, and `Io` or `NotFound` where the file cannot be written; `Argument` where nothing is to convert.
pub fn quantize(
    model: &Path,
    options: &LoadOptions,
    force: bool,
    progress: Progress<'_>,
) -> Result<PackedCache> {
    let Opened { mut checkpoint, backend, executor_options, .. } = Opened::new(model, options)?;
    if options.verify {
        checkpoint.scan_finite(|done, total| progress("verify", done, total))?;
    }
    if let Some(dir) = &options.cache_dir {
        checkpoint.keep_packed(dir, true, false);
    }
    backend
        .pack(&checkpoint.spec, &checkpoint.weights, &executor_options, force, progress)
        .map_err(|error| error.at(model.display()))
}

/// Loads a model without tokenizer, scheduler and thread: the bare executor, for measurements.
pub fn open_executor(
    model: &Path,
    options: &LoadOptions,
    progress: Progress<'_>,
) -> Result<(Arc<DecoderSpec>, MemoryPlan, Box<dyn Executor>)> {
    Opened::new(model, options)?.execute(options, progress)
}

/// A checkpoint whose headers were read, the device that was chosen for it, and the plan.
struct Opened {
    model: PathBuf,
    checkpoint: Checkpoint,
    backend: Box<dyn Backend>,
    executor_options: ExecutorOptions,
    context: (u32, &'static str),
    memory: MemoryPlan,
}

impl Opened {
    fn new(model: &Path, options: &LoadOptions) -> Result<Opened> {
        let mut backends = choose_backends(options)?;
        let mut checkpoint = Checkpoint::open(model, false)?;
        if let Some(dir) = &options.cache_dir {
            checkpoint.keep_packed(dir, options.verify, false);
        }
        let env = std::env::var_os("MAX_SEQ_LEN").map(|value| value.to_string_lossy().into_owned());
        let context = choose_context(checkpoint.spec.context, options.max_context, env.as_deref())?;
        let executor_options = ExecutorOptions {
            dtype: options.dtype.as_deref().map(compute_type).transpose()?,
            kv_dtype: options.kv_dtype.as_deref().map(kv_type).transpose()?,
            threads: options.threads as usize,
            context: context.0 as usize,
            max_batch: options.max_batch as usize,
            host_memory: options.host_memory,
            device_memory: options.device_memory,
            kv_memory: options.kv_memory,
            lock_memory: options.lock_memory,
            copy_weights: options.no_mmap,
        };
        let plan = |backend: &dyn Backend| {
            check_world_size(&checkpoint, backend)?;
            backend.plan(&checkpoint.spec, &checkpoint.weights, &executor_options)
        };
        let mut backend = backends.remove(0);
        let mut memory = plan(&*backend);
        // What an NPU cannot run, or has no room for, is the CPU's where the choice is ours.
        while let (false, Some(why)) = (backends.is_empty(), why_not(&memory)) {
            auto_takes_the_cpu(&why);
            backend = backends.remove(0);
            memory = plan(&*backend);
        }
        let memory = memory?;
        Ok(Opened { model: model.into(), checkpoint, backend, executor_options, context, memory })
    }

    /// Takes the memory and readies the weights.
    fn execute(
        self,
        options: &LoadOptions,
        progress: Progress<'_>,
    ) -> Result<(Arc<DecoderSpec>, MemoryPlan, Box<dyn Executor>)> {
        let Opened { model, checkpoint, backend, executor_options, context, memory } = self;
        log::info!(target: "aquila::load", "{}: {}", model.display(), describe(&memory, context, &backend.name()));
        if let Some(refusal) = &memory.refusal {
            let status = if backend.name() == "cpu" { Status::NoMemory } else { Status::DeviceMemory };
            return Err(Error::new(status, refusal.clone()).at(model.display()));
        }
        if options.verify {
            checkpoint.scan_finite(|done, total| progress("verify", done, total))?;
        }
        let checkpoint = if options.no_mmap {
            drop(checkpoint);
            let mut copied = Checkpoint::open(&model, true)?;
            if let Some(dir) = &options.cache_dir {
                copied.keep_packed(dir, options.verify, true);
            }
            copied
        } else {
            checkpoint
        };
        let spec = Arc::new(checkpoint.spec.clone());
        let executor = backend
            .open(spec.clone(), checkpoint.weights, &executor_options, &memory, progress)
            .map_err(|error| error.at(model.display()))?;
        Ok((spec, memory, executor))
    }
}

/// A checkpoint that was cut runs on as many cards as it was cut for; the CPU joins it.
fn check_world_size(checkpoint: &Checkpoint, backend: &dyn Backend) -> Result<()> {
    let Some(parts) = checkpoint.world_size.filter(|_| backend.name() != "cpu") else { return Ok(()) };
    let ranks = backend.ranks();
    crate::ensure!(
        parts == ranks,
        Argument,
        "part_model: it was cut for {parts} cards (world_size in config.json), device {} names {ranks}: name as many, cut \
         it anew (aquila split), or use the whole model, which is cut while it is loaded",
        backend.name()
    );
    Ok(())
}

/// Why a device is not the one for a model.
fn why_not(memory: &Result<MemoryPlan>) -> Option<Error> {
    match memory {
        Ok(plan) => plan.refusal.clone().map(|refusal| Error::new(Status::DeviceMemory, refusal)),
        Err(error) => Some(error.clone()),
    }
}

/// What there is of Ascend on this machine, for a person. CANN is opened where it is found.
pub fn diagnose_npu() -> Diagnosis {
    Diagnosis::make()
}

/// The devices to try, best first: "auto" takes an NPU if one works, else the CPU, and the log says which and why. Nothing of
/// CANN is opened for "cpu".
fn choose_backends(options: &LoadOptions) -> Result<Vec<Box<dyn Backend>>> {
    let cpu = || -> Result<Box<dyn Backend>> { Ok(Box::new(CpuBackend::from_environment()?)) };
    match options.device.as_str() {
        "cpu" => Ok(vec![cpu()?]),
        "" | "auto" => match npu_backend(&[0], options) {
            Ok(npu) => Ok(vec![npu, cpu()?]),
            Err(error) => {
                auto_takes_the_cpu(&error);
                Ok(vec![cpu()?])
            }
        },
        npu if npu.starts_with("npu") => Ok(vec![npu_backend(&probe::parse_devices(npu)?, options)?]),
        other => Err(crate::error!(
            Argument,
            "device: expected \"auto\", \"cpu\", \"npu:0\" or \"npu:0,1\", found {other:?}"
        )),
    }
}

/// Who has a card wants to know that it stands idle.
fn auto_takes_the_cpu(why: &Error) {
    let level = if diagnosis::device_files().is_empty() { log::Level::Info } else { log::Level::Warn };
    log::log!(target: "aquila::load", level, "device auto: the CPU, because no NPU can be used: {}", why.message);
}

/// NPUs that answer, as far as that can be told before a model is looked at.
fn npu_backend(ids: &[u32], options: &LoadOptions) -> Result<Box<dyn Backend>> {
    let dtype = options.dtype.as_deref().map(compute_type).transpose()?;
    let kv_bf16 = options.kv_dtype.as_deref() == Some("bf16");
    let reports = probe::check(ids, dtype, kv_bf16)?;
    for report in &reports {
        log::info!(
            target: "aquila::npu",
            "npu:{}: {}, {} of {} MiB free",
            report.id,
            report.soc,
            report.memory_free >> 20,
            report.memory_total >> 20
        );
    }
    Ok(Box::new(AscendBackend::new(reports)?))
}

/// The least of the model's context, the option and `MAX_SEQ_LEN`, and the name of the one that won.
fn choose_context(model: usize, option: u32, env: Option<&str>) -> Result<(u32, &'static str)> {
    let mut least = (u32::try_from(model).unwrap_or(limits::CONTEXT_MAX), "model");
    if option > 0 && option < least.0 {
        least = (option, "max_context");
    }
    if let Some(text) = env {
        let length = text.trim().parse::<u32>().ok().filter(|&n| n > 0);
        let Some(length) = length else {
            crate::bail!(Argument, "MAX_SEQ_LEN: expected 1 to {} tokens, found {text:?}", u32::MAX);
        };
        if length < least.0 {
            least = (length, "MAX_SEQ_LEN");
        }
    }
    Ok(least)
}

fn compute_type(name: &str) -> Result<ComputeType> {
    match name {
        "f32" => Ok(ComputeType::F32),
        "f16" => Ok(ComputeType::F16),
        "bf16" => Ok(ComputeType::Bf16),
        "q8" => Ok(ComputeType::Q8),
        "q4" => Ok(ComputeType::Q4),
        "w8a8" => Ok(ComputeType::W8a8),
        other => crate::bail!(
            Argument,
            "dtype: expected \"f32\", \"f16\", \"bf16\", \"q8\", \"q4\" or \"w8a8\", found {other:?}"
        ),
    }
}

fn kv_type(name: &str) -> Result<KvType> {
    match name {
        "f32" => Ok(KvType::F32),
        "f16" => Ok(KvType::F16),
        "bf16" => Ok(KvType::Bf16),
        "i8" => Ok(KvType::I8),
        other => {
            crate::bail!(Argument, "kv_dtype: expected \"f32\", \"f16\", \"bf16\" or \"i8\", found {other:?}")
        }
    }
}

fn id_or_none(id: Option<u32>) -> i32 {
    id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1)
}

/// One line: what is taken where, and which limit set the context.
fn describe(plan: &MemoryPlan, context: (u32, &str), device: &str) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "{device}: weights {} MiB mapped and {} MiB private, workspace {} MiB, KV cache {} MiB for {} tokens; \
         context {} tokens (by {})",
        mib(plan.weight_bytes_mapped),
        mib(plan.weight_bytes_private),
        mib(plan.workspace_bytes),
        mib(plan.kv_bytes()),
        plan.kv_tokens(),
        context.0,
        context.1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_wins_and_has_a_name() {
        assert_eq!(choose_context(2048, 0, None).unwrap(), (2048, "model"));
        assert_eq!(choose_context(2048, 512, Some("1024")).unwrap(), (512, "max_context"));
        assert_eq!(choose_context(2048, 512, Some("100")).unwrap(), (100, "MAX_SEQ_LEN"));
        assert_eq!(choose_context(2048, 9000, Some("8192")).unwrap(), (2048, "model"));
        for bad in ["", "0", "-1", "2k", "99999999999"] {
            let error = choose_context(2048, 0, Some(bad)).unwrap_err();
            assert_eq!(error.status, Status::Argument);
            assert!(error.message.contains(&format!("{bad:?}")), "{}", error.message);
        }
    }

    #[test]
    fn devices_and_types_that_are_known_but_not_built_are_unsupported() {
        let status = |result: Result<()>| result.unwrap_err().status;
        let on = |device: &str| LoadOptions { device: device.into(), ..LoadOptions::default() };
        assert_eq!(status(choose_backends(&on("gpu")).map(drop)), Status::Argument);
        assert_eq!(status(choose_backends(&on("npu")).map(drop)), Status::Argument);
        assert_eq!(status(choose_backends(&on("npu:1,1")).map(drop)), Status::Argument);
        assert_eq!(status(compute_type("int3").map(drop)), Status::Argument);
        assert_eq!(status(kv_type("i4").map(drop)), Status::Argument);
    }
}
