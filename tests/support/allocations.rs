//! Counts what a test program takes from the C library's allocator, by standing in front of it: also what the library's own
//! allocator asks for. One program may have it once.
#![allow(dead_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

static CALLS: AtomicUsize = AtomicUsize::new(0);
static NOW: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static THREAD_CALLS: Cell<usize> = const { Cell::new(0) };
    static THREAD_NOW: Cell<i64> = const { Cell::new(0) };
    static THREAD_MOST: Cell<i64> = const { Cell::new(0) };
}

/// Allocations of the whole program so far.
pub fn calls() -> usize {
    CALLS.load(Relaxed)
}

/// Those of the current thread.
pub fn calls_of_this_thread() -> usize {
    THREAD_CALLS.get()
}

/// The result of `work`, and the most bytes that the whole program held at once beyond what it held before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = work();
    (result, u64::try_from(MOST.load(Relaxed) - before).unwrap_or(0))
}

/// The same of the current thread alone.
pub fn peak_of_this_thread<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = THREAD_NOW.get();
    THREAD_MOST.set(before);
    let result = work();
    (result, u64::try_from(THREAD_MOST.get() - before).unwrap_or(0))
}

fn taken(place: *mut c_void) -> *mut c_void {
    CALLS.fetch_add(1, Relaxed);
    THREAD_CALLS.set(THREAD_CALLS.get() + 1);
    add(size(place));
    place
}

/// What the allocator holds for it, a little more than was asked for.
fn size(place: *mut c_void) -> i64 {
    // SAFETY: the place came from the allocator, or is null.
    unsafe { libc::malloc_usable_size(place) as i64 }
}

fn add(bytes: i64) {
    MOST.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
    let now = THREAD_NOW.get() + bytes;
    THREAD_NOW.set(now);
    THREAD_MOST.set(THREAD_MOST.get().max(now));
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(place: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn __libc_free(place: *mut c_void);
}

#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    taken(unsafe { __libc_malloc(size) })
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    taken(unsafe { __libc_calloc(count, size) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(place: *mut c_void, bytes: usize) -> *mut c_void {
    let before = size(place);
    // SAFETY: the caller's promise is the same.
    let new = unsafe { __libc_realloc(place, bytes) };
    if new.is_null() {
        return new;
    }
    add(-before);
    taken(new)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    let new = aligned_alloc(align, size);
    if new.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *place = new };
    0
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    taken(unsafe { __libc_memalign(align, size) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn free(place: *mut c_void) {
    add(-size(place));
    // SAFETY: the caller's promise is the same.
    unsafe { __libc_free(place) }
}
