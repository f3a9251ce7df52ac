//! Products of 8 bits: our own, with a scale for each token, and what msModelSlim made, against f32 on the CPU.

use crate::quality::{Quality, WINDOW, by_steps, compare, prose};
use crate::simulator::{CARDS, expect_clean, in_child, is_child, real_model};
use crate::support::formats::safetensors_bytes;
use crate::support::modelslim::{self, Kind, Stored, encode};
use crate::support::{TempDir, TinyModel, TinyType};
use aquila::backend::Executor;
use aquila::open::{self, LoadOptions};
use aquila::{Error, Status};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

fn options(device: &str, dtype: Option<&str>, context: usize) -> LoadOptions {
    LoadOptions {
        device: device.into(),
        dtype: dtype.map(str::to_owned),
        max_context: context as u32,
        // Rows of logits of a step: on a device 64 at least.
        max_batch: if device == "cpu" { 64 } else { 1 },
        ..LoadOptions::default()
    }
}

fn open(model: &Path, options: &LoadOptions) -> Result<Box<dyn Executor>, Error> {
    let mut go = |_: &str, _, _| ControlFlow::Continue(());
    open::open_executor(model, options, &mut go).map(|(_, _, executor)| executor)
}

/// Log-probabilities of a window: prompts over each other where the device can, then token by token.
fn rows(executor: &mut dyn Executor, window: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    let count = if executor.capabilities().prefill_over_cache { 3 } else { 1 };
    let prompts = vec![prompt; count];
    let rest = window.len() - prompt * count;
    by_steps(executor, window, prompts.into_iter().chain(vec![1; rest]))
}

fn quality(truth: &Path, model: &Path, device: &str, dtype: Option<&str>) -> Quality {
    let windows = prose(truth, 1);
    let mut cpu = open(truth, &options("cpu", Some("f32"), WINDOW)).unwrap();
    let reference = by_steps(&mut *cpu, &windows[0], [64; WINDOW / 64]);
    let mut npu = open(model, &options(device, dtype, WINDOW)).unwrap();
    // Where only the first tokens can be a prompt the rest is slow, and fewer must do.
    let tokens = if npu.capabilities().prefill_over_cache { WINDOW } else { 96 };
    let found = rows(&mut *npu, &windows[0][..tokens], 64);
    drop(npu);
    expect_clean();
    compare(&reference[..tokens], &found, &windows)
}

/// Mean divergence in nats of our own scheme from f32. The model has 135 million parameters and feels every rounding.
const OWN_DIVERGENCE: f64 = 0.05;

#[test]
fn a_real_model_by_tokens() {
    let Some(model) = real_model("smollm2-f32") else { return };
    if is_child() {
        let device = std::env::var("NPU_TEST_DEVICE").unwrap();
        let quality = quality(&model, &model, &device, Some("w8a8"));
        println!("measured (simulated): {quality:?}");
        assert!(quality.divergence <= OWN_DIVERGENCE, "{quality:?}");
        return;
    }
    for device in ["npu:0", "npu:0,1"] {
        let settings = [("AQUILA_SIM_DEVICES", "2"), ("NPU_TEST_DEVICE", device)];
        in_child("w8a8::a_real_model_by_tokens", &settings);
    }
}

/// Python with numpy: that of the folder of real models, which has it, or the machine's.
fn python(data: &Path) -> Option<PathBuf> {
    let own = data.join("venv/bin/python3");
    [own, PathBuf::from("python3")].into_iter().find(|python| {
        let output = Command::new(python).args(["-c", "import numpy"]).output();
        output.is_ok_and(|output| output.status.success())
    })
}

/// How `modelslim.py` is called, the cards, and the most that the result may diverge. The down product stays in 16 bits: with one
/// scale for all its inputs this small model, whose inputs there have few very large numbers, loses half a nat, as
/// users of static W8A8 know and leave it out.
const DIRECTORIES: [(&[&str], &[&str], f64); 2] = [
    (&["--smooth", "--float", "down_proj"], &CARDS, 0.02),
    (&["--bf16", "--smooth", "--float", "down_proj"], &["Ascend910B3"], 0.03),
];

#[test]
fn a_real_model_by_msmodelslim() {
    let Some(model) = real_model("smollm2-f32") else { return };
    if is_child() {
        let device = std::env::var("NPU_TEST_DEVICE").unwrap();
        let made = PathBuf::from(std::env::var_os("NPU_TEST_MODEL").unwrap());
        let bound: f64 = std::env::var("NPU_TEST_BOUND").unwrap().parse().unwrap();
        let quality = quality(&model, &made, &device, None);
        println!("measured (simulated): {quality:?}");
        assert!(quality.divergence <= bound, "{quality:?}");
        return;
    }
    let Some(python) = python(model.parent().unwrap()) else {
        println!("skipped: no Python with numpy, which tests/npu/modelslim.py needs");
        return;
    };
    let scratch = TempDir::new();
    // Calibrated by other text than is measured.
    let other: Vec<String> = prose(&model, 4)[2..].iter().flatten().map(u32::to_string).collect();
    std::fs::write(scratch.join("tokens"), other.join(" ")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/npu/modelslim.py");
    for (arguments, cards, bound) in DIRECTORIES {
        let made = scratch.join("made");
        let mut command = Command::new(&python);
        command.arg(&script).arg(&model).arg(&made).arg(scratch.join("tokens")).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for card in cards {
            for device in ["npu:0", "npu:0,1"] {
                let settings = [
                    ("AQUILA_SIM_SOC", *card),
                    ("AQUILA_SIM_DEVICES", "2"),
                    ("NPU_TEST_DEVICE", device),
                    ("NPU_TEST_MODEL", made.to_str().unwrap()),
                    ("NPU_TEST_BOUND", &bound.to_string()),
                ];
                println!("{arguments:?}");
                in_child("w8a8::a_real_model_by_msmodelslim", &settings);
            }
        }
        std::fs::remove_dir_all(&made).unwrap();
    }
}

fn small() -> TinyModel {
    TinyModel { ffn: 128, layers: 5, biases: true, ..TinyModel::default() }
}

/// A model's directory with other tensors of the same names.
fn write_plain(model: &TinyModel, tensors: &[crate::support::TinyTensor], dir: &Path) {
    model.write_dir(dir);
    std::fs::write(dir.join("model.safetensors"), safetensors_bytes(tensors, TinyType::F32)).unwrap();
}

/// What the encoded weights stand for, on the CPU, against the device, which rounds the inputs too.
#[test]
fn small_directories_give_what_their_weights_mean() {
    if !is_child() {
        for card in CARDS {
            for graphs in ["1", "0"] {
                let settings = [
                    ("AQUILA_SIM_SOC", card),
                    ("AQUILA_SIM_DEVICES", "2"),
                    ("AQUILA_ASCEND_GRAPHS", graphs),
                    ("NPU_TEST_CARD", card),
                ];
                in_child("w8a8::small_directories_give_what_their_weights_mean", &settings);
            }
        }
        return;
    }
    let model = small();
    let is_310p = std::env::var("NPU_TEST_CARD").unwrap().contains("310P");
    let window: Vec<u32> = (0..40).map(|i| i * 7 % 288).collect();
    let mixed: fn(&str) -> bool =
        |name| name.contains("layers.1.mlp") || name.contains("layers.3.self_attn.o");
    let all: fn(&str) -> bool = |_| false;
    let (own, own_dir) = (model.tensors(), TempDir::new());
    write_plain(&model, &own, own_dir.path());
    let mut cases = vec![(own, own_dir, Some("w8a8"))];
    for (kind, is_float) in [(Kind::Static, all), (Kind::Static, mixed), (Kind::Dynamic, mixed)] {
        let (stored, meant) = encode(&model, kind, is_float);
        let dir = TempDir::new();
        modelslim::write(&model, &stored, dir.path());
        cases.push((meant, dir, None));
    }
    for (index, (meant, dir, dtype)) in cases.iter().enumerate() {
        let by_tokens = index == 0 || index == 3;
        if is_310p && by_tokens {
            let error = open(dir.path(), &options("npu:0", *dtype, 128)).map(drop).unwrap_err();
            assert_eq!(error.status, Status::Unsupported, "{error}");
            assert!(error.message.contains("300I DUO") && error.message.contains("static"), "{error}");
            continue;
        }
        let plain = TempDir::new();
        write_plain(&model, meant, plain.path());
        let mut cpu = open(plain.path(), &options("cpu", Some("f32"), 128)).unwrap();
        let expected = rows(&mut *cpu, &window, 10);
        for device in ["npu:0", "npu:0,1"] {
            let mut npu = open(dir.path(), &options(device, *dtype, 128)).unwrap();
            let found = rows(&mut *npu, &window, 10);
            let mut worst = 0.0f32;
            for (expected, found) in expected.iter().zip(&found) {
                assert!(found.iter().all(|x| x.is_finite()));
                worst = expected.iter().zip(found).fold(worst, |worst, (a, b)| worst.max((a - b).abs()));
            }
            println!("measured (simulated): case {index}, {device}: {worst}");
            assert!(worst < 0.4, "case {index}, {device}: {worst}");
        }
    }
    expect_clean();
}

fn refused(model: &Path, options: &LoadOptions, status: Status, words: &[&str]) {
    let error = open(model, options).map(drop).unwrap_err();
    assert_eq!(error.status, status, "{error}");
    for word in words {
        assert!(error.message.contains(word), "{word:?}: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_directory_is_said() {
    if !is_child() {
        in_child("w8a8::what_is_wrong_with_a_directory_is_said", &[]);
        return;
    }
    let model = small();
    let (stored, _) = encode(&model, Kind::Static, |_| false);
    let made = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut stored = stored.clone();
        change(&mut stored);
        let dir = TempDir::new();
        modelslim::write(&model, &stored, dir.path());
        dir
    };
    let npu = options("npu:0", None, 128);
    let good = made(&|_| {});
    // It is for NPUs, whoever asks the CPU.
    refused(
        good.path(),
        &options("cpu", None, 128),
        Status::Unsupported,
        &["msModelSlim", "CPU", "q8", "q_proj"],
    );
    refused(good.path(), &options("cpu", Some("q8"), 128), Status::Unsupported, &["msModelSlim"]);
    refused(
        good.path(),
        &options("npu:0", Some("f16"), 128),
        Status::Unsupported,
        &["F16", "8 bits", "w8a8"],
    );
    open(good.path(), &options("npu:0", Some("w8a8"), 128)).unwrap();
    let plan = open::plan(good.path(), &npu).unwrap();
    assert!(plan.memory.facts.iter().any(|(_, fact)| fact.contains("w8a8")), "{:?}", plan.memory.facts);
    assert_eq!(plan.parameters, {
        let plain = TempDir::new();
        let tensors = TinyModel { biases: false, ..model.clone() };
        tensors.write_dir(plain.path());
        open::plan(plain.path(), &npu).unwrap().parameters
    });

    let name = |stored: &[Stored], name: &str| {
        let name = format!("model.layers.2.{name}");
        stored.iter().position(|tensor| tensor.name == name).unwrap()
    };
    let q = "self_attn.q_proj";
    let with = |part: &'static str, change: fn(&mut Stored)| {
        made(&move |stored| {
            let at = name(stored, part);
            change(&mut stored[at]);
        })
    };
    let bad = with("self_attn.q_proj.input_scale", |tensor| tensor.bytes = 0.0f32.to_le_bytes().to_vec());
    refused(bad.path(), &npu, Status::Format, &[q, "input_scale", "above 0"]);
    let bad = with("mlp.gate_proj.input_offset", |tensor| tensor.bytes = 200.0f32.to_le_bytes().to_vec());
    refused(bad.path(), &npu, Status::Format, &["gate_proj.input_offset", "127", "200"]);
    let bad = with("mlp.up_proj.input_scale", |tensor| tensor.bytes = 0.5f32.to_le_bytes().to_vec());
    refused(bad.path(), &npu, Status::Unsupported, &["gate_proj", "up_proj", "same input"]);
    let bad = with("mlp.up_proj.weight", |tensor| tensor.dtype = "U8");
    refused(bad.path(), &npu, Status::Format, &["up_proj.weight", "i8", "u8"]);
    let bad = with("mlp.down_proj.weight", |tensor| tensor.kind = "W4A16");
    refused(bad.path(), &npu, Status::Unsupported, &["down_proj.weight", "W4A16"]);
    // Numbers of 8 bits that nothing describes are no weights.
    let bad = with("mlp.down_proj.weight", |tensor| tensor.kind = "FLOAT");
    refused(bad.path(), &npu, Status::Format, &["down_proj.weight", "i8"]);
    let bad = with("mlp.down_proj.deq_scale", |tensor| {
        tensor.bytes[4 * 8..5 * 8].copy_from_slice(&u64::from(f32::NAN.to_bits()).to_le_bytes());
    });
    refused(bad.path(), &npu, Status::Format, &["down_proj.weight", "row 4", "NaN"]);
    let bad = made(&|stored| drop(stored.remove(name(stored, "mlp.down_proj.quant_bias"))));
    refused(bad.path(), &npu, Status::Format, &["down_proj.quant_bias", "none"]);
    let other = encode(&model, Kind::Static, |name| name.ends_with("2.self_attn.k_proj")).0;
    let bad = TempDir::new();
    modelslim::write(&model, &other, bad.path());
    refused(bad.path(), &npu, Status::Unsupported, &["q_proj", "Key of layer 2 has 16 bits"]);
    std::fs::write(good.join("quant_model_description_w8a8.json"), "{}").unwrap();
    refused(good.path(), &npu, Status::Format, &["one description"]);
    std::fs::remove_file(good.join("quant_model_description.json")).unwrap();
    refused(good.path(), &npu, Status::Format, &["q_proj.weight", "i8"]);
    std::fs::remove_file(good.join("quant_model_description_w8a8.json")).unwrap();
    refused(good.path(), &npu, Status::Format, &["q_proj.weight", "i8"]);
}

/// ATB before 8.2 has no products by tokens; static ones it has.
#[test]
fn an_older_atb_is_told_what_to_upgrade() {
    if is_child() {
        let model = small();
        let (plain, dir) = (TempDir::new(), TempDir::new());
        model.write_dir(plain.path());
        refused(
            plain.path(),
            &options("npu:0", Some("w8a8"), 128),
            Status::Unsupported,
            &["8.1.RC1", "8.2", "nnal"],
        );
        modelslim::write(&model, &encode(&model, Kind::Static, |_| false).0, dir.path());
        open(dir.path(), &options("npu:0", None, 128)).unwrap();
        return;
    }
    let Some(simulator) = crate::build::Simulator::standard() else { return };
    // The same library, beside a file that says another version.
    let home = TempDir::new();
    let status =
        Command::new("cp").arg("-r").arg(simulator.out.join("atb/cxx_abi_1")).arg(home.path()).status();
    assert!(status.unwrap().success());
    std::fs::write(home.join("version.info"), "Ascend-cann-atb Version : 8.1.RC1\n").unwrap();
    let atb = home.join("cxx_abi_1");
    let path = format!("{}/lib64:{}/lib", simulator.out.display(), atb.display());
    let settings = [
        ("ATB_HOME_PATH", atb.to_str().unwrap()),
        ("LD_LIBRARY_PATH", path.as_str()),
        ("AQUILA_SIM_ATB_VERSION", "8.1.0"),
    ];
    in_child("w8a8::an_older_atb_is_told_what_to_upgrade", &settings);
}
