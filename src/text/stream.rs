//! The streaming decoder: tokens in, whole UTF-8 code points out. At most 3 bytes are held back.

/// Bytes of tokens become text as soon as they form whole characters. All pieces together are what
/// `String::from_utf8_lossy` (and so Hugging Face's decoder) makes of all bytes at once.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character.
    held: [u8; 4],
    count: usize,
}

impl TextStream {
    /// Adds a token's bytes and appends what has become whole to `text`. Bytes that can form no
    /// character become U+FFFD, one for each longest beginning of a character, as Hugging Face (and
    /// the Unicode standard) has it.
    pub fn push(&mut self, mut bytes: &[u8], text: &mut String) {
        // Finish the held character byte by byte; it ends within four.
        while self.count > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return };
            let mut longer = self.held;
            longer[self.count] = byte;
            match std::str::from_utf8(&longer[..=self.count]) {
                Ok(character) => {
                    text.push_str(character);
                    self.count = 0;
                    bytes = rest;
                }
                Err(error) if error.error_len().is_none() => {
                    self.held = longer;
                    self.count += 1;
                    bytes = rest;
                }
                Err(_) => {
                    // The held bytes were no beginning after all; this byte may start anew.
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.count = 0;
                }
            }
        }
        while !bytes.is_empty() {
            let Err(error) = std::str::from_utf8(bytes) else {
                // Valid to the end.
                text.extend(std::str::from_utf8(bytes));
                return;
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            text.extend(std::str::from_utf8(valid));
            match error.error_len() {
                Some(length) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    bytes = rest.get(length..).unwrap_or(&[]);
                }
                None => {
                    self.count = rest.len().min(3);
                    self.held[..self.count].copy_from_slice(&rest[..self.count]);
                    return;
                }
            }
        }
    }

    /// Appends what is left at the end: U+FFFD for an unfinished character.
    pub fn finish(&mut self, text: &mut String) {
        if self.count > 0 {
            text.push(char::REPLACEMENT_CHARACTER);
            self.count = 0;
        }
    }

    /// Bytes held back: 0 to 3.
    pub fn held(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(pieces: &[&[u8]]) -> String {
        let (mut stream, mut text) = (TextStream::default(), String::new());
        for piece in pieces {
            stream.push(piece, &mut text);
            assert!(stream.held() <= 3);
        }
        stream.finish(&mut text);
        text
    }

    /// Bytes that often are nearly UTF-8.
    fn near_text() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            b"a".to_vec(),
            "中".into(),
            "🙂".into(),
            "é".into(),
            vec![0xE4],
            vec![0xE4, 0xB8],
            vec![0xF0, 0x9F],
            vec![0xF0, 0x9F, 0x99],
            vec![0x80],
            vec![0xC0, 0x80],
            vec![0xED, 0xA0, 0x80],
            vec![0xF4, 0x90],
            vec![0xFF],
        ]);
        prop_oneof![prop::collection::vec(pieces, 0..10).prop_map(|v| v.concat()), any::<Vec<u8>>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]
        #[test]
        fn any_cut_gives_the_text_of_the_whole(bytes in near_text(), cuts in prop::collection::vec(0usize..40, 0..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(stream(&pieces), String::from_utf8_lossy(&bytes).into_owned());
        }
    }

    #[test]
    fn characters_leave_as_soon_as_they_are_whole() {
        let (mut stream, mut text) = (TextStream::default(), String::new());
        for (byte, expected) in "é🙂".bytes().zip(["", "é", "é", "é", "é", "é🙂"]) {
            stream.push(&[byte], &mut text);
            assert_eq!(text, expected);
        }
        // A byte that cannot go on frees the held ones at once and is itself kept.
        stream.push(&[0xE4, 0xB8], &mut text);
        stream.push(b"x", &mut text);
        assert_eq!(text, "é🙂\u{FFFD}x");
    }
}
