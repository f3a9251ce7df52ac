//! The form of torch before 1.6: five pickles one after the other (magic number, version, facts about
//! the machine, the state dict, the keys of the storages), then each storage with its length before it.

use super::pickle::{self, Pickle};
use super::state_dict::Storages;
use super::values::{Storage, Value};
use super::{Form, TorchFile, state_dict};
use crate::base::checked;
use crate::base::error::Result;
use crate::loading::cursor::Cursor;
use crate::loading::file::SourceFile;
use crate::loading::json::clip;
use std::collections::HashMap;
use std::ops::Range;

/// What the first pickle holds, lowest byte first.
const MAGIC_NUMBER: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// What the second one holds.
const VERSION: i64 = 1001;

/// A storage of the file: what the pickle and the file say of it.
struct Placed {
    elements: u64,
    element_bytes: u64,
    range: Option<Range<u64>>,
}

struct Table(HashMap<String, Placed>);

impl Storages for Table {
    fn place(&self, key: &str, _: &Storage) -> Result<Range<u64>> {
        let range = self.0.get(key).and_then(|placed| placed.range.clone());
        range.ok_or_else(|| crate::error!(Format, "the file does not hold it"))
    }
}

/// Reads the pickles, and passes over the storages.
pub fn read(file: &SourceFile) -> Result<TorchFile> {
    let mut cursor = Cursor::new(file);
    check_head(&mut cursor)?;
    let pickle = pickle::read(&mut cursor, "pickle of the state dict")?;
    let mut table = Table::new(&pickle)?;
    let keys = pickle::read(&mut cursor, "pickle of the storages' keys")?;
    table.locate(&keys, &mut cursor)?;
    crate::ensure!(cursor.left() == 0, Format, "{} bytes behind the last storage", cursor.left());
    let (tensors, path) = state_dict::read(&pickle, &table)?;
    Ok(TorchFile { tensors, form: Form::Legacy, path })
}

/// The first three pickles.
fn check_head(cursor: &mut Cursor<'_>) -> Result<()> {
    let magic = pickle::read(cursor, "pickle of the magic number")?;
    let is_torch = matches!(magic.top, Value::Long(span) if magic.heap.bytes(span) == MAGIC_NUMBER);
    crate::ensure!(
        is_torch,
        Format,
        "a pickle of {}, expected the magic number of a file written by torch.save",
        magic.top.kind()
    );
    let version = pickle::read(cursor, "pickle of the version")?;
    crate::ensure!(
        version.top == Value::Int(VERSION),
        Unsupported,
        "{:?} as the version of torch's older form, expected {VERSION}",
        version.top
    );
    let machine = pickle::read(cursor, "pickle of the machine's facts")?;
    let Value::Dict(facts) = machine.top else {
        crate::bail!(Format, "{} as the machine's facts, expected a dict", machine.top.kind())
    };
    let order = machine.heap.container(facts).as_chunks::<2>().0.iter().find_map(|pair| match *pair {
        [Value::Text(key), order] if machine.heap.text(key) == "little_endian" => Some(order),
        _ => None,
    });
    crate::ensure!(
        matches!(order, None | Some(Value::Bool(true))),
        Unsupported,
        "big-endian numbers, expected little-endian ones"
    );
    Ok(())
}

impl Table {
    /// What the pickle says of each storage, which is the same each time.
    fn new(pickle: &Pickle) -> Result<Self> {
        let mut table = HashMap::new();
        for storage in &pickle.heap.storages {
            let key = pickle.heap.text(storage.key);
            let (elements, element_bytes) = (storage.elements, storage.element.bytes());
            match table.get(key) {
                None => {
                    table.insert(key.to_string(), Placed { elements, element_bytes, range: None });
                }
                Some(other) => crate::ensure!(
                    (other.elements, other.element_bytes) == (elements, element_bytes),
                    Format,
                    "storage {:?}: {elements} elements of {element_bytes} bytes, and elsewhere {} of {}",
                    clip(key),
                    other.elements,
                    other.element_bytes
                ),
            }
        }
        Ok(Table(table))
    }

    /// Walks over the storages in the order of `keys`.
    fn locate(&mut self, keys: &Pickle, cursor: &mut Cursor<'_>) -> Result<()> {
        let Value::List(list) = keys.top else {
            crate::bail!(Format, "{} as the storages' keys, expected a list", keys.top.kind())
        };
        for &key in keys.heap.container(list) {
            let Value::Text(key) = key else {
                crate::bail!(Format, "{} as a storage's key, expected a string", key.kind())
            };
            let key = keys.heap.text(key);
            let placed = self.0.get_mut(key).filter(|placed| placed.range.is_none());
            let Some(placed) = placed else {
                crate::bail!(Format, "storage {:?}: no tensor has it, or it stands twice", clip(key))
            };
            let what = format!("storage {:?}", clip(key));
            let found = cursor.u64(&what)?;
            crate::ensure!(
                found == placed.elements,
                Format,
                "{what}: expected {} elements, found {found}",
                placed.elements
            );
            let bytes = checked::mul(found, placed.element_bytes, &what)?;
            let start = cursor.position();
            cursor.skip(bytes, &what)?;
            placed.range = Some(start..start + bytes);
        }
        Ok(())
    }
}
