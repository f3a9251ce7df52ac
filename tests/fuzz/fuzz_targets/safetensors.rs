//! A safetensors header: what is accepted lies inside the file.
#![no_main]

use aquila::loading::{file::SourceFile, safetensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Random bytes seldom hold a length that fits, so the input is taken as header and data.
    let (header, data) = bytes.split_at(bytes.len() - bytes.len() / 4);
    let framed = [&(header.len() as u64).to_le_bytes()[..], header, data].concat();
    for input in [bytes.to_vec(), framed] {
        let len = input.len() as u64;
        if let Ok(named) = safetensors::read(&SourceFile::from_bytes("input", input)) {
            let end = named.iter().map(|(_, tensor)| tensor.range.end).max();
            assert!(end.is_none_or(|end| end == len));
        }
    }
});
