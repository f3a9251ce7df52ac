use super::*;
use crate::Status;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

fn identity() -> Identity {
    Identity {
        model: 7,
        arithmetic: "f16 weights".into(),
        block_form: "cpu-1 f16".into(),
        block_tokens: 4,
        block_bytes: 24,
    }
}

fn written(tokens: &[u32], blocks: usize) -> Vec<u8> {
    // Another one each time: tests run beside each other.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("aquila-session-file-{}-{number}", std::process::id()));
    let mut writer = SessionWriter::create(&path, &identity(), tokens).unwrap();
    let content: Vec<u8> = (0..blocks * 24).map(|i| i as u8).collect();
    let (first, rest) = content.split_at(content.len() / 48 * 24);
    writer.add(first).unwrap();
    writer.add(rest).unwrap();
    assert_eq!(writer.blocks(), blocks);
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

/// Everything that a restore reads.
fn read(bytes: Vec<u8>, wanted: &Identity, vocab: u32, context: u32) -> Result<(Vec<u32>, Vec<u8>)> {
    let file = SessionFile::read_from(SourceFile::from_bytes("s", bytes), wanted, vocab, context)?;
    file.verify()?;
    let content = file.read(0, file.blocks())?;
    Ok((file.tokens().to_vec(), content))
}

#[test]
fn what_was_written_is_read() {
    for (tokens, blocks) in [(vec![], 0), (vec![5], 0), ((0..11).collect(), 2), ((0..12).collect(), 3)] {
        let (found, content) = read(written(&tokens, blocks), &identity(), 100, 100).unwrap();
        assert_eq!(found, tokens);
        assert_eq!(content, (0..blocks * 24).map(|i| i as u8).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_is_cut_or_longer_or_has_another_byte_is_refused() {
    let whole = written(&(0..11).collect::<Vec<_>>(), 2);
    let refused = |bytes: Vec<u8>, what: &str| {
        let error = read(bytes, &identity(), 100, 100).unwrap_err();
        assert_eq!(error.status, Status::Format, "{what}: {}", error.message);
        assert!(error.message.starts_with("s: "), "{}", error.message);
    };
    for length in 0..whole.len() {
        refused(whole[..length].to_vec(), &format!("{length} bytes"));
    }
    refused([&whole[..], &[0]].concat(), "a byte more");
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut other = whole.clone();
            other[at] ^= bit;
            refused(other, &format!("byte {at}"));
        }
    }
}

#[test]
fn a_file_of_something_else_is_refused_by_name() {
    let whole = written(&(0..11).collect::<Vec<_>>(), 2);
    let with = |change: fn(&mut Identity)| {
        let mut wanted = identity();
        change(&mut wanted);
        let error = read(whole.clone(), &wanted, 100, 100).unwrap_err();
        assert_eq!(error.status, Status::Format);
        error.message
    };
    assert!(with(|w| w.model = 8).contains("another model: fingerprint 0000000000000007"));
    assert!(with(|w| w.arithmetic = "q4".into()).contains("computed with \"f16 weights\""));
    assert!(
        with(|w| w.block_form = "npu".into()).contains("KV cache \"cpu-1 f16\", this engine has \"npu\"")
    );
    assert!(with(|w| w.block_tokens = 16).contains("KV blocks of 4 tokens"));
    assert!(with(|w| w.block_bytes = 48).contains("24 bytes"));
    let error = read(whole.clone(), &identity(), 10, 100).unwrap_err();
    assert_eq!((error.status, error.message.contains("ids of 10")), (Status::Format, true));
    let error = read(whole.clone(), &identity(), 100, 10).unwrap_err();
    assert_eq!((error.status, error.message.contains("11 tokens")), (Status::ContextFull, true));
    assert!(read(whole, &identity(), 11, 11).is_ok());
}

proptest! {
    /// Whatever the bytes are: an error, or what was written.
    #[test]
    fn no_bytes_do_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), real: bool, keep in 0usize..64) {
        if real {
            let head = written(&[1, 2, 3, 4], 1);
            let keep = keep.min(bytes.len());
            bytes[..keep].copy_from_slice(&head[..keep]);
        }
        let _ = read(bytes, &identity(), 100, 100);
    }
}
