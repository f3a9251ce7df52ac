//! Memory for the moment when there is none: small allocations that the system refuses are served from a reserve, so that
//! the call which needs them can end with a status instead of with the process.
//!
//! Large memory (weights, caches, workspaces) is taken fallibly where it is needed. But a hundred small things are
//! allocated in passing, also by crates that this library uses, and in Rust a refusal of one of them aborts the process; no
//! caller can catch that. Here the library's allocator gives them a piece of a static reserve and counts it, by thread. Who has
//! something to lose looks at the count: the C door gives no handle out that was made with the help of the reserve, the
//! engine's thread ends its requests, and both say `NoMemory`. What they drop gives its pieces back.
//!
//! The reserve is a stack that is never popped: a piece is taken by moving its end, and the end goes back to the start when
//! the last piece is given back. All of it is one word, the number of pieces above and the end below. Its pages cost nothing
//! before they are touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the reserve: what a call may need at worst, a few times.
const RESERVE_BYTES: usize = 32 << 20;
/// Largest piece. What may be larger is allocated fallibly.
const PIECE_MAX: usize = 8 << 20;
/// From so much on new work is refused: the rest is for what runs.
const WATERMARK: u64 = RESERVE_BYTES as u64 / 2;

#[repr(C, align(4096))]
struct Region(UnsafeCell<[u8; RESERVE_BYTES]>);

// SAFETY: pieces of it are handed out once each, by the state below; nothing else touches it.
unsafe impl Sync for Region {}

static REGION: Region = Region(UnsafeCell::new([0; RESERVE_BYTES]));
/// Pieces that are held, above; bytes that are taken, below.
static STATE: AtomicU64 = AtomicU64::new(0);
const PIECE: u64 = 1 << 32;
const TAKEN: u64 = PIECE - 1;

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
        STATE.load(Ordering::Relaxed) & TAKEN <= WATERMARK,
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
            give();
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

/// A piece, or null where it is too large or nothing is left.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    let start = REGION.0.get().cast::<u8>();
    if layout.size() > PIECE_MAX || layout.align() > 4096 {
        return ptr::null_mut();
    }
    let mut state = STATE.load(Ordering::Acquire);
    loop {
        let at = ((state & TAKEN) as usize).next_multiple_of(layout.align());
        // Never empty: two pieces have two addresses.
        let end = at + layout.size().max(1);
        if end > RESERVE_BYTES {
            return ptr::null_mut();
        }
        let new = (state & !TAKEN) + PIECE | end as u64;
        match STATE.compare_exchange_weak(state, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                let _ = HITS.try_with(|hits| hits.set(hits.get() + 1));
                return start.wrapping_add(at);
            }
            Err(now) => state = now,
        }
    }
}

/// Takes a piece back.
#[cold]
fn give() {
    let mut state = STATE.load(Ordering::Acquire);
    loop {
        let left = state - PIECE;
        let new = if left & !TAKEN == 0 { 0 } else { left };
        match STATE.compare_exchange_weak(state, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => state = now,
        }
    }
}

fn is_piece(place: *mut u8) -> bool {
    let start = REGION.0.get().addr();
    (start..start + RESERVE_BYTES).contains(&place.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because the reserve is one.
    #[test]
    fn pieces_are_apart_aligned_counted_and_given_back() {
        let before = hits();
        let layouts = [(1, 1), (24, 8), (0, 1), (4096, 64), (100, 4096), (7, 2)];
        let layouts = layouts.map(|(size, align)| Layout::from_size_align(size, align).unwrap());
        let mut end = 0;
        for round in 0..3 {
            for layout in layouts {
                let piece = take(layout);
                assert!(!piece.is_null() && is_piece(piece) && piece.addr() % layout.align() == 0);
                assert!(piece.addr() >= end, "round {round}: a piece lies in another one");
                end = piece.addr() + layout.size().max(1);
            }
            end = 0;
            for _ in layouts {
                give();
            }
            assert_eq!(STATE.load(Ordering::Relaxed), 0);
        }
        assert_eq!(hits() - before, 18);
        assert!(check_since(before).is_err() && check_since(hits()).is_ok() && check().is_ok());
        assert!(take(Layout::from_size_align(PIECE_MAX + 1, 1).unwrap()).is_null());
        let large = Layout::from_size_align(PIECE_MAX, 1).unwrap();
        let held = (0..).take_while(|_| !take(large).is_null()).count();
        assert_eq!(held, RESERVE_BYTES / PIECE_MAX);
        assert_eq!(check().unwrap_err().status, crate::Status::NoMemory);
        (0..held).for_each(|_| give());
        assert!(check().is_ok());

        // SAFETY: layouts and pointers belong together.
        unsafe {
            let layout = Layout::from_size_align(100, 8).unwrap();
            let piece = take(layout);
            piece.write_bytes(7, 100);
            // There is memory by now, so it moves out of the reserve.
            let grown = Allocator.realloc(piece, layout, 5000);
            assert!(!is_piece(grown) && (0..100).all(|i| *grown.add(i) == 7));
            assert_eq!(STATE.load(Ordering::Relaxed), 0);
            Allocator.dealloc(grown, Layout::from_size_align(5000, 8).unwrap());
        }
    }
}
