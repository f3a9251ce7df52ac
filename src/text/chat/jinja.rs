//! Chat templates in Jinja, as transformers renders them, in a box: no files, no includes, a bound on
//! instructions, depth, memory and time.

use super::bounds::{self, Exceeded};
use super::marks::{self, Marks};
use super::{Rendered, clock, filters, json};
use crate::base::error::{Error, Result, Status};
use crate::base::limits;
use crate::base::thread;
use crate::text::chat::request::Chat;
use crate::text::tokenizer::Tokenizer;
use minijinja::machinery::{self, Instructions};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Stack for parsing a template, and more for each of its bytes: a chain such as `-----1` or `x.a.a.a`
/// makes the parser's tree as deep as it is long, and some 400 bytes of stack were measured for a level.
const PARSE_STACK: usize = 1 << 20;
const PARSE_STACK_PER_BYTE: usize = 1 << 10;
/// Stack for rendering: blocks, macros and values nest no deeper than a few hundred. Only what is touched
/// becomes memory.
const RENDER_STACK: usize = 16 << 20;

/// Runs on a thread of its own with the stack that hostile input may need, whatever the caller has.
/// A panic becomes `Format`.
fn on_own_stack<T: Send>(bytes: usize, run: impl FnOnce() -> T + Send) -> Result<T> {
    thread::with_stack("aquila-template", bytes, run)?
        .map_err(|_| crate::error!(Format, "chat template: failed inside"))
}

/// How deep blocks and macros may nest while rendering; a macro counts five. Templates that write a JSON
/// schema by a macro that calls itself need some 20 levels for a deep one.
const DEPTH_MAX: usize = 400;

/// A parsed template with what it needs of the tokenizer.
pub struct Template {
    environment: Environment<'static>,
    /// `bos_token` and the like, with their texts.
    roles: Vec<(String, String)>,
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
        filters::install(&mut environment);
        bounds::install(&mut environment);
        environment.add_filter("tojson", json::to_json);
        environment.add_function("raise_exception", raise_exception);
        let (bytes, most) = (source.len(), limits::TEMPLATE_SOURCE_MAX);
        crate::ensure!(bytes <= most, Format, "chat template: {bytes} bytes, expected at most {most}");
        let source = plain_generation_tags(source);
        let stack = PARSE_STACK + bytes * PARSE_STACK_PER_BYTE;
        let syntax = syntax()?;
        let parse = || {
            let source = bounds::without_constant_products(&source, syntax);
            environment.add_template_owned(NAME, source)
        };
        on_own_stack(stack, parse)?.map_err(|cause| template_error(&cause))?;
        let template = environment.get_template(NAME).map_err(|cause| template_error(&cause))?;
        if let Some(name) = bounds::internal_attribute(machinery::get_compiled_template(&template)) {
            crate::bail!(Format, "chat template: {name}: expected no attributes of Python's inside");
        }
        let specials = tokenizer.special_texts().to_vec();
        Ok(Template { environment, roles: tokenizer.role_texts(), specials })
    }

    /// Renders with the variables that transformers gives: `messages`, `tools`, `documents`,
    /// `add_generation_prompt`, the roles of the tokenizer, and those of the chat itself.
    pub fn render(&self, chat: &Chat, add_prompt: bool) -> Result<Rendered> {
        let mut variables = Variables {
            messages: Value::from(chat.messages.clone()),
            tools: chat.tools.clone().map_or(Value::Null, Value::from),
            documents: chat.documents.clone().map_or(Value::Null, Value::from),
            args: chat.args.clone(),
        };
        let mark = marks::free(&variables.all())?;
        let ending = match chat.continue_final_message {
            true => Some(Ending::put(&mut variables)?),
            false => None,
        };
        let marks = Marks::new(mark, &self.specials);
        let marked = marks.marked(&variables);
        let now = chat.now.unwrap_or_else(clock::now);
        let run = |variables: &Variables| self.run(variables, add_prompt, now);
        let (plain, marked) = on_own_stack(RENDER_STACK, || (run(&variables), marked.as_ref().map(run)))?;
        let text = plain.map_err(|cause| template_error(&cause))?;
        let (bytes, most) = (text.len(), limits::TEMPLATE_BYTES_MAX);
        crate::ensure!(
            bytes <= most,
            Format,
            "chat template: {bytes} bytes of text, expected at most {most}"
        );
        let mut rendered = match marked {
            None => Rendered { text, literal: Vec::new() },
            // A template may fail on marks alone, where it looks into a content.
            Some(marked) => marks.reconcile(text, marked.ok(), &variables),
        };
        if let Some(ending) = ending {
            ending.cut(&mut rendered)?;
        }
        Ok(rendered)
    }

    fn run(
        &self,
        variables: &Variables,
        add_prompt: bool,
        now: u64,
    ) -> std::result::Result<String, minijinja::Error> {
        bounds::begin(variables.size());
        let strftime_now = move |format: &str| clock::strftime(format, now);
        let mut context: BTreeMap<&str, JinjaValue> = BTreeMap::new();
        context.insert("strftime_now", JinjaValue::from_function(strftime_now));
        context.extend(self.roles.iter().map(|(name, text)| (name.as_str(), text.as_str().into())));
        context.extend(variables.args.iter().map(|(name, value)| (name.as_str(), Serde(value).into())));
        context.insert("messages", Serde(&variables.messages).into());
        context.insert("tools", Serde(&variables.tools).into());
        context.insert("documents", Serde(&variables.documents).into());
        context.insert("add_generation_prompt", add_prompt.into());
        let template = self.environment.get_template(NAME)?;
        let compiled = machinery::get_compiled_template(&template);
        let guarded = bounds::guarded(&compiled.instructions);
        let blocks: BTreeMap<&str, Instructions<'_>> =
            compiled.blocks.iter().map(|(name, block)| (*name, bounds::guarded(block))).collect();
        let mut text = String::new();
        let mut output = machinery::make_string_output(&mut text);
        let context = JinjaValue::from(context);
        let escape = AutoEscape::None;
        machinery::eval(&self.environment, &guarded, context, &blocks, &mut output, escape)?;
        Ok(text)
    }
}

/// What a template is given of a chat.
#[derive(Clone)]
pub struct Variables {
    pub messages: Value,
    pub tools: Value,
    pub documents: Value,
    pub args: Map<String, Value>,
}

impl Variables {
    /// All that came from outside, the names of arguments left out.
    pub fn all(&self) -> Vec<&Value> {
        [&self.messages, &self.tools, &self.documents].into_iter().chain(self.args.values()).collect()
    }

    fn size(&self) -> usize {
        fn size(value: &Value) -> usize {
            match value {
                Value::String(text) => text.len(),
                Value::Array(list) => list.iter().map(size).sum(),
                Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
                _ => 1,
            }
        }
        self.all().into_iter().map(size).sum()
    }
}

/// Where the last message's text ends, for `continue_final_message`: a tag behind it is looked for in the
/// prompt, which ends there.
struct Ending {
    /// Words that no text contains.
    tag: String,
    /// The text without it.
    text: String,
}

impl Ending {
    fn put(variables: &mut Variables) -> Result<Ending> {
        let tags = (0..).map(|number| format!("CONTINUE_FINAL_MESSAGE_TAG_{number}"));
        let free = |tag: &String| !variables.all().into_iter().any(|value| marks::contains(value, tag));
        let tag = tags.take(limits::CHAT_VALUES_MAX).find(free).unwrap_or_default();
        let missing = || {
            crate::error!(Argument, "continue_final_message: expected a last message with text, found none")
        };
        let last = variables.messages.as_array_mut().and_then(|list| list.last_mut()).ok_or_else(missing)?;
        let text = match last.get_mut("content").ok_or_else(missing)? {
            Value::String(text) => text,
            Value::Array(parts) => {
                let texts = parts.iter_mut().rev().filter_map(|part| part.get_mut("text"));
                let mut texts = texts.filter_map(|text| match text {
                    Value::String(text) => Some(text),
                    _ => None,
                });
                texts.next().ok_or_else(missing)?
            }
            _ => return Err(missing()),
        };
        let ending = text.clone();
        // With a blank, by which it is seen whether the template trims.
        text.push_str(&tag);
        text.push(' ');
        Ok(Ending { tag, text: ending })
    }

    fn cut(&self, rendered: &mut Rendered) -> Result<()> {
        let text = &rendered.text;
        let place = text.rfind(&self.tag).filter(|_| text.contains(self.text.trim()));
        let Some(at) = place else {
            crate::bail!(
                Argument,
                "continue_final_message: the chat template does not write the last message's text as it stands"
            )
        };
        let kept = text.get(..at).unwrap_or("");
        let trims = !text.get(at + self.tag.len()..).unwrap_or("").starts_with(' ');
        let end = if trims { kept.trim_end().len() } else { at };
        rendered.text.truncate(end);
        rendered.literal.retain(|range| range.end <= end);
        Ok(())
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
    if let Some(raised) = origin::<Raised>(cause) {
        return Error::new(
            Status::Argument,
            format!("messages: the chat template refuses them: {}", raised.0),
        );
    }
    let line = cause.line().map(|line| format!(" line {line}")).unwrap_or_default();
    let what = match cause.kind() {
        _ if origin::<Exceeded>(cause).is_some() => {
            origin::<Exceeded>(cause).map_or_else(String::new, |e| e.0.clone())
        }
        ErrorKind::OutOfFuel => format!("more than {} instructions", limits::TEMPLATE_FUEL),
        _ => match cause.detail() {
            Some(detail) => format!("{}: {detail}", cause.kind()),
            None => cause.kind().to_string(),
        },
    };
    Error::new(Status::Format, format!("chat template{line}: {what}"))
}

/// An error of ours under however many of minijinja's.
fn origin<E: std::error::Error + 'static>(cause: &minijinja::Error) -> Option<&E> {
    let mut source = std::error::Error::source(cause);
    while let Some(error) = source {
        if let Some(ours) = error.downcast_ref::<E>() {
            return Some(ours);
        }
        source = error.source();
    }
    None
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

fn raise_exception(message: JinjaValue) -> std::result::Result<JinjaValue, minijinja::Error> {
    let raised = Raised(message.to_string());
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
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
