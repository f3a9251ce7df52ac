//! Fallible, aligned memory for everything large: weights copies, KV caches, workspaces.
//!
//! An allocation that fails is `NoMemory`, never an abort. Buffers are zeroed, aligned to the page,
//! and large ones ask for huge pages, because a 16-bit weight stream at full memory speed walks more
//! pages than the TLB holds.

use crate::base::error::{Error, Result, Status};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A type for which all-zero bytes are a value, without padding and without drop.
///
/// # Safety
/// The implementor must be valid for every bit pattern.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: every bit pattern is a value of these integer and float types.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// A fixed number of zeroed elements in anonymous memory of their own.
pub struct Buffer<T: Plain> {
    start: NonNull<T>,
    len: usize,
    mapped_bytes: usize,
    owner: PhantomData<T>,
}

// SAFETY: a Buffer owns its memory alone, and T is Send.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: shared access reads only, and T is Sync.
unsafe impl<T: Plain> Sync for Buffer<T> {}

/// From this size on a buffer asks for 2 MiB pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

impl<T: Plain> Buffer<T> {
    /// `len` zeroed elements. `what` names the use in the error.
    pub fn zeroed(len: usize, what: &str) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|&n| n <= isize::MAX as usize);
        let Some(bytes) = bytes else {
            return Err(Error::new(Status::NoMemory, format!("{what}: {len} elements overflow")));
        };
        if bytes == 0 {
            return Ok(Buffer { start: NonNull::dangling(), len: 0, mapped_bytes: 0, owner: PhantomData });
        }
        let start = map(bytes).map_err(|cause| Error {
            status: Status::NoMemory,
            native_code: cause.raw_os_error().unwrap_or(0),
            message: format!("{what}: cannot take {bytes} bytes of memory: {cause}"),
        })?;
        Ok(Buffer { start: start.cast::<T>(), len, mapped_bytes: bytes, owner: PhantomData })
    }

    /// Bytes taken from the system.
    pub fn bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// The first element's address, for kernels that write disjoint parts from several threads.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start.as_ptr()
    }
}

/// `bytes` zeroed bytes of anonymous memory. Where they fill a large page they begin at one: a stream of weights is
/// slow where pages are small. The last part may lie in small ones; a large page there would be memory that nobody asked
/// for.
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    if bytes < HUGE_PAGE_BYTES {
        return map_anywhere(bytes);
    }
    let too_large = || std::io::Error::from_raw_os_error(libc::ENOMEM);
    // SAFETY: asks for a number alone.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let size = bytes.checked_next_multiple_of(page).ok_or_else(too_large)?;
    let place = map_anywhere(size.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_large)?)?;
    let before = place.as_ptr().align_offset(HUGE_PAGE_BYTES);
    let start = place.as_ptr().wrapping_add(before);
    // SAFETY: both ends and the range between lie in the mapping just made, page by page. The advice may be refused;
    // nothing depends on it.
    unsafe {
        for (end, len) in [(place.as_ptr(), before), (start.wrapping_add(size), HUGE_PAGE_BYTES - before)] {
            if len > 0 {
                libc::munmap(end.cast(), len);
            }
        }
        libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
        Ok(NonNull::new_unchecked(start))
    }
}

/// `bytes` > 0 zeroed bytes of anonymous memory.
fn map_anywhere(bytes: usize) -> std::io::Result<NonNull<u8>> {
    // SAFETY: an anonymous private mapping of a non-zero length at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOMEM))
}

impl<T: Plain> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is valid for `len` elements (dangling only where len is 0), all initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in deref, and `&mut self` excludes other references.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.mapped_bytes > 0 {
            // SAFETY: exactly the range that `map` kept, to the end of its last page.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped_bytes) };
        }
    }
}

impl<T: Plain> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} elements)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_and_writable() {
        let mut buffer = Buffer::<f32>::zeroed(1 << 20, "test").unwrap();
        assert!(buffer.iter().all(|&x| x == 0.0));
        buffer[7] = 3.0;
        assert_eq!(buffer[7], 3.0);
        assert_eq!(buffer.as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        assert_eq!(Buffer::<u8>::zeroed(3, "test").unwrap().as_ptr() as usize % 4096, 0);
        assert!(Buffer::<f32>::zeroed(0, "test").unwrap().is_empty());
    }

    #[test]
    fn refusal_is_an_error() {
        let error = Buffer::<f32>::zeroed(usize::MAX / 8, "KV cache").unwrap_err();
        assert_eq!(error.status, Status::NoMemory);
        assert!(error.message.contains("KV cache"), "{}", error.message);
        assert_eq!(Buffer::<u32>::zeroed(usize::MAX, "x").unwrap_err().status, Status::NoMemory);
    }
}
