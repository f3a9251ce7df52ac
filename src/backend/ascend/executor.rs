//! The Ascend executor: checks a step, lays its words out, and sends it to the ranks.

use super::crew::{Crew, Opening};
use super::image::{Image, ImageLayout, Place, SLOTS};
use super::slot::Output;
use crate::backend::step_check::StepBounds;
use crate::backend::{Capabilities, Collected, Executor, Progress, Row, Step, Tap, Ticket};
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use crate::model::weights::WeightSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// Runs steps on the devices of its ranks. `submit` returns before the work is done; two steps may be in flight.
pub struct AscendExecutor {
    crew: Crew,
    spec: Arc<DecoderSpec>,
    capabilities: Capabilities,
    layout: ImageLayout,
    kv_blocks: usize,
    context: usize,
    /// Bytes of a KV block on each rank.
    pieces: Vec<usize>,
    facts: Vec<(&'static str, String)>,
    last: Ticket,
    /// Steps in flight, and the last one collected: its ids may still be carried into the next.
    recent: VecDeque<Arc<Image>>,
    in_flight: usize,
    spare: Vec<Arc<Image>>,
    results: Results,
}

/// The results of the last step that was collected.
struct Results {
    output: Output,
    image: Arc<Image>,
    vocab: usize,
    layout: ImageLayout,
}

impl Collected for Results {
    fn row(&self, index: usize) -> Row<'_> {
        let Output { ids, candidates, values } = &self.output;
        let ImageLayout { logit_words, hidden_words, candidates: width, .. } = self.layout;
        match self.image.places[index] {
            Place::Selected(place) => Row::Selected(ids[place]),
            Place::Candidates(place) => {
                let first = self.image.counts.ids + place * width;
                Row::Candidates { logits: &candidates[place * width..][..width], ids: &ids[first..][..width] }
            }
            Place::Logits(place) => Row::Logits(&values[place * logit_words..][..self.vocab]),
            Place::Hidden(place) => {
                let first = self.image.counts.logits * logit_words + place * hidden_words;
                Row::Hidden(&values[first..][..hidden_words])
            }
        }
    }
}

impl AscendExecutor {
    /// Opens the ranks and loads them.
    pub fn open(
        opening: Opening,
        weights: WeightSet,
        capabilities: Capabilities,
        facts: Vec<(&'static str, String)>,
        progress: Progress<'_>,
    ) -> Result<AscendExecutor> {
        let (spec, setup, kv_blocks) = (opening.spec.clone(), opening.setup.clone(), opening.kv_blocks);
        let ranks = setup.parts.len();
        let pieces = (0..ranks).map(|rank| setup.block_bytes(&spec, rank) as usize).collect();
        let crew = Crew::open(opening, weights, progress)?;
        let layout = setup.layout;
        let image = || Arc::new(Image::new(&layout));
        let output = Output {
            ids: Vec::with_capacity(layout.logit_rows * (1 + layout.candidates)),
            candidates: Vec::with_capacity(layout.logit_rows * layout.candidates),
            values: Vec::with_capacity(layout.sequences * layout.logit_words),
        };
        Ok(AscendExecutor {
            crew,
            context: setup.context,
            results: Results { output, image: image(), vocab: spec.vocab, layout },
            spec,
            capabilities,
            layout,
            kv_blocks,
            pieces,
            facts,
            last: Ticket(0),
            recent: VecDeque::with_capacity(SLOTS + 1),
            in_flight: 0,
            spare: vec![image(), image(), image()],
        })
    }

    /// Checks a step and lays its words out.
    fn prepare(&mut self, step: &Step<'_>) -> Result<Arc<Image>> {
        let bounds = StepBounds {
            capabilities: &self.capabilities,
            vocab: self.spec.vocab,
            context: self.context,
            kv_blocks: self.kv_blocks,
        };
        bounds.check(step)?;
        crate::ensure!(
            self.in_flight < SLOTS,
            State,
            "{SLOTS} steps are in flight; one must be collected before the next is submitted"
        );
        // A rank may still hold the image of a step that failed: then another is made.
        let free = self.spare.iter_mut().position(|image| Arc::get_mut(image).is_some());
        let mut image = match free {
            Some(index) => self.spare.swap_remove(index),
            None => Arc::new(Image::new(&self.layout)),
        };
        let ticket = Ticket(self.last.0 + 1);
        let recent = &self.recent;
        let earlier = |ticket: Ticket| {
            recent.iter().find(|image| image.ticket == ticket).map(|image| image.places.as_slice())
        };
        if let Some(image) = Arc::get_mut(&mut image) {
            image.fill(&self.layout, ticket, step, earlier)?;
        }
        Ok(image)
    }

    fn submitted(&mut self, image: Arc<Image>) -> Ticket {
        self.last = image.ticket;
        self.in_flight += 1;
        self.recent.push_back(image);
        self.last
    }
}

impl Executor for AscendExecutor {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket> {
        let image = self.prepare(step)?;
        self.crew.submit(&image)?;
        Ok(self.submitted(image))
    }

    fn collect(&mut self, ticket: Ticket) -> Result<&dyn Collected> {
        let oldest = self.recent.len() - self.in_flight;
        let next = if self.in_flight > 0 { self.recent[oldest].ticket } else { Ticket(0) };
        crate::ensure!(
            self.in_flight > 0 && ticket == next,
            State,
            "step {} cannot be collected; the oldest in flight is {}",
            ticket.0,
            next.0
        );
        self.in_flight -= 1;
        let result = self.crew.collect(&mut self.results.output);
        let image = self.recent[oldest].clone();
        let former = std::mem::replace(&mut self.results.image, image);
        // The image of the step before is no longer asked for: its ids went into the one just collected.
        while self.recent.len() > self.in_flight + 1 {
            self.recent.pop_front();
        }
        self.spare.push(former);
        self.spare.truncate(SLOTS + 2);
        result?;
        Ok(&self.results)
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.crew.copy_blocks(pairs)
    }

    fn read_blocks(&mut self, blocks: &[u32], out: &mut [u8]) -> Result<()> {
        self.check_blocks(blocks, out.len())?;
        self.crew.read_blocks(blocks, &self.pieces, out)
    }

    fn write_blocks(&mut self, blocks: &[u32], bytes: &[u8]) -> Result<()> {
        self.check_blocks(blocks, bytes.len())?;
        self.crew.write_blocks(blocks, &self.pieces, bytes)
    }

    fn run_tapped(&mut self, step: &Step<'_>, tap: Tap<'_>) -> Result<Ticket> {
        let image = self.prepare(step)?;
        let taps = self.crew.run_tapped(&image)?;
        let width = self.spec.hidden;
        let mut rows = vec![0.0; step.tokens.len() * width];
        for layer in 0..self.spec.layers {
            for (kind, _, values) in taps.iter().filter(|(_, of, _)| *of == layer) {
                for (row, _) in image.rows.iter().enumerate().filter(|(_, (of, _))| of == kind) {
                    let at = image.rows[row].1 * width;
                    rows[row * width..][..width].copy_from_slice(&values[at..at + width]);
                }
            }
            tap(layer, &rows);
        }
        Ok(self.submitted(image))
    }

    fn describe(&self) -> Vec<(&'static str, String)> {
        self.facts.clone()
    }
}

impl AscendExecutor {
    fn check_blocks(&self, blocks: &[u32], bytes: usize) -> Result<()> {
        let whole: usize = self.pieces.iter().sum();
        let exist = blocks.iter().all(|&block| (block as usize) < self.kv_blocks);
        crate::ensure!(
            exist && bytes == blocks.len() * whole,
            Argument,
            "{} KV blocks of {} bytes: found {bytes} bytes, and block numbers below {} are expected",
            blocks.len(),
            whole,
            self.kv_blocks
        );
        Ok(())
    }
}
