//! The C door: the only `extern "C"` functions of the library.
//!
//! The last fourteen files are one a noun of `include/aquila.h`, which `make header` generates from them
//! in this order (`cbindgen.toml`), doc comments included: what stands there is written for a reader
//! of C. The first three are the door's own works.
//!
//! | file | what it holds |
//! |---|---|
//! | `guard` | what every export runs inside: panics, pointer and string checks, the error struct |
//! | `handles` | slot and generation in place of pointers; the lock-free tables behind them |
//! | `options` | structs with a `struct_size`: the rule for older and newer callers |
//! | `library` `status` `log` `engine` `load` `event` `constraint` `generate` `request` `queue` `session` `result` `text` `score` | the nouns |

#![allow(non_camel_case_types)]

/// A refusal of memory becomes a status, see [`reserve`](crate::base::reserve).
#[global_allocator]
static ALLOCATOR: crate::base::reserve::Allocator = crate::base::reserve::Allocator;

mod guard;
mod handles;
mod options;

mod constraint;
mod engine;
mod event;
mod generate;
mod library;
mod load;
mod log;
mod queue;
mod request;
mod result;
mod score;
mod session;
mod status;
mod text;
