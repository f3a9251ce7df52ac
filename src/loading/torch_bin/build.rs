//! What becomes of a call in a pickle: a value of our own, for the few functions that rebuild tensors.

use super::values::{Element, Global, Heap, Span, Storage, Tensor, Value, natural};
use crate::base::error::Result;

/// The value that `function` of `arguments` would give.
pub fn reduce(heap: &mut Heap, function: Value, arguments: Value) -> Result<Value> {
    let Value::Tuple(arguments) = arguments else {
        crate::bail!(Format, "a call with {}, expected a tuple of arguments", arguments.kind())
    };
    match function {
        Value::Global(Global::OrderedDict) => ordered_dict(heap, arguments),
        Value::Global(Global::Size) => size(heap, arguments),
        Value::Global(Global::RebuildTensor(version)) => tensor(heap, version, arguments),
        Value::Global(Global::RebuildParameter(count)) => {
            let arguments = heap.tuple(arguments);
            match arguments.first() {
                Some(&tensor @ Value::Tensor(_)) if arguments.len() == usize::from(count) => Ok(tensor),
                _ => Err(crate::error!(
                    Format,
                    "a parameter of {} arguments, expected {count}, the first a tensor",
                    arguments.len()
                )),
            }
        }
        other => Err(crate::error!(Format, "a call of {}, expected none", other.kind())),
    }
}

/// `OrderedDict()`, or `OrderedDict([[key, value], …])` as Python 2 wrote it.
fn ordered_dict(heap: &mut Heap, arguments: Span) -> Result<Value> {
    let mut pairs = Vec::new();
    match heap.tuple(arguments) {
        [] => {}
        [Value::List(list)] => {
            for &pair in heap.container(*list) {
                let pair = match pair {
                    Value::List(pair) => heap.container(pair),
                    Value::Tuple(pair) => heap.tuple(pair),
                    _ => &[],
                };
                crate::ensure!(
                    pair.len() == 2,
                    Format,
                    "an OrderedDict of lists of {} elements, expected key and value",
                    pair.len()
                );
                pairs.extend_from_slice(pair);
            }
        }
        other => crate::bail!(Format, "an OrderedDict of {} arguments, expected none or a list", other.len()),
    }
    let dict = heap.add_container()?;
    heap.extend(dict, &pairs)?;
    Ok(Value::Dict(dict))
}

/// `Size((a, b, …))`: the tuple itself.
fn size(heap: &Heap, arguments: Span) -> Result<Value> {
    match heap.tuple(arguments) {
        &[tuple @ Value::Tuple(_)] => Ok(tuple),
        other => Err(crate::error!(Format, "a Size of {} arguments, expected one tuple", other.len())),
    }
}

/// `_rebuild_tensor(storage, offset, size, strides)`; version 2 has `requires_grad, hooks` behind it, version 3 also a
/// dtype; both may end with metadata.
fn tensor(heap: &mut Heap, version: u8, arguments: Span) -> Result<Value> {
    let counts = match version {
        1 => 4..=4,
        2 => 6..=7,
        _ => 7..=8,
    };
    let arguments = heap.tuple(arguments);
    let &[Value::Storage(storage), offset, Value::Tuple(shape), Value::Tuple(strides), ref rest @ ..] =
        arguments
    else {
        let kinds: Vec<&str> = arguments.iter().take(8).map(|value| value.kind()).collect();
        crate::bail!(
            Format,
            "a tensor of {}, expected a storage, a number and two tuples",
            if kinds.is_empty() { "nothing".into() } else { kinds.join(", ") }
        )
    };
    crate::ensure!(
        counts.contains(&arguments.len()),
        Format,
        "_rebuild_tensor (version {version}) of {} arguments, expected {} to {}",
        arguments.len(),
        counts.start(),
        counts.end()
    );
    let element = if version == 3 { Some(dtype(rest)?) } else { None };
    if arguments.len() == *counts.end() && version > 1 {
        plain(heap, rest.last().copied().unwrap_or(Value::None))?;
    }
    let offset = natural(offset, "the offset of a tensor")?;
    heap.take(4)?;
    heap.tensors.push(Tensor { storage, element, offset, shape, strides });
    Ok(Value::Tensor(heap.tensors.len() as u32 - 1))
}

/// The dtype among `requires_grad, hooks, dtype, …`.
fn dtype(rest: &[Value]) -> Result<Element> {
    match rest.get(2) {
        Some(&Value::Global(Global::DType(element))) => Ok(element),
        other => Err(crate::error!(
            Format,
            "a tensor of {}, expected a dtype",
            other.map_or("no dtype", |value| value.kind())
        )),
    }
}

/// A tensor's metadata may say that its elements are meant negated or conjugated.
fn plain(heap: &Heap, metadata: Value) -> Result<()> {
    let empty = match metadata {
        Value::None => true,
        Value::Dict(dict) => heap.container(dict).is_empty(),
        _ => false,
    };
    crate::ensure!(empty, Unsupported, "a tensor with metadata (negated or conjugated elements)");
    Ok(())
}

/// What a persistent id stands for: `("storage", class, key, location, elements)`, with `None` or
/// `(view key, offset, elements)` behind it in old files. Where it lay is nothing to us.
pub fn storage(heap: &mut Heap, id: Value) -> Result<Value> {
    let Value::Tuple(id) = id else {
        crate::bail!(Format, "a persistent id that is {}, expected a tuple", id.kind())
    };
    let id = heap.tuple(id);
    let (&[Value::Text(tag), Value::Global(Global::Storage(element)), Value::Text(key), _, elements], view) =
        (match id {
            [five @ .., view] if id.len() == 6 => (five, *view),
            _ => (id, Value::None),
        })
    else {
        let kinds: Vec<&str> = id.iter().take(6).map(|value| value.kind()).collect();
        crate::bail!(Format, "a persistent id of {}, expected that of a storage", kinds.join(", "))
    };
    crate::ensure!(
        heap.text(tag) == "storage",
        Format,
        "a persistent id of {:?}, expected that of a storage",
        crate::loading::json::clip(heap.text(tag))
    );
    let elements = natural(elements, "the elements of a storage")?;
    let (first, len) = match view {
        Value::None => (0, elements),
        Value::Tuple(view) => match heap.tuple(view) {
            &[_, first, len] => {
                let what = "a part of a storage";
                let (first, len) = (natural(first, what)?, natural(len, what)?);
                crate::ensure!(
                    first.checked_add(len).is_some_and(|end| end <= elements),
                    Format,
                    "{what}: {len} elements from {first} on, and the storage has {elements}"
                );
                (first, len)
            }
            other => crate::bail!(Format, "a part of a storage by {} values, expected 3", other.len()),
        },
        other => crate::bail!(Format, "a part of a storage by {}, expected a tuple", other.kind()),
    };
    heap.take(5)?;
    heap.storages.push(Storage { key, element, elements, first, len });
    Ok(Value::Storage(heap.storages.len() as u32 - 1))
}
