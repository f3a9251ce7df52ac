//! Handles: what C holds in place of pointers, and the lock-free tables behind them.
//!
//! C code frees twice, frees while another thread still calls, and calls after it freed. With a real
//! pointer each of these is memory corruption. So a handle is no pointer: it is a slot number and a
//! generation cast to one, looked up at every call and never dereferenced.
//!
//! ```text
//! bit  63      56 55  52 51          24 23      4 3  0
//!      [ 0x5A    | kind | generation   | slot    | 0  ]
//! ```
//!
//! No such value is a user-space address on x86-64 or aarch64 (with its top byte ignored, too: a kind
//! is never 0), so a handle that is dereferenced by mistake faults, and the collectors of Go and Java
//! never take one for memory of their own.
//!
//! A slot has one state word: its generation, a *live* bit, and a count of *pins*. A call pins the
//! slot (if the generation agrees and it is live) and unpins it when it returns. `close` clears the
//! live bit, so that later calls are refused at once; whoever takes the pins of a closed slot to zero
//! drops the object, raises the generation and puts the slot on the free list. So an object lives until the
//! last call on it returns, nobody waits for anybody, and a stale handle never reaches a newer object.
//! A slot whose generations are used up is retired.

use crate::base::error::Result;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

const TAG: u64 = 0x5A;
const SLOT_BITS: u32 = 20;
const GENERATION_BITS: u32 = 28;
const GENERATION_MAX: u64 = (1 << GENERATION_BITS) - 1;
const SLOT_SHIFT: u32 = 4;
const GENERATION_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;
const KIND_SHIFT: u32 = GENERATION_SHIFT + GENERATION_BITS;
const TAG_SHIFT: u32 = 56;

/// Slots in the first segment; each further segment has twice as many.
const SEGMENT_SLOTS: usize = 64;
const SEGMENTS: usize = 14;
/// Most objects of one kind alive at once.
const SLOTS_MAX: u32 = (SEGMENT_SLOTS as u32) * ((1 << SEGMENTS) - 1);

/// State word: generation above, the live bit, pins below.
const LIVE: u64 = 1 << 32;
const PINS: u64 = LIVE - 1;
const STATE_GENERATION_SHIFT: u32 = 64 - GENERATION_BITS;

const _: () = assert!(size_of::<usize>() == 8, "handles need 64-bit pointers");
const _: () = assert!(KIND_SHIFT == 52 && SLOTS_MAX < 1 << SLOT_BITS);

/// A kind of object that C holds handles of.
pub(super) trait Noun: Send + Sync + Sized + 'static {
    /// 1 to 15, different for each noun.
    const KIND: u64;
    /// The C type, for messages.
    const NAME: &'static str;
    /// The table that its handles are looked up in.
    fn table() -> &'static Table<Self>;
}

struct Slot<T> {
    state: AtomicU64,
    /// Index + 1 of the next slot on the free list, 0 at its end.
    next_free: AtomicU32,
    value: UnsafeCell<Option<T>>,
}

/// All objects of one kind. For statics: its segments are never given back.
pub(super) struct Table<T> {
    segments: [AtomicPtr<Slot<T>>; SEGMENTS],
    /// Slots ever used.
    used: AtomicU32,
    /// Free list: a count of changes above (against ABA), index + 1 of the first slot below.
    free: AtomicU64,
    generation_max: u64,
    owner: PhantomData<T>,
}

// SAFETY: a slot's value is written only by the one thread that took the slot from the free list or
// from `used`, or that brought the pins of a closed slot to zero; it is read only under a pin. The
// state word orders these (Release on publishing, Acquire on pinning). So the table passes T between
// threads (Send) and shares it (Sync).
unsafe impl<T: Send + Sync> Sync for Table<T> {}

/// A running call's hold on an object: it lives at least as long as this.
pub(super) struct Pin<T: 'static> {
    table: &'static Table<T>,
    index: u32,
    slot: &'static Slot<T>,
    value: &'static T,
}

impl<T> Deref for Pin<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Pin<T> {
    /// Whether the handle was freed since it was pinned.
    pub fn is_closed(&self) -> bool {
        self.slot.state.load(Ordering::Acquire) & LIVE == 0
    }
}

impl<T> Drop for Pin<T> {
    fn drop(&mut self) {
        let before = self.slot.state.fetch_sub(1, Ordering::AcqRel);
        if before & (LIVE | PINS) == 1 {
            self.table.recycle(self.index, self.slot);
        }
    }
}

impl<T: 'static> Table<T> {
    /// An empty table.
    pub const fn new() -> Self {
        Self::with_generations(GENERATION_MAX)
    }

    const fn with_generations(generation_max: u64) -> Self {
        Table {
            segments: [const { AtomicPtr::new(ptr::null_mut()) }; SEGMENTS],
            used: AtomicU32::new(0),
            free: AtomicU64::new(0),
            generation_max,
            owner: PhantomData,
        }
    }

    /// Stores `value`; gives its slot and generation. The value comes back if no slot can be had.
    fn insert(&'static self, value: T) -> std::result::Result<(u32, u64), T> {
        let Some((index, slot)) = self.pop_free().or_else(|| self.fresh()) else { return Err(value) };
        // SAFETY: the slot is on no list and not live, so this thread alone may touch its value.
        unsafe { *slot.value.get() = Some(value) };
        let generation = slot.state.load(Ordering::Relaxed) >> STATE_GENERATION_SHIFT;
        slot.state.store(generation << STATE_GENERATION_SHIFT | LIVE, Ordering::Release);
        Ok((index, generation))
    }

    /// Changes a live slot's state by `step` and gives a pin that `step` counted; `None` if closed.
    fn pin_with(&'static self, index: u32, generation: u64, step: fn(u64) -> u64) -> Option<Pin<T>> {
        let slot = self.slot(index)?;
        let live = |state: u64| state >> STATE_GENERATION_SHIFT == generation && state & LIVE != 0;
        slot.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| live(state).then(|| step(state)))
            .ok()?;
        // SAFETY: the slot was live, so its value was published, and the pin just counted keeps it from
        // being dropped until the Pin is.
        let value = unsafe { (*slot.value.get()).as_ref() }?;
        Some(Pin { table: self, index, slot, value })
    }

    fn pin(&'static self, index: u32, generation: u64) -> Option<Pin<T>> {
        self.pin_with(index, generation, |state| state + 1)
    }

    fn close(&'static self, index: u32, generation: u64) -> Option<Pin<T>> {
        self.pin_with(index, generation, |state| (state & !LIVE) + 1)
    }

    /// Whether this slot and generation were ever handed out.
    fn knows(&'static self, index: u32, generation: u64) -> bool {
        self.slot(index).is_some_and(|slot| {
            (1..=slot.state.load(Ordering::Acquire) >> STATE_GENERATION_SHIFT).contains(&generation)
        })
    }

    /// The last pin of a closed slot is gone: drops the object and frees the slot.
    fn recycle(&'static self, index: u32, slot: &'static Slot<T>) {
        // SAFETY: the slot is closed and has no pins; no more can come, so this thread owns its value.
        let value = unsafe { (*slot.value.get()).take() };
        let generation = slot.state.load(Ordering::Relaxed) >> STATE_GENERATION_SHIFT;
        if generation < self.generation_max {
            slot.state.store((generation + 1) << STATE_GENERATION_SHIFT, Ordering::Release);
            self.push_free(index, slot);
        }
        drop(value);
    }

    fn slot(&self, index: u32) -> Option<&'static Slot<T>> {
        if index >= self.used.load(Ordering::Acquire) {
            return None;
        }
        let (segment, offset) = place(index);
        let first = self.segments.get(segment)?.load(Ordering::Acquire);
        // SAFETY: a segment is published whole (SEGMENT_SLOTS << segment slots) and never given back, and
        // `place` keeps the offset inside it.
        (!first.is_null()).then(|| unsafe { &*first.add(offset) })
    }

    fn pop_free(&self) -> Option<(u32, &'static Slot<T>)> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let index = (head as u32).checked_sub(1)?;
            let slot = self.slot(index)?;
            let next = slot.next_free.load(Ordering::Acquire);
            let new = head_after(head, next);
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((index, slot)),
                Err(now) => head = now,
            }
        }
    }

    fn push_free(&self, index: u32, slot: &Slot<T>) {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            slot.next_free.store(head as u32, Ordering::Release);
            let new = head_after(head, index + 1);
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// A slot that was never used, in a new segment if need be.
    fn fresh(&self) -> Option<(u32, &'static Slot<T>)> {
        loop {
            let index = self.used.load(Ordering::Acquire);
            if index >= SLOTS_MAX {
                return None;
            }
            self.ready_segment(place(index).0)?;
            let claimed =
                self.used.compare_exchange(index, index + 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if claimed {
                return self.slot(index).map(|slot| (index, slot));
            }
        }
    }

    fn ready_segment(&self, segment: usize) -> Option<()> {
        let place = self.segments.get(segment)?;
        if !place.load(Ordering::Acquire).is_null() {
            return Some(());
        }
        let count = SEGMENT_SLOTS << segment;
        let mut slots: Vec<Slot<T>> = Vec::new();
        slots.try_reserve_exact(count).ok()?;
        slots.resize_with(count, || Slot {
            state: AtomicU64::new(1 << STATE_GENERATION_SHIFT),
            next_free: AtomicU32::new(0),
            value: UnsafeCell::new(None),
        });
        let first = Box::into_raw(slots.into_boxed_slice()).cast::<Slot<T>>();
        if place.compare_exchange(ptr::null_mut(), first, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Another thread was faster.
            // SAFETY: `first` came from a boxed slice of `count` slots above and was never shared.
            drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(first, count)) });
        }
        Some(())
    }
}

/// Segment and offset of a slot: segment k starts at `SEGMENT_SLOTS × (2^k − 1)`.
fn place(index: u32) -> (usize, usize) {
    let index = index as usize;
    let segment = (index / SEGMENT_SLOTS + 1).ilog2() as usize;
    (segment, index - SEGMENT_SLOTS * ((1 << segment) - 1))
}

fn head_after(head: u64, first: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(first)
}

/// Stores an object and gives its handle; the object comes back with `NoMemory` if no slot is left, or if it was made
/// with the help of the reserve.
pub(super) fn insert<N: Noun, H>(value: N) -> std::result::Result<*mut H, (crate::base::error::Error, N)> {
    if let Err(error) = super::guard::check_memory() {
        return Err((error, value));
    }
    match N::table().insert(value) {
        Ok((index, generation)) => Ok(ptr::without_provenance_mut(encode::<N>(index, generation) as usize)),
        Err(value) => {
            Err((crate::error!(NoMemory, "{}: no handle is left (at most {SLOTS_MAX})", N::NAME), value))
        }
    }
}

/// Holds the object of a handle for a call. `Argument` for what never was such a handle, `Closed` for
/// one that was freed.
pub(super) fn pin<N: Noun, H>(handle: *const H) -> Result<Pin<N>> {
    let (index, generation) = decode::<N>(handle.addr() as u64)?;
    if let Some(pin) = N::table().pin(index, generation) {
        return Ok(pin);
    }
    crate::ensure!(
        N::table().knows(index, generation),
        Argument,
        "{:#x} is no {}: no such handle was ever given out",
        handle.addr(),
        N::NAME
    );
    crate::bail!(Closed, "this {} was freed", N::NAME)
}

/// Closes a handle: from now on calls with it give `Closed`. The pin is the last hold this gives on the
/// object; `None` where there was nothing to close.
pub(super) fn close<N: Noun, H>(handle: *const H) -> Option<Pin<N>> {
    let (index, generation) = decode::<N>(handle.addr() as u64).ok()?;
    N::table().close(index, generation)
}

fn encode<N: Noun>(index: u32, generation: u64) -> u64 {
    TAG << TAG_SHIFT | N::KIND << KIND_SHIFT | generation << GENERATION_SHIFT | u64::from(index) << SLOT_SHIFT
}

fn decode<N: Noun>(handle: u64) -> Result<(u32, u64)> {
    crate::ensure!(handle != 0, Argument, "NULL, expected an {}", N::NAME);
    let ours = handle >> TAG_SHIFT == TAG && handle & ((1 << SLOT_SHIFT) - 1) == 0;
    crate::ensure!(ours, Argument, "{handle:#x} is no handle of this library, expected an {}", N::NAME);
    crate::ensure!(
        handle >> KIND_SHIFT & 0xF == N::KIND,
        Argument,
        "{handle:#x} is a handle of another kind, expected an {}",
        N::NAME
    );
    let index = (handle >> SLOT_SHIFT & ((1 << SLOT_BITS) - 1)) as u32;
    Ok((index, handle >> GENERATION_SHIFT & GENERATION_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Status;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    struct Thing(Arc<AtomicUsize>, usize);
    impl Drop for Thing {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    impl Noun for Thing {
        const KIND: u64 = 14;
        const NAME: &'static str = "aquila_thing";
        fn table() -> &'static Table<Self> {
            static TABLE: Table<Thing> = Table::new();
            &TABLE
        }
    }

    fn insert_thing(drops: &Arc<AtomicUsize>, number: usize) -> *mut u8 {
        insert::<Thing, u8>(Thing(drops.clone(), number)).map_err(|(error, _)| error).unwrap()
    }

    fn status_of(handle: *const u8) -> Status {
        pin::<Thing, u8>(handle).map(|pin| pin.1).unwrap_err().status
    }

    #[test]
    fn a_freed_handle_is_closed_and_its_slot_serves_a_new_one() {
        let drops = Arc::new(AtomicUsize::new(0));
        let handle = insert_thing(&drops, 7);
        let held = pin::<Thing, u8>(handle).unwrap();
        assert_eq!(held.1, 7);
        drop(close::<Thing, u8>(handle).unwrap());
        assert_eq!(drops.load(Ordering::SeqCst), 0, "a running call still holds it");
        assert!(held.is_closed());
        assert_eq!(status_of(handle), Status::Closed);
        assert!(close::<Thing, u8>(handle).is_none(), "a second free does nothing");
        drop(held);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        let second = insert_thing(&drops, 8);
        assert_ne!(handle, second);
        assert_eq!(status_of(handle), Status::Closed);
        assert_eq!(pin::<Thing, u8>(second).unwrap().1, 8);
        drop(close::<Thing, u8>(second));
    }

    #[test]
    fn garbage_is_an_argument_error() {
        let drops = Arc::new(AtomicUsize::new(0));
        let handle = insert_thing(&drops, 0).addr();
        let other_kind = handle & !(0xF << KIND_SHIFT) | 3 << KIND_SHIFT;
        let unused_slot = handle | ((1 << SLOT_BITS) - 1) << SLOT_SHIFT;
        let future = handle | (GENERATION_MAX as usize) << GENERATION_SHIFT;
        for value in [0, 1, 4096, handle + 1, handle ^ (1 << 63), other_kind, unused_slot, future, usize::MAX]
        {
            assert_eq!(status_of(ptr::without_provenance(value)), Status::Argument, "{value:#x}");
            assert!(close::<Thing, u8>(ptr::without_provenance(value)).is_none());
        }
        drop(close::<Thing, u8>(ptr::without_provenance(handle)));
    }

    #[test]
    fn a_used_up_slot_is_retired() {
        static SMALL: Table<u32> = Table::with_generations(2);
        for round in 0..2 {
            assert_eq!(SMALL.insert(5).unwrap(), (0, round + 1));
            drop(SMALL.close(0, round + 1).unwrap());
        }
        assert_eq!(SMALL.insert(6).unwrap(), (1, 1), "slot 0 has no generation left");
        assert!(SMALL.knows(0, 2) && SMALL.pin(0, 2).is_none());
    }

    #[test]
    fn slots_fill_segments_without_holes() {
        let mut expected = (0, 0);
        for index in 0..10_000 {
            assert_eq!(place(index), expected);
            expected.1 += 1;
            if expected.1 == SEGMENT_SLOTS << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(place(SLOTS_MAX - 1), (SEGMENTS - 1, (SEGMENT_SLOTS << (SEGMENTS - 1)) - 1));
    }

    /// Threads insert, pin each other's handles and free them twice; every object must be dropped once,
    /// and a pin must never show an object of another generation.
    #[test]
    fn threads_race_without_loss() {
        const THREADS: usize = 4;
        const ROUNDS: usize = 3000;
        static SHARED: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
        let drops = Arc::new(AtomicUsize::new(0));
        let made = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (drops, made) = (&drops, &made);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let place = &SHARED[(thread * 31 + round * 7) % SHARED.len()];
                        let handle = insert_thing(drops, 0);
                        made.fetch_add(1, Ordering::SeqCst);
                        let old = place.swap(handle.addr() as u64, Ordering::AcqRel);
                        let old = ptr::without_provenance::<u8>(old as usize);
                        let seen = SHARED[round % SHARED.len()].load(Ordering::Acquire);
                        let held = pin::<Thing, u8>(ptr::without_provenance(seen as usize));
                        drop(close::<Thing, u8>(old));
                        drop(close::<Thing, u8>(old));
                        if let Ok(held) = held {
                            assert_eq!(held.1, 0);
                        }
                    }
                });
            }
        });
        for place in &SHARED {
            let handle = ptr::without_provenance::<u8>(place.load(Ordering::Acquire) as usize);
            drop(close::<Thing, u8>(handle));
        }
        assert_eq!(drops.load(Ordering::SeqCst), made.load(Ordering::SeqCst));
    }
}
