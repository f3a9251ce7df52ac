//! Memory for the moment when there is none: small allocations that the system refuses are served from a reserve, so that
//! the call which needs them can end with a status instead of with the process.
//!
//! Large memory (weights, caches, workspaces) is taken fallibly where it is needed. But a hundred small things are
//! allocated in passing, also by crates that this library uses, and in Rust a refusal of one of them aborts the process; no
//! caller can catch that. Here the library's allocator gives them a piece of a static reserve and counts it, by thread. Who has
//! something to lose looks at the count: the C door gives no handle out that was made with the help of the reserve, the
//! engine's thread ends its requests, and both say `NoMemory`. What they drop gives its pieces back.
//!
//! The reserve is cut into units of a cache line. What is free of it is a list in the order of addresses, each run of free units
//! holding its length and the next run's place; the first run that fits is cut, and neighbours are joined again. Its pages
//! cost nothing before they are touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Bytes of the reserve: what a load of a small model or any other call needs at worst, a few times.
const RESERVE_BYTES: usize = 32 << 20;
/// Largest piece. What may be larger is allocated fallibly.
const PIECE_MAX: usize = 8 << 20;
const UNIT: usize = 64;
const UNITS: u32 = (RESERVE_BYTES / UNIT) as u32;
/// Units from which on new work is refused: the rest is for what runs.
const WATERMARK: u32 = UNITS / 2;
/// The place behind the last run.
const END: u32 = u32::MAX;
/// How often a thread looks for the lock before it goes without: in a child of a fork its holder may not exist.
const PATIENCE: u32 = 100_000;

#[repr(C, align(4096))]
struct Region(UnsafeCell<[u8; RESERVE_BYTES]>);

// SAFETY: what is free of it is touched under the lock alone, and each piece by whom it was given to.
unsafe impl Sync for Region {}

static REGION: Region = Region(UnsafeCell::new([0; RESERVE_BYTES]));
static LOCKED: AtomicBool = AtomicBool::new(false);
/// The first free run; guarded by the lock.
static FIRST: AtomicU32 = AtomicU32::new(UNINITIALISED);
const UNINITIALISED: u32 = u32::MAX - 1;
/// Units that are held.
static TAKEN: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static HITS: Cell<u64> = const { Cell::new(0) };
}

/// How many pieces the current thread has taken so far: 0 as long as there was memory. Only the C library counts;
/// elsewhere the host's own allocator rules.
pub fn hits() -> u64 {
    HITS.try_with(Cell::get).unwrap_or(0)
}

/// `NoMemory` where the reserve is so far used up that no new work should begin.
pub fn check() -> crate::base::error::Result<()> {
    crate::ensure!(
        TAKEN.load(Ordering::Relaxed) <= WATERMARK,
        NoMemory,
        "the process is out of memory, and the library's reserve is half used"
    );
    Ok(())
}

/// `NoMemory` where the current thread has taken pieces since it had taken `before`.
pub fn check_since(before: u64) -> crate::base::error::Result<()> {
    crate::ensure!(hits() == before, NoMemory, "the process is out of memory");
    Ok(())
}

/// `NoMemory` unless the system has `bytes` now: for what allocates where nobody could be told.
pub fn probe(bytes: usize) -> crate::base::error::Result<()> {
    let before = hits();
    let mut room: Vec<u8> = Vec::new();
    let found = room.try_reserve_exact(bytes).is_ok() && hits() == before;
    crate::ensure!(found, NoMemory, "the process is out of memory: {bytes} bytes cannot be had");
    Ok(())
}

/// The system's allocator, and behind it the reserve.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: memory is the system's, or a piece of the region that `take` gives out once, aligned and large enough; a
// pointer goes back to where it came from, which its address tells.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        let found = unsafe { System.alloc(layout) };
        if found.is_null() { take(layout) } else { found }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        let found = unsafe { System.alloc_zeroed(layout) };
        if !found.is_null() {
            return found;
        }
        let piece = take(layout);
        if !piece.is_null() {
            // SAFETY: the piece has the size of the layout.
            unsafe { ptr::write_bytes(piece, 0, layout.size()) };
        }
        piece
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if is_piece(place) {
            give(place, layout.size());
        } else {
            // SAFETY: the caller's promise, and it is no piece.
            unsafe { System.dealloc(place, layout) };
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_piece(place) {
            // SAFETY: the caller's promise, and it is no piece.
            let found = unsafe { System.realloc(place, layout, size) };
            if !found.is_null() {
                return found;
            }
        }
        // SAFETY: `size` is valid for this alignment by the caller's promise.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above; a piece that grows may find memory by now.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both have at least so many bytes and are different pieces of memory; the old one is the caller's.
            unsafe {
                ptr::copy_nonoverlapping(place, new, layout.size().min(size));
                self.dealloc(place, layout);
            }
        }
        new
    }
}

/// A free run, as it lies at its own beginning.
#[derive(Clone, Copy)]
#[repr(C)]
struct Run {
    units: u32,
    next: u32,
}

fn place(unit: u32) -> *mut u8 {
    REGION.0.get().cast::<u8>().wrapping_add(unit as usize * UNIT)
}

/// The list of free runs, while the lock is held.
struct Free;

impl Free {
    fn lock() -> Option<Free> {
        for _ in 0..PATIENCE {
            if !LOCKED.swap(true, Ordering::Acquire) {
                if FIRST.load(Ordering::Relaxed) == UNINITIALISED {
                    Free.set(0, Run { units: UNITS, next: END });
                    FIRST.store(0, Ordering::Relaxed);
                }
                return Some(Free);
            }
            std::thread::yield_now();
        }
        None
    }

    fn run(&self, unit: u32) -> Run {
        // SAFETY: `unit` begins a free run, which is aligned to a unit and which only the holder of the lock touches.
        unsafe { place(unit).cast::<Run>().read() }
    }

    fn set(&self, unit: u32, run: Run) {
        // SAFETY: as above.
        unsafe { place(unit).cast::<Run>().write(run) }
    }

    /// Lets the run before (`END`: the head of the list) be followed by the one at `next`.
    fn link(&self, before: u32, next: u32) {
        match before {
            END => FIRST.store(next, Ordering::Relaxed),
            before => self.set(before, Run { next, ..self.run(before) }),
        }
    }

    /// Takes `units` from the first run that holds them from a multiple of `align` units on.
    fn take(&self, units: u32, align: u32) -> Option<u32> {
        let (mut before, mut at) = (END, FIRST.load(Ordering::Relaxed));
        while at != END {
            let run = self.run(at);
            let (start, end) = (at.next_multiple_of(align), at + run.units);
            if start + units <= end {
                let mut next = run.next;
                if start + units < end {
                    self.set(start + units, Run { units: end - start - units, next });
                    next = start + units;
                }
                if start > at {
                    self.set(at, Run { units: start - at, next });
                } else {
                    self.link(before, next);
                }
                return Some(start);
            }
            (before, at) = (at, run.next);
        }
        None
    }

    fn give(&self, start: u32, units: u32) {
        let (mut before, mut next) = (END, FIRST.load(Ordering::Relaxed));
        while next != END && next < start {
            (before, next) = (next, self.run(next).next);
        }
        let mut freed = Run { units, next };
        if next != END && start + units == next {
            let follower = self.run(next);
            freed = Run { units: units + follower.units, next: follower.next };
        }
        if before != END && before + self.run(before).units == start {
            let units = self.run(before).units + freed.units;
            self.set(before, Run { units, next: freed.next });
        } else {
            self.set(start, freed);
            self.link(before, start);
        }
    }
}

impl Drop for Free {
    fn drop(&mut self) {
        LOCKED.store(false, Ordering::Release);
    }
}

/// Never 0: two pieces have two addresses.
fn units(bytes: usize) -> u32 {
    bytes.max(1).div_ceil(UNIT) as u32
}

/// A piece, or null where it is too large or nothing is left.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    if layout.size() > PIECE_MAX || layout.align() > 4096 {
        return ptr::null_mut();
    }
    let count = units(layout.size());
    let found = Free::lock().and_then(|free| free.take(count, layout.align().div_ceil(UNIT) as u32));
    let Some(unit) = found else { return ptr::null_mut() };
    TAKEN.fetch_add(count, Ordering::Relaxed);
    let _ = HITS.try_with(|hits| hits.set(hits.get() + 1));
    place(unit)
}

/// Takes a piece of `size` bytes back.
#[cold]
fn give(piece: *mut u8, size: usize) {
    let unit = (piece.addr() - REGION.0.get().addr()) / UNIT;
    // Without the lock the piece is lost.
    if let Some(free) = Free::lock() {
        free.give(unit as u32, units(size));
        TAKEN.fetch_sub(units(size), Ordering::Relaxed);
    }
}

fn is_piece(place: *mut u8) -> bool {
    let start = REGION.0.get().addr();
    (start..start + RESERVE_BYTES).contains(&place.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_whole() -> bool {
        let free = Free::lock().unwrap();
        let first = FIRST.load(Ordering::Relaxed);
        let run = free.run(first);
        TAKEN.load(Ordering::Relaxed) == 0 && (first, run.units, run.next) == (0, UNITS, END)
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// One test, because the reserve is one.
    #[test]
    fn pieces_are_apart_aligned_counted_and_given_back() {
        let before = hits();
        // A walk of taking and giving in an order that is soon without any.
        let (mut held, mut random): (Vec<(*mut u8, Layout)>, u64) = (Vec::new(), 7);
        for round in 0..3000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let pick = (random >> 33) as usize;
            if round > 2000 || pick.is_multiple_of(3) {
                if !held.is_empty() {
                    let (piece, layout) = held.swap_remove(pick / 3 % held.len());
                    give(piece, layout.size());
                }
                continue;
            }
            let layout = layout(pick / 7 % 5000, 1 << (pick % 13));
            let piece = take(layout);
            assert!(!piece.is_null() && is_piece(piece) && piece.addr().is_multiple_of(layout.align()));
            let apart = |&(other, of): &(*mut u8, Layout)| {
                piece.addr() + layout.size().max(1) <= other.addr()
                    || other.addr() + of.size().max(1) <= piece.addr()
            };
            assert!(held.iter().all(apart), "round {round}: a piece lies in another one");
            held.push((piece, layout));
        }
        held.drain(..).for_each(|(piece, layout)| give(piece, layout.size()));
        assert!(is_whole());
        assert!(check_since(before).is_err() && check_since(hits()).is_ok() && check().is_ok());
        assert!(take(layout(PIECE_MAX + 1, 1)).is_null());
        let large: Vec<*mut u8> = (0..10).map(|_| take(layout(PIECE_MAX, 1))).collect();
        assert_eq!(large.iter().filter(|piece| !piece.is_null()).count(), RESERVE_BYTES / PIECE_MAX);
        assert_eq!(check().unwrap_err().status, crate::Status::NoMemory);
        large.into_iter().filter(|piece| !piece.is_null()).for_each(|piece| give(piece, PIECE_MAX));
        assert!(check().is_ok() && is_whole());

        // SAFETY: layouts and pointers belong together.
        unsafe {
            let small = layout(100, 8);
            let piece = take(small);
            piece.write_bytes(7, 100);
            // There is memory by now, so it moves out of the reserve.
            let grown = Allocator.realloc(piece, small, 5000);
            assert!(!is_piece(grown) && (0..100).all(|i| *grown.add(i) == 7));
            assert!(is_whole());
            Allocator.dealloc(grown, layout(5000, 8));
        }
    }
}
