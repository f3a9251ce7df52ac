//! A pickle machine that can build state dicts and call nothing.
//!
//! It knows the opcodes that torch.save writes with protocols 2 to 5, and refuses all others. A class or
//! function is a name out of a short table ([`Global::of`]); the opcode that would call it makes a
//! value by itself ([`build`]), or the pickle is refused. Memory is bounded by the length of a pickle and
//! by the number of its values; the stack, the memo and what is built are flat.

use super::build;
use super::values::{Global, Heap, MEMO_SLOTS, Span, Value};
use crate::base::error::{Error, Result};
use crate::base::limits;
use crate::loading::cursor::Cursor;
use crate::loading::json::clip;
use std::collections::HashMap;

/// What a pickle was found to hold.
#[derive(Debug)]
pub struct Pickle {
    /// The contents of all values.
    pub heap: Heap,
    /// The one that it is for.
    pub top: Value,
}

/// Reads the one pickle that begins at the cursor, which then stands behind it. `what` names it for messages.
pub fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Pickle> {
    let start = cursor.position();
    let mut machine = Machine {
        cursor,
        start,
        heap: Heap::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let at = machine.cursor.position() - start;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(top)) => return Ok(Pickle { heap: machine.heap, top }),
            Err(error) => return Err(error.at(format_args!("{what}: byte {at}"))),
        }
    }
}

struct Machine<'a, 'f> {
    cursor: &'a mut Cursor<'f>,
    start: u64,
    heap: Heap,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<u32>,
    memo: HashMap<u32, Value>,
}

impl Machine<'_, '_> {
    /// Carries out one opcode; the value of the pickle where it was the last one.
    fn step(&mut self) -> Result<Option<Value>> {
        let [code] = self.cursor.array::<1>("an opcode")?;
        let length = self.cursor.position() - self.start;
        crate::ensure!(
            length <= limits::PICKLE_BYTES_MAX,
            Format,
            "it has {length} bytes, expected at most {}",
            limits::PICKLE_BYTES_MAX
        );
        match code {
            b'.' => return self.stop().map(Some),
            0x80 => self.protocol()?,
            0x95 => {
                let len = self.cursor.u64("a frame")?;
                let left = self.cursor.left();
                crate::ensure!(len <= left, Format, "a frame of {len} bytes, {left} are left");
            }
            b'(' => {
                self.room(1)?;
                self.marks.push(self.stack.len() as u32);
            }
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88))?,
            b'J' => {
                let number = i32::from_le_bytes(self.cursor.array("an integer")?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let number = self.byte("an integer")?;
                self.push(Value::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.cursor.array("an integer")?);
                self.push(Value::Int(number.into()))?;
            }
            b'G' => {
                self.cursor.skip(8, "a float")?;
                self.push(Value::Ignored)?;
            }
            0x8a => {
                let len = self.byte("an integer")?;
                self.long(len.into())?;
            }
            0x8b => {
                let len = self.cursor.u32("an integer")?;
                self.long(len.into())?;
            }
            b'U' | 0x8c => {
                let len = self.byte("a string")?;
                self.string(len.into())?;
            }
            b'T' | b'X' => {
                let len = self.cursor.u32("a string")?;
                self.string(len.into())?;
            }
            0x8d => {
                let len = self.cursor.u64("a string")?;
                self.string(len)?;
            }
            b'C' => {
                let len = self.byte("bytes")?;
                self.ignored(len.into())?;
            }
            b'B' => {
                let len = self.cursor.u32("bytes")?;
                self.ignored(len.into())?;
            }
            0x8e => {
                let len = self.cursor.u64("bytes")?;
                self.ignored(len)?;
            }
            _ => self.structure(code)?,
        }
        Ok(None)
    }

    /// The opcodes that put values together.
    fn structure(&mut self, code: u8) -> Result<()> {
        match code {
            b')' => self.tuple(0),
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b't' => {
                let count = self.above_mark()?;
                self.tuple(count)
            }
            b']' => {
                let list = self.heap.add_container()?;
                self.push(Value::List(list))
            }
            b'}' => {
                let dict = self.heap.add_container()?;
                self.push(Value::Dict(dict))
            }
            b'a' => self.append(1),
            b's' => self.set_items(2),
            b'e' => {
                let count = self.above_mark()?;
                self.append(count)
            }
            b'u' => {
                let count = self.above_mark()?;
                self.set_items(count)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                let (module, name) = (self.heap.text(module).to_string(), self.heap.text(name).to_string());
                self.global(&module, &name)
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = build::reduce(&mut self.heap, function, arguments)?;
                self.push(made)
            }
            b'b' => self.build(),
            b'Q' => {
                let id = self.pop()?;
                let storage = build::storage(&mut self.heap, id)?;
                self.push(storage)
            }
            b'q' => {
                let number = self.byte("a place in the memo")?;
                self.put(number.into())
            }
            b'r' => {
                let number = self.cursor.u32("a place in the memo")?;
                self.put(number)
            }
            0x94 => self.put(self.memo.len() as u32),
            b'h' => {
                let number = self.byte("a place in the memo")?;
                self.get(number.into())
            }
            b'j' => {
                let number = self.cursor.u32("a place in the memo")?;
                self.get(number)
            }
            _ => Err(crate::error!(
                Format,
                "opcode {code:#04x} ({}): expected one of those that torch.save writes for tensors",
                code_name(code)
            )),
        }
    }

    fn protocol(&mut self) -> Result<()> {
        let version = self.byte("a protocol")?;
        crate::ensure!(
            (2..=5).contains(&version),
            Unsupported,
            "pickle protocol {version}, expected one from 2 to 5"
        );
        Ok(())
    }

    fn stop(&mut self) -> Result<Value> {
        let top = self.pop()?;
        crate::ensure!(
            self.stack.is_empty() && self.marks.is_empty(),
            Format,
            "{} values are left over at the end",
            self.stack.len()
        );
        Ok(top)
    }

    fn byte(&mut self, what: &str) -> Result<u8> {
        let [byte] = self.cursor.array::<1>(what)?;
        Ok(byte)
    }

    /// Whether as many values more may lie on the stack.
    fn room(&self, more: usize) -> Result<()> {
        crate::ensure!(
            self.stack.len() + self.marks.len() + more <= self.heap.left(),
            Format,
            "more than {} values in a pickle",
            limits::PICKLE_VALUES_MAX
        );
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<()> {
        self.room(1)?;
        self.stack.push(value);
        Ok(())
    }

    /// The height that the stack may not sink below: what lies under a mark is not to be had before the mark is gone.
    fn floor(&self) -> usize {
        self.marks.last().map_or(0, |&mark| mark as usize)
    }

    /// The value on top, which stays there.
    fn last(&self) -> Option<Value> {
        self.stack.get(self.floor()..).and_then(|above| above.last()).copied()
    }

    fn pop(&mut self) -> Result<Value> {
        let value = self.last().ok_or_else(|| unfit(None, "a value on the stack"))?;
        self.stack.pop();
        Ok(value)
    }

    fn pop_text(&mut self) -> Result<Span> {
        match self.pop()? {
            Value::Text(span) => Ok(span),
            other => Err(unfit(Some(other), "a string")),
        }
    }

    /// How many values lie above the last mark, which is taken away.
    fn above_mark(&mut self) -> Result<usize> {
        let mark = self.marks.pop().map(|mark| mark as usize);
        let count = mark.and_then(|mark| self.stack.len().checked_sub(mark));
        count.ok_or_else(|| crate::error!(Format, "expected a mark on the stack, found none"))
    }

    /// Splits the `count` values on top off the stack.
    fn top(&mut self, count: usize) -> Result<Vec<Value>> {
        let at = self.stack.len().checked_sub(count).filter(|&at| at >= self.floor());
        let at =
            at.ok_or_else(|| crate::error!(Format, "expected {count} values on the stack, found fewer"))?;
        Ok(self.stack.split_off(at))
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let values = self.top(count)?;
        let span = self.heap.add_tuple(&values)?;
        self.push(Value::Tuple(span))
    }

    fn append(&mut self, count: usize) -> Result<()> {
        let values = self.top(count)?;
        match self.last() {
            Some(Value::List(list)) => self.heap.extend(list, &values),
            other => Err(unfit(other, "a list to append to")),
        }
    }

    fn set_items(&mut self, count: usize) -> Result<()> {
        let values = self.top(count)?;
        crate::ensure!(count.is_multiple_of(2), Format, "{count} keys and values, expected an even number");
        match self.last() {
            Some(Value::Dict(dict)) => self.heap.extend(dict, &values),
            other => Err(unfit(other, "a dict to fill")),
        }
    }

    /// The attributes of an OrderedDict (the versions of a state dict's modules) are passed over.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = self.pop()?;
        crate::ensure!(
            matches!((object, state), (Value::Dict(_), Value::Dict(_))),
            Format,
            "BUILD gives {} to {}, expected the attributes of an OrderedDict",
            state.kind(),
            object.kind()
        );
        self.push(object)
    }

    fn put(&mut self, number: u32) -> Result<()> {
        let value = self.pop()?;
        self.push(value)?;
        if self.memo.insert(number, value).is_none() {
            self.heap.take(MEMO_SLOTS)?;
        }
        Ok(())
    }

    fn get(&mut self, number: u32) -> Result<()> {
        let found = self.memo.get(&number).copied();
        let value =
            found.ok_or_else(|| crate::error!(Format, "the memo has no {number}: a reference to nothing"))?;
        self.push(value)
    }

    /// An integer of `len` bytes, lowest first, in two's complement.
    fn long(&mut self, len: u64) -> Result<()> {
        let bytes = self.cursor.bytes(len, "an integer")?;
        let mut word = match bytes.last() {
            Some(last) if last & 0x80 != 0 => [0xff; 8],
            _ => [0; 8],
        };
        let value = match word.get_mut(..bytes.len()) {
            Some(part) => {
                part.copy_from_slice(&bytes);
                Value::Int(i64::from_le_bytes(word))
            }
            None => Value::Long(self.heap.add_text(&bytes)?),
        };
        self.push(value)
    }

    fn string(&mut self, len: u64) -> Result<()> {
        let bytes = self.cursor.bytes(len, "a string")?;
        crate::ensure!(
            std::str::from_utf8(&bytes).is_ok(),
            Format,
            "a string that is not UTF-8: {:?}",
            clip(&String::from_utf8_lossy(bytes.get(..100.min(bytes.len())).unwrap_or_default()))
        );
        let span = self.heap.add_text(&bytes)?;
        self.push(Value::Text(span))
    }

    fn ignored(&mut self, len: u64) -> Result<()> {
        self.cursor.skip(len, "bytes")?;
        self.push(Value::Ignored)
    }

    /// A text up to the end of the line.
    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            match self.byte("the name of a class or function")? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte => line.push(byte),
            }
            crate::ensure!(
                line.len() <= limits::PICKLE_NAME_MAX,
                Format,
                "the name of a class or function has more than {} bytes",
                limits::PICKLE_NAME_MAX
            );
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let Some(global) = Global::of(module, name) else {
            crate::bail!(
                Format,
                "it names {}: expected tensors in dicts, lists and tuples; nothing else is made of a \
                 pickle, and nothing called",
                clip(&format!("{module}.{name}")).escape_debug()
            )
        };
        self.push(Value::Global(global))
    }
}

fn unfit(found: Option<Value>, expected: &str) -> Error {
    crate::error!(Format, "expected {expected}, found {}", found.map_or("none", |value| value.kind()))
}

/// The names of the opcodes that hostile files and those of other writers have.
fn code_name(code: u8) -> &'static str {
    match code {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        b'P' => "PERSID",
        0x82..=0x84 => "EXT",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'd' | b'l' | b'I' | b'L' | b'F' | b'S' | b'V' | b'g' | b'p' => "of protocol 0",
        _ => "unknown",
    }
}
