//! From tokens to what the reader sees: special tokens, whole characters, stop strings, the end.

use crate::engine::params::GenParams;
use crate::text::{StopMatcher, TextStream, Tokenizer};

/// The text side of one request. `text` is reused from token to token.
pub(crate) struct TextOutput {
    stream: TextStream,
    stops: Option<StopMatcher>,
    keep_stop: bool,
    show_special: bool,
    piece: String,
    /// What became readable with the last token.
    pub(crate) text: String,
}

impl TextOutput {
    pub(crate) fn new(params: &GenParams) -> Self {
        TextOutput {
            stream: TextStream::default(),
            stops: (!params.stop.is_empty()).then(|| StopMatcher::new(params.stop.clone())),
            keep_stop: params.keep_stop,
            show_special: params.show_special,
            piece: String::new(),
            text: String::new(),
        }
    }

    /// Adds a token; leaves in `text` what became readable. `true`: a stop string is complete.
    pub(crate) fn push(&mut self, token: u32, tokenizer: Option<&Tokenizer>) -> bool {
        self.text.clear();
        let Some(tokenizer) = tokenizer else { return false };
        if tokenizer.is_special(token) && !self.show_special {
            return false;
        }
        self.piece.clear();
        self.stream.push(tokenizer.token_bytes(token), &mut self.piece);
        match &mut self.stops {
            Some(stops) => stops.push(&self.piece, self.keep_stop, &mut self.text),
            None => {
                self.text.push_str(&self.piece);
                false
            }
        }
    }

    /// Leaves in `text` what was held back, when the text ends otherwise than by a stop string.
    pub(crate) fn finish(&mut self) {
        self.text.clear();
        self.piece.clear();
        self.stream.finish(&mut self.piece);
        match &mut self.stops {
            Some(stops) => {
                if !stops.push(&self.piece, self.keep_stop, &mut self.text) {
                    stops.finish(&mut self.text);
                }
            }
            None => self.text.push_str(&self.piece),
        }
    }
}
