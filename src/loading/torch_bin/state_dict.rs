//! The state dict among the values of a pickle, and its tensors' places in the file.

use super::pickle::Pickle;
use super::values::{Element, Storage, Tensor, Value};
use crate::base::error::Result;
use crate::base::{checked, limits};
use crate::loading::json::clip;
use crate::loading::tensor::{Named, StoredTensor};
use std::collections::HashSet;
use std::ops::Range;

/// Keys under which trainers put a state dict beside other things.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "module", "model"];
/// Most of them inside one another.
const WRAPPERS_MAX: usize = 4;
/// What a wrapper of a model for several devices puts before every name.
const PARALLEL: &str = "module.";

/// Where a storage lies: the bytes of all of it, by its key.
pub trait Storages {
    /// `Format` where there is none, or where it is not as long as the pickle says.
    fn place(&self, key: &str, storage: &Storage) -> Result<Range<u64>>;
}

/// Finds the tensors of the state dict in `pickle`, with the keys that led to it.
pub fn read(pickle: &Pickle, storages: &impl Storages) -> Result<(Named, Vec<&'static str>)> {
    let heap = &pickle.heap;
    if let Value::Tensor(number) = pickle.top {
        return Ok((vec![(String::new(), stored(pickle, number, storages)?)], Vec::new()));
    }
    let (dict, path) = find(pickle)?;
    let (mut named, mut seen) = (Named::new(), HashSet::new());
    for pair in heap.container(dict).as_chunks::<2>().0 {
        let &[Value::Text(name), Value::Tensor(number)] = pair else { continue };
        let name = heap.text(name);
        crate::ensure!(seen.insert(name), Format, "tensor {}: the name stands twice", clip(name));
        crate::ensure!(
            named.len() < limits::TENSORS_MAX,
            Format,
            "more than {} tensors",
            limits::TENSORS_MAX
        );
        let tensor = stored(pickle, number, storages)
            .map_err(|error| error.at(format_args!("tensor {}", clip(name))))?;
        named.push((name.into(), tensor));
    }
    if named.iter().all(|(name, _)| name.starts_with(PARALLEL)) {
        named.iter_mut().for_each(|(name, _)| drop(name.drain(..PARALLEL.len())));
    }
    Ok((named, path))
}

/// The dict that holds tensors: the top one, or that under the keys of wrappers.
fn find(pickle: &Pickle) -> Result<(u32, Vec<&'static str>)> {
    let Value::Dict(mut dict) = pickle.top else {
        crate::bail!(Format, "expected a state dict, found {}", pickle.top.kind())
    };
    let mut path = Vec::new();
    loop {
        let pairs = pickle.heap.container(dict).as_chunks::<2>().0;
        if pairs.iter().any(|pair| matches!(pair, [Value::Text(_), Value::Tensor(_)])) {
            return Ok((dict, path));
        }
        let under = |wrapper: &&'static str| {
            pairs.iter().find_map(|pair| match *pair {
                [Value::Text(key), Value::Dict(inner)] if pickle.heap.text(key) == *wrapper => {
                    Some((inner, *wrapper))
                }
                _ => None,
            })
        };
        let inner = WRAPPERS.iter().find_map(under).filter(|_| path.len() < WRAPPERS_MAX);
        let Some((inner, wrapper)) = inner else {
            let first = pairs.iter().find_map(|pair| match *pair {
                [Value::Text(key), _] => Some(clip(pickle.heap.text(key))),
                _ => None,
            });
            crate::bail!(
                Format,
                "expected a state dict of tensors, or one under the key {}, found {}",
                WRAPPERS.join(", "),
                first.map_or("a dict without names".into(), |key| format!(
                    "a dict whose first key is {key:?}"
                ))
            )
        };
        path.push(wrapper);
        dict = inner;
    }
}

/// A tensor with its place, its numbers compared with the storage and the file.
fn stored(pickle: &Pickle, number: u32, storages: &impl Storages) -> Result<StoredTensor> {
    let heap = &pickle.heap;
    let tensor = heap.tensors.get(number as usize);
    let storage = tensor.and_then(|tensor| heap.storages.get(tensor.storage as usize));
    let (Some(tensor), Some(storage)) = (tensor, storage) else {
        crate::bail!(Internal, "a tensor without its storage")
    };
    let shape = heap.numbers(tensor.shape, "its shape")?;
    let strides = heap.numbers(tensor.strides, "its strides")?;
    crate::ensure!(
        shape.len() == strides.len(),
        Format,
        "{} dimensions with {} strides, expected as many",
        shape.len(),
        strides.len()
    );
    let (element, elements) = elements(tensor, storage)?;
    let extent = extent(&shape, &strides)?;
    let end = checked::add(tensor.offset, extent.span, "its end")?;
    crate::ensure!(
        end <= elements,
        Format,
        "{shape:?} with strides {strides:?} reaches from element {} to {end} of its storage, which has {elements}",
        tensor.offset
    );
    let key = heap.text(storage.key);
    let bytes =
        storages.place(key, storage).map_err(|error| error.at(format_args!("storage {:?}", clip(key))))?;
    // Both products are no more than the storage's bytes, which the file has.
    let first = checked::mul(storage.first, storage.element.bytes(), "its storage")?;
    let first =
        checked::add(first, checked::mul(tensor.offset, element.bytes(), "its offset")?, "its offset")?;
    let start = checked::add(bytes.start, first, "its offset")?;
    let end = checked::add(start, checked::mul(extent.span, element.bytes(), "its size")?, "its end")?;
    crate::ensure!(end <= bytes.end, Format, "it ends at byte {end}, its storage at {}", bytes.end);
    let sizes = |numbers: Vec<u64>| -> Result<Vec<usize>> {
        numbers.into_iter().map(|n| checked::usize(n, "its shape")).collect()
    };
    Ok(StoredTensor {
        dtype: element.stored(),
        shape: sizes(shape)?,
        range: start..end,
        strides: if extent.contiguous { None } else { Some(sizes(strides)?) },
    })
}

/// The type of a tensor's elements, and how many of them its part of the storage has.
fn elements(tensor: &Tensor, storage: &Storage) -> Result<(Element, u64)> {
    let own = storage.element;
    match tensor.element {
        None => Ok((own, storage.len)),
        Some(element) if element.stored() == own.stored() => Ok((element, storage.len)),
        Some(element) if own.is_byte() => Ok((element, storage.len / element.bytes())),
        Some(element) => Err(crate::error!(
            Format,
            "its type is {}, that of its storage {}",
            element.stored(),
            own.stored()
        )),
    }
}

struct Extent {
    /// Elements from the first to the last one, both counted.
    span: u64,
    /// Whether the elements lie one after the other, row by row.
    contiguous: bool,
}

fn extent(shape: &[u64], strides: &[u64]) -> Result<Extent> {
    let elements = checked::product(shape, "its shape")?;
    if elements == 0 {
        return Ok(Extent { span: 0, contiguous: true });
    }
    let (mut last, mut contiguous, mut row) = (0u64, true, 1u64);
    for (&size, &stride) in shape.iter().zip(strides).rev() {
        last = checked::add(last, checked::mul(size - 1, stride, "its strides")?, "its strides")?;
        contiguous &= size == 1 || stride == row;
        row = checked::mul(row, size, "its shape")?;
    }
    Ok(Extent { span: checked::add(last, 1, "its strides")?, contiguous })
}
