//! Whether a step can be run at all: every index exists and its parts agree. The engine never builds another; a mistake
//! of its must not become a read of foreign memory.

use super::{Capabilities, Step, StepSequence, Want};
use crate::base::error::Result;

/// What a step may name.
#[derive(Clone, Copy, Debug)]
pub struct StepBounds<'a> {
    /// The executor's.
    pub capabilities: &'a Capabilities,
    /// Token ids are below it.
    pub vocab: usize,
    /// Positions are below it, and no sequence is longer.
    pub context: usize,
    /// Block numbers are below it.
    pub kv_blocks: usize,
}

impl StepBounds<'_> {
    /// `Argument` unless the step fits; `Unsupported` where it wants what the executor cannot do.
    pub fn check(&self, step: &Step<'_>) -> Result<()> {
        let (rows, limits) = (step.tokens.len(), self.capabilities);
        crate::ensure!(
            rows == step.positions.len() && rows == step.slots.len(),
            Argument,
            "step: {rows} tokens, {} positions, {} slots",
            step.positions.len(),
            step.slots.len()
        );
        crate::ensure!(
            rows <= limits.step_tokens && step.sequences.len() <= limits.step_sequences,
            Argument,
            "step: {rows} tokens of {} sequences, expected at most {} of {}",
            step.sequences.len(),
            limits.step_tokens,
            limits.step_sequences
        );
        for (row, (&token, &position)) in step.tokens.iter().zip(step.positions).enumerate() {
            crate::ensure!(
                (token as usize) < self.vocab && (position as usize) < self.context,
                Argument,
                "step: row {row}: token {token} at position {position}, expected below {} and {}",
                self.vocab,
                self.context
            );
        }
        let mut next_row = 0;
        for sequence in step.sequences {
            crate::ensure!(
                sequence.first_row == next_row && sequence.rows > 0,
                Argument,
                "step: a sequence of {} rows begins at row {}, expected row {next_row}",
                sequence.rows,
                sequence.first_row
            );
            self.check_sequence(step, sequence)?;
            next_row = next_row.saturating_add(sequence.rows);
        }
        crate::ensure!(next_row == rows, Argument, "step: its sequences cover {next_row} of {rows} rows");
        self.check_wanted(step)?;
        self.check_carry(step)
    }

    /// One sequence: its context, its blocks, and that each row's slot is where attention will look.
    fn check_sequence(&self, step: &Step<'_>, sequence: &StepSequence) -> Result<()> {
        let StepSequence { first_row, rows, context, first_block, blocks } = *sequence;
        let block_tokens = self.capabilities.block_tokens;
        crate::ensure!(
            rows <= context && context <= self.context,
            Argument,
            "step: row {first_row}: {rows} rows in a context of {context}, expected at most {}",
            self.context
        );
        crate::ensure!(
            self.capabilities.prefill_over_cache || rows == context || rows == 1,
            Unsupported,
            "step: row {first_row}: {rows} rows behind {} cached tokens; the device prefills whole prompts only",
            context - rows
        );
        let last_block = first_block.saturating_add(blocks);
        let table = step.block_tables.get(first_block..last_block).unwrap_or_default();
        crate::ensure!(
            table.len() >= context.div_ceil(block_tokens),
            Argument,
            "step: row {first_row}: {} blocks for {context} tokens, expected {}",
            table.len(),
            context.div_ceil(block_tokens)
        );
        if let Some(block) = table.iter().find(|&&block| block as usize >= self.kv_blocks) {
            crate::bail!(Argument, "step: KV block {block} does not exist; there are {}", self.kv_blocks);
        }
        let slots = step.slots.get(first_row..first_row.saturating_add(rows)).unwrap_or_default();
        crate::ensure!(
            slots.len() == rows,
            Argument,
            "step: row {first_row}: {rows} rows, found {}",
            slots.len()
        );
        for (position, &slot) in (context - rows..context).zip(slots) {
            let block = table.get(position / block_tokens).copied().unwrap_or_default() as usize;
            let expected = block * block_tokens + position % block_tokens;
            crate::ensure!(
                slot as usize == expected,
                Argument,
                "step: slot {slot} for token {position} of a sequence, expected {expected} by its blocks"
            );
        }
        Ok(())
    }

    fn check_wanted(&self, step: &Step<'_>) -> Result<()> {
        crate::ensure!(
            self.capabilities.device_select || step.wanted.iter().all(|w| w.want != Want::Select),
            Unsupported,
            "step: this device does not select ids"
        );
        crate::ensure!(
            self.capabilities.candidates > 0 || step.wanted.iter().all(|w| w.want != Want::Candidates),
            Unsupported,
            "step: this device does not find the largest logits"
        );
        let rising = step.wanted.windows(2).all(|w| w[0].row < w[1].row);
        let exist = step.wanted.last().is_none_or(|w| w.row < step.tokens.len());
        crate::ensure!(
            rising && exist,
            Argument,
            "step: wanted rows must rise and be below {}",
            step.tokens.len()
        );
        let logits = step.wanted.iter().filter(|w| w.want != Want::Hidden).count();
        crate::ensure!(
            logits <= self.capabilities.logit_rows,
            Argument,
            "step: logits of {logits} rows, expected at most {}",
            self.capabilities.logit_rows
        );
        Ok(())
    }

    /// Only decode rows may take a token that the device selected: the others' are known.
    fn check_carry(&self, step: &Step<'_>) -> Result<()> {
        crate::ensure!(
            self.capabilities.device_select || step.carry.is_empty(),
            Unsupported,
            "step: this device does not select ids"
        );
        for carry in step.carry {
            let alone = step.sequences.iter().any(|s| s.first_row == carry.row && s.rows == 1);
            crate::ensure!(
                alone,
                Argument,
                "step: row {} cannot take a selected token: it is no sequence's only row",
                carry.row
            );
        }
        Ok(())
    }
}
