//! A step's words and results in pinned memory: one of two that a rank uses in turns.

use super::acl;
use super::atb::{Desc, Tensor};
use super::device::{Device, Event};
use super::image::{Counts, ImageLayout, List};
use super::memory::{DeviceBuffer, PinnedBuffer};
use crate::base::error::Result;

/// A step's words on both sides, and its results.
#[derive(Debug)]
pub struct Slot {
    /// The words, on their way to the device.
    pub input: PinnedBuffer,
    /// The results, when they came from it.
    pub output: PinnedBuffer,
    /// Its words are on the device.
    pub fed: Event,
    /// Its results are in pinned memory.
    pub done: Event,
}

impl Slot {
    /// One for the largest step.
    pub fn new(device: &Device, layout: &ImageLayout) -> Result<Slot> {
        Ok(Slot {
            input: PinnedBuffer::new(device, layout.input_words() * 4)?,
            output: PinnedBuffer::new(device, layout.output_words() * 4)?,
            fed: Event::new(device)?,
            done: Event::new(device)?,
        })
    }

    /// Lays words down to be copied. There is room for all of a checked image.
    pub fn write(&mut self, words: &[i32]) {
        let (room, _) = self.input.bytes_mut().as_chunks_mut::<4>();
        for (to, from) in room.iter_mut().zip(words) {
            *to = from.to_ne_bytes();
        }
    }
}

/// The results of a step, as they leave the rank.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Selected ids, then those of candidates.
    pub ids: Vec<u32>,
    /// Logits of candidates.
    pub candidates: Vec<f32>,
    /// Rows of logits, as wide as the head is held, then hidden states.
    pub values: Vec<f32>,
}

impl Output {
    /// Forgets what it holds, and keeps its room.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.candidates.clear();
        self.values.clear();
    }

    /// Takes the results of a step out of its slot.
    pub fn take(&mut self, layout: &ImageLayout, counts: &Counts, slot: &Slot) {
        self.clear();
        let (words, _) = slot.output.bytes().as_chunks::<4>();
        let results = layout.results(counts);
        let integers = |words: &[[u8; 4]], to: &mut Vec<u32>| {
            to.extend(words.iter().map(|word| u32::from_ne_bytes(*word)));
        };
        let numbers = |words: &[[u8; 4]], to: &mut Vec<f32>| {
            to.extend(words.iter().map(|word| f32::from_ne_bytes(*word)));
        };
        integers(&words[..counts.ids], &mut self.ids);
        integers(&words[results.candidate_ids..results.logits], &mut self.ids);
        numbers(&words[results.candidate_logits..results.candidate_ids], &mut self.candidates);
        numbers(&words[results.logits..results.end], &mut self.values);
    }
}

/// The words of a step, on both sides.
pub struct Words<'a> {
    device: &'a DeviceBuffer,
    slot: &'a Slot,
    base: usize,
}

impl<'a> Words<'a> {
    /// Those of `slot`, which begin at word `base` of the device's block.
    pub fn new(device: &'a DeviceBuffer, slot: &'a Slot, base: usize) -> Words<'a> {
        Words { device, slot, base }
    }

    /// A list as a tensor, with its copy on the host.
    pub fn tensor(&self, list: List) -> Result<Tensor> {
        self.shaped(list, &[list.len as i64])
    }

    /// A list of lists of equal length.
    pub fn matrix(&self, list: List, rows: usize) -> Result<Tensor> {
        self.shaped(list, &[rows as i64, (list.len / rows.max(1)) as i64])
    }

    fn shaped(&self, list: List, dims: &[i64]) -> Result<Tensor> {
        let desc = Desc::new(acl::ACL_INT32, acl::ACL_FORMAT_ND, dims)?;
        let host = self.slot.input.bytes()[list.at * 4..].as_ptr().cast_mut().cast();
        Ok(Tensor::new(desc, self.device.at((self.base + list.at) * 4)?)?.with_host(host))
    }
}
