//! The fork check: threads do not survive a fork, so nothing that owns threads may be used in the
//! child. Each engine remembers the process that made it.

use crate::base::error::Result;

/// The process that made an object.
#[derive(Clone, Copy, Debug)]
pub struct Process(libc::pid_t);

impl Process {
    /// The running process.
    pub fn current() -> Self {
        // SAFETY: getpid has no preconditions and cannot fail.
        Process(unsafe { libc::getpid() })
    }

    /// Whether this is still the process that made the object.
    pub fn is_current(self) -> bool {
        Process::current().0 == self.0
    }

    /// `Forked` in a child of the process that made the object.
    pub fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        Err(crate::error!(
            Forked,
            "this handle was made in process {} and is used in its child {}; load again in the child",
            self.0,
            Process::current().0
        ))
    }
}
