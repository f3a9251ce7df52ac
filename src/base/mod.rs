//! What everything leans on, and what leans on nothing: errors, limits, checked arithmetic, element
//! types, aligned buffers, the fork check, the clock,
//! a descriptor to poll, files that are never seen half written, and memory for when there is none.

pub mod blocks;
pub mod buffer;
pub mod checked;
pub mod clock;
pub mod disk;
pub mod dtype;
pub mod error;
pub mod event_fd;
pub mod fork;
pub mod limits;
pub mod memory;
pub mod new_dir;
pub mod new_file;
pub mod region;
pub mod reserve;
pub mod thread;
