//! Untrusted bytes to checked tensors.
