//! Chat templates in Jinja, as transformers renders them, in a box: no files, no includes, a bound on
//! instructions, depth and output.

use super::Rendered;
use super::marks::Marks;
use super::python;
use crate::base::error::{Error, Result, Status};
use crate::base::limits;
use crate::base::thread::SignalMask;
use crate::text::tokenizer::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{Environment, ErrorKind};
use serde_json::Value;
use std::io::{self, Write};

/// Stack for parsing a template, and more for each of its bytes: a chain such as `-----1` or `x.a.a.a`
/// makes the parser's tree as deep as it is long, and some 400 bytes of stack were measured for a level.
const PARSE_STACK: usize = 1 << 20;
const PARSE_STACK_PER_BYTE: usize = 1 << 10;
/// Stack for rendering: a value nested by a loop is dropped level by level, some 200 bytes each, and a
/// level costs six instructions at least. Only what is touched becomes memory.
const RENDER_STACK: usize = (1 << 20) + limits::TEMPLATE_FUEL as usize / 6 * 256;

/// Runs on a thread of its own with the stack that hostile input may need, whatever the caller has.
/// A panic becomes `Format`, a refused thread `Io`.
fn on_own_stack<T: Send>(bytes: usize, run: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("aquila-template".into()).stack_size(bytes);
        let mask = SignalMask::block_all();
        let thread = thread.spawn_scoped(scope, run);
        drop(mask);
        let thread = thread.map_err(|cause| crate::error!(Io, "chat template: no thread: {cause}"))?;
        thread.join().map_err(|_| crate::error!(Format, "chat template: failed inside"))
    })
}

/// How deep blocks and macros may nest while rendering: real templates stay below 20, and a thread of a
/// host may have a stack of 128 KiB.
const DEPTH_MAX: usize = 64;

/// A parsed template with what it needs of the tokenizer.
pub struct Template {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
    /// Text that must not be smuggled in by a message.
    specials: Vec<String>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template(jinja)")
    }
}

impl Template {
    /// Parses the template. `Format` with the line of an error.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Template> {
        let mut environment = Environment::new();
        environment.set_syntax(syntax()?);
        environment.set_fuel(Some(limits::TEMPLATE_FUEL));
        environment.set_recursion_limit(DEPTH_MAX);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", python::strftime_now);
        let (bytes, most) = (source.len(), limits::TEMPLATE_SOURCE_MAX);
        crate::ensure!(bytes <= most, Format, "chat template: {bytes} bytes, expected at most {most}");
        let source = plain_generation_tags(source);
        let stack = PARSE_STACK + bytes * PARSE_STACK_PER_BYTE;
        let parsed = on_own_stack(stack, || environment.add_template_owned(NAME, source))?;
        parsed.map_err(|cause| template_error(&cause))?;
        let text =
            |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned());
        let specials = tokenizer.special_texts().to_vec();
        Ok(Template { environment, bos: text(tokenizer.bos()), eos: text(tokenizer.eos()), specials })
    }

    /// Renders with the variables that transformers gives: `messages`, `tools`, `documents`,
    /// `add_generation_prompt`, `bos_token`, `eos_token`.
    pub fn render(
        &self,
        mut messages: Vec<Value>,
        mut tools: Option<Vec<Value>>,
        add_prompt: bool,
    ) -> Result<Rendered> {
        let marks = Marks::new(&self.specials, &[&messages, tools.as_deref().unwrap_or(&[])])?;
        messages.iter_mut().chain(tools.iter_mut().flatten()).for_each(|value| marks.put(value));
        let mut context = vec![
            ("messages", JinjaValue::from(Serde(&messages))),
            ("tools", JinjaValue::from(Serde(&tools))),
            ("documents", JinjaValue::from(())),
            ("add_generation_prompt", JinjaValue::from(add_prompt)),
        ];
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            context.extend(text.as_ref().map(|text| (name, JinjaValue::from(text.as_str()))));
        }
        let run = || {
            let mut output = Bounded(Vec::new());
            let context = JinjaValue::from_pairs(context);
            self.environment.get_template(NAME)?.render_captured_to(context, &mut output)?;
            Ok(output.0)
        };
        let bytes = on_own_stack(RENDER_STACK, run)?.map_err(|cause| template_error(&cause))?;
        let text = String::from_utf8(bytes).map_err(|_| crate::error!(Format, "chat template: no UTF-8"))?;
        Ok(marks.take(text))
    }
}

/// Without an ending such as `.html`, so nothing is escaped.
const NAME: &str = "chat_template";

fn syntax() -> Result<SyntaxConfig> {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.map_err(|cause| crate::error!(Internal, "chat template syntax: {cause}"))
}

/// What a template said against the messages is the caller's to mend; the rest is the template's fault.
fn template_error(cause: &minijinja::Error) -> Error {
    use std::error::Error as _;
    if let Some(raised) = cause.source().and_then(|source| source.downcast_ref::<Raised>()) {
        return Error::new(
            Status::Argument,
            format!("messages: the chat template refuses them: {}", raised.0),
        );
    }
    let line = cause.line().map(|line| format!(" line {line}")).unwrap_or_default();
    let what = match cause.kind() {
        ErrorKind::OutOfFuel => format!("more than {} instructions", limits::TEMPLATE_FUEL),
        ErrorKind::WriteFailure => format!("more than {} bytes of text", limits::TEMPLATE_BYTES_MAX),
        _ => match cause.detail() {
            Some(detail) => format!("{}: {detail}", cause.kind()),
            None => cause.kind().to_string(),
        },
    };
    Error::new(Status::Format, format!("chat template{line}: {what}"))
}

/// A buffer that refuses to grow beyond the limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len() <= limits::TEMPLATE_BYTES_MAX.saturating_sub(self.0.len());
        if !fits || self.0.try_reserve(bytes.len()).is_err() {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` marks the assistant's words for training in transformers; here it is a block that
/// does nothing.
fn plain_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, block)) = rest.split_once("{%") {
        // In "{%}" the end is not yet reached: it comes after the opening.
        let Some((inner, after)) = block.split_once("%}") else { break };
        let word = inner.trim_matches(['-', '+']).trim();
        out.push_str(before);
        out.push_str("{%");
        match word {
            "generation" => out.push_str(&inner.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&inner.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(inner),
        }
        out.push_str("%}");
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The error of a template that calls `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> std::result::Result<JinjaValue, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_plain_blocks() {
        let source = "a{%- generation -%} b {% endgeneration %}{% if generation %}{% endif %}{{ '{%' }}";
        let expected = "a{%- if true -%} b {% endif %}{% if generation %}{% endif %}{{ '{%' }}";
        assert_eq!(plain_generation_tags(source), expected);
        for other in ["{%}", "{%}}{%%}", "{% generation", "a{%", "%}{%}generation%}"] {
            assert_eq!(plain_generation_tags(other), other);
        }
    }
}
