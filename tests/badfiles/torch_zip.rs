//! Zip archives that are damaged, or that two readers could understand differently.

use super::{refused, small};
use crate::support::TempDir;
use crate::support::torch::{TorchForm, TorchWriter, crc32, zip};
use aquila::Status;
use aquila::model::Checkpoint;

/// A good archive.
fn entries() -> Vec<(String, Vec<u8>)> {
    TorchWriter::of(TorchForm::Zip, &small().tensors(), small().dtype).entries()
}

fn written(bytes: &[u8]) -> TempDir {
    let dir = TempDir::new();
    small().write_around(dir.path());
    std::fs::write(dir.join("pytorch_model.bin"), bytes).unwrap();
    dir
}

fn refused_bytes(bytes: &[u8], status: Status, parts: &[&str]) {
    refused(written(bytes).path(), status, &[&["pytorch_model.bin: "], parts].concat());
}

fn refused_entries(change: impl FnOnce(&mut Vec<(String, Vec<u8>)>), status: Status, parts: &[&str]) {
    let mut entries = entries();
    change(&mut entries);
    refused_bytes(&zip(&entries), status, parts);
}

/// Where the signature of kind `kind` stands for the `nth` time.
fn find(bytes: &[u8], kind: &[u8; 2], nth: usize) -> usize {
    let signature = [b'P', b'K', kind[0], kind[1]];
    bytes.windows(4).enumerate().filter(|(_, window)| *window == signature).nth(nth).expect("a record").0
}

const LOCAL: &[u8; 2] = b"\x03\x04";
const CENTRAL: &[u8; 2] = b"\x01\x02";
const END: &[u8; 2] = b"\x05\x06";
const END_64: &[u8; 2] = b"\x06\x06";
const LOCATOR: &[u8; 2] = b"\x06\x07";

/// The good archive with `new` at byte `at` of these records.
fn patched(places: &[(&[u8; 2], usize, usize)], new: &[u8]) -> Vec<u8> {
    let mut bytes = zip(&entries());
    for &(kind, nth, at) in places {
        let place = find(&bytes, kind, nth) + at;
        bytes[place..place + new.len()].copy_from_slice(new);
    }
    bytes
}

fn refused_patch(places: &[(&[u8; 2], usize, usize)], new: &[u8], status: Status, parts: &[&str]) {
    refused_bytes(&patched(places, new), status, parts);
}

#[test]
fn compressed_and_encrypted_entries() {
    let both = |central, local| [(CENTRAL, 2, central), (LOCAL, 2, local)];
    for method in [8u8, 9, 12, 14, 93, 99] {
        let told = ["archive/data/0", "compressed (method ", "expected it to be stored"];
        refused_patch(&both(10, 8), &[method, 0], Status::Unsupported, &told);
        refused_patch(&[(LOCAL, 2, 8)], &[method, 0], Status::Format, &["disagree"]);
    }
    // Stored, it says, and a thousand times as large as what it takes.
    refused_patch(&[(CENTRAL, 2, 24)], &512_000u32.to_le_bytes(), Status::Unsupported, &["compressed"]);
    for flags in [1u8, 0x40] {
        refused_patch(&both(8, 6), &[flags], Status::Unsupported, &["archive/data/0", "encrypted"]);
        refused_patch(&[(LOCAL, 2, 6)], &[flags], Status::Format, &["disagree"]);
    }
}

#[test]
fn sizes_names_and_checksums_that_disagree() {
    let size = 511u32.to_le_bytes();
    refused_patch(
        &[(CENTRAL, 2, 20), (CENTRAL, 2, 24)],
        &size,
        Status::Format,
        &["archive/data/0", "disagree"],
    );
    refused_patch(&[(LOCAL, 2, 18)], &size, Status::Format, &["archive/data/0", "disagree"]);
    refused_patch(&[(LOCAL, 2, 22)], &size, Status::Format, &["archive/data/0", "disagree"]);
    refused_patch(&[(LOCAL, 2, 14)], &size, Status::Format, &["archive/data/0", "disagree"]);
    // All places agree on a size that is not the storage's.
    let sizes = [(CENTRAL, 2, 20), (CENTRAL, 2, 24), (LOCAL, 2, 18), (LOCAL, 2, 22)];
    refused_patch(
        &sizes,
        &508u32.to_le_bytes(),
        Status::Format,
        &["storage \"0\": expected 512 bytes", "found 508"],
    );
    refused_patch(&sizes, &1024u32.to_le_bytes(), Status::Format, &["overlap"]);
    refused_patch(&sizes, &0x7fff_ffffu32.to_le_bytes(), Status::Format, &["truncated", "archive/data/0"]);
    refused_patch(&sizes, &u32::MAX.to_le_bytes(), Status::Format, &["a 64-bit size is missing"]);
    refused_patch(&[(LOCAL, 2, 30)], b"B", Status::Format, &["its own header calls it \"Brchive/data/0\""]);
    refused_patch(
        &[(CENTRAL, 0, 16), (LOCAL, 0, 14)],
        &size,
        Status::Format,
        &["data.pkl: damaged", "000001ff"],
    );
    let damaged = {
        let mut bytes = zip(&entries());
        let at = bytes.windows(5).position(|window| window == b"torch").unwrap();
        bytes[at] ^= 1;
        bytes
    };
    refused_bytes(&damaged, Status::Format, &["data.pkl: damaged"]);
}

#[test]
fn entries_over_one_another_and_elsewhere() {
    let first = find(&zip(&entries()), LOCAL, 2) as u32;
    refused_patch(&[(CENTRAL, 3, 42)], &first.to_le_bytes(), Status::Format, &["its own header calls it"]);
    refused_patch(
        &[(CENTRAL, 2, 42)],
        &(first + 1).to_le_bytes(),
        Status::Format,
        &["expected the entry's header"],
    );
    refused_patch(&[(CENTRAL, 2, 42)], &0x7fff_ffffu32.to_le_bytes(), Status::Format, &["truncated"]);
    refused_patch(
        &[(CENTRAL, 2, 42)],
        &u32::MAX.to_le_bytes(),
        Status::Format,
        &["a 64-bit size is missing"],
    );
    refused_patch(&[(CENTRAL, 2, 34)], &[1], Status::Format, &["it lies on disk 1"]);
}

#[test]
fn names_that_lead_elsewhere_or_stand_twice() {
    for name in
        ["/etc/passwd", "archive/../data.pkl", "..", "archive//data/0", "archive/./x", "a\\b", "a\0b", ""]
    {
        let told = format!("its name is {name:?}, expected a plain relative path");
        refused_entries(|e| e.push((name.into(), vec![1])), Status::Format, &[&told]);
    }
    refused_entries(|e| e.push(e[2].clone()), Status::Format, &["archive/data/0", "stands twice"]);
    refused_entries(
        |e| e.push(("archive/more/".into(), vec![1])),
        Status::Format,
        &["a directory with data"],
    );
    refused_entries(
        |e| e.push(("other/data.pkl".into(), b"\x80\x02}.".into())),
        Status::Format,
        &["two pickles"],
    );
    let mut good = entries();
    good.insert(0, ("archive/".into(), Vec::new()));
    good.push(("__MACOSX/x".into(), vec![1, 2]));
    good.push(("archive/data/data.pkl".into(), vec![]));
    Checkpoint::open(written(&zip(&good)).path(), false).expect("entries that mean nothing here");
    let told = "its name is not UTF-8";
    refused_patch(&[(CENTRAL, 2, 46), (LOCAL, 2, 30)], b"\xff", Status::Format, &[told]);
}

#[test]
fn the_end_of_the_directory() {
    let good = zip(&entries());
    refused_bytes(&good[..good.len() - 1], Status::Format, &["does not end with a zip directory"]);
    refused_bytes(&[&good[..], b"x"].concat(), Status::Format, &["does not end with a zip directory"]);
    refused_bytes(&[&b"PK\x03\x04"[..], &good].concat(), Status::Format, &["locator"]);
    refused_bytes(b"PK\x03\x04", Status::Format, &["does not end with a zip directory"]);
    for (at, new, told) in [
        (4, 1u16, "disks [1, 0]"),
        (8, 3, "3 of"),
        (20, 1, "a comment of 1 bytes"),
        (12, 7, "disagree"),
        (16, 7, "disagree"),
    ] {
        refused_patch(&[(END, 0, at)], &new.to_le_bytes(), Status::Format, &[told]);
    }
    for (kind, at, new, told) in [
        (LOCATOR, 4, 1u64, "locator"),
        (LOCATOR, 8, 7, "locator"),
        (LOCATOR, 8, u64::MAX, "locator"),
        (END_64, 4, 45, "64-bit end"),
        (END_64, 16, 1, "64-bit end"),
        (END_64, 32, 1, "64-bit end"),
        (END_64, 40, 7, "disagree"),
        (END_64, 48, u64::MAX, "disagree"),
    ] {
        refused_patch(&[(kind, 0, at)], &new.to_le_bytes(), Status::Format, &[told]);
    }
    // Both ends agree on a wrong number, in 64 bits alone where the short fields are full.
    let with = |entries: u64, size: u64, start: u64| {
        let mut bytes = patched(&[(END, 0, 8)], &[0xff; 12]);
        let place = find(&bytes, END_64, 0);
        for (at, number) in [(24, entries), (32, entries), (40, size), (48, start)] {
            bytes[place + at..place + at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    };
    let (count, start) = (entries().len() as u64, find(&good, CENTRAL, 0) as u64);
    let size = find(&good, END_64, 0) as u64 - start;
    Checkpoint::open(written(&with(count, size, start)).path(), false).expect("numbers of 64 bits");
    for (bytes, told) in [
        (with(count + 1, size, start), "expected an entry of the directory"),
        (with(count - 1, size, start), "expected"),
        (with(u64::MAX, size, start), "entries in"),
        (with(1 << 40, size, start), "entries in"),
        (with(count, size + 1, start), "expected it to end at"),
        (with(count, size - 1, start + 1), "expected an entry of the directory"),
        (with(count, u64::MAX, 2), "overflows"),
        (with(0, 0, start + size), "without data.pkl"),
    ] {
        refused_bytes(&bytes, Status::Format, &[told]);
    }
}

#[test]
fn archives_of_another_kind() {
    refused_entries(|e| drop(e.remove(0)), Status::Format, &["without data.pkl"]);
    refused_entries(|e| e[1].1 = b"big".into(), Status::Unsupported, &["byte order \"big\"", "little"]);
    refused_entries(|e| e[1].1 = b"".into(), Status::Unsupported, &["byte order \"\""]);
    refused_entries(|e| e[1].1 = vec![b'l'; 100_000], Status::Unsupported, &["byte order"]);
    refused_entries(
        |e| drop(e.remove(2)),
        Status::Format,
        &["tensor model.embed_tokens.weight", "no entry data/0"],
    );
    let script = |e: &mut Vec<_>| e.push(("archive/constants.pkl".into(), vec![1]));
    refused_entries(script, Status::Unsupported, &["TorchScript"]);
    let mut old = entries();
    old.remove(1);
    Checkpoint::open(written(&zip(&old)).path(), false).expect("before torch 2 there was no byte order");
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}
