//! libaquila: BAAI's Aquila language models inside a host program.
//!
//! The modules in reading order, from the door inwards. Imports run downward only (`tests/tidy.rs`
//! keeps it so): `capi` → `engine` → `model`, `text`, `sampling`, `backend` → `loading`, `base`.
//!
//! | module | what it is |
//! |---|---|
//! | `capi` | the C door: the only `extern "C"` functions, one file a noun of `include/aquila.h` |
//! | [`open`] | the only file that names the backends: path and options in, a running engine out |
//! | [`engine`] | who runs when: requests, the pure scheduler, KV blocks, the engine thread |
//! | [`model`] | what an Aquila is: config, decoder spec, tensor names, weight source |
//! | [`text`] | tokenizer, chat templates, streaming decoder, stop strings |
//! | [`sampling`] | parameters, penalties, filters, random numbers |
//! | [`backend`] | the traits of a device, and under it `cpu` and `ascend` |
//! | [`export`] | checkpoints out of checkpoints: cut for several cards, joined, converted |
//! | [`loading`] | untrusted bytes to checked tensors: safetensors, torch's files, GGUF |
//! | [`saving`] | tensors to files: the other direction |
//! | [`base`] | leans on nothing: errors, limits, checked arithmetic, buffers, fork and clock |
//!
//! A Rust host uses [`open::load`] and [`engine::Engine`]; every other host uses `include/aquila.h`.

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs)]

pub mod backend;
pub mod base;
#[cfg(feature = "capi")]
mod capi;
pub mod engine;
pub mod export;
pub mod loading;
pub mod model;
pub mod open;
pub mod sampling;
pub mod saving;
pub mod text;

pub use base::error::{Error, Result, Status};
