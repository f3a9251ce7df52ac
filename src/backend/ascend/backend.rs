//! The Ascend backend: plans and opens executors on one or several NPUs.

use super::crew::Opening;
use super::executor::AscendExecutor;
use super::hold::Hold;
use super::image::ImageLayout;
use super::open::Cann;
use super::plan::{self, RankNeeds, Setup};
use super::probe::DeviceReport;
use super::program::Making;
use super::rank_table::RankTable;
use super::soc::Facts;
use super::version::Version;
use crate::backend::{Backend, Capabilities, Executor, ExecutorOptions, MemoryPlan, Progress};
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use crate::model::weights::WeightSet;
use std::sync::Arc;

/// NPUs of one kind, each a rank.
#[derive(Debug)]
pub struct AscendBackend {
    cann: &'static Cann,
    reports: Vec<DeviceReport>,
    facts: &'static Facts,
    making: Making,
    /// By which the ranks find each other, where the user has one.
    rank_table: Option<Arc<RankTable>>,
}

impl AscendBackend {
    /// A backend on devices that were looked at, in the order of the ranks. `AQUILA_ASCEND_GRAPHS=0` runs ATB's operations
    /// one by one. Several devices meet by the table that `RANK_TABLE_FILE` names, if it does.
    pub fn new(reports: Vec<DeviceReport>) -> Result<AscendBackend> {
        let cann = Cann::open()?;
        let facts = match reports.first() {
            Some(first) => Facts::of(&first.soc)?,
            None => crate::bail!(Argument, "device: no NPU was named"),
        };
        let singles = std::env::var("AQUILA_ASCEND_GRAPHS").is_ok_and(|value| value.trim() == "0");
        let making = if singles { Making::Singles } else { Making::Graphs };
        let devices: Vec<u32> = reports.iter().map(|report| report.id).collect();
        let rank_table = RankTable::of_environment(&devices)?.map(Arc::new);
        Ok(AscendBackend { cann, reports, facts, making, rank_table })
    }

    fn setup(&self, spec: &DecoderSpec, weights: &WeightSet, options: &ExecutorOptions) -> Result<Setup> {
        let setup = Setup::of(self.facts, self.reports.len(), spec, weights, options)?;
        let version = &self.cann.facts.atb_version;
        crate::ensure!(
            !setup.has(Hold::Tokens)
                || Version::parse(version).is_none_or(|version| version.has_per_token_products()),
            Unsupported,
            "dtype \"w8a8\": ATB {version} has no products with a scale for each token, which came with 8.2; upgrade the \
             package Ascend-cann-nnal with its CANN to 8.2.RC1 or later, or use \"f16\", \"bf16\", or what msModelSlim made \
             with static W8A8"
        );
        Ok(setup)
    }

    fn needs(&self, setup: &Setup, spec: &DecoderSpec) -> Result<Vec<RankNeeds>> {
        (0..self.reports.len()).map(|rank| RankNeeds::of(setup, spec, rank)).collect()
    }

    fn device_ids(&self) -> Vec<u32> {
        self.reports.iter().map(|report| report.id).collect()
    }

    fn describe(&self, setup: &Setup, spec: &DecoderSpec) -> Vec<(&'static str, String)> {
        let soc = self.reports.first().map_or("", |report| report.soc.as_str());
        let mut facts = plan::facts(setup, spec, soc, &self.device_ids());
        facts.extend(self.rank_table.as_ref().map(|table| ("rank table", table.name())));
        facts
    }

    fn capabilities(&self, setup: &Setup, spec: &DecoderSpec) -> Capabilities {
        let ImageLayout { rows, sequences, logit_rows, .. } = setup.layout;
        let ranks = setup.parts.len();
        let pieces: Vec<u64> = (0..ranks).map(|rank| setup.block_bytes(spec, rank)).collect();
        Capabilities {
            block_tokens: setup.block_tokens,
            block_bytes: pieces.iter().sum::<u64>() as usize,
            block_form: format!(
                "npu {} {} of {} layers, blocks of {}, bytes a rank {pieces:?}",
                if setup.facts.tiled { "tiles" } else { "rows" },
                setup.dtype.name(),
                spec.layers,
                setup.block_tokens
            ),
            prefill_over_cache: setup.prefill_over_cache,
            mixed_steps: true,
            device_select: true,
            candidates: setup.layout.candidates,
            reproducible: false,
            step_tokens: rows,
            step_sequences: sequences,
            logit_rows,
            cheap_rows: 1,
        }
    }
}

impl Backend for AscendBackend {
    fn name(&self) -> String {
        let ids: Vec<String> = self.reports.iter().map(|report| report.id.to_string()).collect();
        format!("npu:{}", ids.join(","))
    }

    fn ranks(&self) -> usize {
        self.reports.len()
    }

    fn plan(&self, spec: &DecoderSpec, weights: &WeightSet, options: &ExecutorOptions) -> Result<MemoryPlan> {
        let setup = self.setup(spec, weights, options)?;
        let needs = self.needs(&setup, spec)?;
        let free: Vec<u64> = self.reports.iter().map(|report| report.memory_free).collect();
        let (kv_blocks, refusal) =
            plan::kv_blocks(&setup, &needs, &free, options.device_memory, options.kv_memory);
        let sum = |of: fn(&RankNeeds) -> u64| needs.iter().map(of).sum::<u64>();
        Ok(MemoryPlan {
            weight_bytes_mapped: 0,
            weight_bytes_private: sum(|need| need.weights),
            workspace_bytes: sum(|need| need.tables + need.workspace + need.libraries),
            kv_bytes_per_token: sum(|need| need.block) / setup.block_tokens as u64,
            kv_blocks,
            block_tokens: setup.block_tokens,
            weight_bytes_per_token: sum(|need| need.weights),
            host_available: crate::base::memory::available_bytes().unwrap_or(0),
            device_available: free.iter().sum(),
            facts: self.describe(&setup, spec),
            packed: None,
            refusal,
        })
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
            crate::bail!(DeviceMemory, "{refusal}");
        }
        let setup = self.setup(&spec, &weights, options)?;
        let needs = self.needs(&setup, &spec)?;
        let (capabilities, facts) = (self.capabilities(&setup, &spec), self.describe(&setup, &spec));
        let opening = Opening {
            cann: self.cann,
            devices: self.device_ids(),
            kv_blocks: plan.kv_blocks,
            upload_bytes: needs.iter().map(|need| need.weights).sum(),
            workspace_bytes: needs.iter().map(|need| need.workspace).collect(),
            making: self.making,
            rank_table: self.rank_table.clone(),
            setup,
            spec,
        };
        Ok(Box::new(AscendExecutor::open(opening, weights, capabilities, facts, progress)?))
    }
}
