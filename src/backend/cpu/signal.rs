//! A number that threads wait on: spin a little, then sleep in the kernel.
//!
//! Between two phases of a step the wait is a microsecond or two, far less than a sleep and a wake-up
//! cost, so a waiter spins first. It never spins for long: a neighbour on the same core, or a worker
//! that the system took off its core, must cost its share of time and not a collapse. And it learns:
//! after waits that outlast the spinning it spins less, because on a busy machine the spinning itself
//! keeps from its core whoever is waited for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// Keeps its content on cache lines of its own: 128 bytes, because x86 prefetches lines in pairs.
#[derive(Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

/// Rounds of `pause` between two looks at the clock, about 1 µs on current x86 cores.
const PAUSES: u32 = 32;

/// The least that a waiter spins, so that it can find out that waits have become short again.
const SPIN_NANOS_MIN: u64 = 1_000;

/// A counter whose every change wakes those who wait for it.
pub struct Signal {
    value: Padded<AtomicU32>,
    sleepers: Padded<AtomicU32>,
    spin_nanos_max: u64,
    /// How long the next waiter spins: a hint, shared by all waiters.
    spin_nanos: Padded<AtomicU64>,
}

impl Signal {
    /// A signal whose waiters spin for `spin` at most.
    pub fn new(spin: Duration) -> Self {
        let spin_nanos_max = spin.as_nanos() as u64;
        Signal {
            value: Padded::default(),
            sleepers: Padded::default(),
            spin_nanos_max,
            spin_nanos: Padded(AtomicU64::new(spin_nanos_max)),
        }
    }

    /// The count now, with everything visible that was written before it was reached.
    pub fn value(&self) -> u32 {
        self.value.0.load(Acquire)
    }

    /// Counts up by one and wakes all who wait.
    pub fn advance(&self) {
        // SeqCst here, and on `sleepers` and `value` in `wait_past`: of a waiter that goes to sleep and
        // an advance at the same moment at least one sees the other, so no wake-up is lost.
        self.value.0.fetch_add(1, SeqCst);
        if self.sleepers.0.load(SeqCst) > 0 {
            futex_wake_all(&self.value.0);
        }
    }

    /// Returns when the count is no longer `old`.
    pub fn wait_past(&self, old: u32) {
        if self.value() != old {
            return;
        }
        let start = Instant::now();
        let spin_nanos = self.spin_nanos.0.load(Relaxed);
        if !self.spin_past(old, start, spin_nanos) {
            self.sleepers.0.fetch_add(1, SeqCst);
            while self.value.0.load(SeqCst) == old {
                futex_wait(&self.value.0, old);
            }
            self.sleepers.0.fetch_sub(1, SeqCst);
        }
        let short = start.elapsed().as_nanos() as u64 <= self.spin_nanos_max;
        let next = if short { spin_nanos * 2 } else { (spin_nanos / 2).max(SPIN_NANOS_MIN) };
        self.spin_nanos.0.store(next.min(self.spin_nanos_max), Relaxed);
    }

    fn spin_past(&self, old: u32, start: Instant, spin_nanos: u64) -> bool {
        while (start.elapsed().as_nanos() as u64) < spin_nanos {
            for _ in 0..PAUSES {
                if self.value() != old {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }
}

/// Sleeps while `word` is `expected`. May return early; the caller looks again.
fn futex_wait(word: &AtomicU32, expected: u32) {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let forever = std::ptr::null::<libc::timespec>();
    // SAFETY: `word` is a valid, aligned u32 for the whole call; the kernel only reads it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, expected, forever) };
}

/// Wakes every thread that sleeps on `word`.
fn futex_wake_all(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: `word` is a valid, aligned u32; the kernel uses its address alone.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, i32::MAX) };
}
