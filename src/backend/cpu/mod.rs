//! The CPU backend.

mod float_mode;
pub mod pool;
mod signal;
mod threads;
