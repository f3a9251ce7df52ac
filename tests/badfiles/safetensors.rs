//! Damaged safetensors files.

use super::{refused, small, small_dir};
use crate::support::formats::{safetensors_bytes, safetensors_with};
use crate::support::{TempDir, TinyTensor, TinyType};
use aquila::Status;
use aquila::model::Checkpoint;

/// Puts `bytes` in place of the weights.
fn spoilt(bytes: &[u8]) -> TempDir {
    let dir = small_dir();
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    dir
}

fn refused_bytes(bytes: &[u8], status: Status, parts: &[&str]) {
    let dir = spoilt(bytes);
    refused(dir.path(), status, &[&["model.safetensors"], parts].concat());
}

fn refused_header(header: &str, data: usize, parts: &[&str]) {
    refused_bytes(&safetensors_with(header, &vec![0; data]), Status::Format, parts);
}

#[test]
fn other_files() {
    refused_bytes(b"", Status::Format, &["found 0 bytes"]);
    refused_bytes(b"1234567", Status::Format, &["found 7 bytes"]);
    let page = b"<!DOCTYPE html><html><body>Not found</body></html>";
    refused_bytes(page, Status::Format, &["HTML"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    refused_bytes(pointer, Status::Format, &["Git LFS pointer"]);
    refused_bytes(b"PK\x03\x04 and so on", Status::Format, &["zip"]);
    refused_bytes(b"GGUF\x03\0\0\0 and so on", Status::Format, &["GGUF"]);
    refused_bytes(b"just some text", Status::Format, &["not a safetensors file"]);
}

/// As a number of bytes these lengths are right; as text they begin with "<".
#[test]
fn header_lengths_that_look_like_another_file() {
    let valid = changed(|_| ());
    let len = u64::from_le_bytes(valid[..8].try_into().unwrap()) as usize;
    let (header, data) = valid[8..].split_at(len);
    for wanted in [len / 256 * 256 + 256 + 0x3C, 0x3C20, 0x3C0A] {
        let blanks = vec![b' '; wanted - len];
        let bytes = [&(wanted as u64).to_le_bytes()[..], header, &blanks, data].concat();
        Checkpoint::open(spoilt(&bytes).path(), false).unwrap_or_else(|error| panic!("{wanted}: {error}"));
    }
}

#[test]
fn header_lengths_that_lie() {
    let with_len = |len: u64| [&len.to_le_bytes()[..], b"{}      "].concat();
    refused_bytes(&with_len(9), Status::Format, &["truncated", "9 bytes", "has 8"]);
    refused_bytes(&with_len(99_999_999), Status::Format, &["truncated", "99999999"]);
    refused_bytes(&with_len(100_000_001), Status::Format, &["at most 100000000"]);
    refused_bytes(&with_len(u64::MAX), Status::Format, &["at most 100000000"]);
    refused_bytes(&with_len(0), Status::Format, &["header", "line 1"]);
}

#[test]
fn headers_that_are_no_header() {
    refused_header("[]", 0, &["line 1", "an object of tensors"]);
    refused_header("{\"a\":", 0, &["line 1 column"]);
    refused_header("{\"a\":{}}", 0, &["missing field"]);
    refused_bytes(&safetensors_with_bytes(b"{\"\xff\":1}"), Status::Format, &["line 1"]);
    refused_header(&"[".repeat(100_000), 0, &["expected JSON"]);
    refused_header(&format!("{{\"a\":{}", "{\"x\":".repeat(100_000)), 0, &["expected JSON"]);
    let entry =
        |shape: &str| format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,4]}}}}");
    refused_header(&entry("[1.5]"), 4, &["line 1"]);
    refused_header(&entry("[-1]"), 4, &["-1"]);
    refused_header(&entry("[1e309]"), 4, &["out of range"]);
    refused_header(&entry(&format!("[1{}]", ",1".repeat(1_000_000))), 4, &["at most 8 dimensions"]);
    refused_header(
        "{\"a\":{\"dtype\":\"Q9\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        4,
        &["unknown variant"],
    );
}

fn safetensors_with_bytes(header: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header].concat()
}

#[test]
fn ranges_that_do_not_fit() {
    let one = |shape: &str, start: u64, end: u64| {
        format!("{{\"t\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}}}")
    };
    refused_header(&one("[2]", 0, 8), 4, &["truncated", "tensor t"]);
    refused_header(&one("[1]", 0, 4), 8, &["last tensor ends at byte"]);
    refused_header(&one("[1]", 4, 8), 8, &["tensor t", "hole", "byte 0, found 4"]);
    refused_header(&one("[3]", 0, 4), 4, &["tensor t", "expected 12 bytes for [3] F32, found 4"]);
    refused_header(&one("[1]", 4, 0), 4, &["tensor t", "before its start"]);
    refused_header(&one("[4294967296,4294967296]", 0, 4), 4, &["tensor t", "overflows"]);
    refused_header(&one("[9223372036854775807]", 0, 4), 4, &["tensor t", "overflows"]);
    refused_header(&one("[0]", u64::MAX, u64::MAX), 0, &["tensor t", "overflows"]);
    let two = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\
               \"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}";
    refused_header(two, 12, &["tensor b", "overlaps", "byte 8, found 4"]);
    let twice = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\
                 \"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
    refused_header(twice, 8, &["tensor a", "once"]);
}

#[test]
fn too_many_tensors() {
    let entries: Vec<String> = (0..140_000)
        .map(|i| format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"))
        .collect();
    refused_header(&format!("{{{}}}", entries.join(",")), 0, &["more than 131072 tensors"]);
}

/// The weights of the small model after `change`.
fn changed(change: impl FnOnce(&mut Vec<TinyTensor>)) -> Vec<u8> {
    let mut tensors = small().tensors();
    change(&mut tensors);
    safetensors_bytes(&tensors, TinyType::F16)
}

fn named<'a>(tensors: &'a mut [TinyTensor], name: &str) -> &'a mut TinyTensor {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

#[test]
fn tensors_that_do_not_belong() {
    let query = "model.layers.0.self_attn.q_proj.weight";
    let wrong = changed(|t| named(t, query).shape = vec![4, 16]);
    refused_bytes(
        &wrong,
        Status::Format,
        &[&format!("tensor {query}: expected [8, 8] f16, found [4, 16] f16")],
    );
    let flat = changed(|t| named(t, query).shape = vec![64]);
    refused_bytes(&flat, Status::Format, &["expected [8, 8] f16, found [64] f16"]);
    let missing = changed(|t| t.retain(|t| t.name != query));
    refused_bytes(&missing, Status::Format, &[&format!("tensor {query}: expected [8, 8], found none")]);
    let norm = changed(|t| named(t, "model.norm.weight").shape = vec![1, 8]);
    refused_bytes(&norm, Status::Format, &["model.norm.weight: expected [8] f16, found [1, 8] f16"]);
    let embedding = changed(|t| {
        let embedding = named(t, "model.embed_tokens.weight");
        embedding.shape = vec![15, 8];
        embedding.values.truncate(15 * 8);
    });
    refused_bytes(
        &embedding,
        Status::Format,
        &["model.embed_tokens.weight: expected [16, 8] f16, found [15, 8]"],
    );
    let head = changed(|t| t.retain(|t| t.name != "lm_head.weight"));
    refused_bytes(&head, Status::Format, &["lm_head.weight: expected [16, 8], found none"]);
    let bias = changed(|t| {
        let mut bias = named(t, "model.layers.0.mlp.up_proj.weight").clone();
        bias.name = "model.layers.0.mlp.up_proj.bias".into();
        t.push(bias);
    });
    refused_bytes(&bias, Status::Unsupported, &["mlp.up_proj.bias", "not supported"]);
}

#[test]
fn weights_of_other_types() {
    let bytes = safetensors_bytes(&small().tensors(), TinyType::F16);
    let retyped = |name: &str| {
        let len = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..len]).unwrap();
        let header = header.replacen("\"F16\"", &format!("\"{name}\""), 1);
        safetensors_with(header.trim_end(), &bytes[len..])
    };
    let embedding = "model.embed_tokens.weight: expected [16, 8] f32, f16 or bf16, found [16, 8]";
    refused_bytes(&retyped("I16"), Status::Format, &[&format!("{embedding} i16")]);
    refused_bytes(&retyped("U16"), Status::Format, &[&format!("{embedding} u16")]);
    refused_bytes(&retyped("F64"), Status::Format, &["expected 1024 bytes for [16, 8] F64, found 256"]);
    let half = changed(|t| named(t, "model.embed_tokens.weight").values.truncate(64));
    let len = 8 + u64::from_le_bytes(half[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&half[8..len]).unwrap().replacen("\"F16\"", "\"F8_E4M3\"", 1);
    let file = safetensors_with(header.trim_end(), &half[len..]);
    refused_bytes(&file, Status::Unsupported, &[&format!("{embedding} f8_e4m3")]);
}
