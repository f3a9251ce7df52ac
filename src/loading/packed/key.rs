//! Which files a packed cache was made from.

use xxhash_rust::xxh3::Xxh3;

/// Bytes at each end of a source file that are part of its identity. All of them would have to be read before the
/// first token; the time of the last change stands for the rest.
const SAMPLE_BYTES: usize = 1 << 20;

/// The identity of all source files together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceKey {
    /// Names, sizes, and the contents of both ends: it names the cache file, so that models live side by side and a
    /// source that was merely touched replaces its own.
    pub contents: u64,
    /// The same with the times of the last change: what must agree.
    pub whole: u128,
}

impl SourceKey {
    /// The key of files in their order: name, time of the last change in ns since 1970, bytes.
    pub fn of<'a>(files: impl Iterator<Item = (&'a str, i64, &'a [u8])>) -> SourceKey {
        let (mut contents, mut whole) = (Xxh3::new(), Xxh3::new());
        for (name, modified_ns, bytes) in files {
            let sample = bytes.len().min(SAMPLE_BYTES);
            let (head, tail) = (bytes.split_at(sample).0, bytes.split_at(bytes.len() - sample).1);
            for hash in [&mut contents, &mut whole] {
                hash.update(&(name.len() as u64).to_le_bytes());
                hash.update(name.as_bytes());
                hash.update(&(bytes.len() as u64).to_le_bytes());
                hash.update(head);
                hash.update(tail);
            }
            whole.update(&modified_ns.to_le_bytes());
        }
        SourceKey { contents: contents.digest(), whole: whole.digest128() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_a_touched_file_keeps_its_name() {
        let bytes = vec![7u8; 3 << 20];
        let key = |name: &str, time: i64, bytes: &[u8]| SourceKey::of([(name, time, bytes)].into_iter());
        let first = key("a", 1, &bytes);
        assert_eq!(first, key("a", 1, &bytes));
        let touched = key("a", 2, &bytes);
        assert!(touched.contents == first.contents && touched.whole != first.whole);
        for at in [0, (1 << 20) - 1, 2 << 20, (3 << 20) - 1] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(key("a", 1, &other).contents, first.contents, "byte {at}");
        }
        assert_ne!(key("b", 1, &bytes).contents, first.contents);
        assert_ne!(key("a", 1, &bytes[1..]).contents, first.contents);
        let _ = key("empty", 0, &[]);
    }
}
