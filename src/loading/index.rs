//! `model.safetensors.index.json` and `pytorch_model.bin.index.json`: which shard holds which tensor.

use crate::base::error::{Result, Status};
use crate::base::limits;
use crate::loading::file::SourceFile;
use crate::loading::json::{self, Entries, clip};
use crate::loading::tensor::Named;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::Path;

#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

/// Reads the index of `dir` and the headers of all shards that it names, in the order of their names, each by
/// `read_header`.
///
/// A shard that is missing and a tensor that is not in its shard are `Format`. Tensors that the index
/// does not name are kept. `metadata.total_size` is not looked at: writers disagree about it, and the
/// shards' own headers are checked to the byte.
pub fn read(
    dir: &Path,
    index_name: &str,
    mut read_header: impl FnMut(&SourceFile) -> Result<Named>,
) -> Result<Vec<(SourceFile, Named)>> {
    let file = SourceFile::open(&dir.join(index_name))?;
    let map = parse(index_name, &file.read_all(limits::INDEX_BYTES_MAX)?)?;
    let mut shards: Vec<&str> = map.iter().map(|(_, shard)| shard.as_str()).collect();
    shards.sort_unstable();
    shards.dedup();
    crate::ensure!(
        shards.len() <= limits::SHARDS_MAX,
        Format,
        "{index_name}: {} shards, expected at most {}",
        shards.len(),
        limits::SHARDS_MAX
    );
    let mut parts = Vec::with_capacity(shards.len());
    for shard in shards {
        let source = SourceFile::open(&dir.join(shard)).map_err(|mut error| {
            if error.status == Status::NotFound {
                error.status = Status::Format;
                error.message = format!("{index_name}: shard {shard} is missing beside it");
            }
            error
        })?;
        let named = read_header(&source)?;
        parts.push((source, named));
    }
    check_places(index_name, &map, &parts)?;
    Ok(parts)
}

/// The pairs of tensor and shard in the text of an index. A shard's name is the plain name of a file
/// beside the index (which may be a symbolic link); no tensor stands twice.
pub fn parse(name: &str, text: &[u8]) -> Result<Vec<(String, String)>> {
    let Index { weight_map: Entries(map) } = json::parse(name, text)?;
    crate::ensure!(!map.is_empty(), Format, "{name}: weight_map names no tensor");
    for (_, shard) in &map {
        check_name(name, shard)?;
    }
    Ok(map)
}

/// A shard must stand in the directory of the index: no path leads out of it.
fn check_name(index: &str, shard: &str) -> Result<()> {
    let plain = !shard.is_empty()
        && shard != "."
        && shard != ".."
        && shard.len() <= 255
        && !shard.contains(['/', '\\', '\0']);
    crate::ensure!(
        plain,
        Format,
        "{index}: shard {:?}: expected the plain name of a file beside the index",
        clip(shard)
    );
    Ok(())
}

/// Every tensor of the index is in its shard. (That none is in two is the table's check.)
fn check_places(index: &str, map: &[(String, String)], parts: &[(SourceFile, Named)]) -> Result<()> {
    let names: Vec<String> = parts.iter().map(|(file, _)| file.name()).collect();
    let places: HashSet<(&str, &str)> = names
        .iter()
        .zip(parts)
        .flat_map(|(file, (_, named))| named.iter().map(|(tensor, _)| (tensor.as_str(), file.as_str())))
        .collect();
    for (tensor, shard) in map {
        if !places.contains(&(tensor.as_str(), shard.as_str())) {
            let other = names.iter().find(|file| places.contains(&(tensor.as_str(), file.as_str())));
            crate::bail!(
                Format,
                "{index}: tensor {}: expected in {shard}, found {}",
                clip(tensor),
                other.map_or("nowhere".into(), |file| format!("in {file}"))
            );
        }
    }
    Ok(())
}
