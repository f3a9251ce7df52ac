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
            return Err(refused(region.len(), locked_bytes(&self.ranges), limit(), &cause));
        }
        self.ranges.push(region.clone());
        Ok(())
    }
}

fn locked_bytes(ranges: &[Region]) -> u64 {
    ranges.iter().map(|region| region.len() as u64).sum()
}

/// What this process may lock (`RLIMIT_MEMLOCK`); `None`: without bound, or unknown.
fn limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the given struct alone.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn refused(bytes: usize, locked: u64, limit: Option<u64>, cause: &std::io::Error) -> Error {
    let limit = limit.map_or(String::new(), |limit| {
        format!(
            "; RLIMIT_MEMLOCK (ulimit -l) is {limit} bytes, {locked} are locked: raise it, or load without \
             locking"
        )
    });
    Error {
        status: Status::NoMemory,
        native_code: cause.raw_os_error().unwrap_or(0),
        message: format!("cannot lock {bytes} bytes of weights in memory: {cause}{limit}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_limit_and_what_to_do() {
        let cause = std::io::Error::from_raw_os_error(libc::ENOMEM);
        let error = refused(7000, 4096, Some(8192), &cause);
        assert_eq!((error.status, error.native_code), (Status::NoMemory, libc::ENOMEM));
        for part in ["7000 bytes", "RLIMIT_MEMLOCK", "8192 bytes", "4096 are locked"] {
            assert!(error.message.contains(part), "{part}: {error}");
        }
        assert!(!refused(7000, 0, None, &cause).message.contains("RLIMIT"));
    }
}
