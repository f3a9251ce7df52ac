//! Arithmetic on numbers that came from outside. Each function names the item in its error.

use crate::base::error::Result;

/// `a × b`, or `Format` naming `what`.
pub fn mul(a: u64, b: u64, what: &str) -> Result<u64> {
    a.checked_mul(b).ok_or_else(|| crate::error!(Format, "{what}: {a} × {b} overflows"))
}

/// `a + b`, or `Format` naming `what`.
pub fn add(a: u64, b: u64, what: &str) -> Result<u64> {
    a.checked_add(b).ok_or_else(|| crate::error!(Format, "{what}: {a} + {b} overflows"))
}

/// The product of a shape, or `Format` naming `what`. An empty shape is a scalar: 1.
pub fn product(shape: &[u64], what: &str) -> Result<u64> {
    shape.iter().try_fold(1u64, |n, &d| mul(n, d, what))
}

/// `n` as `usize`, or `Format` naming `what` (a 64-bit length on a 32-bit host).
pub fn usize(n: u64, what: &str) -> Result<usize> {
    usize::try_from(n).map_err(|_| crate::error!(Format, "{what}: {n} does not fit in memory"))
}

/// `n` as `u32`, or `Format` naming `what`.
pub fn u32(n: u64, what: &str) -> Result<u32> {
    u32::try_from(n).map_err(|_| crate::error!(Format, "{what}: {n} is more than {}", u32::MAX))
}
