//! The clock as a value, so that schedules and deadlines can be tested without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A monotonic clock in nanoseconds from an arbitrary start.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's monotonic clock.
    Real(Instant),
    /// A clock that only the test moves.
    Stepped(Arc<AtomicU64>),
}

impl Clock {
    /// The system's monotonic clock, counted from now.
    pub fn real() -> Self {
        Clock::Real(Instant::now())
    }

    /// A clock that stands at zero until its value is moved.
    pub fn stepped() -> (Self, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(0));
        (Clock::Stepped(now.clone()), now)
    }

    /// Nanoseconds since the clock's start.
    pub fn now_ns(&self) -> u64 {
        match self {
            Clock::Real(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Clock::Stepped(now) => now.load(Ordering::Acquire),
        }
    }
}
