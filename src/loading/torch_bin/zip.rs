//! The part of the zip format that torch.save writes: entries stored as they are, read where they lie.
//!
//! What the central directory says is compared with the file and with each entry's own header before any
//! of it is believed. Two readers that disagree about a file are how bad files get past the first one, so
//! whatever is said twice must be the same, no two entries share a byte, and nothing stands before,
//! between or behind the parts that the format has (but for the gaps that align data).

use crate::base::error::Result;
use crate::base::{checked, limits};
use crate::loading::cursor::Cursor;
use crate::loading::file::SourceFile;
use crate::loading::json::clip;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;

/// The first bytes of an archive that is not empty.
pub const MAGIC: [u8; 4] = *b"PK\x03\x04";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const LOCAL_BYTES: u64 = 30;
const CENTRAL_BYTES: u64 = 46;
const END_BYTES: u64 = 22;
const END_64_BYTES: u64 = 56;
const LOCATOR_64_BYTES: u64 = 20;
/// Number of the extra field with sizes of 64 bits.
const EXTRA_64: u16 = 1;
/// The data is encrypted; encrypted strongly; the directory is.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
/// The sizes stand behind the data (and, in the directory, as ever).
const SIZES_BEHIND: u16 = 1 << 3;
/// In a field of 16 or 32 bits: the number stands in the 64-bit record.
const ELSEWHERE_16: u64 = 0xffff;
const ELSEWHERE_32: u64 = 0xffff_ffff;

/// A stored entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its bytes, from the start of the file.
    pub range: Range<u64>,
    /// CRC-32 of them, as the directory has it.
    pub crc: u32,
}

/// All entries by name; directories are left out.
pub type Entries = HashMap<String, Entry>;

/// Reads the directory and the header of each entry. `Unsupported` where an entry is compressed or
/// encrypted, `Format` where the archive is damaged.
pub fn read(file: &SourceFile) -> Result<Entries> {
    let directory = find_directory(file)?;
    let mut cursor = Cursor::new(file);
    cursor.skip(directory.range.start, "the directory")?;
    let (mut entries, mut places) = (Entries::new(), Vec::new());
    for number in 0..directory.entries {
        let (name, central) =
            read_central(&mut cursor).map_err(|error| error.at(format_args!("zip entry {number}")))?;
        let data = check_local(file, &name, &central)
            .map_err(|error| error.at(format_args!("zip entry {}", clip(&name))))?;
        places.push((central.offset, data.end));
        let entry = Entry { range: data, crc: central.crc };
        if name.ends_with('/') {
            crate::ensure!(
                entry.range.is_empty(),
                Format,
                "zip entry {}: a directory with data",
                clip(&name)
            );
            continue;
        }
        match entries.entry(name) {
            Slot::Vacant(slot) => drop(slot.insert(entry)),
            Slot::Occupied(slot) => {
                crate::bail!(Format, "zip entry {}: the name stands twice", clip(slot.key()))
            }
        }
    }
    let end = cursor.position();
    crate::ensure!(
        end == directory.range.end,
        Format,
        "the zip directory of {} entries ends at byte {end}, expected {}",
        directory.entries,
        directory.range.end
    );
    places.sort_unstable();
    let starts = places.iter().skip(1).map(|place| place.0).chain([directory.range.start]);
    for (place, next) in places.iter().zip(starts) {
        crate::ensure!(
            place.1 <= next,
            Format,
            "zip entries overlap: one takes bytes {} to {}, the next thing begins at {next}",
            place.0,
            place.1
        );
    }
    Ok(entries)
}

struct Directory {
    entries: u64,
    range: Range<u64>,
}

/// The central directory by the records at the end of the file. A comment, behind which anything could
/// hide, is not expected.
fn find_directory(file: &SourceFile) -> Result<Directory> {
    let start = file.len().checked_sub(END_BYTES);
    let mut end = [0; END_BYTES as usize];
    if let Some(start) = start {
        file.read_at(start, &mut end)?;
    }
    let Some(start) = start.filter(|_| end.starts_with(&END)) else {
        crate::bail!(Format, "truncated, or no zip archive: it does not end with a zip directory")
    };
    let mut fields = Fields(&end);
    let _ = fields.take::<4>();
    let disks = [fields.u16(), fields.u16()];
    let here = fields.u16();
    let found = [fields.u16(), fields.u32(), fields.u32()];
    let comment = fields.u16();
    crate::ensure!(
        disks == [0, 0] && here == found[0] && comment == 0,
        Format,
        "the end of the zip directory has disks {disks:?}, {here} of {} entries, a comment of {comment} bytes: \
         expected one disk and no comment",
        found[0]
    );
    let (numbers, records) = match find_directory_64(file, start)? {
        Some((numbers, records)) => {
            let saturated = [ELSEWHERE_16, ELSEWHERE_32, ELSEWHERE_32];
            let agree = found.iter().zip(&numbers).zip(saturated).all(|((a, b), most)| a == b || *a == most);
            crate::ensure!(
                agree,
                Format,
                "the two ends of the zip directory disagree: {found:?}, {numbers:?}"
            );
            (numbers, records)
        }
        None => (found, start),
    };
    let [entries, size, offset] = numbers;
    let what = "the zip directory";
    crate::ensure!(
        checked::add(offset, size, what)? == records,
        Format,
        "{what}: {size} bytes from {offset} on, expected it to end at byte {records}"
    );
    crate::ensure!(
        entries <= limits::ZIP_ENTRIES_MAX && entries <= size / CENTRAL_BYTES,
        Format,
        "{what}: {entries} entries in {size} bytes, expected at most {}",
        limits::ZIP_ENTRIES_MAX.min(size / CENTRAL_BYTES)
    );
    Ok(Directory { entries, range: offset..records })
}

/// Entries, size and offset by the 64-bit records before the end at `end`, and where these begin; `None`
/// where there are none.
fn find_directory_64(file: &SourceFile, end: u64) -> Result<Option<([u64; 3], u64)>> {
    let Some(place) = end.checked_sub(LOCATOR_64_BYTES) else { return Ok(None) };
    let mut locator = [0; LOCATOR_64_BYTES as usize];
    file.read_at(place, &mut locator)?;
    if !locator.starts_with(&LOCATOR_64) {
        return Ok(None);
    }
    let mut fields = Fields(&locator);
    let _ = fields.take::<4>();
    let (disk, start, disks) = (fields.u32(), fields.u64(), fields.u32());
    crate::ensure!(
        disk == 0 && disks <= 1 && start.checked_add(END_64_BYTES) == Some(place),
        Format,
        "the zip locator names byte {start} of disk {disk} of {disks}, expected byte {} of one disk",
        place.saturating_sub(END_64_BYTES)
    );
    let mut record = [0; END_64_BYTES as usize];
    file.read_at(start, &mut record)?;
    let mut fields = Fields(&record);
    let magic = fields.take::<4>();
    let size = fields.u64();
    let _versions = fields.take::<4>();
    let disks = [fields.u32(), fields.u32()];
    let here = fields.u64();
    let numbers = [fields.u64(), fields.u64(), fields.u64()];
    crate::ensure!(
        magic == END_64 && size == END_64_BYTES - 12 && disks == [0, 0] && here == numbers[0],
        Format,
        "the 64-bit end of the zip directory has {size} bytes, disks {disks:?}, {here} of {} entries: expected {} \
         bytes and one disk",
        numbers[0],
        END_64_BYTES - 12
    );
    Ok(Some((numbers, start)))
}

/// What the directory says of an entry.
struct Central {
    flags: u64,
    crc: u32,
    size: u64,
    /// Where its own header begins.
    offset: u64,
}

fn read_central(cursor: &mut Cursor<'_>) -> Result<(String, Central)> {
    let header: [u8; CENTRAL_BYTES as usize] = cursor.array("its part of the directory")?;
    let mut fields = Fields(&header);
    let magic = fields.take::<4>();
    crate::ensure!(magic == CENTRAL, Format, "found {magic:02x?}, expected an entry of the directory");
    let _versions = fields.take::<4>();
    let (flags, method) = (fields.u16(), fields.u16());
    let _changed = fields.take::<4>();
    let crc = fields.u32() as u32;
    let (packed, size) = (fields.u32(), fields.u32());
    let lengths = [fields.u16(), fields.u16(), fields.u16()];
    let disk = fields.u16();
    let _attributes = fields.take::<6>();
    let offset = fields.u32();
    let name = cursor.bytes(lengths[0], "its name")?;
    let extra = cursor.bytes(lengths[1], "its extra fields")?;
    cursor.skip(lengths[2], "its comment")?;
    let name = plain_name(name)?;
    let mut central = Central { flags, crc, size, offset };
    let at = |error: crate::base::error::Error| error.at(clip(&name));
    let packed = central.widen(packed, &extra).map_err(at)?;
    crate::ensure!(
        method == 0 && packed == central.size,
        Unsupported,
        "{}: it is compressed (method {method}, {packed} bytes for {}): expected it to be stored, as torch.save does",
        clip(&name),
        central.size
    );
    crate::ensure!(flags & u64::from(ENCRYPTED) == 0, Unsupported, "{}: it is encrypted", clip(&name));
    crate::ensure!(disk == 0, Format, "{}: it lies on disk {disk}, expected one file", clip(&name));
    Ok((name, central))
}

impl Central {
    /// Takes the numbers that have no room in 32 bits from the extra fields. Gives the packed size.
    fn widen(&mut self, packed: u64, extra: &[u8]) -> Result<u64> {
        let mut wide = find_extra(extra)?;
        let mut packed = packed;
        for number in [&mut self.size, &mut packed, &mut self.offset] {
            if *number == ELSEWHERE_32 {
                let found = wide.as_mut().filter(|fields| fields.0.len() >= 8);
                let found = found.ok_or_else(|| crate::error!(Format, "a 64-bit size is missing"))?;
                *number = found.u64();
            }
        }
        Ok(packed)
    }
}

/// The extra field of 64-bit sizes.
fn find_extra(extra: &[u8]) -> Result<Option<Fields<'_>>> {
    let mut fields = Fields(extra);
    let mut found = None;
    while !fields.0.is_empty() {
        let whole = fields.0.len() >= 4;
        let (number, len) = (fields.u16(), fields.u16() as usize);
        let (Some(body), Some(rest)) = (fields.0.get(..len), fields.0.get(len..)) else {
            crate::bail!(Format, "its extra fields are cut short")
        };
        crate::ensure!(whole, Format, "its extra fields are cut short");
        fields = Fields(rest);
        if number == u64::from(EXTRA_64) {
            crate::ensure!(found.is_none(), Format, "it has two fields of 64-bit sizes");
            found = Some(Fields(body));
        }
    }
    Ok(found)
}

/// A relative path without anything that leads elsewhere.
fn plain_name(name: Vec<u8>) -> Result<String> {
    let name = String::from_utf8(name)
        .map_err(|cause| crate::error!(Format, "its name is not UTF-8: {:?}", clip(&cause.to_string())))?;
    let path = name.strip_suffix('/').unwrap_or(&name);
    let plain = !name.contains(['\\', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    crate::ensure!(plain, Format, "its name is {:?}, expected a plain relative path", clip(&name));
    Ok(name)
}

/// Compares the header before the data with the directory; the bytes of the data.
fn check_local(file: &SourceFile, name: &str, central: &Central) -> Result<Range<u64>> {
    let mut header = [0; LOCAL_BYTES as usize];
    file.read_at(central.offset, &mut header)?;
    let mut fields = Fields(&header);
    let magic = fields.take::<4>();
    crate::ensure!(
        magic == MAGIC,
        Format,
        "found {magic:02x?} at byte {}, expected the entry's header",
        central.offset
    );
    let _version = fields.take::<2>();
    let (flags, method) = (fields.u16(), fields.u16());
    let _changed = fields.take::<4>();
    let crc = fields.u32() as u32;
    let sizes = [fields.u32(), fields.u32()];
    let lengths = [fields.u16(), fields.u16()];
    let start = checked::add(central.offset, LOCAL_BYTES + lengths[0] + lengths[1], "its header")?;
    let end = checked::add(start, central.size, "its data")?;
    crate::ensure!(
        end <= file.len(),
        Format,
        "truncated: its data takes bytes {start} to {end}, the file has {}",
        file.len()
    );
    let names = central.offset + LOCAL_BYTES;
    let called = file.read_range(names..names + lengths[0])?;
    crate::ensure!(
        called == name.as_bytes(),
        Format,
        "its own header calls it {:?}",
        clip(&String::from_utf8_lossy(&called))
    );
    // Own sizes of 64 bits stand in an extra field, as in the directory; those behind the data are given as 0.
    let mut own = Central { flags, crc, size: sizes[1], offset: 0 };
    let mut packed = sizes[0];
    if sizes.contains(&ELSEWHERE_32) {
        let extra = file.read_range(names + lengths[0]..start)?;
        packed = own.widen(packed, &extra)?;
    }
    let behind = flags & u64::from(SIZES_BEHIND) != 0 && (packed, own.size, own.crc) == (0, 0, 0);
    let same = (packed, own.size, own.crc) == (central.size, central.size, central.crc);
    crate::ensure!(
        flags == central.flags && method == 0 && (same || behind),
        Format,
        "its own header and the directory disagree: flags {flags:#x} and {:#x}, method {method} and 0, {} bytes and \
         {}, or their checksums",
        central.flags,
        own.size,
        central.size
    );
    Ok(start..end)
}

/// Little-endian numbers one after the other; zeros behind the end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let len = N.min(self.0.len());
        let (now, rest) = self.0.split_at(len);
        out[..len].copy_from_slice(now);
        self.0 = rest;
        out
    }

    fn u16(&mut self) -> u64 {
        u16::from_le_bytes(self.take()).into()
    }

    fn u32(&mut self) -> u64 {
        u32::from_le_bytes(self.take()).into()
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
