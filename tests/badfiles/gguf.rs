//! Damaged and foreign GGUF files.

use super::{refused, small};
use crate::support::TempDir;
use crate::support::formats::{GgufValue, GgufWriter};
use aquila::Status;

fn refused_bytes(bytes: &[u8], status: Status, parts: &[&str]) {
    let dir = TempDir::new();
    std::fs::write(dir.join("bad.gguf"), bytes).unwrap();
    refused(&dir.join("bad.gguf"), status, &[&["bad.gguf"], parts].concat());
}

fn refused_change(change: impl FnOnce(&mut GgufWriter), status: Status, parts: &[&str]) {
    let mut gguf = small().gguf();
    change(&mut gguf);
    refused_bytes(&gguf.bytes(), status, parts);
}

/// One extra entry of this type with these bytes.
fn refused_value(kind: u32, bytes: Vec<u8>, parts: &[&str]) {
    refused_change(|g| g.set("odd", GgufValue::Raw(kind, bytes)), Status::Format, parts);
}

fn array(kind: u32, count: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat()
}

#[test]
fn versions_and_byte_orders() {
    refused_change(|g| g.version = 1, Status::Unsupported, &["version 1, expected 2 or 3"]);
    refused_change(|g| g.version = 4, Status::Unsupported, &["version 4"]);
    refused_change(|g| g.version = 0, Status::Unsupported, &["version 0"]);
    refused_change(|g| g.version = 3 << 24, Status::Unsupported, &["big-endian"]);
    refused_change(|g| g.magic = *b"GGUX", Status::Format, &["found neither", "GGUX"]);
    refused_bytes(b"GGUF", Status::Format, &["truncated", "the version"]);
    let mut gguf = small().gguf();
    gguf.version = 2;
    let dir = TempDir::new();
    std::fs::write(dir.join("two.gguf"), gguf.bytes()).unwrap();
    aquila::model::Checkpoint::open(&dir.join("two.gguf"), false).expect("version 2");
}

#[test]
fn counts_that_lie() {
    for count in [21, 200_000, u64::MAX, 1 << 63, u64::MAX / 24] {
        refused_change(|g| g.tensor_count = Some(count), Status::Format, &[]);
        refused_change(|g| g.value_count = Some(count), Status::Format, &[]);
    }
    refused_change(|g| g.tensor_count = Some(1 << 40), Status::Format, &["1099511627776 tensors", "at most"]);
    refused_change(|g| g.value_count = Some(1 << 40), Status::Format, &["metadata entries", "at most"]);
    refused_change(|g| g.tensor_count = Some(0), Status::Format, &["token_embd.weight is missing"]);
}

#[test]
fn values_that_lie() {
    refused_value(13, vec![], &["odd", "type number 13"]);
    refused_value(u32::MAX, vec![], &["odd", "type number 4294967295"]);
    refused_value(7, vec![2], &["odd", "expected a bool"]);
    for len in [1u64 << 40, u64::MAX, 1 << 24] {
        refused_value(8, len.to_le_bytes().to_vec(), &["odd"]);
        refused_value(9, array(4, len), &["odd", "an array of", "expected at most"]);
        refused_value(9, array(8, len), &["odd", "an array of", "expected at most"]);
        refused_value(9, array(9, len), &["odd", "an array of", "expected at most"]);
    }
    refused_value(9, array(13, 0), &["odd", "element type number 13"]);
    refused_value(8, [&2u64.to_le_bytes()[..], b"\xff\xff"].concat(), &["odd", "UTF-8"]);
    let strings = [array(8, 1), 1u64.to_le_bytes().to_vec(), vec![0xff]].concat();
    refused_value(9, strings, &["odd", "string 0 is not UTF-8"]);
    let deep = [array(9, 1).repeat(100_000), array(4, 0)].concat();
    refused_value(9, deep, &["odd", "nested more than 4 deep"]);
    refused_value(9, [array(7, 2), vec![1, 3]].concat(), &["odd", "expected a bool"]);
}

#[test]
fn keys_that_are_empty_or_double() {
    refused_change(|g| g.values.push((String::new(), GgufValue::U8(1))), Status::Format, &["is empty"]);
    let twice = ("general.name".to_string(), GgufValue::U8(1));
    refused_change(|g| g.values.push(twice), Status::Format, &["general.name", "twice"]);
    let long = ("k".repeat(70_000), GgufValue::U8(1));
    refused_change(|g| g.values.push(long), Status::Format, &["70000 bytes, expected at most 65535"]);
}

#[test]
fn alignments() {
    for value in [0u32, 3, 33, 1 << 31, u32::MAX] {
        let parts = ["general.alignment", "a power of two", &format!("found {value}")];
        refused_change(|g| g.set("general.alignment", GgufValue::U32(value)), Status::Format, &parts);
    }
    let text = GgufValue::Str("32".into());
    refused_change(|g| g.set("general.alignment", text), Status::Format, &["integer", "found a string"]);
}

#[test]
fn tensors_that_lie() {
    let first = |change: fn(&mut crate::support::formats::GgufTensor), status, parts: &[&str]| {
        refused_change(|g| change(&mut g.tensors[0]), status, &[&["token_embd.weight"], parts].concat());
    };
    first(|t| t.offset = Some(7), Status::Format, &["offset 7", "multiple of the alignment 32"]);
    first(|t| t.offset = Some(1 << 40), Status::Format, &["truncated", "the file has"]);
    first(|t| t.offset = Some(u64::MAX - 31), Status::Format, &["overflows"]);
    first(|t| t.offset = Some(64), Status::Format, &["inside tensor"]);
    first(|t| t.shape = vec![usize::MAX, 8], Status::Format, &["overflows"]);
    first(|t| t.shape = vec![1 << 40, 8], Status::Format, &["truncated"]);
    first(|t| t.shape = vec![1; 5], Status::Format, &["5 dimensions, expected at most 4"]);
    first(|t| t.kind = 2, Status::Format, &["rows of 8 elements, expected whole blocks of 32 (q4_0)"]);
    first(|t| t.kind = 23, Status::Unsupported, &["expected [16, 8]", "found [16, 8] iq4_xs"]);
    first(|t| t.kind = 26, Status::Format, &["found [16, 8] i32"]);
    first(|t| t.kind = 1000, Status::Format, &["type number 1000"]);
    first(|t| t.kind = u32::MAX, Status::Format, &["type number 4294967295"]);
    refused_change(|g| g.tensors[1].name = "token_embd.weight".into(), Status::Format, &["stands twice"]);
    refused_change(|g| g.tensors[1].name = String::new(), Status::Format, &["empty name"]);
    let query = |g: &mut GgufWriter| g.tensors.iter().position(|t| t.name == "blk.0.attn_q.weight").unwrap();
    let parts = ["blk.0.attn_q.weight: expected [8, 8] f32, found [4, 16] f32"];
    refused_change(
        |g| {
            let q = query(g);
            g.tensors[q].shape = vec![4, 16]
        },
        Status::Format,
        &parts,
    );
    let parts = ["blk.0.attn_q.weight: expected [8, 8], found none"];
    refused_change(
        |g| {
            let q = query(g);
            g.tensors.remove(q);
        },
        Status::Format,
        &parts,
    );
}

#[test]
fn other_models() {
    let set = |key: &'static str, value: GgufValue| move |g: &mut GgufWriter| g.set(key, value);
    let qwen = GgufValue::Str("qwen2".into());
    let parts = ["general.architecture", "expected \"llama\"", "qwen2"];
    refused_change(set("general.architecture", qwen), Status::Unsupported, &parts);
    refused_change(
        set("general.architecture", GgufValue::U8(1)),
        Status::Format,
        &["a string, found an integer"],
    );
    refused_change(|g| g.unset("general.architecture"), Status::Unsupported, &["found none"]);
    refused_change(
        set("llama.expert_count", GgufValue::U32(8)),
        Status::Unsupported,
        &["expert_count", "found 8"],
    );
    refused_change(set("split.count", GgufValue::U32(2)), Status::Unsupported, &["split.count"]);
    refused_change(
        set("llama.rope.dimension_count", GgufValue::U32(2)),
        Status::Unsupported,
        &["width of a head, 4"],
    );
    let yarn = GgufValue::Str("yarn".into());
    refused_change(set("llama.rope.scaling.type", yarn), Status::Unsupported, &["yarn"]);
    let factors = |g: &mut GgufWriter| g.tensor("rope_freqs.weight", &[2], 0, vec![0; 8]);
    refused_change(factors, Status::Unsupported, &["rope_freqs.weight"]);
}

#[test]
fn hyperparameters() {
    let keys = [
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
    ];
    for key in keys {
        for value in [GgufValue::U32(0), GgufValue::I32(-1), GgufValue::U64(1 << 40), GgufValue::F32(8.0)] {
            refused_change(|g| g.set(key, value), Status::Format, &[key, "expected an integer", "found"]);
        }
        if key != "llama.attention.head_count_kv" {
            refused_change(|g| g.unset(key), Status::Format, &[key, "missing"]);
        }
    }
    let key = "llama.attention.layer_norm_rms_epsilon";
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused_change(|g| g.set(key, GgufValue::F32(value)), Status::Format, &[key, "above 0"]);
    }
    refused_change(
        |g| g.set("llama.attention.head_count", GgufValue::U32(3)),
        Status::Format,
        &["a divisor of", "found 3"],
    );
    let per_layer = GgufValue::I32s(vec![2, 1]);
    refused_change(
        |g| g.set("llama.attention.head_count_kv", per_layer),
        Status::Unsupported,
        &["every layer"],
    );
    refused_change(|g| g.set("llama.vocab_size", GgufValue::U32(17)), Status::Format, &["16 rows, found 17"]);
}
