//! A checkpoint as a whole: which kind it is, its decoder, its weights, and what else it holds.

mod parts;

pub use parts::{PARTS, part_dir};

use crate::base::error::{Error, Result};
use crate::loading::file::SourceFile;
use crate::loading::gguf::{self, Gguf};
use crate::loading::index;
use crate::loading::modelslim::{self, Description};
use crate::loading::packed::{SourceKey, Store};
use crate::loading::safetensors;
use crate::loading::tensor::{Named, StoredType, TensorTable};
use crate::loading::tokenizer_files::TokenizerFiles;
use crate::loading::torch_bin;
use crate::model::assemble;
use crate::model::config::{self, ModelConfig, TokenIds};
use crate::model::facts;
use crate::model::gguf_config;
use crate::model::names::Naming;
use crate::model::spec::DecoderSpec;
use crate::model::verify;
use crate::model::weights::{Role, Weight, WeightSet};
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TORCH_WEIGHTS: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
/// With these a shard of torch begins and ends.
const TORCH_SHARD: (&str, &str) = ("pytorch_model", ".bin");
/// Entries of a directory that are looked at.
const LISTING_MAX: usize = 10_000;

/// Where the tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// Files in the checkpoint's directory; which ones there are stands in it.
    Files(TokenizerFiles),
    /// Metadata of a GGUF file.
    Gguf(Arc<Gguf>),
}

/// An opened checkpoint: everything about it is checked but the values of its weights.
#[derive(Debug)]
pub struct Checkpoint {
    /// The decoder.
    pub spec: DecoderSpec,
    /// Its weights; they keep the mapped files alive.
    pub weights: WeightSet,
    /// Where the tokenizer and the chat template come from.
    pub tokenizer: TokenizerSource,
    /// Ids that generation_config.json and config.json, or the GGUF metadata, name.
    pub ids: TokenIds,
    /// Names that the model goes by, for the choice of a chat template; the first is its file's or
    /// directory's.
    pub names: Vec<String>,
    /// What was recognised, for a person: name and value.
    pub facts: Vec<(&'static str, String)>,
    /// What was taken where the files do not say: a sentence each.
    pub assumed: Vec<String>,
    /// What looks wrong, and does not keep it from running.
    pub warnings: Vec<String>,
    /// Its config.json in Hugging Face's form, where there is one.
    pub config: Option<PathBuf>,
    /// For how many cards it was cut; `None` where it is whole.
    pub world_size: Option<usize>,
    tables: Vec<TensorTable>,
    /// Tensors that two parts hold and that must be equal.
    copies: Vec<(Weight, Weight)>,
}

impl Checkpoint {
    /// Opens a directory of Hugging Face's or FlagAI's layout, a `.safetensors` or torch `.bin` file beside its
    /// config.json, or a GGUF file.
    ///
    /// Only headers are read; the weights are mapped, or with `no_mmap` copied into private memory (so
    /// plan without it first). `NotFound` where there is no such path; `Format` and `Unsupported` name
    /// file, item, what was expected and what was found.
    pub fn open(path: &Path, no_mmap: bool) -> Result<Checkpoint> {
        let facts = std::fs::metadata(path).map_err(|cause| Error::io("open it", path, &cause))?;
        if facts.is_dir() {
            return open_directory(path, no_mmap);
        }
        let source = SourceFile::open(path)?;
        let mut start = [0u8; 9];
        let seen = usize::try_from(source.len()).map_or(start.len(), |len| len.min(start.len()));
        source.read_at(0, start.get_mut(..seen).unwrap_or_default())?;
        if start.starts_with(&gguf::MAGIC) {
            return open_gguf(source, no_mmap);
        }
        let is_safetensors = start.ends_with(b"{") || path.extension().is_some_and(|e| e == "safetensors");
        // The length of a safetensors header may look like the beginning of a pickle.
        let is_torch = !is_safetensors && torch_bin::is_start(&start);
        crate::ensure!(
            is_torch || is_safetensors,
            Format,
            "{}: expected a model directory, a GGUF file, a safetensors file or one of torch, found neither: it \
             begins with {:?}",
            path.display(),
            String::from_utf8_lossy(start.get(..seen.min(8)).unwrap_or_default())
        );
        let dir = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        let header = if is_torch { Header::Torch } else { Header::Safetensors };
        let description = if source.name().starts_with(modelslim::WEIGHTS) {
            Description::find(dir, &listing(dir)?)?
        } else {
            None
        };
        finish_directory(dir, Shards::one(source, header)?, description.as_ref(), no_mmap)
    }

    /// Opens the parts of a checkpoint that was cut for several cards, also where it lies there whole.
    pub fn open_parts(model: &Path) -> Result<Checkpoint> {
        crate::ensure!(
            parts::are_in(model),
            NotFound,
            "{}: expected {PARTS}/0/{CONFIG} in it, found none",
            model.display()
        );
        parts::open(model, false)
    }

    /// `Format` where parts hold different copies of a tensor that is not cut.
    pub fn compare_copies(&self) -> Result<()> {
        self.copies.iter().try_for_each(|(first, other)| parts::require_equal(first, other))
    }

    /// Refuses NaN and infinity in any weight, and copies that differ: `Format` naming file, tensor and the first element.
    pub fn scan_finite(&self, progress: impl FnMut(u64, u64) -> ControlFlow<()>) -> Result<()> {
        self.compare_copies()?;
        verify::scan_finite(&self.weights, progress).map_err(|error| error.at(self.file_names()))
    }

    /// `Format` where the tokenizer has ids that the embedding has no row for. More rows than ids are
    /// usual: they fill the matrix up to a round number.
    pub fn check_vocab(&self, tokenizer_vocab: usize) -> Result<()> {
        let embedding = self.weights.need(0, Role::Embedding)?;
        crate::ensure!(
            tokenizer_vocab <= embedding.rows,
            Format,
            "{}: tensor {}: expected a row for each of the tokenizer's {tokenizer_vocab} ids, found {}",
            self.tables.first().map_or("", |table| table.file_of(&embedding.name)),
            embedding.name,
            embedding.rows
        );
        Ok(())
    }

    /// Numbers in all weights, biases included.
    pub fn parameters(&self) -> u64 {
        let codes = self.weights.all_int8().map(|(_, w)| w.rows as u64 * w.cols as u64).sum::<u64>();
        self.weights.iter().map(|(_, w)| w.rows as u64 * w.cols as u64).sum::<u64>() + codes
    }

    /// Tells it from others: names, sizes and both ends of its weight files, hashed.
    pub fn fingerprint(&self) -> u64 {
        self.source_key().contents
    }

    /// Lets a backend keep converted weights in the directory `dir`, and take them from there. With `verify` every
    /// payload is compared with its checksum, with `copy` files are read instead of mapped.
    pub fn keep_packed(&mut self, dir: &Path, verify: bool, copy: bool) {
        let model = self.names.first().map_or("model", String::as_str);
        self.weights.keep_packed(Store::new(dir, model, self.source_key(), verify, copy));
    }

    fn source_key(&self) -> SourceKey {
        TensorTable::source_key(&self.tables)
    }

    fn file_names(&self) -> String {
        let names: Vec<&str> =
            self.tables.iter().flat_map(TensorTable::files).map(|(name, _)| name.as_str()).collect();
        match names.as_slice() {
            [first, _, .., last] => format!("{first} … {last}"),
            _ => names.join(", "),
        }
    }
}

/// What reads the header of a shard.
#[derive(Clone, Copy)]
enum Header {
    Safetensors,
    Torch,
}

impl Header {
    /// The tensors of a shard, and the name of its format.
    fn read(self, source: &SourceFile) -> Result<(Named, String)> {
        match self {
            Header::Safetensors => Ok((safetensors::read(source)?, "safetensors".into())),
            Header::Torch => {
                let file = torch_bin::read(source)?;
                let format = file.to_string();
                Ok((file.tensors, format))
            }
        }
    }
}

/// The files that hold the weights of a directory.
struct Shards {
    parts: Vec<(SourceFile, Named)>,
    /// Of the first of them.
    format: String,
    /// The file that a missing tensor is missing from.
    place: String,
}

impl Shards {
    fn one(source: SourceFile, header: Header) -> Result<Shards> {
        let (named, format) = header.read(&source)?;
        let place = source.name();
        Ok(Shards { parts: vec![(source, named)], format, place })
    }

    fn indexed(dir: &Path, name: &str, header: Header) -> Result<Shards> {
        let mut format = None;
        let parts = index::read(dir, name, |source| {
            let (named, found) = header.read(source)?;
            format.get_or_insert(found);
            Ok(named)
        })?;
        let format = format!("{}, {} shards", format.unwrap_or_default(), parts.len());
        Ok(Shards { parts, format, place: name.into() })
    }

    /// The weights beside a config.json: those of msModelSlim where a description of it is there, else in the order in
    /// which Hugging Face looks for them; `None` where there are none. Without an index a single file of another name
    /// will do.
    fn find(dir: &Path, names: &[String], modelslim: bool) -> Result<Option<Shards>> {
        let has = |name: &str| names.iter().any(|n| n == name);
        let one = |name: &str, header| Shards::one(SourceFile::open(&dir.join(name))?, header).map(Some);
        if modelslim {
            match modelslim::weights_file(names).map_err(|error| error.at(dir.display()))? {
                Some(name) if name.ends_with(".json") => {
                    return Shards::indexed(dir, name, Header::Safetensors).map(Some);
                }
                Some(name) => return one(name, Header::Safetensors),
                None => {}
            }
        }
        for (weights, index, header) in
            [(WEIGHTS, INDEX, Header::Safetensors), (TORCH_WEIGHTS, TORCH_INDEX, Header::Torch)]
        {
            if has(weights) {
                return one(weights, header);
            }
            if has(index) {
                return Shards::indexed(dir, index, header).map(Some);
            }
        }
        let (start, end) = TORCH_SHARD;
        let like =
            [("", ".safetensors", INDEX, Header::Safetensors), (start, end, TORCH_INDEX, Header::Torch)];
        for (start, end, index, header) in like {
            let found: Vec<_> = names.iter().filter(|n| n.starts_with(start) && n.ends_with(end)).collect();
            match found.as_slice() {
                [] => {}
                [name] => return one(name, header),
                [first, rest @ ..] => crate::bail!(
                    Format,
                    "{}: {} {end} files (the first is {first}) without {index}",
                    dir.display(),
                    rest.len() + 1
                ),
            }
        }
        Ok(None)
    }
}

/// The names in a directory, sorted.
fn listing(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(|cause| Error::io("list it", dir, &cause))?;
    let mut names = Vec::new();
    for entry in entries.take(LISTING_MAX) {
        let entry = entry.map_err(|cause| Error::io("list it", dir, &cause))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn open_directory(dir: &Path, no_mmap: bool) -> Result<Checkpoint> {
    let names = listing(dir)?;
    let with = |end: &str| names.iter().filter(|name| name.ends_with(end)).collect::<Vec<_>>();
    let has = |name: &str| names.iter().any(|n| n == name);
    parts::refuse_inside(dir, &names)?;
    let description = if has(CONFIG) { Description::find(dir, &names)? } else { None };
    if has(CONFIG)
        && let Some(shards) = Shards::find(dir, &names, description.is_some())?
    {
        return finish_directory(dir, shards, description.as_ref(), no_mmap);
    }
    if parts::are_in(dir) {
        return parts::open(dir, no_mmap);
    }
    // Directories of GGUF files often carry the config.json of the model that they were made from.
    match with(".gguf").as_slice() {
        [name] => open_gguf(SourceFile::open(&dir.join(name))?, no_mmap),
        [first, rest @ ..] => crate::bail!(
            Format,
            "{}: {} .gguf files, expected one (or the path of one, as {first})",
            dir.display(),
            rest.len() + 1
        ),
        [] if has(CONFIG) => crate::bail!(
            Format,
            "{}: no weights beside {CONFIG}: expected {WEIGHTS} or {TORCH_WEIGHTS}, {INDEX} or {TORCH_INDEX}, or a \
             .gguf file, found none",
            dir.display()
        ),
        [] => {
            let found = match names.len() {
                0 => "nothing".into(),
                many => match [WEIGHTS, INDEX, TORCH_WEIGHTS, TORCH_INDEX].into_iter().find(|name| has(name))
                {
                    Some(name) => format!("{name} without {CONFIG}"),
                    None if many == 1 => "one other file".into(),
                    None => format!("{many} other files"),
                },
            };
            crate::bail!(
                Format,
                "{}: no model in this directory: expected {CONFIG} with {WEIGHTS} or {TORCH_WEIGHTS}, or a \
                 .gguf file, found {found}",
                dir.display()
            )
        }
    }
}

fn finish_directory(
    dir: &Path,
    shards: Shards,
    description: Option<&Description>,
    no_mmap: bool,
) -> Result<Checkpoint> {
    let Shards { parts, format, place } = shards;
    let mut config = config::read(&SourceFile::open(&dir.join(CONFIG))?)?;
    if let Some(ranks) = config.world_size.filter(|&ranks| ranks > 1) {
        let long = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
        return Err(parts::above(dir, &format!("one of {ranks} parts"), &long));
    }
    ids_of(dir, &mut config)?;
    let table = TensorTable::new(parts, no_mmap)?;
    let naming = choose_naming(&mut config, &table);
    let weights = assemble::weights(&mut config, &table, naming, description, None, &place)?;
    let files = TokenizerFiles::find(dir)?;
    let tokenizer = files.kind().unwrap_or("none").to_string();
    let facts = facts::facts(&config, naming, &weights, format, tokenizer);
    let own_keys = config.layout == Naming::HuggingFace;
    let sources = Sources { config: own_keys.then(|| dir.join(CONFIG)), ..Sources::default() };
    Ok(finish(config, vec![table], weights, TokenizerSource::Files(files), sources, dir, facts))
}

/// How the tensors of a directory are named: as they are, whatever keys config.json has. The order of the rows of q and
/// k goes with the names, because whoever writes one kind of names writes its order.
fn choose_naming(config: &mut ModelConfig, table: &TensorTable) -> Naming {
    let naming = Naming::of_directory(table).unwrap_or(config.layout);
    if naming != config.layout {
        let (keys, names) = (config.layout.name(), naming.name());
        config.assumed.push(format!(
            "{CONFIG} has the keys of {keys}, the tensors have the names of {names}: the rows of q and k are in the \
             order of {names}"
        ));
    }
    naming
}

/// Adds what a generation_config.json in `dir` says of the ids: it comes first.
fn ids_of(dir: &Path, config: &mut ModelConfig) -> Result<()> {
    let generation = dir.join(GENERATION_CONFIG);
    if generation.exists() {
        let mut ids = config::generation_ids(&SourceFile::open(&generation)?, &mut config.warnings)?;
        ids.add(&config.ids.bos.into_iter().collect::<Vec<_>>(), &config.ids.eos);
        config.ids = ids;
    }
    Ok(())
}

fn open_gguf(source: SourceFile, no_mmap: bool) -> Result<Checkpoint> {
    let path: PathBuf = source.path().into();
    let place = source.name();
    let (gguf, named) = gguf::read(&source)?;
    // The architecture is the first thing to say about a file that has none of the tensors below.
    let embedding = Naming::Gguf.tensor(0, Role::Embedding);
    let rows = named.iter().find(|(name, _)| *name == embedding).and_then(|(_, t)| t.shape.first());
    let mut config = gguf_config::read(&gguf, rows.copied())?;
    let table = TensorTable::new(vec![(source, named)], no_mmap)?;
    check_rope_factors(&table, &place)?;
    let weights = assemble::weights(&mut config, &table, Naming::Gguf, None, None, &place)?;
    let tokenizer = gguf.string("tokenizer.ggml.model")?.unwrap_or("none").to_string();
    let format = format!("GGUF version {}", gguf.version());
    let source = TokenizerSource::Gguf(Arc::new(gguf));
    let facts = facts::facts(&config, Naming::Gguf, &weights, format, tokenizer);
    Ok(finish(config, vec![table], weights, source, Sources::default(), &path, facts))
}

/// Factors on single rotary frequencies belong to another kind of scaling. Some files carry them with
/// every factor 1.
fn check_rope_factors(table: &TensorTable, place: &str) -> Result<()> {
    const NAME: &str = "rope_freqs.weight";
    let Some(stored) = table.get(NAME) else { return Ok(()) };
    let bytes = table.bytes(NAME)?;
    let neutral = stored.dtype == StoredType::Known(crate::base::dtype::DType::F32)
        && bytes.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b) == 1.0);
    crate::ensure!(
        neutral,
        Unsupported,
        "{place}: tensor {NAME}: expected every rotary factor to be 1, found others (a llama3 scaling?)"
    );
    Ok(())
}

/// What else is known of where a checkpoint comes from.
#[derive(Default)]
struct Sources {
    config: Option<PathBuf>,
    world_size: Option<usize>,
    copies: Vec<(Weight, Weight)>,
}

fn finish(
    config: ModelConfig,
    tables: Vec<TensorTable>,
    weights: WeightSet,
    tokenizer: TokenizerSource,
    sources: Sources,
    path: &Path,
    facts: Vec<(&'static str, String)>,
) -> Checkpoint {
    let ModelConfig { spec, ids, names, assumed, warnings, .. } = config;
    let names = path_names(path).into_iter().chain(names).collect();
    let Sources { config, world_size, copies } = sources;
    Checkpoint {
        spec,
        weights,
        tokenizer,
        ids,
        names,
        facts,
        assumed,
        warnings,
        config,
        world_size,
        tables,
        copies,
    }
}

/// The names that a path gives its model: the name it was asked for by (which may be a link's), the name of what
/// lies there, and in a cache of the Hugging Face hub (`models--BAAI--AquilaChat2-7B/snapshots/<revision>`, links to
/// nameless files) that of the repository.
fn path_names(path: &Path) -> Vec<String> {
    // A path such as "." has its name only in its long form.
    let asked = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let real = path.canonicalize().unwrap_or_else(|_| asked.clone());
    let own =
        |path: &Path| path.file_stem().filter(|_| !path.is_dir()).or(path.file_name()).map(OsStr::to_owned);
    let repository = asked
        .ancestors()
        .filter_map(Path::file_name)
        .find(|name| name.to_string_lossy().starts_with("models--"));
    let mut names = Vec::new();
    for name in [own(&asked), own(&real), repository.map(OsStr::to_owned)].into_iter().flatten() {
        let name = name.to_string_lossy().into_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
