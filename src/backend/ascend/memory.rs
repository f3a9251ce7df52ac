//! Memory of a device, and pinned memory of the host that copies can run from and to while the host goes on.

use super::acl;
use super::device::{Device, DevicePointer, Stream};
use crate::base::error::{Error, Result, Status};
use std::ffi::c_void;
use std::ops::Range;
use std::slice;

/// Which way a copy goes, and CANN's number for it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    ToDevice = acl::ACL_MEMCPY_HOST_TO_DEVICE as isize,
    ToHost = acl::ACL_MEMCPY_DEVICE_TO_HOST as isize,
}

/// Bytes on a device. Taken in one piece and large: CANN rounds every piece up, and an engine divides a piece itself.
/// What is in it at first is whatever was there.
#[derive(Debug)]
pub struct DeviceBuffer {
    device: Device,
    pointer: DevicePointer,
    bytes: usize,
}

impl DeviceBuffer {
    /// Takes memory, from large pages where there are any. `DeviceMemory` with the driver's words where it has none.
    pub fn new(device: &Device, bytes: usize) -> Result<DeviceBuffer> {
        let acl = &device.cann().acl;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: a valid pointer is written to; this thread has the device's context.
        let code = unsafe { (acl.aclrtMalloc)(&mut pointer, bytes, acl::ACL_MEM_MALLOC_HUGE_FIRST) };
        acl.check("aclrtMalloc", code)
            .map_err(|error| error.at(format_args!("{bytes} bytes on npu:{}", device.id())))?;
        Ok(DeviceBuffer { device: device.clone(), pointer, bytes })
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address on the device of a byte in it. `Internal` beyond its end.
    pub fn at(&self, offset: usize) -> Result<DevicePointer> {
        self.range(offset, 0)
    }

    /// Copies bytes into it, and returns when that is done. Work in streams that uses it must have ended.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.range(offset, bytes.len())?;
        // SAFETY: `to` has room for the bytes, as `range` checked; the call returns after the copy.
        unsafe { self.copy(to, self.bytes - offset, bytes.as_ptr().cast(), bytes.len(), Way::ToDevice) }
    }

    /// Copies bytes out of it, and returns when that is done. Work in streams that writes it must have ended.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.range(offset, bytes.len())?;
        // SAFETY: `from` has as many bytes, as `range` checked; the call returns after the copy.
        unsafe { self.copy(bytes.as_mut_ptr().cast(), bytes.len(), from, bytes.len(), Way::ToHost) }
    }

    /// Sets bytes of it to one value, and returns when that is done.
    pub fn fill(&mut self, range: Range<usize>, value: u8) -> Result<()> {
        let length = range.end.saturating_sub(range.start);
        let to = self.range(range.start, length)?;
        let acl = &self.device.cann().acl;
        // SAFETY: `to` has `length` bytes, as `range` checked.
        acl.check("aclrtMemset", unsafe { (acl.aclrtMemset)(to, length, value.into(), length) })
    }

    /// Puts a copy from pinned memory into a stream, and returns at once.
    ///
    /// # Safety
    /// Until the stream has done it, `from` must live and not be written, and `self` must live.
    pub unsafe fn write_later(
        &self,
        offset: usize,
        from: &PinnedBuffer,
        part: Range<usize>,
        stream: &Stream,
    ) -> Result<()> {
        let source = from.range(&part)?;
        let to = self.range(offset, part.len())?;
        let acl = &self.device.cann().acl;
        let kind = Way::ToDevice as i32;
        // SAFETY: both sides have `part.len()` bytes, as checked; the caller keeps them.
        let code = unsafe {
            (acl.aclrtMemcpyAsync)(to, self.bytes - offset, source, part.len(), kind, stream.as_raw())
        };
        acl.check("aclrtMemcpyAsync", code)
    }

    /// Puts a copy to pinned memory into a stream, and returns at once.
    ///
    /// # Safety
    /// Until the stream has done it, `to` must live and be neither read nor written, and `self` must live.
    pub unsafe fn read_later(
        &self,
        offset: usize,
        to: &mut PinnedBuffer,
        part: Range<usize>,
        stream: &Stream,
    ) -> Result<()> {
        let target = to.range(&part)?.cast_mut();
        let from = self.range(offset, part.len())?;
        let acl = &self.device.cann().acl;
        let kind = Way::ToHost as i32;
        // SAFETY: both sides have `part.len()` bytes, as checked; the caller keeps them.
        let code = unsafe {
            (acl.aclrtMemcpyAsync)(target, to.bytes - part.start, from, part.len(), kind, stream.as_raw())
        };
        acl.check("aclrtMemcpyAsync", code)
    }

    /// Puts a copy within it into a stream, and returns at once. The parts must not overlap.
    ///
    /// # Safety
    /// Until the stream has done it, `self` must live.
    pub unsafe fn copy_later(&self, from: usize, to: usize, bytes: usize, stream: &Stream) -> Result<()> {
        let (source, target) = (self.range(from, bytes)?, self.range(to, bytes)?);
        let acl = &self.device.cann().acl;
        let kind = acl::ACL_MEMCPY_DEVICE_TO_DEVICE;
        // SAFETY: both parts have as many bytes, as checked; the caller keeps the buffer.
        let code =
            unsafe { (acl.aclrtMemcpyAsync)(target, self.bytes - to, source, bytes, kind, stream.as_raw()) };
        acl.check("aclrtMemcpyAsync", code)
    }

    /// Where `length` bytes from `offset` on begin.
    fn range(&self, offset: usize, length: usize) -> Result<DevicePointer> {
        let end = offset.checked_add(length).filter(|&end| end <= self.bytes);
        let inside = end.map(|_| self.pointer.wrapping_byte_add(offset));
        inside.ok_or_else(|| outside("device", offset, length, self.bytes))
    }

    /// # Safety
    /// `to` has `room` and `from` has `length` bytes, on the sides that `way` says.
    unsafe fn copy(
        &self,
        to: *mut c_void,
        room: usize,
        from: *const c_void,
        length: usize,
        way: Way,
    ) -> Result<()> {
        let acl = &self.device.cann().acl;
        // SAFETY: the caller says it.
        acl.check("aclrtMemcpy", unsafe { (acl.aclrtMemcpy)(to, room, from, length, way as i32) })
    }
}

fn outside(what: &str, offset: usize, length: usize, bytes: usize) -> Error {
    Error::new(Status::Internal, format!("{length} bytes from {offset} on in {bytes} bytes of {what} memory"))
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let acl = &self.device.cann().acl;
        // SAFETY: taken by `new`, freed once, by the thread that took it.
        self.device.gave_back("aclrtFree", unsafe { (acl.aclrtFree)(self.pointer) });
    }
}

/// Host memory that is never moved or swapped, so a copy can run while the host goes on. All zero at first.
#[derive(Debug)]
pub struct PinnedBuffer {
    device: Device,
    pointer: *mut c_void,
    bytes: usize,
}

impl PinnedBuffer {
    /// Takes memory. `NoMemory` where the host has none.
    pub fn new(device: &Device, bytes: usize) -> Result<PinnedBuffer> {
        let acl = &device.cann().acl;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: a valid pointer is written to; this thread has the device's context.
        let code = unsafe { (acl.aclrtMallocHost)(&mut pointer, bytes) };
        acl.check("aclrtMallocHost", code).map_err(|error| {
            let status = if error.status == Status::DeviceMemory { Status::NoMemory } else { error.status };
            Error { status, ..error.at(format_args!("{bytes} bytes of pinned host memory")) }
        })?;
        // SAFETY: as many bytes were taken, and the host may write them.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(PinnedBuffer { device: device.clone(), pointer, bytes })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: taken by `new` with as many bytes, zeroed, and borrowed as long as `self`.
        unsafe { slice::from_raw_parts(self.pointer.cast(), self.bytes) }
    }

    /// Its bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.pointer.cast(), self.bytes) }
    }

    fn range(&self, part: &Range<usize>) -> Result<*const c_void> {
        let inside = part.start <= part.end && part.end <= self.bytes;
        let pointer = inside.then(|| self.pointer.wrapping_byte_add(part.start).cast_const());
        pointer.ok_or_else(|| outside("pinned", part.start, part.len(), self.bytes))
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let acl = &self.device.cann().acl;
        // SAFETY: taken by `new`, freed once.
        self.device.gave_back("aclrtFreeHost", unsafe { (acl.aclrtFreeHost)(self.pointer) });
    }
}
