//! Pickles that mean harm, and tensors that do not lie where they say. Each in both forms of torch's files.

use super::{refused, refused_within, size_of, small};
use crate::support::torch::{
    Pickle, TorchForm, TorchStorage, TorchTensor, TorchWriter, legacy_head, row_strides,
};
use crate::support::{TempDir, TinyModel};
use aquila::Status;
use aquila::model::Checkpoint;

const FORMS: [TorchForm; 2] = [TorchForm::Zip, TorchForm::Legacy];
/// Elements of the one storage that these files have, f32.
const ELEMENTS: u64 = 24;

fn written(bytes: &[u8]) -> TempDir {
    let dir = TempDir::new();
    small().write_around(dir.path());
    std::fs::write(dir.join("pytorch_model.bin"), bytes).unwrap();
    dir
}

/// A file with this pickle, and with one storage where the pickle has any.
fn file(form: TorchForm, pickle: Vec<u8>) -> Vec<u8> {
    let storage =
        TorchStorage { class: "FloatStorage", elements: ELEMENTS, data: vec![0; 4 * ELEMENTS as usize] };
    let storages = match pickle.windows(12).any(|window| window == b"FloatStorage") {
        true => vec![storage],
        false => Vec::new(),
    };
    TorchWriter { form, pickle, storages, byte_order: Some("little") }.bytes()
}

/// Both forms of a file with this pickle are refused.
fn refused_pickle(pickle: impl Fn(TorchForm) -> Vec<u8>, status: Status, parts: &[&str]) {
    for form in FORMS {
        let dir = written(&file(form, pickle(form)));
        refused(dir.path(), status, &[&["pytorch_model.bin: "], parts].concat());
    }
}

/// The same for opcodes behind the protocol and before the stop.
fn refused_opcodes(opcodes: impl Fn(Pickle) -> Pickle, parts: &[&str]) {
    refused_pickle(|_| opcodes(Pickle::new()).stop(), Status::Format, parts);
}

/// A state dict of one tensor `x` over the file's storage.
fn one(form: TorchForm, offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let storage = |pickle: Pickle| pickle.storage("FloatStorage", "0", ELEMENTS, form);
    Pickle::new().raw(b"}").text("x").tensor(storage, offset, shape, strides).raw(b"s").stop()
}

#[test]
fn nothing_but_tensors_is_named() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("collections", "Counter"),
        ("torch", "load"),
        ("torch", "FloatStorage.from_file"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.serialization", "load"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("", ""),
        ("torch", ""),
    ] {
        let named = format!("names {module}.{name}:");
        refused_opcodes(|p| p.global(module, name).raw(b"(").text("ls").raw(b"tR"), &["byte 2", &named]);
        refused_opcodes(|p| p.text(module).text(name).raw(b"\x93)R"), &[&named]);
        refused_opcodes(|p| p.raw(b"}").text("x").global(module, name).raw(b"s"), &[&named]);
    }
    let long = "a".repeat(300);
    refused_opcodes(|p| p.global(&long, "b"), &["more than 255 bytes"]);
    refused_opcodes(|p| p.raw(b"cos\n"), &[]);
    refused_opcodes(|p| p.text("os").raw(b"N\x93"), &["a string", "None"]);
    refused_opcodes(|p| p.global("a\u{7}\u{1b}[2J", "b"), &["names a\\u{7}\\u{1b}[2J.b"]);
}

#[test]
fn opcodes_that_make_objects() {
    for (code, name) in [
        (&b"ios\nsystem\n"[..], "INST"),
        (b"(o", "OBJ"),
        (b")\x81", "NEWOBJ"),
        (b"\x92", "NEWOBJ_EX"),
        (b"Pid\n", "PERSID"),
        (b"\x82\x01", "EXT"),
        (b"\x8f", "EMPTY_SET"),
        (b"\x97", "NEXT_BUFFER"),
        (b"I1\n", "protocol 0"),
        (b"\xff", "unknown"),
        (b"2", "DUP"),
    ] {
        refused_opcodes(|p| p.raw(b"N").raw(code), &["opcode", name, "expected one of those"]);
    }
    refused_opcodes(|p| p.raw(b"}Nb"), &["BUILD gives None to a dict"]);
    refused_opcodes(|p| p.raw(b"]}b"), &["BUILD gives a dict to a list"]);
    let tensor = |form| {
        let tensor = |p: Pickle| p.tensor(|p| p.storage("FloatStorage", "0", ELEMENTS, form), 0, &[1], &[1]);
        tensor(Pickle::new()).raw(b"}b").stop()
    };
    refused_pickle(tensor, Status::Format, &["BUILD gives a dict to a tensor"]);
    for version in [0u8, 1, 6, 255] {
        let told = format!("pickle protocol {version}, expected one from 2 to 5");
        let other = |_| [&[0x80, 2, 0x80, version][..], b"}."].concat();
        refused_pickle(other, Status::Unsupported, &[&told]);
    }
}

#[test]
fn calls_of_another_arity_or_of_other_things() {
    let call = |name: &'static str, arguments: &'static [u8]| {
        move |p: Pickle| p.global("torch._utils", name).raw(b"(").raw(arguments).raw(b"tR")
    };
    refused_opcodes(call("_rebuild_tensor_v2", b""), &["a tensor of nothing"]);
    refused_opcodes(call("_rebuild_tensor_v2", b"NN"), &["a tensor of None, None"]);
    refused_opcodes(call("_rebuild_parameter", b"N"), &["a parameter of 1 arguments, expected 3"]);
    refused_opcodes(call("_rebuild_parameter", b"N\x89N"), &["a parameter of 3 arguments"]);
    for (name, rest, told) in [
        ("_rebuild_tensor", &b"N"[..], "of 5 arguments, expected 4 to 4"),
        ("_rebuild_tensor_v2", b"", "of 4 arguments, expected 6 to 7"),
        ("_rebuild_tensor_v2", b"\x89", "of 5 arguments, expected 6 to 7"),
        ("_rebuild_tensor_v2", b"\x89NNN", "of 8 arguments, expected 6 to 7"),
        ("_rebuild_tensor_v3", b"\x89N", "of 6 arguments, expected 7 to 8"),
        ("_rebuild_tensor_v3", b"\x89NN", "a tensor of None, expected a dtype"),
    ] {
        let pickle = |form| {
            let tensor = Pickle::new().global("torch._utils", name).raw(b"(");
            let tensor = tensor.storage("FloatStorage", "0", ELEMENTS, form).int(0).ints(&[1]).ints(&[1]);
            tensor.raw(rest).raw(b"tR").stop()
        };
        refused_pickle(pickle, Status::Format, &[told]);
    }
    for (name, rest, told) in [
        ("_rebuild_parameter", &b"\x89"[..], "of 2 arguments, expected 3"),
        ("_rebuild_parameter", b"\x89NN", "of 4 arguments, expected 3"),
        ("_rebuild_parameter_with_state", b"\x89N", "of 3 arguments, expected 4"),
    ] {
        let pickle = |form| {
            let storage = |p: Pickle| p.storage("FloatStorage", "0", ELEMENTS, form);
            let parameter = Pickle::new().global("torch._utils", name).raw(b"(");
            parameter.tensor(storage, 0, &[1], &[1]).raw(rest).raw(b"tR").stop()
        };
        refused_pickle(pickle, Status::Format, &["a parameter", told]);
    }
    let negated = |form| {
        let tensor = Pickle::new().global("torch._utils", "_rebuild_tensor_v2").raw(b"(");
        let tensor = tensor.storage("FloatStorage", "0", ELEMENTS, form).int(0).ints(&[1]).ints(&[1]);
        tensor.raw(b"\x89N}").text("neg").raw(b"\x88stR").stop()
    };
    refused_pickle(negated, Status::Unsupported, &["negated"]);
    refused_opcodes(|p| p.text("eval").raw(b")R"), &["a call of a string"]);
    refused_opcodes(|p| p.global("torch", "FloatStorage").raw(b")R"), &["a call of a class or function"]);
    refused_opcodes(|p| p.global("torch", "float32").raw(b")R"), &["a call of a class or function"]);
    refused_opcodes(|p| p.global("collections", "OrderedDict").raw(b"NR"), &["a call with None"]);
    refused_opcodes(|p| p.global("collections", "OrderedDict").raw(b"NN\x86R"), &["of 2 arguments"]);
    refused_opcodes(|p| p.global("collections", "OrderedDict").raw(b"]]a\x85R"), &["of 0 elements"]);
    refused_opcodes(|p| p.global("torch", "Size").raw(b")R"), &["a Size of 0 arguments"]);
    for id in [&b"N"[..], b")", b"(NNNNNt", b"](Nt"] {
        refused_opcodes(|p| p.raw(id).raw(b"Q"), &["a persistent id"]);
    }
    let id =
        |p: Pickle| p.raw(b"(").text("module").global("torch", "FloatStorage").text("0").text("cpu").int(1);
    refused_opcodes(|p| id(p).raw(b"tQ"), &["a persistent id of \"module\""]);
}

#[test]
fn a_stack_without_what_is_taken_from_it() {
    for opcodes in [&b"R"[..], b"b", b"a", b"s", b"\x85", b"Q", b"q\x00", b"N\x86", b"(N\x86", b"(a"] {
        refused_opcodes(|p| p.raw(opcodes), &["on the stack"]);
    }
    for opcodes in [&b"t"[..], b"e", b"u"] {
        refused_opcodes(|p| p.raw(opcodes), &["a mark on the stack"]);
    }
    refused_opcodes(|p| p.raw(b"NN"), &["1 values are left over"]);
    refused_opcodes(|p| p.raw(b"(N"), &["values are left over"]);
    refused_opcodes(|p| p, &["a value on the stack"]);
    refused_opcodes(|p| p.raw(b"}(Nu"), &["1 keys and values"]);
    refused_opcodes(|p| p.raw(b"NNa"), &["a list to append to, found None"]);
    refused_opcodes(|p| p.raw(b"]NNs"), &["a dict to fill, found a list"]);
    // What lies under a mark is out of reach.
    refused_opcodes(|p| p.raw(b"](Na"), &["a list to append to, found none"]);
    refused_opcodes(|p| p.raw(b"}(NNs"), &["a dict to fill, found none"]);
    refused_opcodes(|p| p.raw(b"h\x05"), &["the memo has no 5"]);
    refused_opcodes(|p| p.raw(b"j\xff\xff\xff\xff"), &["the memo has no 4294967295"]);
}

#[test]
fn lengths_that_lie() {
    let opcodes: [&[u8]; 9] = [
        b"X\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8d\0\0\0\0\0\0\0\x40",
        b"B\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
        b"U\xff",
        b"C\xff",
    ];
    for code in opcodes {
        let pickle = [&[0x80, 2][..], code].concat();
        refused(
            written(&file(TorchForm::Zip, pickle.clone())).path(),
            Status::Format,
            &["truncated", "byte 2"],
        );
        let legacy = [legacy_head(true), pickle].concat();
        refused(written(&legacy).path(), Status::Format, &["truncated", "byte 2"]);
    }
    refused_opcodes(|p| p.raw(b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN"), &["a frame of"]);
    refused_opcodes(|p| p.raw(b"U\x02\xff\xfe"), &["not UTF-8"]);
    let dir = written(&file(TorchForm::Zip, [0x80, 2].into()));
    refused(dir.path(), Status::Format, &["data.pkl: byte 2", "truncated"]);
    let dir = written(&file(TorchForm::Zip, b"\x80\x02}.}.".into()));
    refused(dir.path(), Status::Format, &["data.pkl: 2 bytes behind its end"]);
}

/// Small files that would be large, deep or endless if anything in them were copied or walked.
#[test]
fn bombs() {
    let bomb = |pickle: Vec<u8>, parts: &[&str]| {
        for form in FORMS {
            let dir = written(&file(form, pickle.clone()));
            refused_within(dir.path(), Status::Format, parts, size_of(dir.path()) + (64 << 20));
        }
    };
    const COUNT: usize = 3_000_000;
    let opened = |opcodes: &[u8]| Pickle::new().raw(opcodes).stop();
    for each in [&b"N"[..], b"(", b"]", b"}", b")", b"h\0"] {
        bomb(opened(&[b"Nq\0", &each.repeat(COUNT)[..]].concat()), &["more than 1048576 values"]);
    }
    let places: Vec<u8> = (0..1_000_000u32).flat_map(|n| [&b"r"[..], &n.to_le_bytes()].concat()).collect();
    bomb(opened(&[b"N", &places[..]].concat()), &["more than 1048576 values"]);
    bomb(opened(&[b"N", &b"\x94".repeat(COUNT)[..]].concat()), &["more than 1048576 values"]);
    // A million containers inside one another: refused by count, or small enough to be looked at.
    bomb(
        opened(&[&b"]".repeat(1_000_000)[..], &b"a".repeat(999_999)].concat()),
        &["more than 1048576 values"],
    );
    bomb(opened(&[&b"]".repeat(100_000)[..], &b"a".repeat(99_999)].concat()), &["found a list"]);
    bomb(opened(&[b")", &b"\x85".repeat(1_000_000)[..]].concat()), &["found a tuple"]);
    bomb(opened(&b"N\x85\x86".repeat(1000)), &[]);
    // Each list holds the one before twice: 2 to the power of 10,000 elements, were they counted.
    let laughs: Vec<u8> = (0..10_000).flat_map(|_| *b"q\0]h\0ah\0a").collect();
    bomb(opened(&[b"(]", &laughs[..], b"t"].concat()), &["found a tuple"]);
    // The same list of pairs made into a dict a hundred thousand times.
    let pairs = [&b"](]NaNaq\x01"[..], &b"h\x01".repeat(999), b"eq\0"].concat();
    let copies =
        [&pairs[..], b"ccollections\nOrderedDict\nq\x02", &b"h\x02h\0\x85R".repeat(100_000)].concat();
    bomb(opened(&copies), &["more than 1048576 values"]);
    // A dict that is its own wrapper.
    bomb(Pickle::new().raw(b"}q\0").text("module").raw(b"h\0s").stop(), &["expected a state dict", "module"]);
    // As much of everything as there may be.
    let strings = Pickle::default().text(&"s".repeat(1 << 20)).0.repeat(12);
    let more = b"]Na)\x85\x94".repeat(80_000);
    bomb(opened(&[&b"("[..], &strings, &more, b"t"].concat()), &["found a tuple"]);
    bomb(opened(&strings.repeat(2)), &["bytes, expected at most 16777216"]);
    // A long name and many tensors of it.
    for form in FORMS {
        let name = "n".repeat(1 << 20);
        let storage = |p: Pickle| p.storage("FloatStorage", "0", ELEMENTS, form);
        let tensor =
            Pickle::new().raw(b"}(").text(&name).raw(b"q\0").tensor(storage, 0, &[1], &[1]).raw(b"q\x01");
        bomb(tensor.raw(&b"h\0h\x01".repeat(300_000)).raw(b"u").stop(), &["stands twice"]);
    }
}

#[test]
fn tensors_outside_their_storage() {
    let cases: [(u64, &[u64], &[u64], &str); 13] = [
        (1, &[4, 6], &[6, 1], "from element 1 to 25 of its storage, which has 24"),
        (0, &[5, 5], &[5, 1], "to 25"),
        (25, &[], &[], "from element 25"),
        (u64::MAX / 2, &[1], &[1], "which has 24"),
        (0, &[2], &[24], "with strides [24] reaches from element 0 to 25"),
        (0, &[2], &[u64::MAX >> 1], "which has 24"),
        (0, &[3], &[u64::MAX >> 1], "which has 24"),
        (0, &[4], &[u64::MAX >> 1], "overflows"),
        (0, &[1 << 32, 1 << 32], &[1, 1], "overflows"),
        (0, &[1 << 62, 8, 0], &[1, 1, 1], ""),
        (0, &[2, 2], &[1], "2 dimensions with 1 strides"),
        (0, &[1; 9], &[1; 9], "9 dimensions, expected at most 8"),
        (0, &[u64::MAX], &[1], "an integer of more than 64 bits"),
    ];
    for (offset, shape, strides, told) in cases {
        refused_pickle(|form| one(form, offset, shape, strides), Status::Format, &["tensor x", told]);
    }
    let negative = |form| {
        let pickle = Pickle::new().raw(b"}").text("x").global("torch._utils", "_rebuild_tensor").raw(b"(");
        let pickle = pickle.storage("FloatStorage", "0", ELEMENTS, form).int(0);
        pickle.raw(b"J\xff\xff\xff\xff\x85").ints(&[1]).raw(b"tRs").stop()
    };
    refused_pickle(negative, Status::Format, &["tensor x", "from 0 on, found -1"]);
    // Where the dict of tensors is empty, or holds none.
    refused_opcodes(|p| p.raw(b"}"), &["a dict without names"]);
    refused_opcodes(|p| p.raw(b"}").text("epoch").int(3).raw(b"s"), &["first key is \"epoch\""]);
    refused_opcodes(
        |p| p.raw(b"}").text("module").raw(b"]s"),
        &["under the key state_dict, model_state_dict"],
    );
    refused_opcodes(|p| p.int(7), &["expected a state dict, found an integer"]);
}

#[test]
fn storages_that_are_not_as_the_pickle_says() {
    let of = |key: &'static str, elements: u64| {
        move |form| {
            let storage = |p: Pickle| p.storage("FloatStorage", key, elements, form);
            Pickle::new().raw(b"}").text("x").tensor(storage, 0, &[1], &[1]).raw(b"s").stop()
        }
    };
    for form in FORMS {
        let zip = form == TorchForm::Zip;
        let check = |pickle: Vec<u8>, told: &str| {
            refused(written(&file(form, pickle)).path(), Status::Format, &["storage", told]);
        };
        check(of("1", ELEMENTS)(form), if zip { "no entry data/1" } else { "no tensor has it" });
        check(
            of("0", 23)(form),
            if zip { "expected 92 bytes for 23 elements of f32, found 96" } else { "expected 23" },
        );
        check(
            of("0", 1 << 62)(form),
            if zip { "overflows" } else { "expected 4611686018427387904 elements" },
        );
        if zip {
            check(of("../0", ELEMENTS)(form), "no entry data/../0");
        }
    }
    // The same storage with two sizes.
    let two = |form| {
        let tensor =
            |p: Pickle, elements| p.tensor(|p| p.storage("FloatStorage", "0", elements, form), 0, &[1], &[1]);
        let pickle = tensor(Pickle::new().raw(b"}(").text("x"), ELEMENTS).text("y");
        tensor(pickle, 6).raw(b"u").stop()
    };
    refused_pickle(two, Status::Format, &["storage \"0\"", "24"]);
    let view = |_| {
        let id =
            Pickle::new().raw(b"(").text("storage").global("torch", "FloatStorage").text("0").text("cpu");
        id.int(24).text("v").int(20).int(5).raw(b"\x87tQ").stop()
    };
    refused_pickle(view, Status::Format, &["5 elements from 20 on, and the storage has 24"]);
    let typed = |form| {
        let pickle = Pickle::new().raw(b"}").text("x").global("torch._utils", "_rebuild_tensor_v3").raw(b"(");
        let pickle = pickle.storage("FloatStorage", "0", ELEMENTS, form).int(0).ints(&[1]).ints(&[1]);
        pickle.raw(b"\x89N").global("torch", "bfloat16").raw(b"tRs").stop()
    };
    refused_pickle(typed, Status::Format, &["tensor x: its type is bf16, that of its storage f32"]);
    let twice = |form| {
        let tensor =
            |p: Pickle| p.text("x").tensor(|p| p.storage("FloatStorage", "0", ELEMENTS, form), 0, &[1], &[1]);
        tensor(tensor(Pickle::new().raw(b"}("))).raw(b"u").stop()
    };
    refused_pickle(twice, Status::Format, &["tensor x: the name stands twice"]);
}

#[test]
fn the_older_form_in_parts() {
    let valid = file(TorchForm::Legacy, one(TorchForm::Legacy, 0, &[4, 6], &[6, 1]));
    let dir = written(&[&valid[..], b"more"].concat());
    refused(dir.path(), Status::Format, &["4 bytes behind the last storage"]);
    let keys = Pickle::new().raw(b"](").text("0").text("0").raw(b"e").stop();
    let stored = [&ELEMENTS.to_le_bytes()[..], &[0; 4 * ELEMENTS as usize]].concat();
    let pickle = one(TorchForm::Legacy, 0, &[4, 6], &[6, 1]);
    let dir = written(&[legacy_head(true), pickle, keys, stored.repeat(2)].concat());
    refused(dir.path(), Status::Format, &["storage \"0\"", "it stands twice"]);
    let dir = written(&[&legacy_head(false)[..], &valid[legacy_head(true).len()..]].concat());
    refused(dir.path(), Status::Unsupported, &["big-endian"]);
    refused(written(b"\x80\x02}.").path(), Status::Format, &["magic number", "a dict", "torch.save"]);
    refused(written(b"\x80\x04\x95\0\0\0\0\0\0\0\0N.").path(), Status::Format, &["magic number"]);
    let later =
        [&Pickle::new().raw(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19").stop()[..], b"K\x07."]
            .concat();
    refused(written(&later).path(), Status::Unsupported, &["version", "expected 1001"]);
    for (other, told) in [
        (&b"<html>"[..], "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"", "at its start"),
        (b"\x80", "at its start"),
        (b"just some text", "just som"),
    ] {
        refused(written(other).path(), Status::Format, &["pytorch_model.bin", "written by torch.save", told]);
    }
    let dir = written(&file(TorchForm::Legacy, one(TorchForm::Legacy, 0, &[4, 6], &[6, 1])));
    refused(dir.path(), Status::Format, &["model.embed_tokens.weight: expected [16, 8], found none"]);
}

/// A model of tensors that are views of the first storage.
fn with_views(change: impl Fn(&mut TorchTensor)) -> TempDir {
    let model = small();
    let dir = TempDir::new();
    model.write_around(dir.path());
    let (mut tensors, mut storages) = (Vec::new(), Vec::new());
    for (storage, tensor) in model.tensors().into_iter().enumerate() {
        let shape: Vec<u64> = tensor.shape.iter().map(|&d| d as u64).collect();
        let data = model.dtype.bytes(&tensor.values);
        storages.push(TorchStorage { class: "FloatStorage", elements: data.len() as u64 / 4, data });
        let strides = row_strides(&shape);
        let mut view = TorchTensor { name: tensor.name, storage, offset: 0, shape, strides };
        change(&mut view);
        tensors.push(view);
    }
    let bytes = TorchWriter::new(TorchForm::Zip, storages, &tensors).bytes();
    std::fs::write(dir.join("pytorch_model.bin"), bytes).unwrap();
    dir
}

/// What a view is copied into may be no larger than what the file has.
#[test]
fn views_of_more_elements_than_there_are() {
    Checkpoint::open(with_views(|_| ()).path(), false).expect("valid before it is spoilt");
    let dir = with_views(|view| {
        if view.name.contains("gate_proj") {
            view.strides = vec![0, 1];
        }
    });
    let told = ["tensor model.layers.0.mlp.gate_proj.weight", "strides [0, 1]", "a tensor of its own"];
    refused(dir.path(), Status::Unsupported, &told);
    // Many layers of transposed views of one matrix: each alone is as large as it, all together are not.
    let model = TinyModel { layers: 40, hidden: 32, heads: 2, kv_heads: 2, head_dim: 16, ffn: 32, ..small() };
    let mut tensors: Vec<TorchTensor> = Vec::new();
    for tensor in model.tensors() {
        let shape: Vec<u64> = tensor.shape.iter().map(|&d| d as u64).collect();
        let strides = match shape[..] {
            [rows, 32] if tensor.name.contains("proj") => vec![1, rows],
            _ => row_strides(&shape),
        };
        tensors.push(TorchTensor { name: tensor.name, storage: 0, offset: 0, shape, strides });
    }
    let storage = TorchStorage { class: "FloatStorage", elements: 1024, data: vec![0; 4096] };
    let dir = TempDir::new();
    model.write_around(dir.path());
    let bytes = TorchWriter::new(TorchForm::Legacy, vec![storage], &tensors).bytes();
    std::fs::write(dir.join("pytorch_model.bin"), bytes).unwrap();
    refused(dir.path(), Status::NoMemory, &["self_attn", "a copy of 4096 bytes with other strides"]);
}

#[test]
fn types_that_no_weight_has() {
    for (class, bytes, status) in [
        ("LongStorage", 8, Status::Format),
        ("DoubleStorage", 8, Status::Unsupported),
        ("QInt8Storage", 1, Status::Unsupported),
    ] {
        let (name, shape) = ("model.embed_tokens.weight", [16, 8]);
        let storages = vec![TorchStorage { class, elements: 128, data: vec![0; 128 * bytes] }];
        let (shape, strides) = (shape.to_vec(), row_strides(&shape));
        let tensor = TorchTensor { name: name.into(), storage: 0, offset: 0, shape, strides };
        let file = TorchWriter::new(TorchForm::Zip, storages, &[tensor]);
        refused(written(&file.bytes()).path(), status, &[name, "f32, f16 or bf16"]);
    }
}
