//! Writing a packed cache: all of it, or nothing that anybody sees.

use super::format::{Contents, Entry, Format};
use super::key::SourceKey;
use super::system;
use crate::base::error::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// How the names of unfinished files begin and end.
const TEMPORARY: (&str, &str) = (".aquila-", ".tmp");
/// Bytes of one write, a multiple of every large page's: an interruption waits no longer than for these.
const WRITE_BYTES: usize = 8 << 20;
/// Entries of the directory that are looked at for what dead writers left.
const LISTING_MAX: usize = 10_000;
/// Times that a new temporary file may be taken away by somebody who clears up, before this is an error.
const ATTEMPTS: usize = 8;

/// A packed cache in the making. Dropped before [`Writer::finish`] it removes what it wrote.
#[derive(Debug)]
pub struct Writer {
    /// Locked while it lives, which keeps others from removing it.
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    contents: Contents,
    length: u64,
    next: usize,
    published: bool,
}

impl Writer {
    /// Takes a temporary file in `dir` and the disk space for all of `format`.
    pub(super) fn new(dir: &Path, target: &Path, format: &Format, source: SourceKey) -> Result<Writer> {
        remove_abandoned(dir);
        let (ranges, length) = format.ranges()?;
        if let Some(limit) = system::file_size_limit().filter(|&limit| length > limit) {
            let cause = io::Error::from_raw_os_error(libc::EFBIG);
            return Err(Error::io(&format!("write {length} bytes (the limit is {limit})"), target, &cause));
        }
        let entries = ranges.into_iter().zip(&format.tensors).map(|(range, t)| Entry {
            layer: t.layer,
            role: t.role,
            form: t.form,
            rows: t.rows,
            cols: t.cols,
            range,
            checksum: 0,
        });
        let contents = Contents {
            layout: format.layout,
            source: source.whole,
            format: format.key(),
            clean: false,
            entries: entries.collect(),
        };
        let (file, temporary) = take_temporary(dir)?;
        let writer =
            Writer { file, temporary, target: target.into(), contents, length, next: 0, published: false };
        system::reserve(&writer.file, length).map_err(|cause| {
            Error::io(&format!("take {length} bytes of disk space"), &writer.target, &cause)
        })?;
        Ok(writer)
    }

    /// Writes the next tensor of the format.
    pub fn add(&mut self, payload: &[u8]) -> Result<()> {
        let target = self.target.display();
        let entry = self.contents.entries.get_mut(self.next);
        let entry =
            entry.ok_or_else(|| crate::error!(Internal, "{target}: more tensors than its table has"))?;
        let expected = entry.range.end - entry.range.start;
        crate::ensure!(
            payload.len() as u64 == expected,
            Internal,
            "{target}: tensor {}: expected {expected} bytes, found {}",
            self.next,
            payload.len()
        );
        entry.checksum = xxh3_64(payload);
        let (mut at, mut rest) = (entry.range.start, payload);
        self.next += 1;
        while !rest.is_empty() {
            // Cut where large pages begin: the system then holds what was written in such pages.
            let room = WRITE_BYTES - (at % WRITE_BYTES as u64) as usize;
            let (part, after) = rest.split_at(room.min(rest.len()));
            self.put(part, at)?;
            system::start_writeback(&self.file, at, part.len() as u64);
            (at, rest) = (at + part.len() as u64, after);
        }
        Ok(())
    }

    fn put(&self, bytes: &[u8], at: u64) -> Result<()> {
        #[cfg(test)]
        fault::check(at + bytes.len() as u64).map_err(|cause| Error::io("write", &self.target, &cause))?;
        self.file.write_all_at(bytes, at).map_err(|cause| Error::io("write", &self.target, &cause))
    }

    /// Writes header and table, has all of it synchronised, and gives the file its name. The mark that it is clean is
    /// set after the system said that everything before it is on the disk.
    pub fn finish(mut self) -> Result<()> {
        crate::ensure!(
            self.next == self.contents.entries.len(),
            Internal,
            "{}: expected {} tensors, found {}",
            self.target.display(),
            self.contents.entries.len(),
            self.next
        );
        let refused = |action: &str, path: &Path, cause: &io::Error| Error::io(action, path, cause);
        self.file.set_len(self.length).map_err(|cause| refused("write", &self.target, &cause))?;
        self.put(&self.contents.encode(self.length), 0)?;
        let confirmed = system::synchronise(&self.file);
        if confirmed.map_err(|cause| refused("synchronise", &self.target, &cause))? {
            self.contents.clean = true;
            self.put(&self.contents.encode(self.length), 0)?;
            let again = system::synchronise(&self.file);
            again.map_err(|cause| refused("synchronise", &self.target, &cause))?;
        }
        fs::rename(&self.temporary, &self.target)
            .map_err(|cause| refused("rename a file to it", &self.target, &cause))?;
        self.published = true;
        // Without it a crash may bring back the old name, which is whole too.
        let dir = self.target.parent().unwrap_or(Path::new("."));
        if let Err(cause) = File::open(dir).and_then(|dir| dir.sync_all()) {
            log::debug!("{}: the directory was not synchronised: {cause}", dir.display());
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A new, locked file in `dir`.
fn take_temporary(dir: &Path) -> Result<(File, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..ATTEMPTS {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{number}-{now:x}", std::process::id());
        let path = dir.join(format!("{}{unique}{}", TEMPORARY.0, TEMPORARY.1));
        let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(cause) => return Err(Error::io("write a packed cache in it", dir, &cause)),
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
