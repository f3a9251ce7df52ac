//! Memory that the workers of one job write in disjoint parts.

use crate::base::buffer::{Buffer, Plain};
use crate::base::error::Result;
use std::ops::Range;

/// A buffer that several workers read and write at once, each its own part. Rust's borrows cannot say
/// which worker owns which part; the order of the phases and their barriers do, and every use of an
/// arena names the phase that owns it.
pub struct Arena<T: Plain> {
    buffer: Buffer<T>,
    /// Kept beside the buffer, because asking it would borrow all of it while parts are being written.
    len: usize,
}

impl<T: Plain> Arena<T> {
    /// `len` zeroed elements; `what` names the use in the error.
    pub fn new(len: usize, what: &str) -> Result<Self> {
        Ok(Arena { buffer: Buffer::zeroed(len, what)?, len })
    }

    /// Bytes taken from the system.
    pub fn bytes(&self) -> u64 {
        self.buffer.bytes() as u64
    }

    /// The first element's address, for kernels that write a part with a stride.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.buffer.as_mut_ptr()
    }

    /// The memory as a buffer of one owner, once all workers are done with it.
    pub fn into_buffer(self) -> Buffer<T> {
        self.buffer
    }

    /// A part to read.
    ///
    /// # Safety
    /// The range exists, and no thread writes any of it while the slice is used.
    pub unsafe fn part(&self, range: Range<usize>) -> &[T] {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the buffer and unwritten by the caller's promise; elements are always initialised.
        unsafe { std::slice::from_raw_parts(self.buffer.as_mut_ptr().add(range.start), range.len()) }
    }

    /// A part to write.
    ///
    /// # Safety
    /// The range exists; no other thread reads or writes any of it while the slice is used, and this one
    /// holds no other slice of it.
    #[allow(clippy::mut_from_ref, reason = "the point of the type; the caller promises disjoint parts")]
    pub unsafe fn part_mut(&self, range: Range<usize>) -> &mut [T] {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the buffer and alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.as_mut_ptr().add(range.start), range.len()) }
    }
}
