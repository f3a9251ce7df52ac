//! The directory of packed caches, and a file of it that was found good.

use super::format::{Contents, Entry, Format};
use super::key::SourceKey;
use super::write::Writer;
use crate::base::error::{Result, Status};
use crate::base::region::Region;
use crate::loading::file::SourceFile;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Longest part of a model's name in the name of its cache.
const NAME_MAX: usize = 64;

/// Where the converted weights of one model are kept.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    model: String,
    source: SourceKey,
    /// Whether every payload is compared with its checksum.
    verify: bool,
    /// Whether files are read into private memory instead of mapped.
    copy: bool,
}

/// A file whose header and table are right and wanted, not mapped yet.
#[derive(Debug)]
pub struct Found {
    file: SourceFile,
    contents: Contents,
    copy: bool,
    verify: bool,
}

/// A packed cache whose payloads can be used.
#[derive(Debug)]
pub struct PackedFile {
    path: PathBuf,
    bytes: Region,
    entries: Vec<Entry>,
    must_verify: bool,
}

impl Store {
    /// The caches of the model that goes by the name `model` and is made of the files of `source`, in the directory
    /// `dir`, which is not looked at before it is used.
    pub fn new(dir: &Path, model: &str, source: SourceKey, verify: bool, copy: bool) -> Store {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let model: String = model.trim_start_matches('.').chars().take(NAME_MAX).map(plain).collect();
        Store { dir: dir.into(), model, source, verify, copy }
    }

    /// The file that holds or will hold `format`. Its name tells the model, the type asked for, and a hash of what
    /// the source files contain and of the forms of all tensors.
    pub fn path(&self, format: &Format) -> PathBuf {
        let mut hash = Xxh3::new();
        hash.update(&self.source.contents.to_le_bytes());
        hash.update(&format.key().to_le_bytes());
        self.dir.join(format!("{}-{}-{:016x}.aquila", self.model, format.label, hash.digest()))
    }

    /// Where the caches lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of `format`, if there is one. `Format` where it is not what it must be, `Io` where it cannot be read;
    /// the message names it.
    pub fn find(&self, format: &Format) -> Result<Option<Found>> {
        let path = self.path(format);
        let file = match SourceFile::open(&path) {
            Err(error) if error.status == Status::NotFound => return Ok(None),
            file => file?,
        };
        let contents = Contents::read(&file).and_then(|contents| {
            contents.check(format, &self.source)?;
            Ok(contents)
        });
        let contents = contents.map_err(|error| error.at(path.display()))?;
        Ok(Some(Found { file, contents, copy: self.copy, verify: self.verify }))
    }

    /// Begins to write the file of `format`; `Io` or `NotFound` where the directory or the disk does not let it.
    pub fn create(&self, format: &Format) -> Result<Writer> {
        Writer::new(&self.path(format), format, self.source)
    }
}

impl Found {
    /// Maps the file (or reads all of it, if that was asked for).
    pub fn open(self) -> Result<PackedFile> {
        let must_verify = self.verify || !self.contents.clean;
        let bytes = self.file.region(self.copy)?;
        Ok(PackedFile { path: self.file.path().into(), bytes, entries: self.contents.entries, must_verify })
    }
}

impl PackedFile {
    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether [`PackedFile::verify`] is to be called for each payload before it is used.
    pub fn must_verify(&self) -> bool {
        self.must_verify
    }

    /// All bytes, header and table included.
    pub fn region(&self) -> &Region {
        &self.bytes
    }

    /// The payload of entry `index`.
    pub fn payload(&self, index: usize) -> Result<Region> {
        let bytes = self.entries.get(index).and_then(|entry| {
            let range = usize::try_from(entry.range.start).ok()?..usize::try_from(entry.range.end).ok()?;
            self.bytes.slice(range)
        });
        bytes.ok_or_else(|| crate::error!(Format, "{}: tensor {index}: no such bytes", self.path.display()))
    }

    /// Reads all of payload `index`: `Format` where its checksum is another.
    pub fn verify(&self, index: usize) -> Result<()> {
        let payload = self.payload(index)?;
        let (stated, found) = (self.entries.get(index).map_or(0, |e| e.checksum), xxh3_64(&payload));
        crate::ensure!(
            stated == found,
            Format,
            "{}: tensor {index}: damaged payload: expected checksum {stated:016x}, found {found:016x}",
            self.path.display()
        );
        Ok(())
    }
}
