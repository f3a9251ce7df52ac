//! The form of torch 1.6 and later: a zip archive of the pickle and one entry a storage.

use super::state_dict::Storages;
use super::values::Storage;
use super::zip::{self, Entries, Entry};
use super::{Form, TorchFile, pickle, state_dict};
use crate::base::error::Result;
use crate::base::{checked, limits};
use crate::loading::cursor::Cursor;
use crate::loading::file::SourceFile;
use crate::loading::json::clip;
use std::ops::Range;

/// The entry by which an archive is known to be torch's.
const PICKLE: &str = "data.pkl";
/// Longest text of the byte order.
const BYTE_ORDER_MAX: u64 = 16;

/// The entries below the one directory of the archive, which is named after the file that was first written.
struct Archive<'a> {
    root: &'a str,
    entries: &'a Entries,
}

impl<'a> Archive<'a> {
    fn new(entries: &'a Entries) -> Result<Self> {
        let mut roots: Vec<&str> =
            entries.keys().filter_map(|name| name.strip_suffix(PICKLE)?.strip_suffix('/')).collect();
        // `data/data.pkl` inside it would be a storage of that name.
        roots.retain(|root| !root.contains('/'));
        roots.sort_unstable();
        match roots.as_slice() {
            &[root] => Ok(Archive { root, entries }),
            [] => Err(crate::error!(Format, "a zip archive without {PICKLE}, expected a torch checkpoint")),
            [first, second, ..] => Err(crate::error!(
                Format,
                "two pickles, {}/{PICKLE} and {}/{PICKLE}, expected one",
                clip(first),
                clip(second)
            )),
        }
    }

    fn entry(&self, name: &str) -> Option<&'a Entry> {
        self.entries.get(&format!("{}/{name}", self.root))
    }
}

impl Storages for Archive<'_> {
    fn place(&self, key: &str, storage: &Storage) -> Result<Range<u64>> {
        let Some(entry) = self.entry(&format!("data/{key}")) else {
            crate::bail!(Format, "the zip archive has no entry data/{}", clip(key))
        };
        let expected = checked::mul(storage.elements, storage.element.bytes(), "its size")?;
        let found = entry.range.end - entry.range.start;
        crate::ensure!(
            found == expected,
            Format,
            "expected {expected} bytes for {} elements of {}, found {found}",
            storage.elements,
            storage.element.stored()
        );
        Ok(entry.range.clone())
    }
}

/// Reads the directory and the pickle of the archive.
pub fn read(file: &SourceFile) -> Result<TorchFile> {
    let entries = zip::read(file)?;
    let archive = Archive::new(&entries)?;
    crate::ensure!(
        archive.entry("constants.pkl").is_none(),
        Unsupported,
        "a TorchScript archive (a program with its weights): expected a state dict, written by torch.save"
    );
    if let Some(order) = archive.entry("byteorder") {
        let length = order.range.end - order.range.start;
        let text = file.read_range(order.range.start..order.range.start + length.min(BYTE_ORDER_MAX))?;
        crate::ensure!(
            text.trim_ascii() == b"little",
            Unsupported,
            "byte order {:?}, expected \"little\"",
            String::from_utf8_lossy(&text)
        );
    }
    let entry = archive.entry(PICKLE).ok_or_else(|| crate::error!(Internal, "no {PICKLE}"))?;
    let length = entry.range.end - entry.range.start;
    crate::ensure!(
        length <= limits::PICKLE_BYTES_MAX,
        Format,
        "{PICKLE}: {length} bytes, expected at most {}",
        limits::PICKLE_BYTES_MAX
    );
    let bytes = file.read_range(entry.range.clone())?;
    let found = crc32fast::hash(&bytes);
    // torch can be told to write no checksums; their places then hold 0.
    crate::ensure!(
        entry.crc == 0 || found == entry.crc,
        Format,
        "{PICKLE}: damaged: checksum {found:08x}, expected {:08x}",
        entry.crc
    );
    let bytes = SourceFile::from_bytes(PICKLE, bytes);
    let mut cursor = Cursor::new(&bytes);
    let pickle = pickle::read(&mut cursor, PICKLE)?;
    crate::ensure!(cursor.left() == 0, Format, "{PICKLE}: {} bytes behind its end", cursor.left());
    let (tensors, path) = state_dict::read(&pickle, &archive)?;
    Ok(TorchFile { tensors, form: Form::Zip, path })
}
