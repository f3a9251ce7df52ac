//! GPT-2's byte alphabet: each byte has one printable character, and tokens in vocabulary files are
//! written in those characters.
//!
//! Printable Latin-1 bytes stand for themselves; the other 68 take the code points from U+0100 on, in
//! the order of the bytes.

/// The characters that stand for bytes lie below this code point: 256 and the 68 that moved up.
const END: usize = 256 + 68;

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const fn tables() -> ([char; 256], [Option<u8>; END]) {
    let mut chars = ['\0'; 256];
    let mut bytes = [None; END];
    let (mut byte, mut moved) = (0usize, 0usize);
    while byte < 256 {
        let code = if stands_for_itself(byte as u8) {
            byte
        } else {
            moved += 1;
            255 + moved
        };
        chars[byte] = match char::from_u32(code as u32) {
            Some(c) => c,
            None => '\0',
        };
        bytes[code] = Some(byte as u8);
        byte += 1;
    }
    (chars, bytes)
}

static TABLES: ([char; 256], [Option<u8>; END]) = tables();

/// The character that stands for a byte.
pub fn char_of(byte: u8) -> char {
    TABLES.0[byte as usize]
}

/// The byte that a character stands for.
pub fn byte_of(c: char) -> Option<u8> {
    TABLES.1.get(c as usize).copied().flatten()
}

/// Text in the byte alphabet, one character a byte. `out` is emptied first.
pub fn spell(bytes: &[u8], out: &mut String) {
    out.clear();
    out.extend(bytes.iter().map(|&b| char_of(b)));
}

/// Appends the bytes that a token's text spells; a text with any other character stands for itself, as
/// Hugging Face's byte-level decoder has it.
pub fn unspell(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_bijection_with_the_published_values() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        // Known from GPT-2's own vocabulary: space, newline, NUL, no-break space, soft hyphen.
        let known = [(b' ', 'Ġ'), (b'\n', 'Ċ'), (0, 'Ā'), (0xA0, 'ł'), (0xAD, 'Ń'), (b'a', 'a'), (0xFF, 'ÿ')];
        for (byte, c) in known {
            assert_eq!(char_of(byte), c, "{byte:#x}");
        }
        assert_eq!(byte_of('中'), None);
    }

    #[test]
    fn foreign_text_stands_for_itself() {
        let mut out = vec![1];
        unspell("Ġa", &mut out);
        unspell("Ġ▁", &mut out);
        assert_eq!(out, [&[1, b' ', b'a'], "Ġ▁".as_bytes()].concat());
    }
}
