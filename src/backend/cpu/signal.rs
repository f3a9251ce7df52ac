//! A number that threads wait on: spin a little, then sleep in the kernel.
//!
//! Between two phases of a step the wait is a microsecond or two, far less than a sleep and a wake-up
//! cost, so a waiter spins first. It never spins for long: a neighbour on the same core, or a worker
//! that the system took off its core, must cost its share of time and not a collapse.

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

/// Keeps its content on cache lines of its own: 128 bytes, because x86 prefetches lines in pairs.
#[derive(Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

/// Rounds of `pause` between two looks at the clock, about 2 µs on current x86 cores.
const PAUSES: u32 = 64;

/// A counter whose every change wakes those who wait for it.
#[derive(Default)]
pub struct Signal {
    value: Padded<AtomicU32>,
    sleepers: Padded<AtomicU32>,
}

impl Signal {
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

    /// Returns when the count is no longer `old`: after at most `spin` awake, the rest asleep.
    pub fn wait_past(&self, old: u32, spin: Duration) {
        if self.value() != old || self.spin_past(old, spin) {
            return;
        }
        self.sleepers.0.fetch_add(1, SeqCst);
        while self.value.0.load(SeqCst) == old {
            futex_wait(&self.value.0, old);
        }
        self.sleepers.0.fetch_sub(1, SeqCst);
    }

    fn spin_past(&self, old: u32, spin: Duration) -> bool {
        if spin.is_zero() {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..PAUSES {
                if self.value() != old {
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= spin {
                return false;
            }
        }
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
