//! A checkpoint that was cut for several cards: `part_model/0`, `part_model/1`, …, each a directory like a whole one, with
//! `world_size` in its config.json. The parts are joined as they lie, piece by piece, without a copy.
//!
//! `aquila split` writes them, and the scripts of the Ascend guide: those leave the head as it comes out of `chunk`, whole
//! on every rank, or cut by columns, and save f32. What the shapes say is believed.

use super::{CONFIG, Checkpoint, Sources, TokenizerSource, config, facts, finish, ids_of, listing};
use crate::base::error::{Error, Result};
use crate::base::limits;
use crate::loading::file::SourceFile;
use crate::loading::tensor::TensorTable;
use crate::loading::tokenizer_files::TokenizerFiles;
use crate::model::assemble;
use crate::model::config::ModelConfig;
use crate::model::cut::RankPart;
use crate::model::names::{BIAS_ROLES, LAYER_ROLES, Naming};
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, Weight, WeightSet};
use std::path::{Path, PathBuf};

/// The directory of the parts, inside that of the model.
pub const PARTS: &str = "part_model";

/// The directory of a rank's part.
pub fn part_dir(model: &Path, rank: usize) -> PathBuf {
    model.join(PARTS).join(rank.to_string())
}

/// Whether a directory holds parts.
pub(super) fn are_in(dir: &Path) -> bool {
    part_dir(dir, 0).join(CONFIG).is_file()
}

/// The common mistakes: the directory of the parts itself, or one of them, is taken for the model.
pub(super) fn refuse_inside(dir: &Path, names: &[String]) -> Result<()> {
    let long = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    let is_parts = long.file_name().is_some_and(|name| name == PARTS);
    if is_parts && names.iter().any(|name| name == "0") {
        return Err(above(dir, "the directory of the parts", &long));
    }
    Ok(())
}

/// What to give instead of a directory that is one part, or that of the parts.
pub(super) fn above(dir: &Path, what: &str, inside: &Path) -> Error {
    let parent = inside.ancestors().find(|path| path.file_name().is_some_and(|name| name == PARTS));
    let parent = parent.and_then(Path::parent).map(|path| format!(", {}", path.display()));
    crate::error!(
        Format,
        "{}: this is {what} of a model that was cut for several cards: expected the directory above {PARTS}{}",
        dir.display(),
        parent.unwrap_or_default()
    )
}

/// A part as it was read.
struct Part {
    weights: WeightSet,
    table: TensorTable,
}

/// Opens all parts in `dir` as one checkpoint.
pub(super) fn open(dir: &Path, no_mmap: bool) -> Result<Checkpoint> {
    let first = config::read(&SourceFile::open(&part_dir(dir, 0).join(CONFIG))?)
        .map_err(|error| error.at(place(0)))?;
    let ranks = count(dir, &first)?;
    let mut whole = first.clone();
    let mut parts = Vec::with_capacity(ranks);
    for rank in 0..ranks {
        let part = read(dir, rank, ranks, &first, &mut whole, no_mmap);
        parts.push(part.map_err(|error| error.at(place(rank)))?);
    }
    let (sets, tables): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.weights, part.table)).unzip();
    let joined = join(&whole, ranks, &sets)?;
    let files = [dir, &part_dir(dir, 0)].map(TokenizerFiles::find);
    let [beside, inside] = files;
    let files = beside.and_then(|files| if files.kind().is_some() { Ok(files) } else { inside })?;
    let tokenizer = files.kind().unwrap_or("none").to_string();
    let home = if dir.join(CONFIG).is_file() { dir.to_owned() } else { part_dir(dir, 0) };
    ids_of(&home, &mut whole)?;
    let sources = Sources {
        config: Some(part_dir(dir, 0).join(CONFIG)),
        world_size: Some(ranks),
        copies: joined.copies,
    };
    let format = format!("{PARTS}: cut for {ranks} cards, joined");
    let facts = facts::facts(&whole, Naming::HuggingFace, &joined.weights, format, tokenizer);
    Ok(finish(whole, tables, joined.weights, TokenizerSource::Files(files), sources, dir, facts))
}

fn place(rank: usize) -> String {
    format!("{PARTS}/{rank}")
}

/// How many parts there are: what the first one says, and all of them are there and none besides.
fn count(dir: &Path, first: &ModelConfig) -> Result<usize> {
    let names = listing(&dir.join(PARTS))?;
    let found: Vec<usize> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let ranks = first.world_size.unwrap_or(found.len());
    crate::ensure!(ranks <= limits::RANKS_MAX as usize, Format, "{PARTS}: {ranks} parts, too many");
    if let Some(missing) = (0..ranks).find(|rank| !found.contains(rank)) {
        crate::bail!(
            Format,
            "{}: world_size is {ranks}, expected {} to {}, found no {missing}",
            dir.join(PARTS).display(),
            0,
            ranks - 1
        );
    }
    if let Some(extra) = found.iter().find(|&&rank| rank >= ranks) {
        crate::bail!(
            Format,
            "{}: world_size is {ranks}, found a part {extra}: parts of several cuts are mixed",
            dir.join(PARTS).display()
        );
    }
    Ok(ranks)
}

/// Reads the part of `rank`; all of them must say the same of the model.
fn read(
    dir: &Path,
    rank: usize,
    ranks: usize,
    first: &ModelConfig,
    whole: &mut ModelConfig,
    no_mmap: bool,
) -> Result<Part> {
    let dir = part_dir(dir, rank);
    let mut own = config::read(&SourceFile::open(&dir.join(CONFIG))?)?;
    let same = own.spec == first.spec
        && own.world_size == first.world_size
        && own.padded_vocab == first.padded_vocab
        && own.tie == first.tie;
    crate::ensure!(same, Format, "{CONFIG}: another model, or another cut, than that of {}", place(0));
    let cut = RankPart::even(&own.spec, rank, ranks)
        .map_err(|error| Error::new(crate::Status::Format, format!("{CONFIG}: {}", error.message)))?;
    let Some(shards) = super::Shards::find(&dir, &listing(&dir)?, false)? else {
        crate::bail!(Format, "no weights beside {CONFIG}")
    };
    let super::Shards { parts, place, .. } = shards;
    let table = TensorTable::new(parts, no_mmap)?;
    let head = head_shape(&table, &own.spec, ranks)?;
    own.spec = cut.spec(&own.spec);
    own.warnings.clear();
    let weights = assemble::weights(&mut own, &table, Naming::HuggingFace, None, head, &place)?;
    if rank == 0 {
        whole.spec.tied = own.spec.tied;
        whole.warnings.append(&mut own.warnings);
    }
    Ok(Part { weights, table })
}

/// The shape of a part's head, which scripts cut in several ways; `None` where there is none.
fn head_shape(table: &TensorTable, spec: &DecoderSpec, ranks: usize) -> Result<Option<(usize, usize)>> {
    let name = Naming::HuggingFace.tensor(0, Role::Head);
    let Some(stored) = table.get(&name) else { return Ok(None) };
    let &[rows, cols] = stored.shape.as_slice() else {
        crate::bail!(
            Format,
            "{}: tensor {name}: expected a matrix, found {:?}",
            table.file_of(&name),
            stored.shape
        )
    };
    let by_rows = cols == spec.hidden;
    let by_cols = rows == spec.vocab && cols * ranks == spec.hidden;
    crate::ensure!(
        by_rows || by_cols,
        Format,
        "{}: tensor {name}: expected rows of {} or all {} rows of {}, found {:?}",
        table.file_of(&name),
        spec.hidden,
        spec.vocab,
        spec.hidden / ranks,
        stored.shape
    );
    Ok(Some((rows, cols)))
}

/// The weights of the whole model, and copies that were not compared.
struct Joined {
    weights: WeightSet,
    copies: Vec<(Weight, Weight)>,
}

fn join(whole: &ModelConfig, ranks: usize, sets: &[WeightSet]) -> Result<Joined> {
    let spec = &whole.spec;
    let mut joined = Joined { weights: WeightSet::default(), copies: Vec::new() };
    let mut place = |layer: usize, role: Role| -> Result<()> {
        let parts: Vec<&Weight> = sets.iter().filter_map(|set| set.get(layer, role)).collect();
        let Some(first) = parts.first() else { return Ok(()) };
        crate::ensure!(
            parts.len() == ranks,
            Format,
            "{PARTS}: tensor {}: expected in {ranks} parts, found in {}",
            first.name,
            parts.len()
        );
        let weight = match role {
            Role::Embedding => {
                // Large, and compared on demand.
                joined.copies.extend(parts.iter().skip(1).map(|&part| ((*first).clone(), part.clone())));
                (*first).clone()
            }
            Role::Head => join_head(&parts, whole)?,
            Role::Output | Role::Down => Weight::join_cols(&first.name, owned(&parts))?,
            Role::Query | Role::Gate | Role::Up => Weight::join_rows(&first.name, owned(&parts))?,
            Role::QueryBias => Weight::join_cols(&first.name, owned(&parts))?,
            Role::Key | Role::Value => Weight::join_rows(&first.name, distinct(&parts, spec.kv_heads)?)?,
            Role::KeyBias | Role::ValueBias => {
                Weight::join_cols(&first.name, distinct(&parts, spec.kv_heads)?)?
            }
            _ => distinct(&parts, 1)?.remove(0),
        };
        joined.weights.insert(layer, role, weight);
        Ok(())
    };
    for role in [Role::Embedding, Role::FinalNorm, Role::Head] {
        place(0, role)?;
    }
    for layer in 0..spec.layers {
        for role in LAYER_ROLES.into_iter().chain(BIAS_ROLES) {
            place(layer, role)?;
        }
    }
    Ok(joined)
}

fn owned(parts: &[&Weight]) -> Vec<Weight> {
    parts.iter().map(|&part| part.clone()).collect()
}

/// One of each of `kinds` weights that several ranks hold copies of, one after the other; the copies must be equal.
fn distinct(parts: &[&Weight], kinds: usize) -> Result<Vec<Weight>> {
    let each = (parts.len() / kinds.max(1)).max(1);
    let mut found = Vec::with_capacity(parts.len() / each);
    for (group, copies) in parts.chunks(each).enumerate() {
        let [first, others @ ..] = copies else { continue };
        for (number, other) in others.iter().enumerate() {
            require_equal(first, other).map_err(|error| {
                error.at(format_args!("{PARTS}/{} and {}", group * each, group * each + number + 1))
            })?;
        }
        found.push((*first).clone());
    }
    Ok(found)
}

/// `Format` where two copies of a tensor differ.
pub(super) fn require_equal(first: &Weight, other: &Weight) -> Result<()> {
    let bytes = |weight: &Weight| weight.pieces.iter().map(|piece| piece.bytes.clone()).collect::<Vec<_>>();
    let equal = first.pieces.len() == other.pieces.len()
        && bytes(first).iter().zip(&bytes(other)).all(|(a, b)| **a == **b);
    crate::ensure!(
        equal,
        Format,
        "tensor {}: expected equal copies, for it is not cut, found two that differ",
        first.name
    );
    Ok(())
}

/// The head out of its parts: by rows with what was filled up, by columns, or whole everywhere.
fn join_head(parts: &[&Weight], whole: &ModelConfig) -> Result<Weight> {
    let vocab = whole.spec.vocab;
    let Some(first) = parts.first() else { crate::bail!(Internal, "a head without parts") };
    if first.cols < whole.spec.hidden {
        return Weight::join_cols(&first.name, owned(parts));
    }
    if parts.iter().all(|part| part.rows == vocab) {
        return Ok(distinct(parts, 1)?.remove(0));
    }
    let all = Weight::join_rows(&first.name, owned(parts))?;
    let expected = whole.padded_vocab.unwrap_or(vocab);
    crate::ensure!(
        all.rows == expected && expected >= vocab,
        Format,
        "{PARTS}: tensor {}: expected {expected} rows in all parts together, found {}",
        first.name,
        all.rows
    );
    all.narrow_rows(0..vocab)
}
