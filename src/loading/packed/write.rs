//! Writing a packed cache: all of it, or nothing that anybody sees.

use super::format::{Contents, Entry, Format};
use super::key::SourceKey;
use crate::base::disk;
use crate::base::error::{Error, Result};
use crate::base::new_file::NewFile;
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// A packed cache in the making. Dropped before [`Writer::finish`] it removes what it wrote.
#[derive(Debug)]
pub struct Writer {
    file: NewFile,
    target: PathBuf,
    contents: Contents,
    length: u64,
    next: usize,
}

impl Writer {
    /// Takes a temporary file beside `target` and the disk space for all of `format`.
    pub(super) fn new(target: &Path, format: &Format, source: SourceKey) -> Result<Writer> {
        let (ranges, length) = format.ranges()?;
        if let Some(limit) = disk::file_size_limit().filter(|&limit| length > limit) {
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
        let file = NewFile::create(target, "a packed cache")?;
        file.reserve(length)?;
        Ok(Writer { file, target: target.into(), contents, length, next: 0 })
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
        self.next += 1;
        self.file.write(entry.range.start, payload)
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
        self.file.set_len(self.length)?;
        self.file.put(0, &self.contents.encode(self.length))?;
        if self.file.synchronise()? {
            self.contents.clean = true;
            self.file.put(0, &self.contents.encode(self.length))?;
            self.file.synchronise()?;
        }
        self.file.publish()
    }
}
