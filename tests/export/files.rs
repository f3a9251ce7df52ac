//! The files themselves: what is written is read back, by our readers and by those of others, also beyond 4 GiB.

use crate::names;
use crate::support::TempDir;
use aquila::base::dtype::DType;
use aquila::base::error::Result;
use aquila::loading::file::SourceFile;
use aquila::loading::tensor::{StoredType, TensorTable};
use aquila::loading::{gguf, safetensors, torch_bin};
use aquila::saving::{
    GgufLayout, GgufValue, Layout, NewTensor, Shards, TensorFile, TorchLayout, WeightFormat,
};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Tensors of odd names, ranks and sizes, none at all among them.
fn tensors() -> impl Strategy<Value = Vec<NewTensor>> {
    let shape = proptest::collection::vec(1usize..9, 1..3);
    let dtype = prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)];
    let one = ("[a-z.\"\\\\é中]{0,20}", shape, dtype);
    proptest::collection::vec(one, 1..12).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(at, (name, shape, dtype))| NewTensor { name: format!("{name}{at}"), dtype, shape })
            .collect()
    })
}

/// Bytes that tell tensors and places apart.
fn content(number: usize, len: u64) -> Vec<u8> {
    (0..len).map(|at| (number as u64 * 31 + at * 7) as u8).collect()
}

fn read(path: &Path) -> Result<TensorTable> {
    let file = SourceFile::open(path)?;
    let named = match path.extension().and_then(|e| e.to_str()) {
        Some("bin") => torch_bin::read(&file)?.tensors,
        Some("gguf") => gguf::read(&file)?.1,
        _ => safetensors::read(&file)?,
    };
    TensorTable::new(vec![(file, named)], false)
}

fn check(table: &TensorTable, tensors: &[NewTensor]) {
    for (number, tensor) in tensors.iter().enumerate() {
        let Some(stored) = table.get(&tensor.name) else { continue };
        assert_eq!((stored.dtype, &stored.shape), (StoredType::Known(tensor.dtype), &tensor.shape));
        assert_eq!(*table.bytes(&tensor.name).unwrap(), content(number, tensor.bytes().unwrap()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn files_are_read_back(tensors in tensors(), shard_bytes in 0u64..600, torch in any::<bool>(), cut in 1usize..50) {
        let dir = TempDir::new();
        let format = if torch { WeightFormat::TorchBin } else { WeightFormat::Safetensors };
        let mut shards = Shards::create(dir.path(), format, &tensors, shard_bytes).unwrap();
        for (number, tensor) in tensors.iter().enumerate() {
            for part in content(number, tensor.bytes().unwrap()).chunks(cut) {
                shards.append(number, part).unwrap();
            }
        }
        shards.finish().unwrap();
        let mut found = 0;
        for name in names(dir.path()).iter().filter(|name| !name.ends_with(".json")) {
            let table = read(&dir.join(name)).unwrap();
            found += table.names().count();
            check(&table, &tensors);
        }
        prop_assert_eq!(found, tensors.len());
    }

    #[test]
    fn gguf_files_are_read_back(tensors in tensors(), text in "\\PC{0,30}", number in any::<u32>()) {
        let dir = TempDir::new();
        let metadata = [
            ("general.architecture".to_owned(), GgufValue::Text("llama".into())),
            ("a.text".into(), GgufValue::Text(text.clone())),
            ("a.number".into(), GgufValue::U32(number)),
            ("a.float".into(), GgufValue::F32(0.1)),
            ("a.truth".into(), GgufValue::Bool(true)),
            ("a.texts".into(), GgufValue::Texts(vec![text.clone(), String::new(), "x".into()])),
            ("a.integers".into(), GgufValue::Integers(vec![-1, 0, i32::MAX])),
        ];
        let path = dir.join("x.gguf");
        let layout = GgufLayout::new(&metadata, &tensors).unwrap();
        let mut file = TensorFile::create(&path, tensors.clone(), Box::new(layout)).unwrap();
        for (number, tensor) in tensors.iter().enumerate() {
            file.append(number, &content(number, tensor.bytes().unwrap())).unwrap();
        }
        file.finish().unwrap();
        check(&read(&path).unwrap(), &tensors);
        let (read, _) = gguf::read(&SourceFile::open(&path).unwrap()).unwrap();
        prop_assert_eq!(read.string("a.text").unwrap(), Some(text.as_str()));
        prop_assert_eq!(read.uint("a.number").unwrap(), Some(u64::from(number)));
        prop_assert_eq!(read.boolean("a.truth").unwrap(), Some(true));
        let texts: Vec<String> = read.strings("a.texts").unwrap().unwrap().iter().map(str::to_owned).collect();
        prop_assert_eq!(texts, vec![text, String::new(), "x".into()]);
        prop_assert_eq!(read.integers("a.integers").unwrap().unwrap(), vec![-1, 0, i64::from(i32::MAX)]);
    }
}

/// Entries and places beyond 4 GiB stand in other fields of an archive. The file is sparse: nothing is written but what is
/// around the tensors.
#[test]
fn archives_beyond_four_gibibytes_are_read() {
    let dir = TempDir::new();
    let path = dir.join("big.bin");
    let tensor = |name: &str, rows: usize| NewTensor {
        name: name.into(),
        dtype: DType::F32,
        shape: vec![rows, 1 << 16],
    };
    // One of 4.25 GiB, and one whose place is beyond 4 GiB; a row is 256 KiB.
    let tensors = [tensor("large", 17_408), tensor("behind", 3)];
    let layout = TorchLayout::new("big", &tensors).unwrap();
    let file = File::create(&path).unwrap();
    file.set_len(layout.file_len()).unwrap();
    for (at, bytes) in layout.frame(&[0, 0]) {
        file.write_all_at(&bytes, at).unwrap();
    }
    file.write_all_at(&1.5f32.to_le_bytes(), layout.ranges()[1].end - 4).unwrap();
    let table = read(&path).unwrap();
    assert_eq!(table.get("large").unwrap().shape, [17_408, 1 << 16]);
    assert_eq!(table.bytes("behind").unwrap().last_chunk::<4>(), Some(&1.5f32.to_le_bytes()));
    // Python's own reader of archives agrees about every entry's place and size.
    let script = "import sys, zipfile\nfor i in zipfile.ZipFile(sys.argv[1]).infolist():\n print(i.filename, i.file_size)";
    let output = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for line in ["big/data/0 4563402752", "big/data/1 786432", "big/version 2", "big/byteorder 6"] {
        assert!(text.contains(line), "{line:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A file that may not grow so far is refused before a byte is written, and nothing of it stays.
#[test]
fn a_limit_of_file_sizes_is_named() {
    let model = TempDir::new();
    crate::support::TinyModel::default().write_dir(model.path());
    let out = TempDir::new();
    let command = format!(
        "ulimit -f 64; exec {} convert {} --to safetensors --output {}/x",
        env!("CARGO_BIN_EXE_aquila"),
        model.path().display(),
        out.path().display()
    );
    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the limit is 65536"), "{text}");
    assert!(names(out.path()).is_empty());
}
