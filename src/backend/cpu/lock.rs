//! Keeping memory resident (`mlock`).

use crate::base::error::{Error, Result, Status};
use crate::base::region::Region;

/// Locked ranges; dropping it unlocks them.
#[derive(Default)]
pub struct Locked {
    /// Keeps every locked range alive.
    ranges: Vec<Region>,
}

impl Locked {
    /// Reads the pages of `region` in and keeps them resident. `NoMemory` with the `errno` where the
    /// system refuses, usually for `RLIMIT_MEMLOCK`.
    pub fn add(&mut self, region: &Region) -> Result<()> {
        if region.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is mapped memory that `region` keeps alive; locking changes no content.
        if unsafe { libc::mlock(region.as_ptr().cast(), region.len()) } != 0 {
            let cause = std::io::Error::last_os_error();
            return Err(Error {
                status: Status::NoMemory,
                native_code: cause.raw_os_error().unwrap_or(0),
                message: format!("cannot lock {} bytes of weights in memory: {cause}", region.len()),
            });
        }
        self.ranges.push(region.clone());
        Ok(())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        for region in &self.ranges {
            // SAFETY: locked in `add`, still alive.
            unsafe { libc::munlock(region.as_ptr().cast(), region.len()) };
        }
    }
}
