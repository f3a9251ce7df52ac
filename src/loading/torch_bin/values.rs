//! What a pickle of torch may hold: plain values in arenas, each referred to by a number.
//!
//! No value owns another one, so a value that holds itself or is shared a thousand times is a number
//! that stands somewhere twice: nothing is copied, walked or dropped by recursion. What all arenas
//! take together is counted against one limit.

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::limits;
use crate::loading::tensor::StoredType;

/// Slots that a container takes beside its elements.
const CONTAINER_SLOTS: usize = 6;
/// Slots that an entry of the memo takes.
pub const MEMO_SLOTS: usize = 3;

/// A part of an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// A value. Those with contents refer to the [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// The bytes of an integer of more than 64 bits, lowest first.
    Long(Span),
    /// A number or bytes that no tensor depends on.
    Ignored,
    Text(Span),
    Tuple(Span),
    List(u32),
    Dict(u32),
    Global(Global),
    /// What a persistent id stands for: a storage, or a part of one.
    Storage(u32),
    Tensor(u32),
}

// The limit of a pickle's memory counts on it.
const _: () = assert!(size_of::<Value>() <= 16);

impl Value {
    /// What it is, for messages.
    pub fn kind(self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an integer",
            Value::Long(_) => "an integer of more than 64 bits",
            Value::Ignored => "a number or bytes",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dict",
            Value::Global(_) => "a class or function",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// The names of Python that mean something here. None of them is a thing that could be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    OrderedDict,
    Size,
    /// `_rebuild_tensor`, `_rebuild_tensor_v2` or `_rebuild_tensor_v3`, by its number.
    RebuildTensor(u8),
    /// `_rebuild_parameter`: with 3 arguments, or 4 where it brings attributes.
    RebuildParameter(u8),
    /// The class of a typed storage, or a dtype.
    Storage(Element),
    DType(Element),
}

/// An element type of torch, by its number in [`ELEMENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element(u8);

impl Element {
    fn row(self) -> &'static (&'static str, &'static str, StoredType, u64) {
        ELEMENTS.get(usize::from(self.0)).unwrap_or(&ELEMENTS[0])
    }

    /// As tensors of other formats state theirs.
    pub fn stored(self) -> StoredType {
        self.row().2
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        self.row().3
    }

    /// Whether a storage of it counts bytes, whatever its tensors are made of.
    pub fn is_byte(self) -> bool {
        matches!(self.row().0, "ByteStorage" | "UntypedStorage")
    }

    fn find(is_it: impl Fn(&'static str, &'static str) -> bool) -> Option<Element> {
        ELEMENTS
            .iter()
            .position(|&(class, dtype, ..)| is_it(class, dtype))
            .map(|number| Element(number as u8))
    }
}

/// Class of the storage, dtype, our own name and bytes of each element type; an empty name where torch
/// has none.
static ELEMENTS: [(&str, &str, StoredType, u64); 25] = [
    ("FloatStorage", "float32", StoredType::Known(DType::F32), 4),
    ("HalfStorage", "float16", StoredType::Known(DType::F16), 2),
    ("BFloat16Storage", "bfloat16", StoredType::Known(DType::BF16), 2),
    ("DoubleStorage", "float64", StoredType::Other("f64"), 8),
    ("LongStorage", "int64", StoredType::Other("i64"), 8),
    ("IntStorage", "int32", StoredType::Other("i32"), 4),
    ("ShortStorage", "int16", StoredType::Other("i16"), 2),
    ("CharStorage", "int8", StoredType::Other("i8"), 1),
    ("ByteStorage", "uint8", StoredType::Other("u8"), 1),
    ("BoolStorage", "bool", StoredType::Other("bool"), 1),
    ("UntypedStorage", "", StoredType::Other("u8"), 1),
    ("ComplexFloatStorage", "complex64", StoredType::Other("complex64"), 8),
    ("ComplexDoubleStorage", "complex128", StoredType::Other("complex128"), 16),
    ("QInt8Storage", "qint8", StoredType::Other("qint8"), 1),
    ("QUInt8Storage", "quint8", StoredType::Other("quint8"), 1),
    ("QInt32Storage", "qint32", StoredType::Other("qint32"), 4),
    ("", "uint16", StoredType::Other("u16"), 2),
    ("", "uint32", StoredType::Other("u32"), 4),
    ("", "uint64", StoredType::Other("u64"), 8),
    ("", "complex32", StoredType::Other("complex32"), 4),
    ("", "float8_e4m3fn", StoredType::Other("f8_e4m3"), 1),
    ("", "float8_e4m3fnuz", StoredType::Other("f8_e4m3fnuz"), 1),
    ("", "float8_e5m2", StoredType::Other("f8_e5m2"), 1),
    ("", "float8_e5m2fnuz", StoredType::Other("f8_e5m2fnuz"), 1),
    ("", "float8_e8m0fnu", StoredType::Other("f8_e8m0"), 1),
];

impl Global {
    /// The meaning of a name; `None` for all that have none here.
    pub fn of(module: &str, name: &str) -> Option<Global> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch", "Size") => Global::Size,
            ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor(1),
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor(2),
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensor(3),
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter(3),
            ("torch._utils", "_rebuild_parameter_with_state") => Global::RebuildParameter(4),
            ("torch" | "torch.storage", _) if name.ends_with("Storage") => {
                Global::Storage(Element::find(|class, _| class == name)?)
            }
            ("torch", _) if !name.is_empty() => Global::DType(Element::find(|_, dtype| dtype == name)?),
            _ => return None,
        };
        Some(global)
    }
}

/// A storage, or a part of one, as a persistent id names it.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// Its name in the file.
    pub key: Span,
    /// Type of its elements.
    pub element: Element,
    /// Elements of the whole storage.
    pub elements: u64,
    /// Elements of it before the part.
    pub first: u64,
    /// Elements of the part.
    pub len: u64,
}

/// A tensor as its rebuilding function was told it. The numbers are not compared yet.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// In [`Heap::storages`].
    pub storage: u32,
    /// Type of its elements, where the storage has none of its own.
    pub element: Option<Element>,
    /// Elements of the storage before its first one.
    pub offset: u64,
    /// A tuple of integers.
    pub shape: Span,
    /// A tuple of integers, in elements.
    pub strides: Span,
}

/// The arenas, and what is left of their limit.
#[derive(Debug)]
pub struct Heap {
    text: Vec<u8>,
    slots: Vec<Value>,
    containers: Vec<Vec<Value>>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<Tensor>,
    left: usize,
}

impl Heap {
    pub fn new() -> Self {
        Heap {
            text: Vec::new(),
            slots: Vec::new(),
            containers: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
            left: limits::PICKLE_VALUES_MAX,
        }
    }

    /// Slots that may still be taken.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Counts `slots` more.
    pub fn take(&mut self, slots: usize) -> Result<()> {
        self.left = self.left.checked_sub(slots).ok_or_else(|| {
            crate::error!(Format, "more than {} values in a pickle", limits::PICKLE_VALUES_MAX)
        })?;
        Ok(())
    }

    /// Keeps bytes, which were read from the file and are therefore no more than it has.
    pub fn add_text(&mut self, bytes: &[u8]) -> Result<Span> {
        let start = crate::base::checked::u32(self.text.len() as u64, "the strings of a pickle")?;
        let len = crate::base::checked::u32(bytes.len() as u64, "a string")?;
        self.text
            .try_reserve(bytes.len())
            .map_err(|_| crate::error!(NoMemory, "cannot take {len} bytes for a string"))?;
        self.text.extend_from_slice(bytes);
        Ok(Span { start, len })
    }

    /// The bytes of a string or a long integer.
    pub fn bytes(&self, span: Span) -> &[u8] {
        self.text.get(span.range()).unwrap_or_default()
    }

    /// A string. What is not UTF-8 was refused when it was read.
    pub fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    pub fn add_tuple(&mut self, values: &[Value]) -> Result<Span> {
        self.take(values.len())?;
        let start = crate::base::checked::u32(self.slots.len() as u64, "the tuples of a pickle")?;
        self.slots.extend_from_slice(values);
        Ok(Span { start, len: values.len() as u32 })
    }

    /// The elements of a tuple.
    pub fn tuple(&self, span: Span) -> &[Value] {
        self.slots.get(span.range()).unwrap_or_default()
    }

    /// A new list or dict (whose keys and values alternate), empty.
    pub fn add_container(&mut self) -> Result<u32> {
        self.take(CONTAINER_SLOTS)?;
        self.containers.push(Vec::new());
        Ok(self.containers.len() as u32 - 1)
    }

    /// The elements of a list, or keys and values of a dict by turns.
    pub fn container(&self, number: u32) -> &[Value] {
        self.containers.get(number as usize).map_or(&[], Vec::as_slice)
    }

    /// Appends to a list or dict.
    pub fn extend(&mut self, number: u32, values: &[Value]) -> Result<()> {
        self.take(values.len())?;
        if let Some(container) = self.containers.get_mut(number as usize) {
            container.extend_from_slice(values);
        }
        Ok(())
    }

    /// Up to 8 numbers ≥ 0 of a tuple: a shape or strides.
    pub fn numbers(&self, span: Span, what: &str) -> Result<Vec<u64>> {
        const RANK_MAX: usize = 8;
        let values = self.tuple(span);
        crate::ensure!(
            values.len() <= RANK_MAX,
            Format,
            "{what}: {} dimensions, expected at most {RANK_MAX}",
            values.len()
        );
        values.iter().map(|&value| natural(value, what)).collect()
    }
}

/// A number ≥ 0.
pub fn natural(value: Value, what: &str) -> Result<u64> {
    match value {
        Value::Int(n) => u64::try_from(n)
            .map_err(|_| crate::error!(Format, "{what}: expected a number from 0 on, found {n}")),
        other => Err(crate::error!(Format, "{what}: expected a number, found {}", other.kind())),
    }
}
