//! Damaged indexes of shards.

use super::{refused, small};
use crate::support::torch::{TorchForm, TorchWriter};
use crate::support::{TempDir, TinyModel};
use aquila::Status;
use serde_json::{Value, json};

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
/// The same of torch.
const TORCH: [&str; 3] =
    ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];

fn sharded() -> TempDir {
    let dir = TempDir::new();
    TinyModel { shards: 2, ..small() }.write_dir(dir.path());
    aquila::model::Checkpoint::open(dir.path(), false).expect("valid before it is spoilt");
    dir
}

fn torch_sharded() -> TempDir {
    let dir = TempDir::new();
    TinyModel { shards: 2, ..small() }.write_torch_dir(dir.path(), TorchForm::Zip);
    aquila::model::Checkpoint::open(dir.path(), false).expect("valid before it is spoilt");
    dir
}

/// An index changed in either format; `parts` with the shards' names of safetensors.
fn refused_index(change: impl Fn(&mut Value), parts: &[&str]) {
    let both = [(sharded(), [INDEX, FIRST, SECOND]), (torch_sharded(), TORCH)];
    for (dir, names) in both {
        let [index_name, first, second] = names;
        let text = std::fs::read_to_string(dir.join(index_name)).unwrap();
        let mut index: Value =
            serde_json::from_str(&text.replace(first, FIRST).replace(second, SECOND)).unwrap();
        change(&mut index);
        let named = |text: &str| text.replace(FIRST, first).replace(SECOND, second);
        std::fs::write(dir.join(index_name), named(&index.to_string())).unwrap();
        let parts: Vec<String> = [&[INDEX], parts].concat().into_iter().map(named).collect();
        let parts: Vec<&str> =
            parts.iter().map(|part| if *part == INDEX { index_name } else { part }).collect();
        refused(dir.path(), Status::Format, &parts);
    }
}

#[test]
fn shards_that_are_not_there() {
    let dir = sharded();
    std::fs::remove_file(dir.join(SECOND)).unwrap();
    refused(dir.path(), Status::Format, &[INDEX, SECOND, "missing"]);
    std::fs::write(dir.join(SECOND), "").unwrap();
    refused(dir.path(), Status::Format, &[SECOND, "0 bytes"]);
}

#[test]
fn names_that_lead_elsewhere() {
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "", ".", "..", "a\\b", "a\u{0}b"] {
        let shown = format!("{name:?}");
        refused_index(
            |index| index["weight_map"]["model.norm.weight"] = json!(name),
            &[&shown, "the plain name of a file"],
        );
    }
    let long = "x".repeat(100_000);
    refused_index(|index| index["weight_map"]["model.norm.weight"] = json!(long), &["plain name"]);
}

#[test]
fn tensors_in_the_wrong_place() {
    refused_index(
        |index| index["weight_map"]["model.norm.weight"] = json!(FIRST),
        &["tensor model.norm.weight", &format!("expected in {FIRST}, found in {SECOND}")],
    );
    refused_index(
        |index| index["weight_map"]["model.extra"] = json!(FIRST),
        &["tensor model.extra", "found nowhere"],
    );
    let dir = sharded();
    std::fs::copy(dir.join(FIRST), dir.join(SECOND)).unwrap();
    refused(dir.path(), Status::Format, &[INDEX, &format!("expected in {SECOND}, found nowhere")]);
}

#[test]
fn a_tensor_in_two_shards() {
    let dir = sharded();
    let both = crate::support::formats::safetensors_bytes(&small().tensors(), small().dtype);
    std::fs::write(dir.join(FIRST), both).unwrap();
    refused(dir.path(), Status::Format, &[SECOND, "is also in", FIRST]);
}

/// The same of torch's shards: they are other files, read by the same rules.
#[test]
fn shards_of_torch() {
    let [index, first, second] = TORCH;
    let dir = torch_sharded();
    std::fs::remove_file(dir.join(second)).unwrap();
    refused(dir.path(), Status::Format, &[index, second, "missing"]);
    std::fs::copy(dir.join(first), dir.join(second)).unwrap();
    refused(dir.path(), Status::Format, &[index, &format!("expected in {second}, found nowhere")]);
    let dir = torch_sharded();
    let both = TorchWriter::of(TorchForm::Legacy, &small().tensors(), small().dtype).bytes();
    std::fs::write(dir.join(first), both).unwrap();
    refused(dir.path(), Status::Format, &[second, "is also in", first]);
    std::fs::write(dir.join(first), b"<!DOCTYPE html>").unwrap();
    refused(dir.path(), Status::Format, &[first, "HTML"]);
}

#[test]
fn indexes_that_are_none() {
    refused_index(|index| *index = json!({}), &["missing field", "weight_map"]);
    refused_index(|index| *index = json!([]), &["line 1"]);
    refused_index(|index| index["weight_map"] = json!([]), &["an object"]);
    refused_index(|index| index["weight_map"] = json!({}), &["names no tensor"]);
    refused_index(|index| index["weight_map"]["model.norm.weight"] = json!(3), &["a string"]);
    let dir = sharded();
    let twice = format!("{{\"weight_map\":{{\"a\":\"{FIRST}\",\"a\":\"{SECOND}\"}}}}");
    std::fs::write(dir.join(INDEX), twice).unwrap();
    refused(dir.path(), Status::Format, &[INDEX, "\"a\" stands twice"]);
    std::fs::write(dir.join(INDEX), format!("{{\"metadata\":{}", "[".repeat(200_000))).unwrap();
    refused(dir.path(), Status::Format, &[INDEX, "not the expected JSON"]);
    std::fs::File::create(dir.join(INDEX)).unwrap().set_len(1 << 30).unwrap();
    let sparse = aquila::model::Checkpoint::open(dir.path(), false).unwrap_err();
    assert!(sparse.message.contains("1073741824 bytes, expected at most"), "{sparse}");
}
