//! The CPU executor: checks a step, runs it on the pool, keeps its results until the next call.

use super::forward::{Forward, Sharing};
use super::kernels::{Kernels, KvElement};
use super::kv::KvCache;
use super::lock::Locked;
use super::pool::Pool;
use super::survey::FORM_NAMES;
use super::weights::Weights;
use super::workspace::{Sizes, Workspace, span_results};
use crate::backend::cpu::isa::Level;
use crate::backend::step_check::StepBounds;
use crate::backend::{Capabilities, Collected, Executor, Row, Step, Tap, Ticket, Want};
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use std::sync::Arc;

/// Runs steps on the threads of one pool. A step is done when `submit` returns; its results stay
/// until the next `submit`.
pub struct CpuExecutor {
    // Unlocked before the memory goes.
    pub(super) _locked: Locked,
    pub(super) spec: Arc<DecoderSpec>,
    pub(super) context: usize,
    pub(super) weights: Weights,
    pub(super) kernels: Kernels,
    pub(super) inverse_frequencies: Vec<f32>,
    pub(super) pool: Pool,
    pub(super) kv: KvCache,
    pub(super) capabilities: Capabilities,
    pub(super) lists: Lists,
    pub(super) sizes: Sizes,
    pub(super) results: Results,
    pub(super) last: Ticket,
}

/// Lists that a step needs, filled anew by each and never grown past what was reserved.
pub(super) struct Lists {
    /// Rows to norm at the end, those that become logits first.
    wanted: Vec<usize>,
    /// Units of attention before each sequence, and in all.
    units: Vec<usize>,
}

impl Lists {
    pub(super) fn new(capabilities: &Capabilities) -> Self {
        Lists {
            wanted: Vec::with_capacity(capabilities.step_tokens),
            units: Vec::with_capacity(capabilities.step_sequences + 1),
        }
    }
}

/// The results of the last step, and the workspace in which they lie.
pub(super) struct Results {
    work: Workspace,
    hidden: usize,
    vocab: usize,
    /// For each wanted row what it is and its place among the logits or the normed rows.
    rows: Vec<(Want, usize)>,
}

impl Results {
    pub(super) fn new(work: Workspace, spec: &DecoderSpec, capabilities: &Capabilities) -> Self {
        let rows = Vec::with_capacity(capabilities.step_tokens);
        Results { work, hidden: spec.hidden, vocab: spec.vocab, rows }
    }
}

impl Collected for Results {
    fn row(&self, index: usize) -> Row<'_> {
        let (want, place) = self.rows[index];
        match want {
            Want::Hidden => {
                let part = place * self.hidden..(place + 1) * self.hidden;
                // SAFETY: no step runs while the results are borrowed.
                Row::Hidden(unsafe { self.work.h.part(part) })
            }
            _ => {
                let part = place * self.vocab..(place + 1) * self.vocab;
                // SAFETY: as above.
                Row::Logits(unsafe { self.work.logits.part(part) })
            }
        }
    }
}

impl CpuExecutor {
    fn bounds(&self) -> StepBounds<'_> {
        StepBounds {
            capabilities: &self.capabilities,
            vocab: self.spec.vocab,
            context: self.context,
            kv_blocks: self.kv.blocks(),
        }
    }

    /// Fills the lists of a checked step, of whose attention the workers share out what `sharing` says, and gives the
    /// number of rows that become logits.
    fn prepare(&mut self, step: &Step<'_>, sharing: Sharing) -> usize {
        let logit_rows = step.wanted.iter().filter(|w| w.want == Want::Logits).count();
        self.results.rows.clear();
        self.lists.wanted.clear();
        self.lists.wanted.resize(step.wanted.len(), 0);
        let (mut logits, mut hidden) = (0, logit_rows);
        for wanted in step.wanted {
            let next = if wanted.want == Want::Logits { &mut logits } else { &mut hidden };
            self.lists.wanted[*next] = wanted.row;
            self.results.rows.push((wanted.want, *next));
            *next += 1;
        }
        self.lists.units.clear();
        self.lists.units.push(0);
        let mut units = 0;
        for sequence in step.sequences {
            units += sharing.units(sequence);
            self.lists.units.push(units);
        }
        logit_rows
    }

    /// Checks and runs a step, all at once or layer by layer with a tap.
    fn execute(&mut self, step: &Step<'_>, tap: Option<Tap<'_>>) -> Result<Ticket> {
        self.bounds().check(step)?;
        let sharing = Sharing::of(&self.spec, step, self.sizes);
        let logit_rows = self.prepare(step, sharing);
        let CpuExecutor {
            spec, weights, kernels, inverse_frequencies, pool, kv, lists, results, sizes, ..
        } = self;
        let forward = Forward {
            spec,
            weights,
            kernels: *kernels,
            work: &results.work,
            kv,
            inverse_frequencies,
            step,
            wanted: &lists.wanted,
            logit_rows,
            sharing,
            span_results: span_results(spec, *sizes),
            units: &lists.units,
        };
        match tap {
            None => pool.run(&|worker| forward.run(worker))?,
            Some(tap) => {
                pool.run(&|worker| forward.embed(worker))?;
                for layer in 0..spec.layers {
                    pool.run(&|worker| forward.layer(worker, layer))?;
                    // SAFETY: no job runs.
                    tap(layer, unsafe { results.work.x.part(0..step.tokens.len() * spec.hidden) });
                }
                pool.run(&|worker| forward.results(worker))?;
            }
        }
        self.last = Ticket(self.last.0 + 1);
        Ok(self.last)
    }
}

impl Executor for CpuExecutor {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket> {
        self.execute(step, None)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<&dyn Collected> {
        crate::ensure!(
            ticket == self.last && ticket.0 > 0,
            State,
            "step {} cannot be collected; the last one submitted is {}",
            ticket.0,
            self.last.0
        );
        Ok(&self.results)
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        pairs.iter().try_for_each(|&(from, to)| self.kv.copy(from, to))
    }

    fn read_blocks(&mut self, blocks: &[u32], out: &mut [u8]) -> Result<()> {
        self.kv.read(blocks, out)
    }

    fn write_blocks(&mut self, blocks: &[u32], bytes: &[u8]) -> Result<()> {
        self.kv.write(blocks, bytes)
    }

    fn run_tapped(&mut self, step: &Step<'_>, tap: Tap<'_>) -> Result<Ticket> {
        self.execute(step, Some(tap))
    }

    fn describe(&self) -> Vec<(&'static str, String)> {
        facts(self.pool.threads(), self.kernels.level(), self.weights.used(), self.kv.layout().element)
    }
}

/// What the user is told of an executor, before it is opened and afterwards. `used`: whether any matrix is
/// held in the form of each of [`FORM_NAMES`].
pub fn facts(
    threads: usize,
    level: Level,
    used: [bool; FORM_NAMES.len()],
    kv: KvElement,
) -> Vec<(&'static str, String)> {
    let held: Vec<&str> = FORM_NAMES.into_iter().zip(used).filter(|x| x.1).map(|x| x.0).collect();
    let quantised = held.iter().all(|name| name.starts_with('q'));
    let held = held.join("+");
    let arithmetic = match held.as_str() {
        "bf16" if level == Level::Avx512Bf16 => "bf16 dot products, f32 sums",
        _ if quantised => "8-bit dot products, f32 sums",
        _ => "f32 arithmetic",
    };
    vec![
        ("threads", threads.to_string()),
        ("instructions", level.name().into()),
        ("arithmetic", format!("{held} weights, {arithmetic}")),
        ("kv cache", kv.name().into()),
    ]
}
