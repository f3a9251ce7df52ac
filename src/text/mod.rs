//! Text in and out: tokenizer, chat templates, streaming decoder, stop strings, constraints.

mod added;
mod alphabet;
mod bpe;
pub mod chat;
pub mod constraint;
mod export;
mod files;
mod gguf;
mod json;
mod split;
pub mod stop;
mod stop_ids;
pub mod stream;
pub mod tokenizer;
mod vocab;

pub use chat::{Chat, ChatTemplate, NamedTemplates, Rendered, TemplateSources};
pub use constraint::Constraint;
pub use export::{TokenizerTexts, Vocabulary};
pub use gguf::GgufVocab;
pub use stop::StopMatcher;
pub use stop_ids::stop_ids;
pub use stream::TextStream;
pub use tokenizer::{EncodeOptions, Tokenizer};
pub use vocab::AQUILA_ADDED;
