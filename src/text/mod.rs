//! Text in and out: tokenizer, chat templates, streaming decoder, stop strings.

pub mod chat;
pub mod stop;
pub mod stream;
pub mod tokenizer;

pub use chat::ChatTemplate;
pub use stop::StopMatcher;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
