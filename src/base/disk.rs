//! What the system must be asked for without the standard library.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The longest file that this process may write (`RLIMIT_FSIZE`); `None`: without bound. A write beyond it does not
/// merely fail: the system sends a signal that ends the process, so it must be known before.
pub fn file_size_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the given struct alone.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Takes the disk space of a file of `len` bytes, so that a full disk is found before the work and not after it. File
/// systems that cannot do so in advance are let through.
pub fn reserve(file: &File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: an open file; no memory is involved.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let cause = io::Error::last_os_error();
        match cause.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => return Ok(()),
            _ => return Err(cause),
        }
    }
}

/// Begins to write a range to the disk and does not wait: the pages of a large file become clean while the next part
/// is made. Only advice.
pub fn start_writeback(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(len)) else {
        return;
    };
    // SAFETY: an open file; no memory is involved.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Has the file written to the disk. `false` where the file system knows no such thing.
pub fn synchronise(file: &File) -> io::Result<bool> {
    match file.sync_all() {
        Ok(()) => Ok(true),
        Err(cause)
            if matches!(cause.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) =>
        {
            Ok(false)
        }
        Err(cause) => Err(cause),
    }
}
