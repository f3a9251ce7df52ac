//! Every call of CANN fails in turn, and hangs in turn. Each time there is an error that names the call, nothing is left on a
//! device, the process lives, and once the card is well again an engine is loaded and answers.

use crate::simulator::{self, CARDS, expect_clean, faults, in_child, is_child};
use crate::support::{TempDir, TinyModel};
use aquila::Error;
use aquila::backend::ascend::open::Cann;
use aquila::engine::params::{GenParams, Input};
use aquila::open::{self, LoadOptions};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a call that hangs takes, in the simulator; who waits for it waits for 1 s.
const HANG: Duration = Duration::from_millis(1600);

/// A load, answers of each kind (selected on the device, drawn among its largest logits, drawn from whole rows), and the end
/// of the engine.
fn serve(model: &Path, device: &str) -> Result<Vec<u32>, Error> {
    let options = LoadOptions { device: device.into(), max_batch: 2, ..LoadOptions::default() };
    let engine = open::load(model, &options, &mut |_, _, _| ControlFlow::Continue(()))?;
    let mut all = Vec::new();
    for (temperature, top_k) in [(0.0, 0), (0.7, 20), (0.7, 0)] {
        let mut params = GenParams { max_tokens: 3, ignore_eos: true, ..GenParams::default() };
        (params.sampling.temperature, params.sampling.top_k) = (temperature, top_k);
        all.extend(engine.generate(Input::Tokens(vec![3, 1, 4, 1, 5]), params)?.tokens);
    }
    Ok(all)
}

/// The calls that a session makes, with how many of each.
fn calls(model: &Path, device: &str) -> Vec<(&'static str, u64)> {
    const NAMES: [&str; 37] = [
        "aclrtSetDevice",
        "aclrtGetSocName",
        "aclrtGetMemInfo",
        "aclrtGetDeviceCount",
        "aclrtCreateContext",
        "aclrtSetCurrentContext",
        "aclrtCreateStreamWithConfig",
        "aclrtCreateEventWithFlag",
        "aclrtMalloc",
        "aclrtMallocHost",
        "aclrtMemset",
        "aclrtMemcpy",
        "aclrtMemcpyAsync",
        "aclrtRecordEvent",
        "aclrtStreamWaitEvent",
        "aclrtSynchronizeEventWithTimeout",
        "aclrtSynchronizeStreamWithTimeout",
        "CreateContext",
        "SetExecuteStream",
        "SetAsyncTilingCopyStatus",
        "CreateOperation",
        "Setup",
        "Execute",
        "HcclGetRootInfo",
        "HcclCommInitRootInfo",
        "HcclGetCommAsyncError",
        "HcclAllReduce",
        "HcclAllGather",
        // What gives back: it fails, and still does it.
        "HcclCommDestroy",
        "DestroyOperation",
        "DestroyContext",
        "aclrtFree",
        "aclrtFreeHost",
        "aclrtDestroyEvent",
        "aclrtDestroyStream",
        "aclrtDestroyContext",
        "aclrtResetDevice",
    ];
    simulator::mark("calls");
    serve(model, device).expect("without faults it works");
    NAMES.iter().map(|name| (*name, simulator::count(name))).filter(|(_, count)| *count > 0).collect()
}

/// Which of so many calls fail: all where they are few, else the first, the last and some between. All of them, which takes
/// long, where `AQUILA_EVERY_CALL` is set.
fn some_of(count: u64) -> Vec<u64> {
    const MOST: u64 = 5;
    if count <= MOST || std::env::var_os("AQUILA_EVERY_CALL").is_some() {
        return (1..=count).collect();
    }
    (0..MOST).map(|step| 1 + step * (count - 1) / (MOST - 1)).collect()
}

/// A failure that is not a failure of the work: giving back.
fn gives_back(name: &str) -> bool {
    ["Destroy", "Free", "Reset"].iter().any(|word| name.contains(word))
}

/// Threads of the library that speak with CANN.
fn rank_threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("aquila-npu")).count()
}

/// A card that hung is lost until it is reset, as by `npu-smi set -t reset`: no process may do that to a card that others
/// may be using.
fn revive() {
    let acl = &Cann::open().unwrap().acl;
    for device in 0..2 {
        // SAFETY: any number may be given, and no rank uses the device.
        unsafe { (acl.aclrtResetDeviceForce.unwrap())(device) };
    }
}

fn model() -> TempDir {
    let dir = TempDir::new();
    TinyModel { layers: 1, context: 64, ..TinyModel::default() }.write_dir(dir.path());
    dir
}

fn settings<'a>(card: &'a str, device: &'a str, timeout: &'a str) -> [(&'a str, &'a str); 9] {
    [
        ("AQUILA_SIM_SOC", card),
        ("AQUILA_SIM_DEVICES", "2"),
        ("NPU_TEST_DEVICE", device),
        ("AQUILA_ASCEND_TIMEOUT", timeout),
        ("AQUILA_SIM_HANG", "1.6"),
        ("AQUILA_SIM_HCCL_TIMEOUT", "1.5"),
        ("AQUILA_SIM_JITTER", "0"),
        // Large memory that is filled for every load would be most of the time.
        ("AQUILA_SIM_POISON", "0"),
        ("HCCL_BUFFSIZE", "1"),
    ]
}

/// What is swept: every call of every function that a session makes fails, one by one, on one device: a failure that is not
/// reported, or something that is not given back, may hide behind any of them, and a session of this model takes a tenth of a
/// second. With two ranks three calls of each function fail, because the rank beside the one that fails often has to run into
/// a time limit first. Of hangs, each of which costs a limit of a second and more, there are the first, a middle and the last
/// call of each function on one device, and a middle one with two ranks.
#[test]
fn every_call_fails_in_turn_on_910b() {
    fail_each("faults::every_call_fails_in_turn_on_910b", CARDS[0]);
}

#[test]
fn every_call_fails_in_turn_on_310p() {
    fail_each("faults::every_call_fails_in_turn_on_310p", CARDS[1]);
}

fn fail_each(test: &str, card: &str) {
    if !is_child() {
        for device in ["npu:0", "npu:0,1"] {
            in_child(test, &settings(card, device, "20"));
        }
        return;
    }
    let device = std::env::var("NPU_TEST_DEVICE").unwrap();
    let dir = model();
    simulator::open();
    let expected = serve(dir.path(), &device).unwrap();
    let (mut tried, mut failed) = (0, 0);
    for (name, count) in calls(dir.path(), &device) {
        let numbers = if device == "npu:0" { (1..=count).collect() } else { some_of(count) };
        for number in numbers {
            for code in codes(name) {
                let script = format!("{name}@{number}={code}");
                tried += 1;
                faults(&script);
                let result = serve(dir.path(), &device);
                faults("");
                match result {
                    // Memory that is not there is asked for in another way, or the failure came while giving back.
                    Ok(tokens) => assert_eq!(tokens, expected, "{script}"),
                    Err(error) => {
                        failed += 1;
                        assert!(!gives_back(name) || name == "aclrtResetDevice", "{script}: {error}");
                        assert!(error.message.len() > 10, "{script}: {error}");
                        // The number of the call, or of the library that made it.
                        assert!(error.native_code != 0, "{script}: {error}");
                    }
                }
                let used = (0..2).map(simulator::used).sum::<u64>();
                assert_eq!((used, simulator::leaks()), (0, 0), "{script}");
            }
        }
        assert_eq!(serve(dir.path(), &device).unwrap(), expected, "after {name}");
    }
    println!(
        "measured (simulated): {tried} calls failed, {failed} of them failures of the work, each reported"
    );
    assert!(failed > 50, "{failed}");
    expect_clean();
}

/// What a call may answer: a failure of its own, of memory, and of the work that it puts into a stream.
fn codes(name: &str) -> Vec<i32> {
    match name {
        "aclrtMalloc" => vec![207_001],
        "aclrtMallocHost" => vec![207_001],
        "Execute" => vec![4, 26, 507_015],
        "Setup" | "CreateOperation" | "CreateContext" | "SetExecuteStream" | "SetAsyncTilingCopyStatus" => {
            vec![3]
        }
        "DestroyOperation" | "DestroyContext" => vec![24],
        "aclrtMemcpyAsync" => vec![500_003, 507_053],
        "aclrtGetSocName" => vec![500_003],
        name if name.starts_with("Hccl") => vec![4],
        _ => vec![500_003],
    }
}

#[test]
fn the_first_call_of_each_function_hangs() {
    hang_each("faults::the_first_call_of_each_function_hangs", CARDS[1], "npu:0", |_| 1);
}

#[test]
fn a_middle_call_of_each_function_hangs() {
    hang_each("faults::a_middle_call_of_each_function_hangs", CARDS[0], "npu:0", middle);
}

#[test]
fn the_last_call_of_each_function_hangs() {
    hang_each("faults::the_last_call_of_each_function_hangs", CARDS[1], "npu:0", |count| count);
}

#[test]
fn a_middle_call_of_each_function_of_two_ranks_hangs() {
    hang_each("faults::a_middle_call_of_each_function_of_two_ranks_hangs", CARDS[1], "npu:0,1", middle);
}

fn middle(count: u64) -> u64 {
    (count / 2).max(1)
}

fn hang_each(test: &str, card: &str, device: &str, which: fn(u64) -> u64) {
    if !is_child() {
        in_child(test, &settings(card, device, "1"));
        return;
    }
    let device = std::env::var("NPU_TEST_DEVICE").unwrap();
    let dir = model();
    simulator::open();
    let expected = serve(dir.path(), &device).unwrap();
    // The simulator's own threads have the name of who began them.
    let idle = rank_threads();
    for (name, count) in calls(dir.path(), &device) {
        let script = format!("{name}@{}=hang", which(count));
        faults(&script);
        let started = Instant::now();
        let result = serve(dir.path(), &device);
        let took = started.elapsed();
        faults("");
        if let Err(error) = result {
            assert!(!error.message.is_empty(), "{script}: {error}");
        }
        assert!(took < Duration::from_secs(15), "{script}: {took:?}");
        // The call that hung returns in the end, and its thread gives back what it holds.
        std::thread::sleep(HANG.saturating_sub(took) + Duration::from_millis(500));
        let well = (0..400).find(|_| {
            std::thread::sleep(Duration::from_millis(50));
            rank_threads() == idle
        });
        assert!(well.is_some(), "{script}: a thread is still there");
        assert_eq!((0..2).map(simulator::used).sum::<u64>(), 0, "{script}");
        revive();
        assert_eq!(serve(dir.path(), &device).unwrap(), expected, "after {script}");
    }
    assert_eq!(simulator::leaks(), 0);
}

/// Where ATB makes no graph its operations run one by one, and the answer is the same.
#[test]
fn without_graphs_the_operations_run_one_by_one() {
    if !is_child() {
        for card in CARDS {
            in_child("faults::without_graphs_the_operations_run_one_by_one", &settings(card, "npu:0", "20"));
        }
        return;
    }
    let dir = model();
    simulator::open();
    simulator::mark("graphs");
    let expected = serve(dir.path(), "npu:0").unwrap();
    let graphs = simulator::count("Execute");
    // The first graph is made of the three operations before it.
    faults("CreateOperation@4=2");
    simulator::mark("operations");
    assert_eq!(serve(dir.path(), "npu:0").unwrap(), expected);
    assert!(simulator::count("Execute") > 4 * graphs, "{} executes", simulator::count("Execute"));
    faults("");
    expect_clean();
}
