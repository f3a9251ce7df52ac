//! The rig over an executor that only checks what it is told.

use super::*;
use crate::backend::{Capabilities, Collected, Row, Tap, Ticket};
use crate::model::spec::{RopeScaling, RopeSpec};
use std::collections::HashSet;
use std::sync::Mutex;

/// Rows, context and wanted rows of a step.
type Seen = (usize, usize, usize);

struct Checker {
    can: Capabilities,
    blocks: usize,
    seen: Arc<Mutex<Vec<Seen>>>,
    written: HashSet<u32>,
    logits: Logits,
}

struct Logits(Vec<f32>);

impl Collected for Logits {
    fn row(&self, _index: usize) -> Row<'_> {
        Row::Logits(&self.0)
    }
}

impl Executor for Checker {
    fn capabilities(&self) -> &Capabilities {
        &self.can
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket> {
        let rows: usize = step.sequences.iter().map(|s| s.rows).sum();
        assert!(rows == step.tokens.len() && rows == step.positions.len() && rows == step.slots.len());
        assert!(rows <= self.can.step_tokens);
        assert_eq!(step.slots.iter().collect::<HashSet<_>>().len(), rows, "no slot twice");
        assert!(step.tokens.iter().all(|&t| t < 50));
        for s in step.sequences {
            for j in 0..s.rows {
                let position = s.context - s.rows + j;
                assert_eq!(step.positions[s.first_row + j] as usize, position);
                let block = step.block_tables[s.first_block + position / 4] as usize;
                assert!(block < self.blocks && self.written.contains(&(block as u32)));
                assert_eq!(step.slots[s.first_row + j] as usize, block * 4 + position % 4);
            }
        }
        let context = step.sequences.first().map_or(0, |s| s.context);
        self.seen.lock().unwrap().push((rows, context, step.wanted.len()));
        Ok(Ticket(0))
    }

    fn collect(&mut self, _ticket: Ticket) -> Result<&dyn Collected> {
        Ok(&self.logits)
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.written.extend(pairs.iter().map(|p| p.1));
        Ok(())
    }

    fn read_blocks(&mut self, _blocks: &[u32], _out: &mut [u8]) -> Result<()> {
        crate::bail!(Unsupported, "no content")
    }

    fn write_blocks(&mut self, _blocks: &[u32], _bytes: &[u8]) -> Result<()> {
        crate::bail!(Unsupported, "no content")
    }

    fn run_tapped(&mut self, _step: &Step<'_>, _tap: Tap<'_>) -> Result<Ticket> {
        crate::bail!(Unsupported, "no tap")
    }

    fn describe(&self) -> Vec<(&'static str, String)> {
        vec![]
    }
}

fn spec() -> DecoderSpec {
    DecoderSpec {
        layers: 2,
        hidden: 8,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 16,
        vocab: 50,
        norm_eps: 1e-6,
        rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
        context: 64,
        score_clamp: None,
        tied: false,
    }
}

fn rig(prefill_over_cache: bool) -> (Rig, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let can = Capabilities {
        block_tokens: 4,
        block_bytes: 0,
        block_form: String::new(),
        prefill_over_cache,
        mixed_steps: true,
        device_select: false,
        candidates: 0,
        reproducible: true,
        step_tokens: 10,
        step_sequences: 4,
        logit_rows: 4,
        cheap_rows: 1,
    };
    let executor = Checker {
        can,
        blocks: 30,
        seen: seen.clone(),
        written: HashSet::from([0]),
        logits: Logits(vec![0.0; 50]),
    };
    let plan = MemoryPlan { kv_blocks: 30, block_tokens: 4, ..MemoryPlan::default() };
    (Rig::new(Arc::new(spec()), plan, Box::new(executor)), seen)
}

#[test]
fn prefill_runs_in_steps_at_its_depth() {
    let (mut rig, seen) = rig(true);
    let case = Case { kind: Kind::Prefill, tokens: 23, depth: 7, batch: 1 };
    rig.warm_up(&case).unwrap();
    seen.lock().unwrap().clear();
    rig.run(&case).unwrap();
    assert_eq!(*seen.lock().unwrap(), [(10, 17, 0), (10, 27, 0), (3, 30, 1)]);
}

#[test]
fn decode_advances_all_sequences() {
    let (mut rig, seen) = rig(true);
    let case = Case { kind: Kind::Decode, tokens: 3, depth: 17, batch: 4 };
    rig.warm_up(&case).unwrap();
    seen.lock().unwrap().clear();
    rig.run(&case).unwrap();
    assert_eq!(*seen.lock().unwrap(), [(4, 18, 4), (4, 19, 4), (4, 20, 4)]);
}

#[test]
fn what_cannot_run_is_refused() {
    use crate::base::error::Status;
    let status = |rig: &Rig, kind, tokens, depth, batch| {
        rig.check(&Case { kind, tokens, depth, batch }).unwrap_err().status
    };
    let (rig_over, _) = rig(true);
    assert_eq!(status(&rig_over, Kind::Prefill, 40, 30, 1), Status::ContextFull);
    assert_eq!(status(&rig_over, Kind::Decode, 40, 0, 4), Status::NoMemory);
    assert_eq!(status(&rig_over, Kind::Decode, 1, 0, 5), Status::Unsupported);
    assert_eq!(status(&rig_over, Kind::Decode, 0, 0, 1), Status::Argument);
    assert_eq!(status(&rig_over, Kind::Decode, usize::MAX, 9, 1), Status::ContextFull);
    let (rig_whole, _) = rig(false);
    assert_eq!(status(&rig_whole, Kind::Prefill, 5, 5, 1), Status::Unsupported);
    assert_eq!(status(&rig_whole, Kind::Prefill, 11, 0, 1), Status::Unsupported);
    rig_whole.check(&Case { kind: Kind::Prefill, tokens: 10, depth: 0, batch: 1 }).unwrap();
}

#[test]
fn work_is_counted_by_hand() {
    let plan = MemoryPlan { weight_bytes_per_token: 1000, kv_bytes_per_token: 10, ..MemoryPlan::default() };
    let decode = Case { kind: Kind::Decode, tokens: 2, depth: 5, batch: 3 };
    // Two steps read the weights; each of three sequences attends to 6 and then 7 positions.
    assert_eq!(decode.decode_bytes(&plan), 2.0 * 1000.0 + 3.0 * 13.0 * 10.0);
    let layer = 2.0 * (8.0 * 8.0 + 2.0 * 4.0 * 8.0 + 8.0 * 8.0 + 3.0 * 16.0 * 8.0);
    let prefill = Case { kind: Kind::Prefill, tokens: 2, depth: 5, batch: 1 };
    let expected = 2.0 * (2.0 * layer + 13.0 * 4.0 * 8.0) + 2.0 * 50.0 * 8.0;
    assert_eq!(prefill.operations(&spec()), expected);
}
