//! Texts that are hard on a tokenizer: a million times one character, on a small stack; every code point;
//! random text against the whole pipeline of the `tokenizers` crate.

use crate::data::{alphabet, directory, small_json};
use aquila::text::{EncodeOptions, Tokenizer};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// Characters of twenty kinds.
const KINDS: [char; 20] = [
    'a', 'A', ' ', '\n', '\t', '\r', '0', '!', '\'', '<', '_', '\0', 'é', '中', 'あ', '가', 'а', '\u{301}',
    '\u{3000}', '🙂',
];

/// The time for one MiB of each kind, in the given tokenizer, and that nothing is lost.
fn megabytes(tokenizer: &Tokenizer, limit: Duration) {
    for c in KINDS {
        let text: String = std::iter::repeat_n(c, (1 << 20) / c.len_utf8()).collect();
        let start = Instant::now();
        let ids = tokenizer.encode(&text, PLAIN).unwrap();
        let took = start.elapsed();
        println!("1 MiB of {c:?}: {} ids in {took:?}", ids.len());
        assert!(took < limit, "{c:?}: {took:?}");
        assert_eq!(tokenizer.decode(&ids, true), text);
    }
}

fn on_small_stack(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(128 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_megabyte_of_one_character() {
    let small = Tokenizer::from_json("t", small_json().to_string().as_bytes(), &[]).unwrap();
    on_small_stack(move || megabytes(&small, Duration::from_secs(20)));
    let Some(dir) = directory("aquila-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&dir).unwrap();
    on_small_stack(move || megabytes(&tokenizer, Duration::from_secs(20)));
}

#[test]
fn every_code_point_comes_back() {
    let tokenizer = Tokenizer::from_json("t", small_json().to_string().as_bytes(), &[]).unwrap();
    let all: String = (char::MIN..=char::MAX).collect();
    assert_eq!(tokenizer.decode(&tokenizer.encode(&all, PLAIN).unwrap(), true), all);
}

/// The crate's own tokenizer for the small file (its added tokens are not normalised there).
fn reference() -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(small_json().to_string()).unwrap()
}

#[test]
fn the_small_file_spells_bytes_as_the_crate_does() {
    let crate_alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    assert!(alphabet().iter().all(|c| crate_alphabet.contains(&c.chars().next().unwrap())));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn equals_the_whole_pipeline_of_the_crate(parts in prop::collection::vec(prop_oneof![
        any::<String>(),
        prop::sample::select(vec!["hello", " hello", "</s>", "<s>", "<user>", "aaaaaaa", " \n\n ", "'s", "中", "</", "s>"])
            .prop_map(String::from),
    ], 0..8), add_special: bool) {
        thread_local! {
            static BOTH: (Tokenizer, tokenizers::Tokenizer) =
                (Tokenizer::from_json("t", small_json().to_string().as_bytes(), &[]).unwrap(), reference());
        }
        let text = parts.concat();
        BOTH.with(|(ours, theirs)| {
            let options = EncodeOptions { add_special, parse_special: true };
            let expected = theirs.encode(text.as_str(), add_special).unwrap();
            prop_assert_eq!(ours.encode(&text, options).unwrap(), expected.get_ids());
            prop_assert_eq!(ours.decode(expected.get_ids(), false), theirs.decode(expected.get_ids(), true).unwrap());
            Ok(())
        })?;
    }
}
