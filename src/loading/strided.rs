//! Views that do not lie row by row: their elements put one after the other.

/// Copies the elements of a view into `out`, row by row. `bytes` begins with the first element and ends with the last
/// one; `strides` count elements of `element_bytes`. What would lie outside of either is left out (nothing does, where
/// the reader of the file has compared them).
pub fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], element_bytes: usize, out: &mut [u8]) {
    let (Some((&len, outer)), Some((&step, outer_strides))) = (shape.split_last(), strides.split_last())
    else {
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        return;
    };
    let mut index = vec![0usize; outer.len()];
    for row in out.chunks_mut((len * element_bytes).max(1)) {
        let first: usize = index.iter().zip(outer_strides).map(|(i, stride)| i * stride).sum();
        let from = bytes.get(first * element_bytes..).unwrap_or_default();
        copy_row(from, step, element_bytes, row);
        // The next row: the last index that is not at its end goes on, those behind it begin anew.
        for (i, &size) in index.iter_mut().zip(outer).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
}

/// Every `step`-th element of `from`.
fn copy_row(from: &[u8], step: usize, element_bytes: usize, row: &mut [u8]) {
    match element_bytes {
        2 => copy_elements::<2>(from, step, row),
        4 => copy_elements::<4>(from, step, row),
        _ => {
            for (i, to) in row.chunks_mut(element_bytes.max(1)).enumerate() {
                let at = i * step * element_bytes;
                if let Some(element) = from.get(at..at + to.len()) {
                    to.copy_from_slice(element);
                }
            }
        }
    }
}

fn copy_elements<const N: usize>(from: &[u8], step: usize, row: &mut [u8]) {
    let elements = from.as_chunks::<N>().0.iter().step_by(step.max(1));
    for (to, element) in row.as_chunks_mut::<N>().0.iter_mut().zip(elements) {
        *to = *element;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_elements_as_by_their_indexes(
            dims in prop::collection::vec((1..5usize, 1..7usize), 0..4),
            wide in prop::sample::select(vec![1usize, 2, 4, 8]),
        ) {
            let (shape, strides): (Vec<_>, Vec<_>) = dims.into_iter().unzip();
            let count: usize = shape.iter().product();
            let span = 1 + shape.iter().zip(&strides).map(|(d, s)| (d - 1) * s).sum::<usize>();
            let bytes: Vec<u8> = (0..span * wide).map(|i| (i * 7 % 251) as u8).collect();
            let mut expected: Vec<u8> = Vec::new();
            for n in 0..count {
                let (mut rest, mut at) = (n, 0);
                for (size, stride) in shape.iter().zip(&strides).rev() {
                    at += rest % size * stride;
                    rest /= size;
                }
                expected.extend(&bytes[at * wide..(at + 1) * wide]);
            }
            let mut found = vec![0; count * wide];
            gather(&bytes, &shape, &strides, wide, &mut found);
            prop_assert_eq!(found, expected);
        }
    }
}
