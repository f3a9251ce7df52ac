//! A packed cache's header and table: what is accepted lies inside the file, in order and without overlap.
#![no_main]

use aquila::loading::{file::SourceFile, packed::Contents};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|bytes: &[u8]| {
    // No random bytes have the right checksums, so they are set right in a second input.
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 128 {
        let count = u32::from_le_bytes([sealed[48], sealed[49], sealed[50], sealed[51]]) as usize;
        let table = xxh3_64(sealed.get(128..128 + count.saturating_mul(64)).unwrap_or_default());
        let len = sealed.len() as u64;
        sealed[..8].copy_from_slice(b"AQUILAPK");
        sealed[8..12].copy_from_slice(&1u32.to_le_bytes());
        sealed[12..16].copy_from_slice(&0x0102_0304u32.to_ne_bytes());
        sealed[56..64].copy_from_slice(&len.to_le_bytes());
        sealed[64..72].copy_from_slice(&table.to_le_bytes());
        let header = xxh3_64(&sealed[..120]);
        sealed[120..128].copy_from_slice(&header.to_le_bytes());
    }
    for input in [bytes.to_vec(), sealed] {
        let len = input.len() as u64;
        if let Ok(contents) = Contents::read(&SourceFile::from_bytes("input", input)) {
            let mut end = 0;
            for entry in contents.entries {
                assert!(entry.range.start % 64 == 0 && entry.range.start >= end);
                assert!(entry.range.start <= entry.range.end && entry.range.end <= len);
                end = entry.range.end;
            }
        }
    }
});
