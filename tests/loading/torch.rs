//! torch's files: small ones of several versions of torch, real ones of other people, and whole directories.

use crate::data::real_data;
use crate::support::formats::{safetensors_bytes, safetensors_with};
use crate::support::torch::{Pickle, TorchForm, TorchStorage, TorchTensor, TorchWriter, row_strides};
use crate::support::{TempDir, TinyModel, TinyType};
use crate::{assert_same, assert_spec};
use aquila::base::dtype::DType;
use aquila::engine::params::{GenParams, Input};
use aquila::loading::file::SourceFile;
use aquila::loading::quant;
use aquila::loading::tensor::{StoredType, TensorTable};
use aquila::loading::torch_bin::{self, Form, TorchFile};
use aquila::model::Checkpoint;
use aquila::model::weights::Role;
use aquila::open::{self, LoadOptions};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const FORMS: [TorchForm; 2] = [TorchForm::Zip, TorchForm::Legacy];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch")
}

fn read(path: &Path) -> TorchFile {
    let file = SourceFile::open(path).unwrap();
    torch_bin::read(&file).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The numbers of a tensor of a type that weights may have.
fn values(table: &TensorTable, name: &str) -> Option<Vec<f64>> {
    let stored = table.get(name).unwrap();
    let StoredType::Known(dtype) = stored.dtype else { return None };
    let mut out = vec![0f32; stored.shape.iter().product()];
    quant::to_f32(dtype, &table.bytes(name).unwrap(), &mut out);
    Some(out.into_iter().map(f64::from).collect())
}

fn table(path: &Path, copy: bool) -> TensorTable {
    let file = SourceFile::open(path).unwrap();
    let named = torch_bin::read(&file).unwrap().tensors;
    TensorTable::new(vec![(file, named)], copy).unwrap()
}

/// torch's name of a type as ours.
fn our_name(torch: &str) -> String {
    let float8 = torch.replace("float8_e4m3fn", "f8_e4m3");
    float8.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")
}

/// Zip and legacy, protocols 2 to 5, views, wrapped state dicts, files without checksums.
#[test]
fn files_of_several_versions_of_torch_are_read_as_torch_reads_them() {
    let (mut files, mut versions) = (0, 0);
    for version in std::fs::read_dir(golden()).unwrap() {
        let dir = version.unwrap().path();
        let text = std::fs::read(dir.join("expected.json")).unwrap();
        let expected: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_slice(&text).unwrap();
        versions += 1;
        for (name, tensors) in expected {
            let path = dir.join(&name);
            let found = read(&path);
            assert_eq!(found.form == Form::Legacy, name.contains("legacy"), "{}", path.display());
            assert_eq!(found.path == ["module"], name.contains("wrapped"), "{}", path.display());
            assert_eq!(found.tensors.len(), tensors.len(), "{}", path.display());
            for copy in [false, true] {
                let table = table(&path, copy);
                for (tensor, facts) in &tensors {
                    let place = format!("{}: {tensor}", path.display());
                    let stored = table.get(tensor).unwrap_or_else(|| panic!("{place} is missing"));
                    assert_eq!(Value::from(stored.shape.clone()), facts["shape"], "{place}");
                    assert_eq!(
                        stored.dtype.to_string(),
                        our_name(facts["dtype"].as_str().unwrap()),
                        "{place}"
                    );
                    if let Some(values) = values(&table, tensor) {
                        assert_eq!(Value::from(values), facts["values"], "{place}");
                    }
                }
            }
            files += 1;
        }
    }
    assert!(versions >= 3 && files >= 40, "{files} files of {versions} versions");
}

/// What needs no copy is used where it lies.
#[test]
fn only_views_that_do_not_lie_row_by_row_are_copied() {
    for entry in std::fs::read_dir(golden()).unwrap() {
        for form in ["zip", "legacy"] {
            let table = table(&entry.as_ref().unwrap().path().join(format!("views-{form}.bin")), false);
            let mapped = |name: &str| table.bytes(name).unwrap().is_mapped();
            for name in ["base", "same", "rows", "one", "parameter"] {
                assert!(mapped(name), "{name}");
            }
            for name in ["columns", "transposed", "every second", "half transposed", "permuted"] {
                assert!(!mapped(name), "{name}");
            }
            assert_eq!(table.bytes("base").unwrap().as_ptr(), table.bytes("same").unwrap().as_ptr());
        }
    }
}

/// Files that other people published: tensors, how many of them are no f32, and the sum of all others' elements, as
/// torch 2.8.0 has it.
const PUBLISHED: [(&str, usize, usize, f64); 10] = [
    // Pickles of Python 2, with tensors on a GPU.
    ("lpips/v0.0/alex.pth", 5, 0, 65.50602128446769),
    ("lpips/v0.0/squeeze.pth", 7, 0, 104.92856640435657),
    ("lpips/v0.0/vgg.pth", 5, 0, 52.52065325292308),
    ("lpips/v0.1/alex.pth", 5, 0, 105.2753545809201),
    ("lpips/v0.1/squeeze.pth", 7, 0, 173.4387181383333),
    ("lpips/v0.1/vgg.pth", 5, 0, 131.85550854727626),
    ("facenet/pnet.pt", 13, 0, -43.12531704072171),
    ("facenet/rnet.pt", 16, 0, -178.50655001851723),
    ("facenet/onet.pt", 21, 0, -354.43949631894327),
    ("efficientnet-lite0.pth", 296, 49, 425663.2450015556),
];

#[test]
fn real_files_of_others() {
    let Some(data) = real_data() else { return };
    let files = data.join("torch-files");
    for (name, tensors, others, sum) in PUBLISHED {
        let path = files.join(name);
        assert_eq!(read(&path).form, Form::Legacy, "{name}");
        let table = table(&path, false);
        assert_eq!(table.names().count(), tensors, "{name}");
        let numbers: Vec<Vec<f64>> = table.names().filter_map(|tensor| values(&table, tensor)).collect();
        assert_eq!(tensors - numbers.len(), others, "{name}");
        let found: f64 = numbers.iter().flatten().sum();
        assert!((found - sum).abs() < 1e-9 * sum.abs(), "{name}: {found}, expected {sum}");
    }
    // A tensor alone, in a zip archive of torch 2.
    for (name, count, sum) in
        [("ts_tok_ids_to_neo", 10_000, 159_425_385), ("neo_tok_ids_to_ts", 50_261, 452_564_739)]
    {
        let path = files.join(format!("tinymodel/{name}.pt"));
        let found = read(&path);
        let [(tensor, stored)] = &found.tensors[..] else { panic!("{name}: {:?}", found.tensors) };
        assert_eq!(
            (found.form, tensor.as_str(), stored.dtype),
            (Form::Zip, "", StoredType::Other("i64")),
            "{name}"
        );
        assert_eq!(stored.shape, [count], "{name}");
        let bytes = SourceFile::open(&path).unwrap().read_range(stored.range.clone()).unwrap();
        assert_eq!(
            bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).sum::<i64>(),
            sum,
            "{name}"
        );
    }
}

#[test]
fn every_form_gives_the_weights_that_were_written() {
    for (number, dtype) in [TinyType::F32, TinyType::F16, TinyType::Bf16].into_iter().enumerate() {
        for (form, name) in FORMS.into_iter().zip(["torch .bin, zip", "torch .bin, legacy"]) {
            for shards in [1, 3] {
                let dir = TempDir::new();
                let model = TinyModel { dtype, shards, seed: number as u64, ..TinyModel::default() };
                model.write_torch_dir(dir.path(), form);
                for no_mmap in [false, true] {
                    let checkpoint = Checkpoint::open(dir.path(), no_mmap).unwrap();
                    assert_spec(&model, &checkpoint);
                    assert_same(&model, &checkpoint);
                    assert_eq!(checkpoint.warnings, Vec::<String>::new());
                    let embedding = checkpoint.weights.get(0, Role::Embedding).unwrap();
                    assert_eq!(embedding.pieces[0].bytes.is_mapped(), !no_mmap);
                    let format = &checkpoint.facts.iter().find(|(fact, _)| *fact == "format").unwrap().1;
                    let expected = if shards == 1 { name.into() } else { format!("{name}, 3 shards") };
                    assert_eq!(*format, expected);
                }
                let one = dir.join("pytorch_model.bin");
                if shards == 1 {
                    assert_same(&model, &Checkpoint::open(&one, false).unwrap());
                }
            }
        }
    }
}

/// As Hugging Face does it: safetensors first, then one file before an index.
#[test]
fn safetensors_are_preferred() {
    let (new, old) = (TinyModel::default(), TinyModel { seed: 9, ..TinyModel::default() });
    let dir = TempDir::new();
    TinyModel { shards: 2, ..old.clone() }.write_torch_dir(dir.path(), TorchForm::Zip);
    assert_same(&old, &Checkpoint::open(dir.path(), false).unwrap());
    new.write_torch_dir(dir.path(), TorchForm::Legacy);
    assert_same(&new, &Checkpoint::open(dir.path(), false).unwrap());
    TinyModel { shards: 2, ..old.clone() }.write_dir(dir.path());
    assert_same(&old, &Checkpoint::open(dir.path(), false).unwrap());
    // Without index and usual name, one file is no question, but several are. Other .bin files are none of weights.
    let dir = TempDir::new();
    new.write_torch_dir(dir.path(), TorchForm::Zip);
    std::fs::rename(dir.join("pytorch_model.bin"), dir.join("pytorch_model-00001-of-00001.bin")).unwrap();
    std::fs::write(dir.join("training_args.bin"), "PK\x03\x04").unwrap();
    assert_same(&new, &Checkpoint::open(dir.path(), false).unwrap());
}

/// A safetensors header of 0x…0280 bytes begins like a pickle of protocol 2.
#[test]
fn a_safetensors_file_that_begins_like_a_pickle() {
    let (dir, model) = (TempDir::new(), TinyModel::default());
    model.write_around(dir.path());
    let file = safetensors_bytes(&model.tensors(), model.dtype);
    let end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(file[8..end].to_vec()).unwrap();
    let length = (header.len() + 0xffff - 0x280) / 0x10000 * 0x10000 + 0x280;
    let blanks = " ".repeat(length - header.len());
    let bytes = safetensors_with(&(header + &blanks), &file[end..]);
    assert_eq!(bytes[..3], [0x80, 2, (length >> 16) as u8]);
    std::fs::write(dir.join("weights"), bytes).unwrap();
    assert_same(&model, &Checkpoint::open(&dir.join("weights"), false).unwrap());
}

/// The Ascend guide makes its directories with `cp -s *.bin`.
#[test]
fn links_to_shards_are_followed() {
    let (real, linked) = (TempDir::new(), TempDir::new());
    let model = TinyModel { shards: 3, ..TinyModel::default() };
    model.write_torch_dir(real.path(), TorchForm::Zip);
    for entry in std::fs::read_dir(real.path()).unwrap() {
        let entry = entry.unwrap();
        let to = linked.path().join(entry.file_name());
        match entry.path().extension().is_some_and(|end| end == "bin") {
            true => std::os::unix::fs::symlink(entry.path(), to).unwrap(),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
    assert_same(&model, &Checkpoint::open(linked.path(), false).unwrap());
}

/// A model whose matrices are stored transposed, and whose parts share one storage.
#[test]
fn transposed_and_shared_weights_are_the_same_weights() {
    let model = TinyModel { dtype: TinyType::Bf16, ..TinyModel::default() };
    for form in FORMS {
        let (mut data, mut tensors) = (Vec::new(), Vec::new());
        for tensor in model.tensors() {
            let shape: Vec<u64> = tensor.shape.iter().map(|&d| d as u64).collect();
            let offset = data.len() as u64 / 2;
            let (strides, values) = match tensor.shape[..] {
                [rows, cols] if tensor.name.contains("proj") => {
                    let turned = (0..rows * cols).map(|i| tensor.values[i % rows * cols + i / rows]);
                    (vec![1, rows as u64], turned.collect())
                }
                _ => (row_strides(&shape), tensor.values),
            };
            data.extend(model.dtype.bytes(&values));
            tensors.push(TorchTensor { name: tensor.name, storage: 0, offset, shape, strides });
        }
        let storage = TorchStorage { class: "BFloat16Storage", elements: data.len() as u64 / 2, data };
        let dir = TempDir::new();
        model.write_around(dir.path());
        let path = dir.join("pytorch_model.bin");
        std::fs::write(&path, TorchWriter::new(form, vec![storage], &tensors).bytes()).unwrap();
        for no_mmap in [false, true] {
            let checkpoint = Checkpoint::open(&path, no_mmap).unwrap();
            assert_same(&model, &checkpoint);
            let piece = |role| checkpoint.weights.get(0, role).unwrap().pieces[0].clone();
            assert_eq!(piece(Role::FinalNorm).bytes.is_mapped(), !no_mmap);
            assert!(!piece(Role::Query).bytes.is_mapped() && piece(Role::Query).dtype == DType::BF16);
        }
    }
}

/// Before torch 0.4 a persistent id could name a part of a storage.
#[test]
fn parts_of_storages() {
    let data: Vec<u8> = (0..24).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let storage = TorchStorage { class: "FloatStorage", elements: 24, data };
    let mut file = TorchWriter::new(TorchForm::Legacy, vec![storage], &[]);
    let part = |p: Pickle| {
        let id = p.raw(b"(").text("storage").global("torch", "FloatStorage").text("0").text("cpu").int(24);
        id.raw(b"(").text("part").int(4).int(10).raw(b"ttQ")
    };
    file.pickle = Pickle::new().raw(b"}").text("x").tensor(part, 2, &[2, 4], &[4, 1]).raw(b"s").stop();
    let file = SourceFile::from_bytes("old", file.bytes());
    let named = torch_bin::read(&file).unwrap().tensors;
    let table = TensorTable::new(vec![(file, named)], false).unwrap();
    assert_eq!(values(&table, "x").unwrap(), [6., 7., 8., 9., 10., 11., 12., 13.]);
}

/// Trainers put the state dict beside other things, and wrappers for several devices put a word before each name.
#[test]
fn state_dicts_inside_others() {
    let model = TinyModel::default();
    let tensors = model.tensors();
    for form in FORMS {
        for (keys, before) in [
            (vec!["model"], ""),
            (vec!["module"], "module."),
            (vec!["state_dict"], ""),
            (vec!["module", "model"], ""),
        ] {
            let mut renamed = tensors.clone();
            renamed.iter_mut().for_each(|tensor| tensor.name.insert_str(0, before));
            let mut file = TorchWriter::of(form, &renamed, model.dtype);
            let inner = file.pickle[2..file.pickle.len() - 1].to_vec();
            let mut pickle = Pickle::new();
            for key in &keys {
                let other = pickle.raw(b"}(").text("epoch").int(3).text("optimizer").raw(b"}");
                pickle = other.text("rate").raw(b"G\0\0\0\0\0\0\0\0").text("names").raw(b"]");
                pickle = pickle.text(key);
            }
            file.pickle = keys.iter().fold(pickle.raw(&inner), |pickle, _| pickle.raw(b"u")).stop();
            let dir = TempDir::new();
            model.write_around(dir.path());
            std::fs::write(dir.join("pytorch_model.bin"), file.bytes()).unwrap();
            let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
            assert_same(&model, &checkpoint);
            let format = &checkpoint.facts.iter().find(|(name, _)| *name == "format").unwrap().1;
            assert!(format.ends_with(&format!("(the state dict under {})", keys.join(", "))), "{format}");
        }
    }
}

/// Both flags of a load, on files of torch: the weights are copied, and looked at.
#[test]
fn loads_copy_and_verify() {
    let go = &mut |_: &str, _, _| ControlFlow::Continue(());
    for form in FORMS {
        for shards in [1, 2] {
            let dir = TempDir::new();
            let model = TinyModel { shards, ..TinyModel::default() };
            model.write_torch_dir(dir.path(), form);
            let options = LoadOptions { device: "cpu".into(), kv_memory: 1 << 20, ..LoadOptions::default() };
            let mut texts = Vec::new();
            for (no_mmap, verify) in [(false, false), (true, false), (false, true), (true, true)] {
                let options = LoadOptions { no_mmap, verify, ..options.clone() };
                let engine = open::load(dir.path(), &options, go).unwrap();
                if no_mmap {
                    // The files are not needed any more.
                    TinyModel { seed: 77, ..model.clone() }.write_torch_dir(dir.path(), form);
                }
                let params = GenParams { max_tokens: 12, ..GenParams::default() };
                texts.push(engine.generate(Input::Tokens(vec![5, 9, 200, 31]), params).unwrap().tokens);
                drop(engine);
                model.write_torch_dir(dir.path(), form);
            }
            assert!(texts.iter().all(|tokens| *tokens == texts[0]), "{texts:?}");

            let mut tensors = model.tensors();
            let place = tensors.iter().position(|t| t.name.ends_with("layers.1.mlp.up_proj.weight")).unwrap();
            tensors[place].values[64 + 3] = f32::NAN;
            let bytes = TorchWriter::of(form, &tensors, model.dtype).bytes();
            std::fs::write(dir.join("pytorch_model.bin"), bytes).unwrap();
            open::load(dir.path(), &options, go).expect("without the flag nobody looks");
            let verified = LoadOptions { verify: true, ..options };
            let error = open::load(dir.path(), &verified, go).err().expect("a refusal");
            assert_eq!(error.status, aquila::Status::Format);
            let told = "pytorch_model.bin: tensor model.layers.1.mlp.up_proj.weight: element [1, 3]";
            assert!(error.message.starts_with(told), "{error}");
        }
    }
}
