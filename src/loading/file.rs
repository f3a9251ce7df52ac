//! The one door through which the bytes of a checkpoint come.
//!
//! A [`SourceFile`] is a regular file whose length was noted when it was opened; every range is
//! compared with that length before it is used. Headers are read (`read_at`), so that a file that
//! shrinks meanwhile is a short read, an error. Only tensor data is mapped: from then on the file is
//! the host's to leave alone, because no check can stop the SIGBUS of a page that has gone.

use crate::base::buffer::Buffer;
use crate::base::error::{Error, Result};
use crate::base::region::Region;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened source of bytes: a regular file, or memory.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    len: u64,
    modified_ns: i64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Region),
}

impl SourceFile {
    /// Opens a regular file; symbolic links are followed. `NotFound` where there is none, `Io` where
    /// the system refuses, `Format` where the path is a directory, a pipe or a device.
    pub fn open(path: &Path) -> Result<Self> {
        // Without O_NONBLOCK the open of a pipe would wait for its writer. Regular files ignore it.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path)
            .map_err(|cause| refused(path, &cause))?;
        let facts = file.metadata().map_err(|cause| Error::io("look at it", path, &cause))?;
        crate::ensure!(
            facts.is_file(),
            Format,
            "{}: expected a regular file, found {}",
            path.display(),
            kind_name(&facts.file_type())
        );
        let modified_ns = facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec());
        Ok(SourceFile { path: path.into(), len: facts.len(), modified_ns, bytes: Bytes::File(file) })
    }

    /// Bytes that are already in memory, under a name for messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        SourceFile { path: name.into(), len, modified_ns: 0, bytes: Bytes::Memory(bytes.into()) }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name without its directories, for messages.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// When it was last changed, in ns since 1970, as it was when it was opened; 0 for memory.
    pub fn modified_ns(&self) -> i64 {
        self.modified_ns
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` from byte `offset` on. `Format` where the file ends before, `Io` where the system
    /// refuses.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let wanted = out.len();
        let end = offset.checked_add(wanted as u64).filter(|&end| end <= self.len);
        crate::ensure!(
            end.is_some(),
            Format,
            "{}: truncated: bytes {offset} to {} are needed, the file has {}",
            self.path.display(),
            offset.saturating_add(wanted as u64),
            self.len
        );
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let found = usize::try_from(offset).ok().and_then(|o| bytes.slice(o..o.checked_add(wanted)?));
                let found = found.ok_or_else(|| self.shrunk(offset))?;
                out.copy_from_slice(&found);
                Ok(())
            }
            Bytes::File(file) => {
                fill(out, offset, |part, at| file.read_at(part, at)).map_err(|cause| match cause.kind() {
                    io::ErrorKind::UnexpectedEof => self.shrunk(offset),
                    _ => Error::io("read", &self.path, &cause),
                })
            }
        }
    }

    fn shrunk(&self, offset: u64) -> Error {
        crate::error!(
            Format,
            "{}: it became shorter while it was read: no {} bytes any more at {offset}",
            self.path.display(),
            self.len
        )
    }

    /// The bytes of `range` in memory of their own; a refused allocation is `NoMemory`.
    pub fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let what = self.path.display();
        crate::ensure!(
            range.start <= range.end && range.end <= self.len,
            Format,
            "{what}: truncated: bytes {} to {} are needed, the file has {}",
            range.start,
            range.end,
            self.len
        );
        let count = crate::base::checked::usize(range.end - range.start, "a part of a file")?;
        let mut out = Vec::new();
        out.try_reserve_exact(count)
            .map_err(|_| crate::error!(NoMemory, "{what}: cannot take {count} bytes of memory"))?;
        out.resize(count, 0);
        self.read_at(range.start, &mut out)?;
        Ok(out)
    }

    /// All bytes, where they are at most `most`; else `Format`.
    pub fn read_all(&self, most: u64) -> Result<Vec<u8>> {
        crate::ensure!(
            self.len <= most,
            Format,
            "{}: {} bytes, expected at most {most}",
            self.path.display(),
            self.len
        );
        self.read_range(0..self.len)
    }

    /// The whole file as a region: mapped, shared and read-only, or with `copy` in private memory.
    pub fn region(&self, copy: bool) -> Result<Region> {
        let len = crate::base::checked::usize(self.len, "file length")?;
        match &self.bytes {
            Bytes::Memory(bytes) => Ok(bytes.clone()),
            // The kernel maps no empty range.
            Bytes::File(_) if len == 0 => Ok(Region::from(Vec::new())),
            Bytes::File(file) if !copy => {
                let map = map(file, len).map_err(|cause| Error::io("map", &self.path, &cause))?;
                Ok(Region::new(Arc::new(map), true))
            }
            Bytes::File(_) => {
                let mut buffer = Buffer::<u8>::zeroed(len, &format!("copy of {}", self.path.display()))?;
                self.read_at(0, &mut buffer)?;
                Ok(buffer.into())
            }
        }
    }
}

/// Asks the system to read the pages of a mapped region ahead; without effect on private memory. Only
/// advice: nothing depends on it.
pub fn prefetch(region: &Region) {
    const PAGE: usize = 4096;
    if !region.is_mapped() || region.is_empty() {
        return;
    }
    let start = region.as_ptr() as usize / PAGE * PAGE;
    let len = region.as_ptr() as usize + region.len() - start;
    // SAFETY: the range lies in pages that the region keeps mapped; the advice changes no contents.
    unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_WILLNEED) };
}

/// The first `len` bytes of `file`, shared and read-only.
fn map(file: &File, len: usize) -> io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is read-only and outlives every region of it by reference counting. That the
    // file is not changed or shortened while an engine lives is the host's documented duty.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }?;
    // Read through the mapping, the file gets large pages where its file system has them; one thread was
    // measured to read weights a third faster through these (25 GB/s for 19, Zen 4). Refused elsewhere.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// Fills `out` with as many reads as it takes: an interrupted or short read goes on where it stopped.
fn fill(
    mut out: &mut [u8],
    mut offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !out.is_empty() {
        match read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let rest = out.get_mut(count..).ok_or(io::ErrorKind::InvalidData)?;
                (out, offset) = (rest, offset + count as u64);
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// The error of a refused open. Opening a socket, or a device without a driver, fails by itself.
fn refused(path: &Path, cause: &io::Error) -> Error {
    if cause.raw_os_error() == Some(libc::ENXIO) {
        return crate::error!(
            Format,
            "{}: expected a regular file, found a socket or a device",
            path.display()
        );
    }
    Error::io("open", path, cause)
}

fn kind_name(kind: &std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Status;

    #[test]
    fn interrupted_and_short_reads_go_on() {
        let source: Vec<u8> = (0..100).collect();
        let (mut out, mut calls) = (vec![0u8; 90], 0);
        let one_byte = |part: &mut [u8], at: u64| {
            calls += 1;
            if calls % 3 == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            part[0] = source[at as usize];
            Ok(1)
        };
        fill(&mut out, 10, one_byte).unwrap();
        assert_eq!(out, source[10..]);
        let ended = fill(&mut [0u8; 4], 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        let failed = fill(&mut [0u8; 4], 0, |_, _| Err(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let path = std::env::temp_dir().join(format!("aquila-shrink-{}", std::process::id()));
        std::fs::write(&path, vec![7u8; 10_000]).unwrap();
        let file = SourceFile::open(&path).unwrap();
        let (mapped, copied) = (file.region(false).unwrap(), file.region(true).unwrap());
        assert!(mapped.is_mapped() && !copied.is_mapped());
        assert_eq!(&*mapped, &*copied);
        prefetch(&mapped);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        let error = file.read_range(4000..6000).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error.status, Status::Format);
        assert!(error.message.contains("shorter"), "{error}");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let error = SourceFile::open(Path::new("/")).unwrap_err();
        assert!(error.status == Status::Format && error.message.contains("a directory"), "{error}");
        let error = SourceFile::open(Path::new("/dev/null")).unwrap_err();
        assert!(error.status == Status::Format && error.message.contains("a device"), "{error}");
        let error = SourceFile::open(Path::new("/no/such/file")).unwrap_err();
        assert_eq!((error.status, error.native_code), (Status::NotFound, libc::ENOENT));
        let error = SourceFile::from_bytes("x", vec![0; 9]).read_at(8, &mut [0; 2]).unwrap_err();
        assert!(error.message.contains("bytes 8 to 10"), "{error}");
    }
}
