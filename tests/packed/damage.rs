//! Damaged, foreign and old files: refused with a warning that says what is wrong, and made again.

use super::{logits, only_file, options, payloads, seal, verified, warnings, without};
use crate::support::{TempDir, TinyModel, TinyTokenizer};
use aquila::open::LoadOptions;
use std::fs;
use std::path::PathBuf;

/// A model, its good cache, and the right answer.
struct Scene {
    model: TempDir,
    _dir: TempDir,
    file: PathBuf,
    good: Vec<u8>,
    expected: Vec<u32>,
    options: LoadOptions,
}

impl Scene {
    fn new(dtype: &str) -> Self {
        let (model, dir) = (TempDir::new(), TempDir::new());
        TinyModel { biases: true, tokenizer: TinyTokenizer::None, ..TinyModel::default() }
            .write_dir(model.path());
        let options = options(dtype, dir.path());
        let expected = logits(model.path(), &without(&options)).unwrap();
        logits(model.path(), &options).unwrap();
        let file = only_file(dir.path());
        let good = fs::read(&file).unwrap();
        Scene { model, _dir: dir, file, good, expected, options }
    }

    /// Loads with `bytes` as the cache: the answer is right, the file is good again, and one warning has all `parts`.
    fn refused(&self, bytes: &[u8], options: &LoadOptions, parts: &[&str]) {
        fs::write(&self.file, bytes).unwrap();
        let (found, said) = warnings(|| logits(self.model.path(), options).unwrap());
        assert!(found == self.expected, "{parts:?}: a wrong answer");
        assert_eq!(said.len(), 1, "{parts:?}: {said:?}");
        let name = self.file.file_name().unwrap().to_string_lossy();
        for part in parts.iter().copied().chain([&*name, "made again"]) {
            assert!(said[0].contains(part), "no {part:?} in {}", said[0]);
        }
        assert!(fs::read(&self.file).unwrap() == self.good, "{parts:?}: it was not made again");
        assert_eq!(only_file(self.file.parent().unwrap()), self.file, "nothing else is left");
    }
}

#[test]
fn a_flipped_byte_in_any_payload_is_found_by_verify() {
    for dtype in ["q8", "q4"] {
        let scene = Scene::new(dtype);
        let payloads = payloads(&scene.good);
        assert_eq!(payloads.len(), 1 + 2 * (7 + 2 + 4) + 1 + 1, "every converted tensor is in it");
        for (index, &(start, end)) in payloads.iter().enumerate() {
            for at in [start, (start + end) / 2, end - 1] {
                let mut bytes = scene.good.clone();
                bytes[at] ^= 0x10;
                let tensor = format!("tensor {index}: damaged payload");
                scene.refused(&bytes, &verified(&scene.options), &[&tensor, "checksum"]);
            }
        }
    }
}

#[test]
fn after_an_unclean_write_payloads_are_verified_unasked() {
    let scene = Scene::new("q4");
    assert_eq!(scene.good[52], 1, "marked clean");
    let mut unclean = scene.good.clone();
    unclean[52] = 0;
    seal(&mut unclean);
    fs::write(&scene.file, &unclean).unwrap();
    let (found, said) = warnings(|| logits(scene.model.path(), &scene.options).unwrap());
    assert!(found == scene.expected && said.is_empty(), "whole, if unclean: {said:?}");
    *unclean.last_mut().unwrap() ^= 1;
    scene.refused(&unclean, &scene.options, &["damaged payload"]);
}

#[test]
fn a_flipped_byte_anywhere_in_header_and_table_is_found_by_every_load() {
    let scene = Scene::new("q8");
    let table = payloads(&scene.good)[0].0;
    // Every byte of the header, every eighth of the table (each field once).
    for at in (0..128).chain((128..table).step_by(8)) {
        let mut bytes = scene.good.clone();
        bytes[at] ^= 0x40;
        scene.refused(&bytes, &scene.options, &[]);
    }
}

#[test]
fn a_file_cut_at_any_border_is_found_by_every_load() {
    let scene = Scene::new("q8");
    let payloads = payloads(&scene.good);
    let borders = payloads.iter().flat_map(|&(start, end)| [start - 1, start, start + 1, end - 1, end]);
    let lines = (0..payloads.len()).map(|i| 128 + 64 * i);
    let mut cuts: Vec<usize> = [0, 1, 7, 8, 12, 64, 127].into_iter().chain(lines).chain(borders).collect();
    cuts.retain(|&cut| cut < scene.good.len());
    for cut in cuts {
        scene.refused(&scene.good[..cut], &scene.options, &["truncated"]);
    }
    scene.refused(&[&scene.good[..], &[0]].concat(), &scene.options, &["grown"]);
}

#[test]
fn foreign_and_old_files_are_named_as_such() {
    let scene = Scene::new("q8");
    let sealed = |at: usize, value: u8| {
        let mut bytes = scene.good.clone();
        bytes[at] ^= value;
        seal(&mut bytes);
        bytes
    };
    let good = &scene.options;
    scene.refused(&sealed(0, 1), good, &["AQUILAPK"]);
    scene.refused(&sealed(8, 2), good, &["expected version 1, found 3"]);
    let mut reversed = scene.good.clone();
    reversed[12..16].reverse();
    seal(&mut reversed);
    scene.refused(&reversed, good, &["byte order"]);
    scene.refused(&sealed(16, 1), good, &["layout", "another version of the library"]);
    scene.refused(&sealed(30, 1), good, &["source files", "changed"]);
    scene.refused(&sealed(40, 1), good, &["format"]);
    scene.refused(
        b"not a cache at all, but longer than the header of one".repeat(9).as_slice(),
        good,
        &["AQUILAPK"],
    );
    // The cache of another type under this one's name.
    let other = Scene::new("q4");
    scene.refused(&other.good, good, &["source files"]);
}

#[test]
fn a_touched_source_makes_it_again_under_the_same_name() {
    let scene = Scene::new("q8");
    let weights = scene.model.join("model.safetensors");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    fs::File::options().write(true).open(weights).unwrap().set_modified(later).unwrap();
    let (found, said) = warnings(|| logits(scene.model.path(), &scene.options).unwrap());
    assert!(found == scene.expected);
    assert!(said.len() == 1 && said[0].contains("source files"), "{said:?}");
    only_file(scene.file.parent().unwrap());
    let (_, said) = warnings(|| logits(scene.model.path(), &scene.options).unwrap());
    assert!(said.is_empty(), "{said:?}");
}
