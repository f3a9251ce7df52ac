//! Files cut short: at every byte of a header and around every border of a tensor.

use super::small;
use crate::support::torch::TorchForm;
use crate::support::{TempDir, TinyModel};
use aquila::Status;
use aquila::loading::file::SourceFile;
use aquila::loading::{gguf, safetensors, torch_bin};
use aquila::model::Checkpoint;
use std::path::Path;

/// Cuts `file` at each of `cuts`, longest first, and expects `opened` to be refused each time.
fn sweep(file: &Path, opened: &Path, mut cuts: Vec<u64>) {
    cuts.sort_unstable();
    cuts.dedup();
    let handle = std::fs::File::options().write(true).open(file).unwrap();
    for cut in cuts.into_iter().rev() {
        handle.set_len(cut).unwrap();
        let error = Checkpoint::open(opened, false).expect_err(&format!("cut at {cut}"));
        assert_eq!(error.status, Status::Format, "cut at {cut}: {error}");
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(error.message.contains(&*name), "cut at {cut}: {error}");
    }
}

/// Every byte of the header, and the borders of all tensors with their neighbours.
fn cuts(tensors: &[std::ops::Range<u64>], len: u64) -> Vec<u64> {
    let header = tensors.iter().map(|range| range.start).min().unwrap();
    let borders = tensors.iter().flat_map(|r| [r.start, r.start + 1, r.end - 1, r.end, r.end + 1]);
    (0..=header).chain(borders).filter(|&cut| cut < len).collect()
}

fn ranges(named: &[(String, aquila::loading::tensor::StoredTensor)]) -> Vec<std::ops::Range<u64>> {
    named.iter().map(|(_, tensor)| tensor.range.clone()).collect()
}

#[test]
fn safetensors_cut_anywhere() {
    let dir = TempDir::new();
    small().write_dir(dir.path());
    let path = dir.join("model.safetensors");
    let file = SourceFile::open(&path).unwrap();
    sweep(&path, dir.path(), cuts(&ranges(&safetensors::read(&file).unwrap()), file.len()));
}

#[test]
fn a_shard_cut_anywhere() {
    let dir = TempDir::new();
    TinyModel { shards: 3, ..small() }.write_dir(dir.path());
    let path = dir.join("model-00002-of-00003.safetensors");
    let file = SourceFile::open(&path).unwrap();
    sweep(&path, dir.path(), cuts(&ranges(&safetensors::read(&file).unwrap()), file.len()));
}

/// Every byte, the directory of an archive being at its end.
#[test]
fn torch_files_cut_anywhere() {
    for form in [TorchForm::Zip, TorchForm::Legacy] {
        let dir = TempDir::new();
        TinyModel { shards: 2, ..small() }.write_torch_dir(dir.path(), form);
        let path = dir.join("pytorch_model-00002-of-00002.bin");
        let file = SourceFile::open(&path).unwrap();
        torch_bin::read(&file).expect("valid before it is cut");
        sweep(&path, dir.path(), (0..file.len()).collect());
    }
}

#[test]
fn gguf_cut_anywhere() {
    let dir = TempDir::new();
    let path = dir.join("tiny.gguf");
    small().write_gguf(&path);
    let file = SourceFile::open(&path).unwrap();
    let (_, named) = gguf::read(&file).unwrap();
    sweep(&path, &path, cuts(&ranges(&named), file.len()));
}

#[test]
fn json_cut_anywhere() {
    let dir = TempDir::new();
    TinyModel { shards: 2, ..small() }.write_dir(dir.path());
    for name in ["model.safetensors.index.json", "generation_config.json", "config.json"] {
        let path = dir.join(name);
        let valid = std::fs::read(&path).unwrap();
        sweep(&path, dir.path(), (0..valid.len() as u64).collect());
        std::fs::write(&path, valid).unwrap();
    }
    let dir = TempDir::new();
    TinyModel { shards: 2, ..small() }.write_torch_dir(dir.path(), TorchForm::Zip);
    let path = dir.join("pytorch_model.bin.index.json");
    let len = std::fs::metadata(&path).unwrap().len();
    sweep(&path, dir.path(), (0..len).collect());
}
