//! Text as it leaves: whole code points, and no part of a stop string, whatever the tokens.

use crate::data::directory;
use aquila::text::{EncodeOptions, StopMatcher, TextStream, Tokenizer};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

fn aquila() -> Option<Tokenizer> {
    Some(Tokenizer::open(&directory("aquila-tokenizer")?).unwrap())
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// What leaves after each token, and what is left at the end.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::default();
    let mut pieces = Vec::new();
    for &id in ids {
        let mut piece = String::new();
        stream.push(tokenizer.token_bytes(id), &mut piece);
        assert!(stream.held() <= 3, "{ids:?}");
        pieces.push(piece);
    }
    let mut rest = String::new();
    stream.finish(&mut rest);
    pieces.push(rest);
    pieces
}

/// Each token alone stands in `tokens.rs`; here a million pairs and triples of them.
#[test]
fn a_million_pairs_and_triples_stream_as_they_decode() {
    let Some(tokenizer) = aquila() else { return };
    let mut random = Random(1);
    for number in 0..1_000_000 {
        let mut id = || random.below(tokenizer.vocab()) as u32;
        let three = [id(), id(), id()];
        let ids = &three[..2 + number % 2];
        assert_eq!(pieces(&tokenizer, ids).concat(), tokenizer.decode(ids, true), "{ids:?}");
    }
}

/// A character of four bytes, in every way in which tokens can cut it: it leaves with its last byte, and
/// nothing of it before.
#[test]
fn every_split_of_a_character_holds_it_back_until_it_is_whole() {
    let Some(tokenizer) = aquila() else { return };
    let by_bytes: std::collections::HashMap<&[u8], u32> =
        (0..100_000).map(|id| (tokenizer.token_bytes(id), id)).collect();
    let mut compared = 0;
    for c in ["🦅", "👩", "𠮷", "𝄞", "中", "é", "\u{10FFFF}", "\u{800}"] {
        let bytes = c.as_bytes();
        // Bit i: a cut before byte i + 1.
        for cuts in 0..1u32 << (bytes.len() - 1) {
            let mut parts = vec![vec![bytes[0]]];
            for (at, &byte) in bytes.iter().enumerate().skip(1) {
                match cuts >> (at - 1) & 1 {
                    1 => parts.push(vec![byte]),
                    _ => parts.last_mut().unwrap().push(byte),
                }
            }
            let ids: Option<Vec<u32>> =
                parts.iter().map(|part| by_bytes.get(part.as_slice()).copied()).collect();
            let Some(ids) = ids else { continue };
            // Twice, with a letter between.
            let twice = [&ids[..], &[tokenizer.token_id("a").unwrap()], &ids].concat();
            let left = pieces(&tokenizer, &twice);
            for (at, piece) in left.iter().enumerate() {
                let expected = match at {
                    at if at == ids.len() - 1 || at == 2 * ids.len() => c,
                    at if at == ids.len() => "a",
                    _ => "",
                };
                assert_eq!(piece, expected, "{c} cut into {parts:?}, piece {at}");
            }
            compared += 1;
        }
    }
    // The split into single bytes is there for each.
    assert!(compared >= 12, "{compared}");
}

/// Texts in random tokens, with stop strings cut out of them: what leaves is the text before the first that
/// is complete, and at no time more.
#[test]
fn stop_strings_across_the_borders_of_real_tokens() {
    let Some(tokenizer) = aquila() else { return };
    let mut random = Random(2);
    let texts = [
        "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。###Human: 你好</s>",
        "The eagle 🦅🦅 landed.\n\n### Human: next?</s>\r\n中文🙂混排 ab ab abc ###",
        "aaaaaaaaaaaabaaaaaaaaaab<|endofpiece|><|endofp",
        "👩‍👩‍👧‍👦 é e\u{301} 가각 \u{10FFFF} \u{0}x",
    ];
    let mut stopped_at = 0;
    for round in 0..20_000 {
        let text = texts[round % texts.len()];
        let ids = random_tokens(&tokenizer, text, &mut random);
        let chars: Vec<char> = text.chars().collect();
        let stops: Vec<String> = (0..1 + random.below(3))
            .map(|_| {
                let start = random.below(chars.len());
                let length = 1 + random.below((chars.len() - start).min(9));
                chars[start..start + length].iter().collect()
            })
            .collect();
        let keep = random.below(2) == 1;
        let (expected, stops_there) = first_stop(text, &stops, keep);
        let (mut matcher, mut out, mut stopped) = (StopMatcher::new(stops.clone()), String::new(), false);
        for piece in pieces(&tokenizer, &ids) {
            stopped |= matcher.push(&piece, keep, &mut out);
            assert!(expected.starts_with(&out), "{text:?} {stops:?}: {out:?} leaked");
        }
        matcher.finish(&mut out);
        assert_eq!((out.as_str(), stopped), (expected.as_str(), stops_there), "{text:?} {stops:?}");
        stopped_at += usize::from(stopped);
    }
    assert!(stopped_at > 19_000, "{stopped_at}");
}

/// Tokens that spell `text`: at each place any of those that fit, also across code points.
fn random_tokens(tokenizer: &Tokenizer, text: &str, random: &mut Random) -> Vec<u32> {
    let bytes = text.as_bytes();
    let (mut ids, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        // A byte by its own token, or what the tokenizer takes for the text up to some place.
        let end = (at + 1 + random.below(12)).min(bytes.len());
        match std::str::from_utf8(&bytes[at..end]) {
            Ok(part) if random.below(3) > 0 => {
                ids.extend(tokenizer.encode(part, PLAIN).unwrap());
                at = end;
            }
            _ => {
                ids.extend((1..=256).find(|&id| tokenizer.token_bytes(id) == &bytes[at..=at]));
                at += 1;
            }
        }
    }
    assert_eq!(tokenizer.decode(&ids, true), text);
    ids
}

/// The rule in its plainest form: the stop string that is complete first, the longest of several.
fn first_stop(text: &str, stops: &[String], keep: bool) -> (String, bool) {
    for end in (1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let ending = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(String::len).max();
        if let Some(length) = ending {
            return (text[..if keep { end } else { end - length }].to_string(), true);
        }
    }
    (text.to_string(), false)
}
