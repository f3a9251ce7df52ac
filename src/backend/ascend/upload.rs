//! Bringing over what stays on a device: weights, tables of angles, masks.
//!
//! Two pieces of pinned memory take turns: while the device copies one, the host fills the other.

use super::codes::{CodePart, Coder};
use super::device::{Device, Event, Stream};
use super::form::{Converter, Form, HalfType, Part, TILE, tile_place};
use super::memory::{DeviceBuffer, PinnedBuffer};
use crate::backend::rope;
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What masked scores are lowered by: far below every score, and a number that f16 and bf16 have.
const MASKED: f32 = -10000.0;

/// How far loading has come, on all ranks together, and whether it is to end.
#[derive(Debug, Default)]
pub struct Told {
    /// Bytes brought over.
    pub bytes: AtomicU64,
    /// The caller wants no more.
    pub abandoned: AtomicBool,
}

/// Copies to one device.
#[derive(Debug)]
pub struct Uploader<'a> {
    stream: &'a Stream,
    staging: [(PinnedBuffer, Event); 2],
    next: usize,
    converter: Converter,
    told: &'a Told,
    milliseconds: u32,
}

impl<'a> Uploader<'a> {
    /// An uploader that copies in `stream`, through pieces of `bytes` of pinned memory.
    pub fn new(
        device: &Device,
        stream: &'a Stream,
        bytes: usize,
        told: &'a Told,
        milliseconds: u32,
    ) -> Result<Self> {
        let piece = || -> Result<_> {
            let event = Event::new(device)?;
            event.record(stream)?;
            Ok((PinnedBuffer::new(device, bytes)?, event))
        };
        let staging = [piece()?, piece()?];
        Ok(Uploader { stream, staging, next: 0, converter: Converter::default(), told, milliseconds })
    }

    /// Waits for all copies. Before it, no buffer that was written to may be dropped.
    pub fn finish(&mut self) -> Result<()> {
        self.stream.synchronize(self.milliseconds)
    }

    /// Fills `bytes` bytes of a buffer, of words of 16 bits: `fill` is given the memory and what else it needs.
    fn write(
        &mut self,
        to: &DeviceBuffer,
        offset: usize,
        bytes: usize,
        fill: impl FnOnce(&mut Converter, &mut [u16]) -> Result<()>,
    ) -> Result<()> {
        self.write_bytes(to, offset, bytes, |converter, bytes| {
            // SAFETY: pinned memory is aligned to a page, and any bits are a u16.
            let (_, words, _) = unsafe { bytes.align_to_mut::<u16>() };
            fill(converter, words)
        })
    }

    /// The same of bytes.
    fn write_bytes(
        &mut self,
        to: &DeviceBuffer,
        offset: usize,
        bytes: usize,
        fill: impl FnOnce(&mut Converter, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        crate::ensure!(!self.told.abandoned.load(Ordering::Relaxed), Cancelled, "loading was abandoned");
        let (piece, copied) = &mut self.staging[self.next];
        copied.synchronize(self.milliseconds)?;
        if piece.bytes().len() < bytes {
            *piece = PinnedBuffer::new(self.stream.device(), bytes)?;
        }
        fill(&mut self.converter, &mut piece.bytes_mut()[..bytes])?;
        // SAFETY: the piece is not touched before its event, recorded behind the copy, was reached; `finish` waits for the
        // copies before the caller may drop the buffer, and so does `drop`.
        unsafe { to.write_later(offset, piece, 0..bytes, self.stream)? };
        copied.record(self.stream)?;
        self.next = 1 - self.next;
        self.told.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// A matrix whose rows are those of `parts`, one part below the other.
    pub fn matrix(&mut self, form: &Form, parts: &[Part<'_>], to: &DeviceBuffer, at: usize) -> Result<()> {
        let mut offset = at;
        for chunk in form.chunks(self.staging[0].0.bytes().len()) {
            let bytes = form.chunk_bytes(&chunk);
            self.write(to, offset, bytes, |converter, out| converter.fill(form, parts, &chunk, out))?;
            offset += bytes;
        }
        Ok(())
    }

    /// A matrix of codes whose rows are those of `parts`, one part below the other. Gives the scales of the rows that were
    /// made of numbers.
    pub fn codes(
        &mut self,
        form: &Form,
        parts: &[CodePart<'_>],
        to: &DeviceBuffer,
        at: usize,
    ) -> Result<Vec<f32>> {
        let (mut offset, mut coder) = (at, Coder::default());
        for chunk in form.chunks(self.staging[0].0.bytes().len()) {
            let bytes = form.chunk_bytes(&chunk);
            self.write_bytes(to, offset, bytes, |_, out| coder.fill(form, parts, &chunk, out))?;
            offset += bytes;
        }
        Ok(coder.scales)
    }

    /// Bytes as they are; few.
    pub fn bytes(&mut self, bytes: &[u8], to: &DeviceBuffer, at: usize) -> Result<()> {
        self.write_bytes(to, at, bytes.len(), |_, out| {
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// `rows` lines of `cols` numbers, made by `line`; in tiles if `tiled`, where `rows` is a multiple of 16.
    fn table(
        &mut self,
        (rows, cols, tiled): (usize, usize, bool),
        dtype: HalfType,
        to: &DeviceBuffer,
        line: impl Fn(usize, &mut [f32]),
    ) -> Result<()> {
        let mut values = vec![0.0; cols];
        if tiled {
            // Small: a mask of 2,048 has 8 MiB.
            return self.write(to, 0, rows * cols * 2, |_, out| {
                for row in 0..rows {
                    line(row, &mut values);
                    for (col, &value) in values.iter().enumerate() {
                        out[tile_place(row, col, rows)] = dtype.bits(value);
                    }
                }
                Ok(())
            });
        }
        let step = (self.staging[0].0.bytes().len() / (cols * 2)).clamp(1, rows.max(1));
        for first in (0..rows).step_by(step) {
            let last = (first + step).min(rows);
            self.write(to, first * cols * 2, (last - first) * cols * 2, |_, out| {
                for (row, out) in (first..last).zip(out.chunks_exact_mut(cols)) {
                    line(row, &mut values);
                    out.iter_mut().zip(&values).for_each(|(out, &value)| *out = dtype.bits(value));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The mask of whole prompts, `[side, side]`: what stands behind the row's own column is masked. `binary`: by 1, which
    /// the kernel multiplies by a large number, else by a number that is added.
    pub fn prompt_mask(
        &mut self,
        side: usize,
        tiled: bool,
        binary: bool,
        dtype: HalfType,
        to: &DeviceBuffer,
    ) -> Result<()> {
        debug_assert!(!tiled || side.is_multiple_of(TILE));
        let masked = if binary { 1.0 } else { MASKED };
        self.table((side, side, tiled), dtype, to, |row, line| causal(row, masked, line))
    }

    /// The mask of rows over the cache, `[context, context]`: row p is that of position p. Always added.
    pub fn chunk_mask(&mut self, context: usize, dtype: HalfType, to: &DeviceBuffer) -> Result<()> {
        self.table((context, context, false), dtype, to, |row, line| causal(row, MASKED, line))
    }

    /// Cosines or sines of all positions, `[context, head_dim]`, both halves alike; in f32 beside f16, in bf16 beside bf16.
    pub fn angles(
        &mut self,
        spec: &DecoderSpec,
        context: usize,
        dtype: HalfType,
        cosines: bool,
        to: &DeviceBuffer,
    ) -> Result<()> {
        let half = spec.head_dim / 2;
        let frequencies = rope::inverse_frequencies(&spec.rope, spec.head_dim, context);
        let line = |position: usize, line: &mut [f32]| {
            let (first, second) = line.split_at_mut(half);
            let position = position as u32;
            if cosines {
                rope::angles(&frequencies, position, first, second);
            } else {
                rope::angles(&frequencies, position, second, first);
            }
            second.copy_from_slice(first);
        };
        if dtype == HalfType::Bf16 {
            return self.table((context, spec.head_dim, false), dtype, to, line);
        }
        let cols = spec.head_dim;
        let step = (self.staging[0].0.bytes().len() / (cols * 4)).clamp(1, context);
        let mut values = vec![0.0; cols];
        for first in (0..context).step_by(step) {
            let last = (first + step).min(context);
            self.write(to, first * cols * 4, (last - first) * cols * 4, |_, out| {
                for (position, out) in (first..last).zip(out.chunks_exact_mut(cols * 2)) {
                    line(position, &mut values);
                    for (pair, value) in out.chunks_exact_mut(2).zip(&values) {
                        let bits = value.to_bits();
                        pair.copy_from_slice(&if cfg!(target_endian = "little") {
                            [bits as u16, (bits >> 16) as u16]
                        } else {
                            [(bits >> 16) as u16, bits as u16]
                        });
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Drop for Uploader<'_> {
    fn drop(&mut self) {
        // After an error copies may still run from the staging memory, which goes now.
        let _ = self.stream.synchronize(self.milliseconds);
    }
}

fn causal(row: usize, masked: f32, line: &mut [f32]) {
    let own = (row + 1).min(line.len());
    line[..own].fill(0.0);
    line[own..].fill(masked);
}
