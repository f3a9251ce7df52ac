//! A GGUF file: header, metadata accessors, hyperparameters.
#![no_main]

use aquila::loading::{file::SourceFile, gguf};
use aquila::model::gguf_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let framed = [b"GGUF\x03\0\0\0", bytes].concat();
    for input in [bytes.to_vec(), framed] {
        let len = input.len() as u64;
        let Ok((gguf, named)) = gguf::read(&SourceFile::from_bytes("input", input)) else { continue };
        assert!(named.iter().all(|(_, t)| t.range.start <= t.range.end && t.range.end <= len));
        for key in gguf.keys() {
            let _ = (gguf.uint(key), gguf.float(key), gguf.boolean(key), gguf.string(key));
            let _ = (gguf.integers(key), gguf.floats(key));
            if let Ok(Some(strings)) = gguf.strings(key) {
                assert_eq!(strings.iter().count(), strings.len());
            }
        }
        let _ = gguf_config::read(&gguf, Some(16));
    }
});
