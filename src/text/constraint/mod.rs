//! Constrained output: a text that fits a JSON schema, a regular expression or a grammar, token by token.
//!
//! A schema, expression or grammar becomes a parser of bytes (the `llguidance` crate). Before each token the parser is
//! run over the tree of all tokens' bytes ([`vocabulary`]): allowed are exactly those after which the text can still be
//! completed, whether or not they are the tokens that the tokenizer would make of it; and the ids that end a text are
//! allowed exactly when the text is complete. What the model prefers among them is left to the model.
//!
//! | file | what |
//! |---|---|
//! | `vocabulary` | the tokens' bytes as a tree |
//! | `compile` | from text to a parser; errors that name the place |
//! | `matcher` | one text on its way: what is allowed now |

mod compile;
mod matcher;
mod vocabulary;

pub use compile::Grammars;
pub use matcher::{Ends, Matcher};

/// What a text must fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// In what language it is written.
    pub kind: Kind,
    /// The schema, expression or grammar.
    pub text: String,
}

/// The languages of constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON Schema: the text is a JSON value that the schema describes.
    JsonSchema,
    /// A regular expression (Rust's syntax) that the whole text matches.
    Regex,
    /// A grammar in `llguidance`'s form of Lark, whose rule `start` the whole text matches.
    Lark,
}

impl Constraint {
    /// What is written in the language `kind`.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Constraint { kind, text: text.into() }
    }

    /// A JSON schema.
    pub fn json_schema(text: impl Into<String>) -> Self {
        Constraint::new(Kind::JsonSchema, text)
    }

    /// A regular expression.
    pub fn regex(text: impl Into<String>) -> Self {
        Constraint::new(Kind::Regex, text)
    }

    /// A Lark grammar.
    pub fn lark(text: impl Into<String>) -> Self {
        Constraint::new(Kind::Lark, text)
    }
}
