//! Converted weights kept in a packed cache: which, under which numbers, and how they are written and found.
//!
//! Everything that is converted is kept, and nothing that is used in place. Norms and biases are kept with it: they are
//! few, and a load that finds the cache then reads nothing of the source's weights. Where no matrix is converted
//! nothing is kept.
//!
//! A load that finds no good cache first writes one, one tensor in memory at a time, and then maps it like any
//! other; so the weights become page cache and never stand in memory twice. Where the writing fails, the load
//! goes on as if there were no cache; its plan has counted the weights as private memory for that case.

use super::kernels::Element;
use super::kernels::Packing;
use super::kernels::panels;
use super::survey::{self, Form};
use super::weights::Loader;
use crate::backend::shapes::{self, LAYER_BIASES, LAYER_MATRICES, LAYER_NORMS};
use crate::backend::{ComputeType, PackedCache};
use crate::base::error::{Error, Result, Status};
use crate::base::region::Region;
use crate::model::spec::DecoderSpec;
use crate::model::weights::packed::{Format, PackedFile, Store, Wanted};
use crate::model::weights::{Role, WeightSet};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Raise it when the same weights become other bytes: another search for scales, another order. A test compares the
/// bytes with those of this revision.
const REVISION: u64 = 2;
/// Payload bytes that are read between two reports of progress.
pub const REPORT_BYTES: u64 = 256 << 20;

/// The number of a form in a packed cache: never changed, never used again.
const fn number(form: Form) -> u32 {
    match form {
        Form::Plain(Element::F32) => 1,
        Form::Plain(Element::F16) => 2,
        Form::Plain(Element::Bf16) => 3,
        Form::Packed(Packing::Q8) => 16,
        Form::Packed(Packing::Q8Fine) => 17,
        Form::Packed(Packing::Q4) => 18,
        Form::Packed(Packing::Q4Fine) => 19,
        Form::Packed(Packing::Q4Min) => 20,
        Form::Packed(Packing::Q4Super) => 21,
    }
}

/// Identifies what the bytes of all forms mean: the revision and the constants of the panels.
fn layout() -> u64 {
    let sizes = [panels::PANEL_ROWS, panels::GROUP, panels::SUBGROUP, panels::K_STEP];
    let parts =
        sizes.iter().map(|&n| n as u64).chain(panels::CODEBOOK.iter().map(|&level| level as u8 as u64));
    // FNV-1a over 64-bit words: any change gives another number.
    parts.fold(0xcbf2_9ce4_8422_2325 ^ REVISION, |hash, n| (hash ^ n).wrapping_mul(0x0000_0100_0000_01b3))
}

/// What of a decoder's weights is kept, in the order in which a load readies them.
pub struct Wish {
    /// What the file must hold.
    pub format: Format,
    /// The weights of the format's tensors, and their forms.
    pub places: Vec<(usize, Role, Form)>,
    /// Bytes of the matrices among them; the rest becomes private memory either way.
    pub matrix_bytes: u64,
}

impl Wish {
    /// `None` where no matrix is converted; `Format` where a weight is missing or of a wrong shape.
    pub fn of(spec: &DecoderSpec, weights: &WeightSet, dtype: Option<ComputeType>) -> Result<Option<Wish>> {
        let label = match dtype {
            None => "auto",
            Some(ComputeType::F32) => "f32",
            Some(ComputeType::F16) => "f16",
            Some(ComputeType::Bf16) => "bf16",
            Some(ComputeType::Q8) => "q8",
            Some(ComputeType::Q4) => "q4",
            Some(ComputeType::W8a8) => "w8a8",
        };
        let format = Format { layout: layout(), label, tensors: Vec::new() };
        let mut wish = Wish { format, places: Vec::new(), matrix_bytes: 0 };
        for (layer, role, is_matrix) in order(spec) {
            let Some(weight) = shapes::may(spec, weights, layer, role)? else { continue };
            let form = if is_matrix { Form::of(role, weight, dtype) } else { Form::Plain(Element::F32) };
            if is_matrix && survey::in_place(role, weight, dtype) {
                continue;
            }
            let bytes = form.bytes(weight.rows, weight.cols);
            wish.matrix_bytes += if is_matrix { bytes } else { 0 };
            wish.places.push((layer, role, form));
            wish.format.tensors.push(Wanted {
                layer: layer as u32,
                role: role.number(),
                form: number(form),
                rows: weight.rows as u64,
                cols: weight.cols as u64,
                bytes,
                arrangement: weight.arrangement(),
            });
        }
        Ok((wish.matrix_bytes > 0).then_some(wish))
    }
}

/// Every weight of a decoder in the order of a load, and whether it is a matrix.
fn order(spec: &DecoderSpec) -> impl Iterator<Item = (usize, Role, bool)> {
    let layers = (0..spec.layers).flat_map(|layer| {
        let matrices = LAYER_MATRICES.into_iter().map(move |role| (layer, role, true));
        let vectors = LAYER_NORMS.into_iter().chain(LAYER_BIASES).map(move |role| (layer, role, false));
        matrices.chain(vectors)
    });
    let head = (!spec.tied).then_some((0, Role::Head, true));
    [(0, Role::Embedding, true)].into_iter().chain(layers).chain([(0, Role::FinalNorm, false)]).chain(head)
}

/// The cache that a load would use, for the plan: its wish, and whether a good file is there.
pub fn planned(
    spec: &DecoderSpec,
    weights: &WeightSet,
    dtype: Option<ComputeType>,
) -> Result<Option<(Wish, PackedCache)>> {
    let Some(store) = weights.packed() else { return Ok(None) };
    let Some(wish) = Wish::of(spec, weights, dtype)? else { return Ok(None) };
    let found = matches!(store.find(&wish.format), Ok(Some(_)));
    let cache = summary(store, &wish, weights, found);
    Ok(Some((wish, cache)))
}

fn summary(store: &Store, wish: &Wish, weights: &WeightSet, found: bool) -> PackedCache {
    let kept = || wish.places.iter().filter_map(|&(layer, role, _)| weights.get(layer, role));
    PackedCache {
        path: store.path(&wish.format),
        tensors: wish.places.len(),
        weights: kept().map(|weight| weight.rows as u64 * weight.cols as u64).sum(),
        stored_bytes: kept().map(|weight| weight.stored_bytes()).sum(),
        packed_bytes: wish.format.tensors.iter().map(|tensor| tensor.bytes).sum(),
        found,
    }
}

/// An open cache: where each weight lies in it.
pub struct Kept {
    file: PackedFile,
    index: HashMap<(usize, Role), usize>,
}

impl Kept {
    /// The bytes of a weight, which the wish had.
    pub fn bytes(&self, layer: usize, role: Role) -> Result<Region> {
        let index = self.index.get(&(layer, role)).copied();
        let index =
            index.ok_or_else(|| crate::error!(Internal, "layer {layer}: {role:?} is not in the cache"))?;
        self.file.payload(index)
    }
}

impl Loader<'_, '_> {
    /// Takes the converted weights from the packed cache, where one is allowed and good; writes it first where it is
    /// not. Where that cannot be done nothing is taken and the log says why.
    pub fn keep(&mut self) -> Result<()> {
        let Some(store) = self.source.packed() else { return Ok(()) };
        let Some(wish) = Wish::of(self.spec, self.source, self.dtype)? else {
            log::info!("{}: no packed cache: every weight is used as it is stored", store.dir().display());
            return Ok(());
        };
        match self.open_kept(store, &wish) {
            Ok(Some(kept)) => return self.take(kept),
            Ok(None) => {}
            Err(error) if is_about_the_file(&error) => {
                log::warn!("packed cache refused, it is made again: {error}");
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = self.write_kept(store, &wish)? {
            log::warn!("no packed cache is written, the load goes on without: {error}");
            return Ok(());
        }
        match self.open_kept(store, &wish) {
            Ok(Some(kept)) => return self.take(kept),
            Ok(None) => {
                let path = store.path(&wish.format);
                log::warn!("{}: written, and gone; the load goes on without", path.display());
            }
            Err(error) if is_about_the_file(&error) => {
                log::warn!("packed cache refused, the load goes on without: {error}");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take(&mut self, kept: Kept) -> Result<()> {
        log::info!("packed cache {}", kept.file.path().display());
        self.kept = Some(kept);
        Ok(())
    }

    /// Makes the packed cache, unless a good one is there or with `force`. Errors of the disk are errors here.
    pub fn pack_ahead(&mut self, force: bool) -> Result<PackedCache> {
        let store =
            self.source.packed().ok_or_else(|| crate::error!(Argument, "cache_dir: expected a directory"))?;
        let wish = Wish::of(self.spec, self.source, self.dtype)?;
        let wish = wish.ok_or_else(|| {
            crate::error!(
                Argument,
                "dtype: every weight is used as it is stored: there is nothing to convert and keep"
            )
        })?;
        if !force {
            match self.open_kept(store, &wish) {
                Ok(Some(_)) => return Ok(summary(store, &wish, self.source, true)),
                Ok(None) => {}
                Err(error) if is_about_the_file(&error) => {
                    log::warn!("packed cache refused, it is made again: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        self.write_kept(store, &wish)??;
        self.open_kept(store, &wish)?
            .ok_or_else(|| crate::error!(Io, "{}: written, and gone", store.path(&wish.format).display()))?;
        Ok(summary(store, &wish, self.source, false))
    }

    /// The cache, if there is one, its payloads verified where they must be.
    fn open_kept(&mut self, store: &Store, wish: &Wish) -> Result<Option<Kept>> {
        let Some(found) = store.find(&wish.format)? else { return Ok(None) };
        let file = found.open()?;
        if file.must_verify() {
            self.verify_kept(&file)?;
        }
        let places = wish.places.iter().enumerate();
        let index = places.map(|(index, &(layer, role, _))| ((layer, role), index)).collect();
        Ok(Some(Kept { file, index }))
    }

    /// Compares every payload with its checksum, on all threads.
    fn verify_kept(&mut self, file: &PackedFile) -> Result<()> {
        let entries = file.entries();
        let size = |index: usize| entries.get(index).map_or(0, |e| e.range.end - e.range.start);
        let total: u64 = (0..entries.len()).map(size).sum();
        let (mut done, mut start) = (0, 0);
        while start < entries.len() {
            let (mut end, mut bytes) = (start, 0);
            while end < entries.len() && bytes < REPORT_BYTES {
                bytes += size(end);
                end += 1;
            }
            let damaged = AtomicUsize::new(usize::MAX);
            self.pool.run(&|worker| {
                for index in worker.chunks(end - start).map(|chunk| start + chunk) {
                    if file.verify(index).is_err() {
                        damaged.fetch_min(index, Ordering::Relaxed);
                    }
                }
                Ok(())
            })?;
            if let Some(index) = Some(damaged.into_inner()).filter(|&index| index < entries.len()) {
                return file.verify(index);
            }
            (done, start) = (done + bytes, end);
            let flow = (self.progress)("verify", done, total);
            crate::ensure!(
                flow.is_continue(),
                Cancelled,
                "the load was abandoned while the packed cache was verified"
            );
        }
        Ok(())
    }

    /// Converts one weight after the other and writes it. The outer error ends the load (a weight that cannot be
    /// converted, a load that is abandoned); the inner one is the disk's, without which a load can do.
    fn write_kept(&mut self, store: &Store, wish: &Wish) -> Result<Result<()>> {
        let mut writer = match store.create(&wish.format) {
            Ok(writer) => writer,
            Err(error) => return Ok(Err(error)),
        };
        let (mut done, taken, source) = (0, self.taken, self.source);
        let weights = || wish.places.iter().filter_map(|&(layer, role, _)| source.get(layer, role));
        let total: u64 = weights().map(|weight| weight.stored_bytes()).sum();
        weights().for_each(|weight| weight.prefetch());
        for &(layer, role, form) in &wish.places {
            let weight = shapes::need(self.spec, source, layer, role)?;
            let bytes = self.make(weight, form)?;
            // It is private memory for no longer than it takes to write it.
            self.taken = taken;
            if let Err(error) = writer.add(&bytes) {
                return Ok(Err(error));
            }
            done += weight.stored_bytes();
            let flow = (self.progress)("packing", done, total);
            crate::ensure!(flow.is_continue(), Cancelled, "the load was abandoned at {}", weight.name);
        }
        Ok(writer.finish())
    }
}

/// Whether an error says something of the file alone, so that a load can do without it.
fn is_about_the_file(error: &Error) -> bool {
    matches!(error.status, Status::Format | Status::Io | Status::NotFound)
}

#[cfg(test)]
mod tests;
