//! The Ascend backend: ATB's graphs of whole layers, one thread a device, the host ahead of it.
//!
//! | file | holds |
//! |---|---|
//! | `table` | how a C library is written down once, for the calls and for the check against its headers |
//! | `acl`, `hccl` | the two C libraries: types, constants, functions |
//! | `shim` | the shim over ATB, which is C++ (`shim/` beside it): structs and functions |
//! | `errors` | what their numbers mean |
//! | `search`, `version`, `open` | finding the libraries, telling their versions, opening all of it once |
//! | `soc`, `probe` | what a chip can do; which devices there are, and whether an engine can be put on them |
//! | `device`, `memory`, `comm`, `atb` | devices, streams, events; memory; communicators; operations: each gives itself back |
//! | `hold` | which products of a layer have 16 bits, which 8, and what goes with them |
//! | `form`, `codes`, `upload`, `weights` | matrices as the chip wants them, and how they come there |
//! | `plan` | which choices follow from chip, model and options, and what they take |
//! | `draft`, `products`, `decoder`, `program` | the decoder as graphs of operations, and running them |
//! | `image` | a step as one block of words, divided into passes |
//! | `programs`, `tables`, `rank` | what a rank has on its device, and a step there |
//! | `crew` | the ranks' threads |
//! | `backend`, `executor` | what the engine sees |
//! | `diagnosis` | what `aquila doctor` asks |

pub mod acl;
pub mod atb;
pub mod backend;
pub mod codes;
pub mod comm;
pub mod crew;
pub mod decoder;
pub mod device;
pub mod diagnosis;
pub mod draft;
pub mod errors;
pub mod executor;
pub mod form;
pub mod hccl;
pub mod hold;
pub mod image;
pub mod memory;
pub mod open;
pub mod plan;
pub mod probe;
pub mod products;
pub mod program;
pub mod programs;
pub mod rank;
pub mod rank_table;
pub mod search;
pub mod shim;
pub mod slot;
pub mod soc;
pub mod table;
pub mod tables;
pub mod upload;
pub mod version;
pub mod weights;
