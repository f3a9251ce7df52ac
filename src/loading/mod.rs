//! Untrusted bytes to checked tensors.

pub mod quant;
