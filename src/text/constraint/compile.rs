//! From the text of a constraint to a parser.

use super::matcher::{Ends, Matcher, sentence};
use super::vocabulary::Vocabulary;
use super::{Constraint, Kind};
use crate::base::error::{Error, Result};
use crate::base::limits;
use crate::base::thread;
use crate::text::tokenizer::Tokenizer;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{ParserFactory, regex_to_lark};
use serde_json::{Value, json};
use std::sync::Arc;

/// Stack for building the tree and for compiling, whatever the caller's is. All recursion is bounded: JSON by 128
/// levels, expressions by 250, Lark by 30, the tree by the longest token. Only what is touched becomes memory.
const STACK: usize = 32 << 20;

/// White space between the parts of a JSON text, where the schema says nothing of it: enough to indent, and no more, for
/// a model that likes blanks would else make them until its tokens are used up.
const JSON_BLANKS: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// Compiles constraints for one model. Shared by threads.
pub struct Grammars {
    vocabulary: Arc<Vocabulary>,
    factory: ParserFactory,
}

impl Grammars {
    /// For the first `rows` ids of `tokenizer`, as many as the model has logits. Takes some tenths of a second and some
    /// tens of megabytes for a hundred thousand tokens. `Unsupported` where the vocabulary is too large.
    pub fn new(tokenizer: &Tokenizer, rows: usize) -> Result<Grammars> {
        on_own_stack(|| {
            let vocabulary = Arc::new(Vocabulary::new(tokenizer, rows)?);
            // The capabilities say that nobody but the model chooses tokens.
            let (capabilities, slices) =
                (InferenceCapabilities::default(), SlicedBiasComputer::general_slices());
            let mut factory = ParserFactory::new(&vocabulary.tree, capabilities, &slices)
                .map_err(|cause| crate::error!(Internal, "constraint: {}", sentence(&cause.to_string())))?;
            factory.quiet();
            *factory.limits_mut() = ParserLimits {
                initial_lexer_fuel: limits::CONSTRAINT_LEXER_FUEL,
                max_lexer_states: limits::CONSTRAINT_LEXER_STATES_MAX,
                max_grammar_size: limits::CONSTRAINT_SYMBOLS_MAX,
                verbose_errors: false,
                ..ParserLimits::default()
            };
            Ok(Grammars { vocabulary, factory })
        })?
    }

    /// The beginning of a text that fits `constraint` and ends with one of `ends`. `Constraint`, with the place, where it
    /// is not understood, is too large or complex, or can be met by no text of the model's tokens.
    pub fn compile(&self, constraint: &Constraint, ends: Ends) -> Result<Matcher> {
        let (name, text) = (constraint.kind.name(), constraint.text.as_str());
        let most = match constraint.kind {
            Kind::Regex => limits::CONSTRAINT_REGEX_BYTES_MAX,
            Kind::JsonSchema | Kind::Lark => limits::CONSTRAINT_BYTES_MAX,
        };
        crate::ensure!(
            text.len() <= most,
            Constraint,
            "constraint: {name}: {} bytes, at most {most}",
            text.len()
        );
        let place = |error: Error| error.at(format_args!("constraint: {name}"));
        on_own_stack(|| {
            let grammar = match constraint.kind {
                Kind::JsonSchema => json_schema(text),
                Kind::Regex => regex(text),
                Kind::Lark => Ok(TopLevelGrammar::from_lark(text.to_string())),
            };
            let parser = self.factory.create_parser(grammar.map_err(place)?);
            let parser = parser.map_err(|cause| place(refused(constraint.kind, &cause.to_string())))?;
            Matcher::new(llguidance::Matcher::new(Ok(parser)), self.vocabulary.clone(), ends).map_err(place)
        })?
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammars({} ids)", self.vocabulary.rows())
    }
}

impl Kind {
    /// What messages call it.
    fn name(self) -> &'static str {
        match self {
            Kind::JsonSchema => "JSON schema",
            Kind::Regex => "regular expression",
            Kind::Lark => "grammar",
        }
    }
}

/// A panic of the crate, which it does not catch itself everywhere, ends nothing but this call.
fn on_own_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    let outcome = thread::with_stack("aquila-grammar", STACK, run)?;
    outcome.map_err(|_| crate::error!(Constraint, "constraint: a bug of its compiler was caught"))
}

fn json_schema(text: &str) -> Result<TopLevelGrammar> {
    let mut schema: Value =
        serde_json::from_str(text).map_err(|cause| crate::error!(Constraint, "no JSON: {cause}"))?;
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    match &mut schema {
        Value::Object(keys) => {
            keys.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": JSON_BLANKS }));
        }
        Value::Bool(_) => {}
        other => crate::bail!(Constraint, "expected an object, found {}", kind_of(other)),
    }
    Ok(TopLevelGrammar::from_json_schema(schema))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn regex(text: &str) -> Result<TopLevelGrammar> {
    // Parsed here for the place of an error, and because nothing but a whole expression may go into the grammar below.
    let parsed = regex_syntax::Parser::new().parse(text).map_err(|error| {
        let (start, what) = match &error {
            regex_syntax::Error::Parse(error) => (error.span().start, error.kind().to_string()),
            regex_syntax::Error::Translate(error) => (error.span().start, error.kind().to_string()),
            _ => return crate::error!(Constraint, "{error}"),
        };
        crate::error!(Constraint, "line {}, column {}: {what}", start.line, start.column)
    })?;
    if text.is_empty() {
        return Ok(TopLevelGrammar::from_lark("start: \"\"".into()));
    }
    // Line breaks and tabs are written as escapes in the grammar, where they would mean themselves even if the
    // expression ignores blanks; as the parser prints it, it does not.
    let plain = if text.contains(['\n', '\r', '\t']) { parsed.to_string() } else { text.to_string() };
    Ok(TopLevelGrammar::from_lark(format!("start: /{}/", regex_to_lark(&plain, ""))))
}

/// What the compiler said. It begins with `line(column): ` or `at line(column): ` where it knows the place.
fn refused(kind: Kind, said: &str) -> Error {
    if kind == Kind::Regex && said.contains("lookarounds") {
        return crate::error!(Constraint, "^, $ and \\b: expected at most ^ as the first and $ as the last");
    }
    let said = sentence(said);
    let place = said.split_once("): ").and_then(|(place, what)| {
        let (line, column) = place.trim_start_matches("at ").split_once('(')?;
        Some((line.parse::<u32>().ok()?, column.parse::<u32>().ok()?, what))
    });
    match place {
        Some((line, column, what)) => crate::error!(Constraint, "line {line}, column {column}: {what}"),
        None => crate::error!(Constraint, "{said}"),
    }
}
