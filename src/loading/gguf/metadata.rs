//! GGUF metadata: typed values under unique keys, and accessors whose errors name the key, what was
//! expected and what was found.

use crate::base::error::Result;
use crate::base::limits;
use crate::loading::cursor::Cursor;
use crate::loading::json::clip;
use std::collections::HashMap;

/// Deepest nesting of arrays.
const DEPTH_MAX: u32 = 4;

/// A metadata value. Numbers of all widths are held in the widest type of their kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32, f64.
    Float(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    String(String),
    /// Elements of one type.
    Array(Array),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Array(Array::Strings(_)) => "an array of strings",
            Value::Array(Array::Numbers { .. }) => "an array of numbers",
            Value::Array(Array::Nested) => "an array of arrays",
        }
    }
}

/// An array as it lies in the file: no element takes more memory than it takes there.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Strings, one after the other.
    Strings(Strings),
    /// Numbers or bools.
    Numbers {
        /// Type of the elements.
        scalar: Scalar,
        /// Little-endian elements.
        bytes: Vec<u8>,
    },
    /// Arrays of arrays were checked and passed over: no key that is used has one.
    Nested,
}

/// Many strings in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String number `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).and_then(|i| self.ends.get(i)).map_or(0, |&e| e as usize);
        self.text.get(start..end)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

/// The fixed-size types of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Unsigned, 2 bytes.
    U16,
    /// Signed, 2 bytes.
    I16,
    /// Unsigned, 4 bytes.
    U32,
    /// Signed, 4 bytes.
    I32,
    /// binary32.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bytes.
    U64,
    /// Signed, 8 bytes.
    I64,
    /// binary64.
    F64,
}

/// Type numbers of the two types without a fixed size.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Scalar {
    /// The type of a number in the file.
    fn of(number: u32) -> Option<Scalar> {
        use Scalar::{Bool, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        const ALL: [Option<Scalar>; 13] = [
            Some(U8),
            Some(I8),
            Some(U16),
            Some(I16),
            Some(U32),
            Some(I32),
            Some(F32),
            Some(Bool),
            None, // string
            None, // array
            Some(U64),
            Some(I64),
            Some(F64),
        ];
        ALL.get(number as usize).copied().flatten()
    }

    fn bytes(self) -> usize {
        match self {
            Scalar::U8 | Scalar::I8 | Scalar::Bool => 1,
            Scalar::U16 | Scalar::I16 => 2,
            Scalar::U32 | Scalar::I32 | Scalar::F32 => 4,
            Scalar::U64 | Scalar::I64 | Scalar::F64 => 8,
        }
    }

    /// The value of one element; missing bytes count as zero.
    fn value(self, bytes: &[u8]) -> Value {
        let mut wide = [0u8; 8];
        for (to, from) in wide.iter_mut().zip(bytes) {
            *to = *from;
        }
        let [a, b, c, d, ..] = wide;
        match self {
            Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 => Value::Unsigned(u64::from_le_bytes(wide)),
            Scalar::I8 => Value::Signed(i64::from(a as i8)),
            Scalar::I16 => Value::Signed(i64::from(i16::from_le_bytes([a, b]))),
            Scalar::I32 => Value::Signed(i64::from(i32::from_le_bytes([a, b, c, d]))),
            Scalar::I64 => Value::Signed(i64::from_le_bytes(wide)),
            Scalar::F32 => Value::Float(f64::from(f32::from_le_bytes([a, b, c, d]))),
            Scalar::F64 => Value::Float(f64::from_le_bytes(wide)),
            Scalar::Bool => Value::Bool(a != 0),
        }
    }
}

/// The metadata of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    file: String,
    version: u32,
    values: HashMap<String, Value>,
}

/// Reads `count` entries. A key that is empty or stands twice is `Format`.
pub(super) fn read(cursor: &mut Cursor<'_>, version: u32, count: u64) -> Result<Gguf> {
    let mut values = HashMap::new();
    for number in 0..count {
        let key = cursor.string(limits::GGUF_NAME_MAX, &format!("the key of entry {number}"))?;
        crate::ensure!(!key.is_empty(), Format, "the key of entry {number} is empty");
        let what = clip(&key);
        let kind = cursor.u32(&what)?;
        let value = read_value(cursor, kind, &what)?;
        crate::ensure!(values.insert(key, value).is_none(), Format, "the key {what} stands twice");
    }
    Ok(Gguf { file: cursor.file_name(), version, values })
}

fn read_value(cursor: &mut Cursor<'_>, kind: u32, what: &str) -> Result<Value> {
    match (kind, Scalar::of(kind)) {
        (_, Some(scalar)) => {
            let bytes = cursor.bytes(scalar.bytes() as u64, what)?;
            check_bools(scalar, &bytes, what)?;
            Ok(scalar.value(&bytes))
        }
        (STRING, _) => Ok(Value::String(cursor.string(limits::GGUF_STRING_MAX, what)?)),
        (ARRAY, _) => Ok(Value::Array(read_array(cursor, what)?)),
        _ => crate::bail!(Format, "{what}: type number {kind}, expected 0 to 12"),
    }
}

fn read_array(cursor: &mut Cursor<'_>, what: &str) -> Result<Array> {
    let (kind, count) = array_head(cursor, what)?;
    if let Some(scalar) = Scalar::of(kind) {
        let bytes = cursor.bytes(count * scalar.bytes() as u64, what)?;
        check_bools(scalar, &bytes, what)?;
        return Ok(Array::Numbers { scalar, bytes });
    }
    if kind == STRING {
        return Ok(Array::Strings(read_strings(cursor, count, what)?));
    }
    for _ in 0..count {
        skip_array(cursor, 2, what)?;
    }
    Ok(Array::Nested)
}

/// Element type and count of an array, compared with the bytes that are left.
fn array_head(cursor: &mut Cursor<'_>, what: &str) -> Result<(u32, u64)> {
    let kind = cursor.u32(what)?;
    let count = cursor.u64(what)?;
    let least = match (kind, Scalar::of(kind)) {
        (_, Some(scalar)) => scalar.bytes() as u64,
        (STRING, _) => 8,
        (ARRAY, _) => 12,
        _ => crate::bail!(Format, "{what}: element type number {kind}, expected 0 to 12"),
    };
    let most = limits::GGUF_ARRAY_MAX.min(cursor.left() / least);
    crate::ensure!(count <= most, Format, "{what}: an array of {count} elements, expected at most {most}");
    Ok((kind, count))
}

fn read_strings(cursor: &mut Cursor<'_>, count: u64, what: &str) -> Result<Strings> {
    let count = crate::base::checked::usize(count, what)?;
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    ends.try_reserve_exact(count)
        .map_err(|_| crate::error!(NoMemory, "{what}: cannot take memory for {count} strings"))?;
    for index in 0..count {
        let len = cursor.string_len(limits::GGUF_STRING_MAX, what)?;
        let start = text.len();
        cursor.append(len, &mut text, what)?;
        let part = text.get(start..).unwrap_or_default();
        crate::ensure!(std::str::from_utf8(part).is_ok(), Format, "{what}: string {index} is not UTF-8");
        ends.push(crate::base::checked::u32(text.len() as u64, what)?);
    }
    let text = String::from_utf8(text).map_err(|cause| crate::error!(Format, "{what}: {cause}"))?;
    Ok(Strings { text, ends })
}

/// Passes over an array inside an array, at nesting `depth`.
fn skip_array(cursor: &mut Cursor<'_>, depth: u32, what: &str) -> Result<()> {
    crate::ensure!(depth <= DEPTH_MAX, Format, "{what}: arrays nested more than {DEPTH_MAX} deep");
    let (kind, count) = array_head(cursor, what)?;
    if let Some(scalar) = Scalar::of(kind) {
        return cursor.skip(count * scalar.bytes() as u64, what);
    }
    for _ in 0..count {
        if kind == STRING {
            let len = cursor.string_len(limits::GGUF_STRING_MAX, what)?;
            cursor.skip(len, what)?;
        } else {
            skip_array(cursor, depth + 1, what)?;
        }
    }
    Ok(())
}

fn check_bools(scalar: Scalar, bytes: &[u8], what: &str) -> Result<()> {
    let odd = bytes.iter().find(|&&b| scalar == Scalar::Bool && b > 1);
    crate::ensure!(odd.is_none(), Format, "{what}: expected a bool (0 or 1), found {}", odd.unwrap_or(&0));
    Ok(())
}

impl Gguf {
    /// The file's name, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| {
            let found = match value {
                Value::Signed(n) => n.to_string(),
                other => other.kind().to_string(),
            };
            crate::error!(Format, "{}: {key}: expected {expected}, found {found}", self.file)
        })
    }

    /// A whole number, not negative. `None` where the key is absent, `Format` where it has another type.
    pub fn uint(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer, not negative", |value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A number. Errors as [`Gguf::uint`].
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| match value {
            Value::Float(x) => Some(*x),
            Value::Unsigned(n) => Some(*n as f64),
            Value::Signed(n) => Some(*n as f64),
            _ => None,
        })
    }

    /// A truth value. Errors as [`Gguf::uint`].
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// A string. Errors as [`Gguf::uint`].
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of strings. Errors as [`Gguf::uint`].
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(strings)) => Some(strings),
            _ => None,
        })
    }

    /// An array of integers. Errors as [`Gguf::uint`]; a u64 beyond i64 counts as another type.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Array(Array::Numbers { scalar, bytes }) => elements(*scalar, bytes)
                .map(|element| match element {
                    Value::Unsigned(n) => i64::try_from(n).ok(),
                    Value::Signed(n) => Some(n),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    /// An array of floats. Errors as [`Gguf::uint`].
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "an array of floats", |value| match value {
            Value::Array(Array::Numbers { scalar, bytes }) => elements(*scalar, bytes)
                .map(|element| match element {
                    Value::Float(x) => Some(x as f32),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }
}

fn elements(scalar: Scalar, bytes: &[u8]) -> impl Iterator<Item = Value> {
    bytes.chunks_exact(scalar.bytes()).map(move |element| scalar.value(element))
}
