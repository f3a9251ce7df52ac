//! The CPU backend.

pub mod isa;
pub mod kernels;
