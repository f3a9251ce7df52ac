//! A file that nobody sees before it is whole.
//!
//! It is written under a temporary name beside its target, synchronised, and then renamed: at any moment, also
//! after a crash, the target is the old file or the new one. What a writer that died leaves behind is removed by
//! the next one in the same directory; whoever still writes holds a lock.

use super::disk;
use super::error::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the names of unfinished files begin and end.
pub(super) const TEMPORARY: (&str, &str) = (".aquila-", ".tmp");
/// Bytes of one write, a multiple of every large page's: an interruption waits no longer than for these.
const WRITE_BYTES: usize = 8 << 20;
/// Entries of the directory that are looked at for what dead writers left.
const LISTING_MAX: usize = 10_000;
/// Times that a new temporary file may be taken away by somebody who clears up, before this is an error.
const ATTEMPTS: usize = 8;

/// A file in the making. Dropped before [`NewFile::publish`] it removes what it wrote.
#[derive(Debug)]
pub struct NewFile {
    /// Locked while it lives, which keeps others from removing it.
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl NewFile {
    /// Takes a temporary file in the directory of `target`. `what` it is stands in messages: "a packed cache".
    pub fn create(target: &Path, what: &str) -> Result<NewFile> {
        let dir = directory(target);
        remove_abandoned(dir);
        let (file, temporary) = take_temporary(dir, what)?;
        Ok(NewFile { file, temporary, target: target.into(), published: false })
    }

    /// Takes the disk space of `len` bytes, so that a full disk is found before the work and not after it.
    pub fn reserve(&self, len: u64) -> Result<()> {
        disk::reserve(&self.file, len)
            .map_err(|cause| Error::io(&format!("take {len} bytes of disk space"), &self.target, &cause))
    }

    /// Writes `bytes` from byte `at` on, and has the system begin to bring them to the disk.
    pub fn write(&self, mut at: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // Cut where large pages begin: the system then holds what was written in such pages.
            let room = WRITE_BYTES - (at % WRITE_BYTES as u64) as usize;
            let (part, after) = rest.split_at(room.min(rest.len()));
            self.put(at, part)?;
            disk::start_writeback(&self.file, at, part.len() as u64);
            (at, rest) = (at + part.len() as u64, after);
        }
        Ok(())
    }

    /// The same for a few bytes that are written again soon.
    pub fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let refused = |cause| Error::io("write", &self.target, &cause);
        #[cfg(test)]
        fault::check(at + bytes.len() as u64).map_err(refused)?;
        self.file.write_all_at(bytes, at).map_err(refused)
    }

    /// Makes it `len` bytes long.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|cause| Error::io("write", &self.target, &cause))
    }

    /// Has it written to the disk. `false` where the file system knows no such thing.
    pub fn synchronise(&self) -> Result<bool> {
        disk::synchronise(&self.file).map_err(|cause| Error::io("synchronise", &self.target, &cause))
    }

    /// Gives it its name, which another file may have had until now.
    pub fn publish(mut self) -> Result<()> {
        fs::rename(&self.temporary, &self.target)
            .map_err(|cause| Error::io("rename a file to it", &self.target, &cause))?;
        self.published = true;
        // Without it a crash may bring back the old name, which is whole too.
        let dir = directory(&self.target);
        if let Err(cause) = File::open(dir).and_then(|dir| dir.sync_all()) {
            log::debug!("{}: the directory was not synchronised: {cause}", dir.display());
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn directory(target: &Path) -> &Path {
    target.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."))
}

/// The name of something unfinished, another one each time.
pub(super) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}{}-{number}-{now:x}{}", TEMPORARY.0, std::process::id(), TEMPORARY.1)
}

/// A new, locked file in `dir`, for `what`.
fn take_temporary(dir: &Path, what: &str) -> Result<(File, PathBuf)> {
    for _ in 0..ATTEMPTS {
        let path = dir.join(unique());
        let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(cause) => return Err(Error::io(&format!("write {what} in it"), dir, &cause)),
            Ok(file) => file,
        };
        match file.try_lock() {
            // Somebody who clears up was faster and is about to remove it.
            Err(TryLockError::WouldBlock) => continue,
            // No locks on this file system: nobody can clear up either.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (file.metadata(), fs::symlink_metadata(&path)) {
            (Ok(held), Ok(named)) if same(&held, &named) => return Ok((file, path)),
            _ => continue,
        }
    }
    Err(crate::error!(Io, "{}: cannot take a temporary file: each was removed at once", dir.display()))
}

/// Removes unfinished files whose writers are gone. Whoever still writes holds a lock.
fn remove_abandoned(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.take(LISTING_MAX).flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1)) {
            continue;
        }
        let path = entry.path();
        // Neither a pipe nor a link is followed or waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let Ok(file) = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path) else {
            continue;
        };
        if file.metadata().is_ok_and(|facts| facts.is_file()) && file.try_lock().is_ok() {
            match fs::remove_file(&path) {
                Ok(()) => log::info!("{}: removed, its writer is gone", path.display()),
                Err(cause) => log::debug!("{}: cannot be removed: {cause}", path.display()),
            }
        }
    }
}

/// A disk that fills in the middle, for tests.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static ROOM: Cell<u64> = const { Cell::new(u64::MAX) };
    }

    /// Writes of this thread that reach beyond byte `room` of a file fail as on a full disk.
    pub fn set_room(room: u64) {
        ROOM.set(room);
    }

    pub(super) fn check(end: u64) -> io::Result<()> {
        if end > ROOM.get() { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
    }
}
