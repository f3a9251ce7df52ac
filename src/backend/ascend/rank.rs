//! A rank: one device with its part of the decoder, and a decoder step on it. All of it belongs to the rank's thread.
//!
//! A step: its words go to pinned memory and are copied in a stream of their own, so that they are there when the
//! device comes to them; then prologue, layers and epilogue of each pass are put into the lane; then one copy of the
//! results, and an event. Nothing waits. When the step is collected the event is waited for, and the results
//! are taken out of pinned memory.

use super::acl;
use super::atb::{Desc, Tensor};
use super::comm::Comm;
use super::decoder::Shared;
use super::device::{Device, Stream};
use super::form::HalfType;
use super::image::{Counts, ID_WORDS, Image, List, Pass, PassKind, SLOTS};
use super::memory::DeviceBuffer;
use super::plan::{STAGING_BYTES, Setup};
use super::program::{Lane, Making, Program};
use super::programs::{Builder, Programs};
use super::slot::{Output, Slot, Words};
use super::tables::Tables;
use super::upload::{Told, Uploader};
use super::weights::RankWeights;
use crate::base::error::{Error, Result, Status};
use crate::model::spec::DecoderSpec;
use crate::model::weights::WeightSet;
use std::collections::VecDeque;

/// What a rank is opened with.
#[derive(Debug)]
pub struct RankOptions<'a> {
    /// All ranks' choices.
    pub setup: &'a Setup,
    /// The decoder.
    pub spec: &'a DecoderSpec,
    /// Which rank.
    pub rank: usize,
    /// KV blocks to take.
    pub kv_blocks: usize,
    /// Bytes of workspace to take.
    pub workspace_bytes: u64,
    /// Graphs, or node by node.
    pub making: Making,
    /// Longest wait for a step, in milliseconds.
    pub step_milliseconds: u32,
    /// Longest wait for a copy while loading.
    pub load_milliseconds: u32,
}

/// A step in flight.
#[derive(Clone, Copy, Debug)]
struct Flight {
    slot: usize,
    /// Executes up to its end.
    issued: u64,
    counts: Counts,
}

/// One device and what it holds. Fields are dropped in order: what uses before what is used.
#[derive(Debug)]
pub struct Rank {
    programs: Programs,
    in_flight: VecDeque<Flight>,
    slots: [Slot; SLOTS],
    /// The device's block of words: two steps' lists and results.
    words: DeviceBuffer,
    weights: RankWeights,
    tables: Tables,
    /// Keys and values of each layer.
    caches: Vec<[DeviceBuffer; 2]>,
    feed: Stream,
    lane: Lane,
    comm: Option<Comm>,
    device: Device,
    setup: Setup,
    spec: DecoderSpec,
    rank: usize,
    step_milliseconds: u32,
}

impl Rank {
    /// Takes the memory and brings the weights over. `comm` is joined before, because a 310P wants its communicators made
    /// before large memory is taken.
    pub fn open(
        device: &Device,
        comm: Option<Comm>,
        weights: &WeightSet,
        options: &RankOptions<'_>,
        told: &Told,
    ) -> Result<Rank> {
        let RankOptions { setup, spec, .. } = *options;
        let mut lane = Lane::new(device, options.step_milliseconds)?;
        let feed = Stream::new(device)?;
        let mut uploader = Uploader::new(device, &feed, STAGING_BYTES, told, options.load_milliseconds)?;
        let weights = RankWeights::load(device, &mut uploader, setup, spec, weights, options.rank)?;
        let tables = Tables::new(device, &mut uploader, setup, spec)?;
        drop(uploader);
        let caches = (0..spec.layers).map(|_| {
            let one = || {
                let bytes = setup.block_bytes(spec, options.rank) as usize / (2 * spec.layers);
                let mut cache = DeviceBuffer::new(device, bytes * options.kv_blocks)?;
                // Attention reads whole blocks; what it masks must still be numbers.
                cache.fill(0..bytes * options.kv_blocks, 0)?;
                Ok(cache)
            };
            Ok([one()?, one()?])
        });
        let caches = caches.collect::<Result<Vec<_>>>()?;
        let words = DeviceBuffer::new(device, setup.layout.words() * 4)?;
        let slots = [Slot::new(device, &setup.layout)?, Slot::new(device, &setup.layout)?];
        let builder = Builder {
            device,
            lane: &lane,
            comm: comm.as_ref(),
            setup,
            spec,
            rank: options.rank,
            making: options.making,
            weights: &weights,
            caches: &caches,
            words: &words,
        };
        let programs = Programs::new(&builder, &tables)?;
        // Node by node the workspace is a kernel's, and the tensors between nodes take what is planned.
        if programs.making == Making::Graphs {
            lane.reserve(options.workspace_bytes as usize)?;
        }
        Ok(Rank {
            programs,
            in_flight: VecDeque::with_capacity(SLOTS),
            slots,
            words,
            weights,
            tables,
            caches,
            feed,
            lane,
            comm,
            device: device.clone(),
            setup: setup.clone(),
            spec: spec.clone(),
            rank: options.rank,
            step_milliseconds: options.step_milliseconds,
        })
    }

    /// Puts a step into the streams.
    pub fn submit(&mut self, image: &Image) -> Result<()> {
        self.feed_words(image)?;
        let mut done = Counts::default();
        for pass in &image.passes {
            let last = self.run_layers(image.slot(), pass, None)?;
            self.run_epilogues(image, pass, last, &mut done)?;
        }
        self.read_results(image)
    }

    /// Waits for the oldest step and takes its results. `keep_waiting` is asked now and then.
    pub fn collect(&mut self, output: &mut Output, keep_waiting: &dyn Fn() -> bool) -> Result<()> {
        let flight = self.in_flight.pop_front();
        let flight = flight.ok_or_else(|| Error::new(Status::State, "no step is in flight"))?;
        let slot = &self.slots[flight.slot];
        slot.done.synchronize_while(self.step_milliseconds, keep_waiting)?;
        self.lane.saw(flight.issued);
        if self.rank > 0 {
            output.clear();
            return Ok(());
        }
        output.take(&self.setup.layout, &flight.counts, slot);
        if let Some(comm) = &self.comm {
            comm.check()?;
        }
        Ok(())
    }

    /// Copies a step's words over, in the stream that runs ahead; the lane waits for them.
    fn feed_words(&mut self, image: &Image) -> Result<()> {
        crate::ensure!(
            self.in_flight.len() < SLOTS,
            State,
            "{SLOTS} steps are in flight and none was collected"
        );
        let slot = &mut self.slots[image.slot()];
        let bytes = image.words.len() * 4;
        slot.write(&image.words);
        let at = self.setup.layout.input_at(image.slot()) * 4;
        // SAFETY: a slot is written again two steps later, when this one was collected; `words` lives as long as the rank,
        // which waits for its streams before it goes.
        unsafe { self.words.write_later(at, &slot.input, 0..bytes, &self.feed)? };
        slot.fed.record(&self.feed)?;
        self.lane.stream.wait_for(&slot.fed)
    }

    /// Runs prologue and layers of a pass; which of the two streams of hidden states holds the result. With `tap` each
    /// layer's result is given to it.
    fn run_layers(&mut self, slot: usize, pass: &Pass, tap: Option<&mut Tapping<'_>>) -> Result<usize> {
        let rows = pass.positions.len as i64;
        let words = Words::new(&self.words, &self.slots[slot], self.setup.layout.input_at(slot));
        let (hidden, head_dim) = (self.spec.hidden as i64, self.spec.head_dim as i64);
        let (half, nd) = (self.setup.dtype.acl(), acl::ACL_FORMAT_ND);
        let x =
            |which: usize| Tensor::new(Desc::new(half, nd, &[rows, hidden])?, self.tables.x[which].at(0)?);
        let angles = |buffer: &DeviceBuffer| {
            Tensor::new(Desc::new(self.tables.cosines.desc.dtype, nd, &[rows, head_dim])?, buffer.at(0)?)
        };
        let (cosines, sines) = (angles(&self.tables.pass_cosines)?, angles(&self.tables.pass_sines)?);
        let mask = match &self.tables.pass_mask {
            Some(buffer) => {
                Some(Tensor::new(Desc::new(half, nd, &[rows, self.setup.context as i64])?, buffer.at(0)?)?)
            }
            None => None,
        };
        let programs = self.programs.passes[pass.kind as usize].as_mut();
        let programs = programs.ok_or_else(|| Error::new(Status::Internal, "this card has no such pass"))?;
        let positions = words.tensor(pass.positions)?;
        let prologue = if pass.index.len > 0 {
            let carried = programs.carried.as_mut();
            let program =
                carried.ok_or_else(|| Error::new(Status::Internal, "this pass carries no tokens"))?;
            program.inputs()[1] = words.tensor(pass.index)?;
            program.inputs()[2] = positions;
            program
        } else {
            programs.prologue.inputs()[0] = words.tensor(pass.tokens)?;
            programs.prologue.inputs()[1] = positions;
            &mut programs.prologue
        };
        let outputs = prologue.outputs();
        (outputs[0], outputs[1], outputs[2]) = (x(0)?, cosines, sines);
        if let (PassKind::Chunk, Some(mask)) = (pass.kind, mask) {
            outputs[3] = mask;
        }
        // SAFETY: all tensors lie in memory that the rank keeps until its streams are done, and words on the host stay until
        // the step was collected.
        unsafe { prologue.run(&mut self.lane)? };

        let lengths = words.tensor(pass.lengths)?;
        let slots = words.tensor(pass.slots)?;
        let contexts = words.tensor(pass.contexts)?;
        let tables = words.matrix(pass.tables, pass.contexts.len)?;
        let (layers, mut tell) = match tap {
            Some(tapping) => (&mut *tapping.layers, Some(&mut *tapping.tell)),
            None => (&mut programs.layers, None),
        };
        let mut from = 0;
        for (index, program) in layers.iter_mut().enumerate() {
            let inputs = program.inputs();
            inputs[Shared::X as usize] = x(from)?;
            inputs[Shared::COS as usize] = cosines;
            inputs[Shared::SIN as usize] = sines;
            inputs[Shared::LENGTHS as usize] = lengths;
            inputs[Shared::SLOTS as usize] = slots;
            if pass.kind != PassKind::Prompt {
                inputs[Shared::TABLES as usize] = tables;
                inputs[Shared::CONTEXTS as usize] = contexts;
            }
            if let (PassKind::Chunk, Some(mask)) = (pass.kind, mask) {
                inputs[Shared::CHUNK_MASK as usize] = mask;
            }
            from = 1 - from;
            program.outputs()[0] = x(from)?;
            // SAFETY: as above.
            unsafe { program.run(&mut self.lane)? };
            if let Some(tell) = &mut tell {
                self.lane.synchronize()?;
                let mut bytes = vec![0; (rows * hidden * 2) as usize];
                self.tables.x[from].read(0, &mut bytes)?;
                tell(index, &values(self.setup.dtype, &bytes));
            }
        }
        Ok(from)
    }

    /// Makes of the last hidden states what is wanted of them.
    fn run_epilogues(&mut self, image: &Image, pass: &Pass, last: usize, done: &mut Counts) -> Result<()> {
        let (layout, slot) = (&self.setup.layout, image.slot());
        let words = Words::new(&self.words, &self.slots[slot], layout.input_at(slot));
        let rows = pass.positions.len as i64;
        let desc = Desc::new(self.setup.dtype.acl(), acl::ACL_FORMAT_ND, &[rows, self.spec.hidden as i64])?;
        let x = Tensor::new(desc, self.tables.x[last].at(0)?)?;
        let output = layout.output_at(slot);
        let results = layout.results(&image.counts);
        done.ids = done.ids.next_multiple_of(ID_WORDS);
        // Of each program the rows, and type, first word and width of what it gives.
        let (width, count) = (layout.logit_words, layout.candidates);
        let wanted: [(List, &[_]); 4] = [
            (pass.logits, &[(acl::ACL_FLOAT, results.logits + done.logits * width, width)]),
            (pass.selects, &[(acl::ACL_INT32, done.ids, 1)]),
            (
                pass.hiddens,
                &[(
                    acl::ACL_FLOAT,
                    results.hiddens + done.hiddens * layout.hidden_words,
                    layout.hidden_words,
                )],
            ),
            (
                pass.candidates,
                &[
                    (acl::ACL_FLOAT, results.candidate_logits + done.candidates * count, count),
                    (acl::ACL_INT32, results.candidate_ids + done.candidates * count, count),
                ],
            ),
        ];
        for (program, (list, outputs)) in self.programs.epilogues.iter_mut().zip(wanted) {
            let Some(program) = program.as_mut().filter(|_| list.len > 0) else { continue };
            program.inputs()[0] = x;
            program.inputs()[1] = words.tensor(list)?;
            for (tensor, &(dtype, first, width)) in program.outputs().iter_mut().zip(outputs) {
                let desc = Desc::new(dtype, acl::ACL_FORMAT_ND, &[list.len as i64, width as i64])?;
                *tensor = Tensor::new(desc, self.words.at((output + first) * 4)?)?;
            }
            // SAFETY: as in `run_layers`.
            unsafe { program.run(&mut self.lane)? };
        }
        done.logits += pass.logits.len;
        done.hiddens += pass.hiddens.len;
        done.ids += pass.selects.len;
        done.candidates += pass.candidates.len;
        Ok(())
    }

    /// Copies a step's results to pinned memory, in one piece, and marks its end.
    fn read_results(&mut self, image: &Image) -> Result<()> {
        let layout = &self.setup.layout;
        let results = layout.results(&image.counts);
        let from = if image.counts.ids > 0 { 0 } else { results.candidate_logits };
        let to = if results.end > results.candidate_logits { results.end } else { image.counts.ids };
        let slot = &mut self.slots[image.slot()];
        if self.rank == 0 && to > from {
            let at = (layout.output_at(image.slot()) + from) * 4;
            // SAFETY: the slot is read when the step was collected and written again after that; `words` lives as long as
            // the rank, which waits for its streams before it goes.
            unsafe { self.words.read_later(at, &mut slot.output, from * 4..to * 4, &self.lane.stream)? };
        }
        slot.done.record(&self.lane.stream)?;
        self.in_flight.push_back(Flight {
            slot: image.slot(),
            issued: self.lane.issued(),
            counts: image.counts,
        });
        Ok(())
    }

    /// Runs a step to its end, layer by layer. `tell` gets the pass, the layer, and its rows.
    pub fn run_tapped(&mut self, image: &Image, tell: &mut dyn FnMut(PassKind, usize, &[f32])) -> Result<()> {
        self.feed_words(image)?;
        let mut done = Counts::default();
        for pass in &image.passes {
            let builder = Builder {
                device: &self.device,
                lane: &self.lane,
                comm: self.comm.as_ref(),
                setup: &self.setup,
                spec: &self.spec,
                rank: self.rank,
                making: self.programs.making,
                weights: &self.weights,
                caches: &self.caches,
                words: &self.words,
            };
            let mut layers = builder.pass(&self.tables, pass.kind, Some(1))?.layers;
            let mut tell = |layer: usize, rows: &[f32]| tell(pass.kind, layer, rows);
            let mut tapping = Tapping { layers: &mut layers, tell: &mut tell };
            let last = self.run_layers(image.slot(), pass, Some(&mut tapping));
            // The programs may go only when nothing of them runs.
            self.lane.synchronize()?;
            self.run_epilogues(image, pass, last?, &mut done)?;
        }
        self.read_results(image)
    }

    /// Bytes of keys and values of one layer's block.
    fn block_piece(&self) -> usize {
        self.setup.block_bytes(&self.spec, self.rank) as usize / (2 * self.spec.layers)
    }

    /// Copies KV blocks, after all steps.
    pub fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        let piece = self.block_piece();
        for &(from, to) in pairs {
            for cache in self.caches.iter().flatten() {
                // SAFETY: the cache lives as long as the rank, which waits for its streams before it goes.
                unsafe {
                    cache.copy_later(from as usize * piece, to as usize * piece, piece, &self.lane.stream)?
                };
            }
        }
        Ok(())
    }

    /// Copies the content of KV blocks out: `[blocks][layers][keys, values][piece]`.
    pub fn read_blocks(&mut self, blocks: &[u32], out: &mut [u8]) -> Result<()> {
        self.lane.synchronize()?;
        let piece = self.block_piece();
        let mut pieces = out.chunks_exact_mut(piece);
        for &block in blocks {
            for (cache, out) in self.caches.iter().flatten().zip(&mut pieces) {
                cache.read(block as usize * piece, out)?;
            }
        }
        Ok(())
    }

    /// The other way.
    pub fn write_blocks(&mut self, blocks: &[u32], bytes: &[u8]) -> Result<()> {
        self.lane.synchronize()?;
        let piece = self.block_piece();
        let mut pieces = bytes.chunks_exact(piece);
        for &block in blocks {
            for (cache, bytes) in self.caches.iter_mut().flatten().zip(&mut pieces) {
                cache.write(block as usize * piece, bytes)?;
            }
        }
        Ok(())
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // Nothing may go that a stream still works on. Where the device no longer answers, its streams are given up.
        const AT_END_MILLISECONDS: u32 = 2000;
        for stream in [&self.feed, &self.lane.stream] {
            if stream.synchronize(self.step_milliseconds.min(AT_END_MILLISECONDS)).is_err() {
                stream.give_up();
            }
        }
    }
}

/// A layer tap, and programs of one layer each.
struct Tapping<'a> {
    layers: &'a mut Vec<Program>,
    tell: &'a mut dyn FnMut(usize, &[f32]),
}

/// The numbers of 16-bit elements.
fn values(dtype: HalfType, bytes: &[u8]) -> Vec<f32> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| dtype.value(u16::from_ne_bytes(*pair))).collect()
}
