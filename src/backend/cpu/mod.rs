//! The CPU backend: one fused program for a whole decoder step, on threads of its own.
//!
//! | file | holds |
//! |---|---|
//! | `forward` | the forward pass: what every worker does in one step |
//! | `executor` | checks a step, runs it, keeps its results |
//! | `pool`, `signal`, `threads`, `float_mode` | the threads of an engine |
//! | `survey`, `weights` | which weights are used in place and which are converted |
//! | `cache`, `read_ahead` | converted weights kept in a file; reading what is used in place |
//! | `memory` | what will be taken and what fits |
//! | `kv`, `workspace`, `arena`, `lock` | the memory itself |
//! | `kernels`, `isa` | the arithmetic, and the instructions it may use |
//!
//! Memory: the weights stay in their mapped files where their type is the wanted one, or lie in a packed cache that is
//! mapped like them; activations,
//! logits and the KV cache are taken when the executor is opened, and a step takes nothing.

mod arena;
mod cache;
mod executor;
mod float_mode;
mod forward;
pub mod isa;
pub mod kernels;
mod kv;
mod lock;
mod memory;
pub mod pool;
mod read_ahead;
mod signal;
mod survey;
mod threads;
mod weights;
mod workspace;

use crate::backend::{
    Backend, Capabilities, Executor, ExecutorOptions, KvType, MemoryPlan, PackedCache, Progress, Ticket,
};
use crate::base::error::Result;
use crate::base::limits;
use crate::model::spec::DecoderSpec;
use crate::model::weights::WeightSet;
use executor::{CpuExecutor, Lists, Results};
use isa::Level;
use kernels::kv::BLOCK_TOKENS;
use kernels::{Element, Kernels, KvElement, KvLayout};
use kv::KvCache;
use lock::Locked;
use memory::{BATCH_DEFAULT, Bounds, Needs};
use pool::Pool;
use std::sync::Arc;
use survey::Survey;
use weights::{Loader, Weights};
use workspace::{Sizes, Workspace};

/// Rows of a decode step whose arithmetic hides behind reading the weights. The two take equal time at
/// n* = (products a second) / (weights read a second) rows. Two cores of a current CPU at 50 GB/s: some 8
/// for f32 arithmetic over 16-bit weights and for 4-bit ones, 14 for 8-bit and bf16 dot products. More
/// cores share the same memory, which only raises n*; so the least of these. Beyond n* the row of a proposed token costs
/// as much as the token that it may save.
const CHEAP_ROWS: usize = 8;

/// Rows of logits of one step of `batch` sequences.
fn logit_rows(batch: usize) -> usize {
    batch.max(CHEAP_ROWS)
}

/// Plans and opens executors on the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuBackend {
    level: Level,
}

impl CpuBackend {
    /// A backend that uses the instructions of `level`, or of this CPU where those are fewer.
    pub fn new(level: Level) -> Self {
        CpuBackend { level: level.lowered() }
    }

    /// The best level of this CPU, lowered by the environment variable `AQUILA_CPU` where it is set.
    /// `Argument` where its value is no level's name.
    pub fn from_environment() -> Result<Self> {
        let wanted = std::env::var_os("AQUILA_CPU");
        Ok(CpuBackend {
            level: Level::choose(wanted.as_ref().map(|name| name.to_string_lossy()).as_deref())?,
        })
    }
}

/// Options with every default filled in, and what follows from them.
struct Setup {
    threads: usize,
    batch: usize,
    layout: KvLayout,
    sizes: Sizes,
    survey: Survey,
    /// Weights that will be used where they lie in mapped files.
    mapped: u64,
    /// Copies of mapped files that are still to be taken.
    copied: u64,
    /// The packed cache that will be used or written.
    packed: Option<PackedCache>,
}

impl Setup {
    fn of(spec: &DecoderSpec, weights: &WeightSet, options: &ExecutorOptions) -> Result<Setup> {
        let mut setup = Setup::without_cache(spec, weights, options)?;
        let Some((wish, packed)) = cache::planned(spec, weights, options.dtype)? else { return Ok(setup) };
        // One that is still to be written is not counted on: the disk may fill, and then the weights are private.
        if packed.found && !options.copy_weights {
            setup.mapped += wish.matrix_bytes;
            setup.survey.converted = setup.survey.converted.saturating_sub(wish.matrix_bytes);
        }
        setup.packed = Some(packed);
        Ok(setup)
    }

    fn without_cache(spec: &DecoderSpec, weights: &WeightSet, options: &ExecutorOptions) -> Result<Setup> {
        crate::ensure!(
            (1..=limits::CONTEXT_MAX as usize).contains(&options.context),
            Argument,
            "context: expected 1 to {}, found {}",
            limits::CONTEXT_MAX,
            options.context
        );
        let most = [
            ("max_batch", options.max_batch, limits::BATCH_MAX as usize),
            ("threads", options.threads, limits::THREADS_MAX),
        ];
        for (name, value, most) in most {
            crate::ensure!(value <= most, Argument, "{name}: expected at most {most}, found {value}");
        }
        let threads = match options.threads {
            0 => threads::default_count().min(limits::THREADS_MAX),
            n => n,
        };
        let batch = if options.max_batch == 0 { BATCH_DEFAULT } else { options.max_batch };
        let survey = Survey::of(spec, weights, options.dtype)?;
        let element = match options.kv_dtype {
            Some(KvType::F32) => KvElement::Plain(Element::F32),
            Some(KvType::F16) => KvElement::Plain(Element::F16),
            Some(KvType::Bf16) => KvElement::Plain(Element::Bf16),
            Some(KvType::I8) => KvElement::I8,
            None => KvElement::Plain(survey.element.unwrap_or(Element::F16)),
        };
        let layout = KvLayout { kv_heads: spec.kv_heads, head_dim: spec.head_dim, element };
        let sizes = Sizes {
            rows: limits::STEP_TOKENS_MAX,
            logit_rows: logit_rows(batch),
            threads,
            context: options.context,
            packed: survey.packed,
        };
        let (mapped, copied) =
            if options.copy_weights { (0, weights.mapped_bytes()) } else { (survey.mapped, 0) };
        Ok(Setup { threads, batch, layout, sizes, survey, mapped, copied, packed: None })
    }

    fn capabilities(&self, layers: usize) -> Capabilities {
        Capabilities {
            block_tokens: BLOCK_TOKENS,
            block_bytes: layers * self.layout.block_bytes(),
            block_form: KvCache::form(&self.layout, layers),
            prefill_over_cache: true,
            mixed_steps: true,
            device_select: false,
            candidates: 0,
            reproducible: true,
            step_tokens: limits::STEP_TOKENS_MAX,
            step_sequences: self.batch,
            logit_rows: logit_rows(self.batch),
            cheap_rows: CHEAP_ROWS,
        }
    }

    fn needs(&self, spec: &DecoderSpec, options: &ExecutorOptions) -> Needs {
        let context_blocks = options.context.div_ceil(BLOCK_TOKENS) as u64;
        Needs {
            mapped: self.mapped,
            held: self.survey.held,
            copied: self.copied,
            converted: self.survey.converted,
            workspace: Workspace::bytes(spec, self.sizes),
            block: self.layout.block_bytes() as u64 * spec.layers as u64,
            context_blocks,
            batch_blocks: context_blocks * self.batch as u64,
            context: options.context,
        }
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn plan(&self, spec: &DecoderSpec, weights: &WeightSet, options: &ExecutorOptions) -> Result<MemoryPlan> {
        let setup = Setup::of(spec, weights, options)?;
        let needs = setup.needs(spec, options);
        let available = crate::base::memory::available_bytes();
        let bounds = Bounds { host_memory: options.host_memory, kv_memory: options.kv_memory, available };
        let (kv_blocks, refusal) = memory::kv_blocks(&needs, &bounds);
        Ok(MemoryPlan {
            weight_bytes_mapped: setup.mapped,
            weight_bytes_private: setup.copied.saturating_add(setup.survey.private()),
            workspace_bytes: needs.workspace,
            kv_bytes_per_token: needs.block / BLOCK_TOKENS as u64,
            kv_blocks,
            block_tokens: BLOCK_TOKENS,
            weight_bytes_per_token: setup.survey.per_token,
            host_available: available.unwrap_or(0),
            device_available: 0,
            facts: executor::facts(setup.threads, self.level, setup.survey.used, setup.layout.element),
            packed: setup.packed,
            refusal,
        })
    }

    fn pack(
        &self,
        spec: &DecoderSpec,
        weights: &WeightSet,
        options: &ExecutorOptions,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<PackedCache> {
        let setup = Setup::without_cache(spec, weights, options)?;
        let mut pool = Pool::new(setup.threads)?;
        Loader::new(spec, weights, options.dtype, Kernels::new(self.level), &mut pool, progress)
            .pack_ahead(force)
    }

    fn open(
        &self,
        spec: Arc<DecoderSpec>,
        weights: WeightSet,
        options: &ExecutorOptions,
        plan: &MemoryPlan,
        progress: Progress<'_>,
    ) -> Result<Box<dyn Executor>> {
        if let Some(refusal) = &plan.refusal {
            crate::bail!(NoMemory, "{refusal}");
        }
        let setup = Setup::of(&spec, &weights, options)?;
        let capabilities = setup.capabilities(spec.layers);
        let kernels = Kernels::new(self.level);
        let work = Workspace::new(&spec, setup.sizes)?;
        let kv = KvCache::new(setup.layout, spec.layers, plan.kv_blocks)?;
        let mut pool = Pool::new(setup.threads)?;
        let mut loader = Loader::new(&spec, &weights, options.dtype, kernels, &mut pool, progress);
        loader.keep()?;
        if loader.kept.is_none() {
            check_without_cache(&spec, &weights, options, plan)?;
        }
        let weights = loader.load()?;
        log::debug!(
            "cpu: {} threads, {}; {} bytes of converted weights, {} of KV cache",
            setup.threads,
            kernels.level(),
            weights.taken_bytes,
            kv.bytes()
        );
        let locked = if options.lock_memory { lock(&weights)? } else { Locked::default() };
        Ok(Box::new(CpuExecutor {
            _locked: locked,
            context: options.context,
            inverse_frequencies: crate::backend::rope::inverse_frequencies(
                &spec.rope,
                spec.head_dim,
                options.context,
            ),
            kernels,
            pool,
            kv,
            lists: Lists::new(&capabilities),
            sizes: setup.sizes,
            results: Results::new(work, &spec, &capabilities),
            capabilities,
            weights,
            spec,
            last: Ticket(0),
        }))
    }
}

/// Where the plan counted on a packed cache that is now missing, damaged, or cannot be made again: `NoMemory` unless
/// the weights fit into private memory too.
fn check_without_cache(
    spec: &DecoderSpec,
    weights: &WeightSet,
    options: &ExecutorOptions,
    plan: &MemoryPlan,
) -> Result<()> {
    if !plan.packed.as_ref().is_some_and(|packed| packed.found) {
        return Ok(());
    }
    let needs = Setup::without_cache(spec, weights, options)?.needs(spec, options);
    let bounds = Bounds {
        host_memory: options.host_memory,
        kv_memory: plan.kv_bytes(),
        available: crate::base::memory::available_bytes(),
    };
    match memory::kv_blocks(&needs, &bounds).1 {
        Some(refusal) => Err(crate::error!(NoMemory, "without the packed cache: {refusal}")),
        None => Ok(()),
    }
}

/// Locks all matrices; norms and biases are read so often that they stay by themselves.
fn lock(weights: &Weights) -> Result<Locked> {
    let mut locked = Locked::default();
    for matrix in weights.matrices() {
        for bytes in matrix.regions() {
            locked.add(bytes)?;
        }
    }
    Ok(locked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::shapes;
    use crate::base::dtype::DType;
    use crate::base::region::Region;
    use crate::model::spec::{RopeScaling, RopeSpec};
    use crate::model::weights::{Role, RowMap, Weight};
    use std::ops::ControlFlow;

    fn spec() -> DecoderSpec {
        DecoderSpec {
            layers: 2,
            hidden: 32,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            ffn: 64,
            vocab: 40,
            norm_eps: 1e-6,
            rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
            context: 64,
            score_clamp: None,
            tied: false,
        }
    }

    /// Zero weights in mapped or private memory; everything but the f32 embedding is f16.
    fn weights(spec: &DecoderSpec, mapped: bool) -> WeightSet {
        stored_weights(spec, mapped, DType::F16)
    }

    /// The same with matrices of another type.
    fn stored_weights(spec: &DecoderSpec, mapped: bool, matrices: DType) -> WeightSet {
        let mut set = WeightSet::default();
        let mut add = |layer, role| {
            let (rows, cols) = shapes::shape(spec, role);
            let dtype = match role {
                Role::Embedding => DType::F32,
                _ if rows == 1 => DType::F16,
                _ => matrices,
            };
            let len = dtype.bytes((rows * cols) as u64).unwrap() as usize;
            let bytes = Region::new(Arc::new(vec![0u8; len]), mapped);
            let weight = Weight::whole(&format!("{role:?}"), rows, cols, dtype, bytes, RowMap::Identity);
            set.insert(layer, role, weight.unwrap());
        };
        add(0, Role::Embedding);
        add(0, Role::FinalNorm);
        add(0, Role::Head);
        for layer in 0..spec.layers {
            shapes::LAYER_MATRICES.into_iter().for_each(|role| add(layer, role));
            shapes::LAYER_NORMS.into_iter().for_each(|role| add(layer, role));
            add(layer, Role::KeyBias);
        }
        set
    }

    fn options(dtype: Option<crate::backend::ComputeType>) -> ExecutorOptions {
        ExecutorOptions {
            dtype,
            kv_dtype: None,
            threads: 2,
            context: 64,
            max_batch: 3,
            host_memory: 0,
            device_memory: 0,
            kv_memory: 0,
            lock_memory: false,
            copy_weights: false,
        }
    }

    #[test]
    fn what_is_planned_is_what_is_taken() {
        use crate::backend::ComputeType::*;
        let spec = spec();
        let choices = [None, Some(F32), Some(F16), Some(Bf16), Some(Q8), Some(Q4)];
        let types = [DType::F16, DType::Q4_1, DType::Q5_1, DType::Q8_0];
        let cases = types.into_iter().flat_map(|stored| choices.map(|dtype| (stored, dtype)));
        for (index, (stored, dtype)) in cases.enumerate() {
            let mapped = index % 2 == 0;
            let set = stored_weights(&spec, mapped, stored);
            let plan = CpuBackend::new(Level::detect()).plan(&spec, &set, &options(dtype)).unwrap();
            let mut pool = Pool::new(2).unwrap();
            let mut progress = |_: &str, _, _| ControlFlow::Continue(());
            let kernels = Kernels::new(Level::detect());
            let loader = Loader::new(&spec, &set, dtype, kernels, &mut pool, &mut progress);
            let loaded = loader.load().unwrap();
            let bytes = |mapped| -> u64 {
                let in_files = |m: &&kernels::Matrix| m.regions().all(|region| region.is_mapped() == mapped);
                loaded.matrices().filter(in_files).map(|m| m.stored_bytes()).sum()
            };
            let vectors = (5 * spec.hidden + 2 * spec.kv_width()) as u64 * 4;
            assert_eq!(plan.weight_bytes_mapped, bytes(true), "{dtype:?}");
            assert_eq!(plan.weight_bytes_private, bytes(false) + vectors, "{dtype:?}");
            let setup = Setup::of(&spec, &set, &options(dtype)).unwrap();
            assert_eq!(setup.survey.converted, loaded.taken_bytes, "{dtype:?}");
            let kv = KvCache::new(setup.layout, spec.layers, 7).unwrap();
            assert_eq!(kv.bytes(), plan.kv_bytes_per_token * 16 * 7);
            let backend = CpuBackend::new(Level::detect());
            let opened = backend.open(Arc::new(spec.clone()), set, &options(dtype), &plan, &mut progress);
            assert_eq!(plan.facts, opened.unwrap().describe(), "{dtype:?}");
        }
    }

    #[test]
    fn each_stored_type_has_its_form() {
        use crate::backend::ComputeType::{Q4, Q8};
        use kernels::Packing::{Q4 as Codes, Q4Fine, Q4Min, Q4Super, Q8 as Bytes, Q8Fine};
        use survey::Form;
        // Stored as; as a matrix of a layer by default, with q8, with q4; as the embedding with q4.
        for (stored, forms) in [
            (DType::BF16, [None, Some(Bytes), Some(Codes), Some(Bytes)]),
            (DType::Q8_0, [Some(Q8Fine), Some(Q8Fine), Some(Codes), Some(Q8Fine)]),
            (DType::Q5_0, [Some(Q8Fine), Some(Q8Fine), Some(Codes), Some(Q8Fine)]),
            (DType::Q4_0, [Some(Q4Fine); 4]),
            (DType::Q4_1, [Some(Q4Min); 4]),
            (DType::Q4K, [Some(Q4Super); 4]),
            (DType::Q6K, [Some(Q8Fine), Some(Bytes), Some(Codes), Some(Bytes)]),
        ] {
            let bytes = vec![0u8; stored.bytes(2 * 512).unwrap() as usize];
            let weight = Weight::whole("w", 2, 512, stored, bytes.into(), RowMap::Identity).unwrap();
            let cases = [
                (Role::Gate, None),
                (Role::Gate, Some(Q8)),
                (Role::Gate, Some(Q4)),
                (Role::Embedding, Some(Q4)),
            ];
            let found = cases.map(|(role, dtype)| Form::of(role, &weight, dtype));
            let expected = forms.map(|packing| packing.map_or(Form::Plain(Element::Bf16), Form::Packed));
            assert_eq!(found, expected, "{stored}");
            // Cut along k, a row is no run of blocks.
            let parts = [0..256, 256..512].map(|range| weight.narrow_cols(range).unwrap());
            let cut = Weight::join_cols("w", parts.into()).unwrap();
            let fallback = if stored.is_plain() { Form::Plain(Element::Bf16) } else { Form::Packed(Q8Fine) };
            assert_eq!(Form::of(Role::Gate, &cut, None), fallback, "{stored}");
        }
    }

    #[test]
    fn an_abandoned_load_is_cancelled() {
        let (spec, set) = (spec(), weights(&spec(), true));
        let backend = CpuBackend::new(Level::detect());
        let plan = backend.plan(&spec, &set, &options(None)).unwrap();
        assert_eq!((plan.kv_blocks, plan.block_tokens), (4 * 3, 16));
        let (mut calls, mut last) = (0, 0);
        let mut stop = |_: &str, done: u64, total: u64| {
            calls += 1;
            last = total.saturating_sub(done);
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = backend.open(Arc::new(spec), set, &options(None), &plan, &mut stop).err().unwrap();
        assert_eq!(error.status, crate::Status::Cancelled);
        assert!(calls == 3 && last > 0);
    }

    #[test]
    fn options_out_of_range_and_refused_plans_are_errors() {
        let (spec, set) = (spec(), weights(&spec(), true));
        let backend = CpuBackend::new(Level::Scalar);
        for bad in [
            ExecutorOptions { context: 0, ..options(None) },
            ExecutorOptions { max_batch: 1000, ..options(None) },
            ExecutorOptions { threads: 1000, ..options(None) },
        ] {
            assert_eq!(backend.plan(&spec, &set, &bad).unwrap_err().status, crate::Status::Argument);
        }
        let small = ExecutorOptions { kv_memory: 1, ..options(None) };
        let plan = backend.plan(&spec, &set, &small).unwrap();
        assert!(plan.refusal.is_some());
        let mut go = |_: &str, _, _| ControlFlow::Continue(());
        let error = backend.open(Arc::new(spec), set, &small, &plan, &mut go).err().unwrap();
        assert_eq!(error.status, crate::Status::NoMemory);
        let wrong = DecoderSpec { ffn: 50, ..self::spec() };
        let error = backend.plan(&wrong, &weights(&self::spec(), true), &options(None)).unwrap_err();
        assert!(error.status == crate::Status::Format && error.message.contains("50 × 32"), "{error}");
    }
}
