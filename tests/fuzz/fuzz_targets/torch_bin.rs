//! torch's files: what is accepted lies inside the file, and can be taken out of it. The input is taken as a file, as a
//! pickle in the older form, and as the pickle and the storage of an archive.
#![no_main]

use aquila::loading::tensor::{StoredType, TensorTable};
use aquila::loading::{file::SourceFile, torch_bin};
use libfuzzer_sys::fuzz_target;

/// Magic number and version of the older form, and a machine without facts.
const HEAD: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
/// The key "0" of its one storage.
const KEYS: &[u8] = b"\x80\x02]X\x01\0\0\0000a.";

/// An archive of stored entries without checksums.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = out.len() as u32;
        let len = (data.len() as u32).to_le_bytes();
        let middle = [&[0; 14][..], &len, &len, &[name.len() as u8, 0, 0, 0]].concat();
        out.extend([b"PK\x03\x04", &middle[2..], name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02", &middle[..], &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let start = (out.len() as u32).to_le_bytes();
    let (count, size) = (entries.len() as u8, (directory.len() as u32).to_le_bytes());
    out.extend([&directory[..], b"PK\x05\x06\0\0\0\0", &[count, 0, count, 0], &size, &start, &[0, 0]].concat());
    out
}

fuzz_target!(|bytes: &[u8]| {
    let (pickle, storage) = bytes.split_at(bytes.len() - bytes.len() / 4);
    let elements = (storage.len() as u64 / 4).to_le_bytes();
    let legacy = [HEAD, pickle, KEYS, &elements, storage].concat();
    let archive = zip(&[("a/data.pkl", pickle), ("a/data/0", storage)]);
    for input in [bytes.to_vec(), legacy, archive] {
        let len = input.len() as u64;
        let file = SourceFile::from_bytes("input", input);
        let Ok(found) = torch_bin::read(&file) else { continue };
        assert!(found.tensors.iter().all(|(_, t)| t.range.start <= t.range.end && t.range.end <= len));
        let Ok(table) = TensorTable::new(vec![(file, found.tensors)], false) else { continue };
        for name in table.names() {
            let tensor = table.get(name).expect("it was named");
            let elements = tensor.shape.iter().product::<usize>();
            if let (StoredType::Known(dtype), Ok(bytes)) = (tensor.dtype, table.bytes(name)) {
                assert_eq!(bytes.len(), elements * dtype.block_bytes());
            }
        }
    }
});
