//! Checkpoints as a whole: what is written is what is read.

#[path = "../support/mod.rs"]
mod support;

use safetensors::SafeTensors;
use support::{TempDir, TinyModel, tokenizer};

/// The makers are themselves checked against the crates of the formats.
#[test]
fn the_small_models_are_valid() {
    let dir = TempDir::new();
    let model = TinyModel { shards: 2, ..TinyModel::default() };
    model.write_dir(dir.path());
    let mut names = Vec::new();
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let bytes = std::fs::read(dir.join(shard)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        names.extend(file.names().into_iter().map(String::from));
    }
    assert_eq!(names.len(), 2 * 9 + 3);
    let tokens = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    assert_eq!(tokens.get_vocab_size(true), tokenizer::VOCAB);
    let ids = tokens.encode("hello world 你好</s>", false).unwrap();
    assert_eq!(ids.get_ids(), [260, 265, 221, 272, tokenizer::EOS as u32]);
}
