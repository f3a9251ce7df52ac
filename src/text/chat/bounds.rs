//! What a chat template may take: memory, time and depth, whatever its author meant.
//!
//! The interpreter counts instructions, but one of them may double a text (`x ~ x`), so forty could fill
//! any memory. Here its compiled instructions are copied with a guard behind each that makes a value: it
//! weighs what was made before it can be used again, and operators and filters that make more than they
//! are given count it first. So no value outgrows the limit. Reading costs time in proportion to sizes
//! that are bounded by then, so the guard looks at the clock, too.

use super::python;
use crate::base::limits;
use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value as JinjaValue, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Names that no template can write: they are no identifiers.
const GUARD: &str = "guard!";
const RAW: &str = "raw!";
const TEXT: &str = "text!";
const ADD: &str = "add!";
const MULTIPLY: &str = "multiply!";
const CONCAT: &str = "concat!";
const LIST: &str = "list!";
const LOOPED: &str = "looped!";
/// Stands for the number 1.
const ONE: &str = "__one";

/// How deep lists and objects may nest, beyond what JSON from outside may.
const DEPTH_MAX: usize = 160;
/// What an entry of a list costs beside its text.
const ENTRY: u64 = 32;
/// What all values together may weigh for each byte of messages: a text that grows message by message
/// is made anew each time, with a thousand messages some two thousand times their size.
const PER_BYTE: u64 = 4096;

type Outcome<T> = std::result::Result<T, JinjaError>;

thread_local! {
    /// What is left for all values that the template of this thread makes, and until when.
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A template that asked for too much.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Exceeded(pub String);

fn exceeded(what: String) -> JinjaError {
    JinjaError::new(ErrorKind::OutOfFuel, what.clone()).with_source(Exceeded(what))
}

/// Begins to count for a rendering of `bytes` of messages on this thread.
pub fn begin(bytes: usize) {
    LEFT.set(2 * limits::TEMPLATE_BYTES_MAX as u64 + bytes as u64 * PER_BYTE);
    UNTIL.set(Instant::now().checked_add(Duration::from_secs(limits::TEMPLATE_SECONDS)));
}

/// Counts `bytes` that are about to be made.
pub fn charge(bytes: usize) -> Outcome<()> {
    one_value(bytes as u64)?;
    match LEFT.get().checked_sub(bytes as u64) {
        Some(left) => LEFT.set(left),
        None => return Err(exceeded("more text in all than messages of this size call for".into())),
    }
    match UNTIL.get() {
        Some(until) if Instant::now() > until => {
            Err(exceeded(format!("more than {} seconds", limits::TEMPLATE_SECONDS)))
        }
        _ => Ok(()),
    }
}

fn one_value(bytes: u64) -> Outcome<()> {
    match bytes > limits::TEMPLATE_BYTES_MAX as u64 {
        true => Err(exceeded(format!("more than {} bytes of text", limits::TEMPLATE_BYTES_MAX))),
        false => Ok(()),
    }
}

/// Filters and names that guarded instructions use.
pub fn install(environment: &mut Environment<'_>) {
    environment.add_filter(GUARD, |value: JinjaValue| -> Outcome<JinjaValue> {
        counted(&value)?;
        Ok(value)
    });
    environment.add_filter(RAW, |bytes: usize| charge(bytes));
    environment.add_filter(TEXT, python::to_text);
    environment.add_filter(ADD, python::add);
    environment.add_filter(MULTIPLY, python::multiply);
    environment.add_filter(CONCAT, python::concat);
    environment.add_filter(LIST, python::list);
    environment.add_filter(LOOPED, python::looped);
    environment.add_global(ONE, 1);
}

/// Counts a value that was made: a text by its bytes, a list by its entries, for what they hold was
/// counted when it was made.
pub fn counted(value: &JinjaValue) -> Outcome<()> {
    let mut looked_at = 0;
    let size = weigh(value, 0, &mut looked_at)?;
    charge(if value.as_str().is_some() { size as usize } else { looked_at * ENTRY as usize })
}

/// The size of a value as it would be printed, however often its parts are shared.
fn weigh(value: &JinjaValue, depth: usize, looked_at: &mut usize) -> Outcome<u64> {
    *looked_at += 1;
    if depth > DEPTH_MAX {
        return Err(exceeded(format!("values nested deeper than {DEPTH_MAX}")));
    }
    if let Some(text) = value.as_str() {
        one_value(text.len() as u64)?;
        return Ok(text.len() as u64);
    }
    let count = match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => value.len().unwrap_or(0),
        _ => return Ok(0),
    };
    let mut size = count as u64 * ENTRY;
    one_value(size)?;
    if count == 0 {
        return Ok(size);
    }
    for item in value.try_iter()? {
        if value.kind() == ValueKind::Map {
            size += weigh(&value.get_item(&item)?, depth + 1, looked_at)?;
        }
        size += weigh(&item, depth + 1, looked_at)?;
        one_value(size)?;
    }
    Ok(size)
}

/// The source with each `a * b` as `a * __one * b`: the compiler computes constants, and a template must
/// not make it repeat texts before anything is counted.
pub fn without_constant_products(source: &str, syntax: SyntaxConfig) -> String {
    let mut out = String::with_capacity(source.len());
    let mut done = 0;
    for token in tokenize(source, false, syntax) {
        // The parser names the fault.
        let Ok((token, span)) = token else { break };
        if let (Token::Mul, Some(text)) = (token, source.get(done..span.end_offset as usize)) {
            out.push_str(text);
            out.push_str(ONE);
            out.push('*');
            done = span.end_offset as usize;
        }
    }
    out.push_str(source.get(done..).unwrap_or(""));
    out
}

/// The first attribute such as `__class__`, which transformers' sandbox refuses to give out.
pub fn internal_attribute<'s>(template: &CompiledTemplate<'s>) -> Option<&'s str> {
    let blocks = std::iter::once(&template.instructions).chain(template.blocks.values());
    let mut instructions = blocks.flat_map(|block| (0..).map_while(|at| block.get(at)));
    instructions.find_map(|instruction| match instruction {
        Instruction::GetAttr(name) | Instruction::CallMethod(name, _) if name.starts_with("__") => {
            Some(*name)
        }
        _ => None,
    })
}

/// A copy of `compiled` with guards.
pub fn guarded<'s>(compiled: &Instructions<'s>) -> Instructions<'s> {
    let mut places = Vec::new();
    let mut at = 0;
    // Where each instruction will stand: guards before it move it, too.
    while let Some(instruction) = compiled.get(places.len() as u32) {
        at += before(instruction).len() as u32;
        places.push(at);
        at += 1 + u32::from(behind(instruction).is_some());
    }
    // A jump to an instruction meets the guards before it.
    let target = |old: u32| match (places.get(old as usize), compiled.get(old)) {
        (Some(place), Some(instruction)) => place - before(instruction).len() as u32,
        _ => at,
    };
    let mut out = Instructions::new(compiled.name(), compiled.source());
    for number in 0..places.len() as u32 {
        let Some(instruction) = compiled.get(number) else { break };
        let mut add = |instruction| match compiled.get_line(number) {
            Some(line) => out.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX)),
            None => out.add(instruction),
        };
        for guard in before(instruction) {
            add(guard);
        }
        add(moved(instruction, target));
        if let Some(guard) = behind(instruction) {
            add(Instruction::ApplyFilter(guard, Some(1), u8::MAX));
        }
    }
    out
}

/// What stands before an instruction that writes or loops.
fn before<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    let filter = |name| Instruction::ApplyFilter(name, Some(1), u8::MAX);
    match instruction {
        Instruction::EmitRaw(text) => {
            vec![Instruction::LoadConst(text.len().into()), filter(RAW), Instruction::DiscardTop]
        }
        Instruction::Emit => vec![filter(GUARD), filter(TEXT)],
        Instruction::PushLoop(_) => vec![filter(LOOPED)],
        _ => Vec::new(),
    }
}

/// What looks at the value that an instruction leaves, where it may be large or may have taken long.
/// Sums and products are counted where they are made.
fn behind(instruction: &Instruction<'_>) -> Option<&'static str> {
    use Instruction::*;
    match instruction {
        Slice => Some(LIST),
        Pow
        | Eq
        | Ne
        | Lt
        | Lte
        | Gt
        | Gte
        | In
        | CompareAndPreserve(_)
        | BuildMap(_)
        | BuildList(_)
        | BuildTuple(_)
        | ApplyFilter(..)
        | PerformTest(..)
        | CallFunction(..)
        | CallMethod(..)
        | CallObject(_)
        | EndCapture => Some(GUARD),
        _ => None,
    }
}

/// The instruction with its jump as `target` has it, and operators as Python has them.
fn moved<'s>(instruction: &Instruction<'s>, target: impl Fn(u32) -> u32) -> Instruction<'s> {
    use Instruction::*;
    match instruction {
        Iterate(to) => Iterate(target(*to)),
        Jump(to) => Jump(target(*to)),
        JumpIfFalse(to) => JumpIfFalse(target(*to)),
        JumpIfFalseOrPop(to) => JumpIfFalseOrPop(target(*to)),
        JumpIfTrueOrPop(to) => JumpIfTrueOrPop(target(*to)),
        BuildMacro(name, to, flags) => BuildMacro(name, target(*to), *flags),
        Add => ApplyFilter(ADD, Some(2), u8::MAX),
        Mul => ApplyFilter(MULTIPLY, Some(2), u8::MAX),
        StringConcat => ApplyFilter(CONCAT, Some(2), u8::MAX),
        other => other.clone(),
    }
}
