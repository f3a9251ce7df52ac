//! The Ascend backend. What stands here so far is its first layer: CANN opened and checked, devices, streams, memory,
//! communicators and ATB's operations. The executor is to be built on it.
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
//! | `diagnosis` | what `aquila doctor` asks |

pub mod acl;
pub mod atb;
pub mod comm;
pub mod device;
pub mod diagnosis;
pub mod errors;
pub mod hccl;
pub mod memory;
pub mod open;
pub mod probe;
pub mod search;
pub mod shim;
pub mod soc;
pub mod table;
pub mod version;
