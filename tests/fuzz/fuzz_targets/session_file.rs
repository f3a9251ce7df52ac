//! A saved session: what is accepted lies inside the file, and is what an engine of that identity can take.
#![no_main]

use aquila::loading::file::SourceFile;
use aquila::loading::session_file::{Identity, SessionFile};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const BLOCK: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let wanted = Identity {
        model: 7,
        arithmetic: String::new(),
        block_form: String::new(),
        block_tokens: 4,
        block_bytes: BLOCK,
    };
    // No random bytes have the right checksums, so they are set right in a second input.
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 64 {
        sealed[..8].copy_from_slice(b"AQUILA\x1aS");
        sealed[8..12].copy_from_slice(&1u32.to_le_bytes());
        sealed[12..16].copy_from_slice(&4u32.to_le_bytes());
        sealed[16..24].copy_from_slice(&(BLOCK as u64).to_le_bytes());
        sealed[24..32].copy_from_slice(&7u64.to_le_bytes());
        sealed[48..56].fill(0);
        let tokens = usize::from(sealed[32]);
        let front = 64 + 4 * tokens;
        for block in sealed.get_mut(front..).unwrap_or_default().chunks_exact_mut(8 + BLOCK) {
            let sum = xxh3_64(&block[8..]).to_le_bytes();
            block[..8].copy_from_slice(&sum);
        }
        let mut hash = Xxh3::new();
        hash.update(&sealed[..56]);
        hash.update(sealed.get(64..front).unwrap_or_default());
        sealed[56..64].copy_from_slice(&hash.digest().to_le_bytes());
    }
    for input in [bytes.to_vec(), sealed] {
        let len = input.len();
        let Ok(file) = SessionFile::read_from(SourceFile::from_bytes("input", input), &wanted, 1000, 100) else {
            continue;
        };
        assert!(file.tokens().len() <= 100 && file.tokens().iter().all(|&id| id < 1000));
        assert!(file.blocks() * 4 <= file.tokens().len());
        assert_eq!(len, 64 + 4 * file.tokens().len() + file.blocks() * (8 + BLOCK));
        if file.verify().is_ok() {
            assert_eq!(file.read(0, usize::MAX).unwrap().len(), file.blocks() * BLOCK);
        }
    }
});
