//! The tokenizer: the `tokenizers` crate behind one checked constructor for each kind of file.

use crate::base::error::Result;

/// Text to ids and back.
pub struct Tokenizer {
    vocab: usize,
}

/// What `encode` does beside the plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the file's own post-processor (GGUF: `add_bos_token`) adds.
    pub add_special: bool,
    /// Recognise special-token text such as `</s>` in the input.
    pub parse_special: bool,
}

impl Tokenizer {
    /// Ids of `text`.
    pub fn encode(&self, _text: &str, _options: EncodeOptions) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    /// Ids of a prompt to generate from: as `encode`, and an end-of-sequence token that the
    /// post-processor put at the end is dropped again.
    pub fn encode_prompt(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        self.encode(text, options)
    }

    /// Ids of a rendered conversation: specials are recognised outside its literal ranges only.
    pub fn encode_rendered(&self, _rendered: &crate::text::chat::Rendered) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    /// The bytes of one token: any bytes, often no whole character. Special tokens give their text.
    pub fn token_bytes(&self, _id: u32) -> &[u8] {
        &[]
    }

    /// Whether the token is special: left out of text unless asked for.
    pub fn is_special(&self, _id: u32) -> bool {
        false
    }

    /// The id of a token's text, special or not.
    pub fn token_id(&self, _text: &str) -> Option<u32> {
        None
    }

    /// The text of all ids at once; bytes that form no character become U+FFFD.
    pub fn decode(&self, ids: &[u32], show_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if show_special || !self.is_special(id) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ids that the tokenizer knows: one more than the largest.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Begin-of-sequence id, if the files name one.
    pub fn bos(&self) -> Option<u32> {
        None
    }

    /// End-of-sequence id, if the tokenizer's files name one.
    pub fn eos(&self) -> Option<u32> {
        None
    }
}
