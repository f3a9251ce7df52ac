//! Checkpoints out of checkpoints: cut for several cards, joined again, converted.
//!
//! All of it is one stream: tensor after tensor is read where it lies in its mapped file, put into the wanted order, type and
//! part ([`rows`]), and written to files whose layout was settled before ([`crate::saving`]). A few MiB are in memory at a
//! time. What is written has its name only once all of it is on the disk.

mod directory;
mod flagai;
mod gguf;
mod rows;
mod split;
mod tokenizer;
mod whole;

pub use crate::saving::WeightFormat;
pub use split::{SplitOptions, SplitReport, split};
pub use whole::{ConvertOptions, ConvertReport, Target, convert, join};

use crate::backend::Progress;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result, Status};
use crate::model::checkpoint::Checkpoint;
use crate::model::names::{BIAS_ROLES, LAYER_ROLES, Naming, is_vector};
use crate::model::weights::{Role, Weight};
use crate::saving::NewTensor;
use rows::Cut;
use std::path::Path;

/// Bytes of one weight file where nothing else is asked for: what Hugging Face's tools wrote in Aquila's time.
pub const SHARD_BYTES: u64 = 10_000_000_000;

/// All weights of a checkpoint in the order of files: layer, role, weight. `Unsupported` where some are 8-bit codes of
/// msModelSlim, which no other form holds.
fn in_order(checkpoint: &Checkpoint) -> Result<Vec<(usize, Role, &Weight)>> {
    let weights = &checkpoint.weights;
    if let Some(name) = weights.first_int8() {
        crate::bail!(
            Unsupported,
            "tensor {name}: 8-bit codes of msModelSlim can neither be cut nor converted: start from the model that they \
             were made of"
        );
    }
    let first = std::iter::once((0, Role::Embedding));
    let layers = (0..checkpoint.spec.layers)
        .flat_map(|layer| LAYER_ROLES.into_iter().chain(BIAS_ROLES).map(move |role| (layer, role)));
    let last = [(0, Role::FinalNorm), (0, Role::Head)];
    let all = first.chain(layers).chain(last);
    Ok(all.filter_map(|(layer, role)| Some((layer, role, weights.get(layer, role)?))).collect())
}

/// The type in which a weight is stored where `wanted` is asked for: quantised ones become f16 where nothing is.
fn stored_type(weight: &Weight, wanted: Option<DType>) -> DType {
    wanted.or(weight.dtype().filter(|dtype| dtype.is_plain())).unwrap_or(DType::F16)
}

/// Reads every weight once and hands the bytes of its cut to `append`, with its number.
fn stream_all(
    weights: &[(usize, Role, &Weight)],
    cuts: &[Cut],
    stage: &str,
    progress: Progress<'_>,
    mut append: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let total = weights.iter().map(|(_, _, weight)| weight.stored_bytes()).sum();
    let mut done = 0;
    for (number, ((_, _, weight), cut)) in weights.iter().zip(cuts).enumerate() {
        weight.prefetch();
        rows::stream(weight, cut, |bytes| append(number, bytes))?;
        done += weight.stored_bytes();
        if progress(stage, done, total).is_break() {
            return Err(Error::new(Status::Cancelled, format!("{stage}: abandoned")));
        }
    }
    Ok(())
}

/// A part of a weight as it stands in a file.
fn new_tensor(naming: Naming, layer: usize, role: Role, cut: &Cut) -> NewTensor {
    let (rows, cols) = (cut.rows.len() + cut.zeros, cut.cols.len());
    let shape = if is_vector(role) { vec![cols] } else { vec![rows, cols] };
    NewTensor { name: naming.tensor(layer, role), dtype: cut.dtype, shape }
}

/// The directory in which a model's other files lie.
fn home(model: &Path) -> &Path {
    let above = model.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    if model.is_dir() { model } else { above }
}
