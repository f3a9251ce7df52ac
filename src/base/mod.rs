//! What everything leans on, and what leans on nothing: errors, limits, checked arithmetic, element
//! types, aligned buffers, the fork check, the clock
//! and a descriptor to poll.

pub mod blocks;
pub mod buffer;
pub mod checked;
pub mod clock;
pub mod dtype;
pub mod error;
pub mod event_fd;
pub mod fork;
pub mod limits;
pub mod memory;
pub mod region;
pub mod thread;
