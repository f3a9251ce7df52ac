//! How many calls a decoded token takes, how long the host works for it, and what a whole engine takes of a device.

use crate::simulator::{self, CARDS, count, expect_clean, in_child, is_child};
use crate::support::formats::safetensors_with;
use crate::support::{TempDir, TinyModel, TinyType};
use aquila::backend::{Carry, Executor, Row, Step, StepSequence, Ticket, Want, WantedRow};
use aquila::open::{self, LoadOptions};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// Calls of the simulator that are no work of the step's own: Setup and Execute are counted apart.
const OTHERS: [&str; 18] = [
    "aclrtMemcpy",
    "aclrtMemcpyAsync",
    "aclrtMemset",
    "aclrtMemsetAsync",
    "aclrtRecordEvent",
    "aclrtStreamWaitEvent",
    "aclrtSynchronizeEvent",
    "aclrtSynchronizeEventWithTimeout",
    "aclrtSynchronizeStream",
    "aclrtSynchronizeStreamWithTimeout",
    "aclrtSynchronizeDevice",
    "aclrtQueryEventStatus",
    "aclrtStreamQuery",
    "aclrtSetCurrentContext",
    "aclrtSetDevice",
    "aclrtMalloc",
    "aclrtMallocHost",
    "aclrtFree",
];

/// A decoder of Aquila-7B's depth, and little else.
fn deep() -> TinyModel {
    TinyModel { layers: 32, context: 256, ..TinyModel::default() }
}

pub fn open(model: &Path, batch: u32) -> Box<dyn Executor> {
    let options = LoadOptions { device: "npu:0".into(), max_batch: batch, ..LoadOptions::default() };
    let mut go = |_: &str, _, _| ControlFlow::Continue(());
    open::open_executor(model, &options, &mut go).unwrap().2
}

/// Decodes in the way the engine does it. Where the device selects: two steps in flight, each fed with what the one before
/// selects. Where the host chooses: one after the other.
pub struct Decoding {
    pub executor: Box<dyn Executor>,
    pub want: Want,
    pub position: u32,
    pub last: Option<Ticket>,
}

impl Decoding {
    pub fn submit(&mut self) -> Ticket {
        let context = self.position as usize + 1;
        let carry = self.last.filter(|_| self.want == Want::Select);
        let carry = carry.map(|from| Carry { row: 0, from, from_wanted: 0 });
        let step = Step {
            tokens: &[5],
            positions: &[self.position],
            slots: &[self.position],
            sequences: &[StepSequence { first_row: 0, rows: 1, context, first_block: 0, blocks: 2 }],
            block_tables: &[0, 1],
            wanted: &[WantedRow { row: 0, want: self.want }],
            carry: carry.as_slice(),
        };
        self.position += 1;
        let ticket = self.executor.submit(&step).unwrap();
        self.last = Some(ticket);
        ticket
    }

    /// A step, and the collection of the one before, or where the host must choose of itself.
    fn step(&mut self) {
        let former = self.last.unwrap();
        if self.want == Want::Select {
            self.submit();
        }
        match (self.executor.collect(former).unwrap().row(0), self.want) {
            (Row::Selected(_), Want::Select) | (Row::Logits(_), Want::Logits) => {}
            (Row::Candidates { logits, ids }, Want::Candidates) => {
                assert!(logits.is_sorted_by(|a, b| a >= b) && logits.len() == ids.len());
            }
            (row, want) => panic!("{want:?}: {row:?}"),
        }
        if self.want != Want::Select {
            self.submit();
        }
    }
}

fn decoding(batch: u32, want: Want) -> (TempDir, Decoding) {
    let dir = TempDir::new();
    deep().write_dir(dir.path());
    let mut decoding = Decoding { executor: open(dir.path(), batch), want, position: 0, last: None };
    decoding.submit();
    (dir, decoding)
}

#[test]
fn a_decoded_token_takes_few_calls() {
    if !is_child() {
        for card in CARDS {
            in_child("calls::a_decoded_token_takes_few_calls", &[("AQUILA_SIM_SOC", card)]);
        }
        return;
    }
    for want in [Want::Select, Want::Candidates] {
        count_calls(want);
    }
    expect_clean();
}

fn count_calls(want: Want) {
    let (_dir, mut decoding) = decoding(1, want);
    for _ in 0..3 {
        decoding.step();
    }
    simulator::mark("steady");
    const TOKENS: u64 = 10;
    for _ in 0..TOKENS {
        decoding.step();
    }
    let executes = count("Execute");
    assert_eq!(count("Setup"), executes);
    let others: u64 = OTHERS.iter().map(|name| count(name)).sum();
    let copies = count("aclrtMemcpyAsync") + count("aclrtMemcpy");
    let waits: u64 = OTHERS.iter().filter(|name| name.contains("Synchronize")).map(|name| count(name)).sum();
    println!(
        "measured (simulated), 32 layers, {want:?}, a token: {} Setup/Execute, {} other calls, {} copies, {} waits",
        executes as f64 / TOKENS as f64,
        others as f64 / TOKENS as f64,
        copies as f64 / TOKENS as f64,
        waits as f64 / TOKENS as f64
    );
    assert!(executes <= 20 * TOKENS, "{executes}");
    assert!(others <= 12 * TOKENS, "{others}");
    assert!(copies <= 2 * TOKENS && waits <= TOKENS, "{copies} copies, {waits} waits");
    assert_eq!(count("aclrtMalloc") + count("aclrtMallocHost"), 0);
}

/// The goal is 1.0 ms of the host's own work; the bound here leaves room for a machine that does other work too, and for
/// the simulator's share of the calls.
#[test]
fn the_host_works_little_for_a_token() {
    if !is_child() {
        in_child("calls::the_host_works_little_for_a_token", &[("AQUILA_SIM_NOOP", "1")]);
        return;
    }
    let (_dir, mut decoding) = decoding(1, Want::Select);
    for _ in 0..20 {
        decoding.step();
    }
    let mut times: Vec<f64> = (0..200)
        .map(|_| {
            let started = Instant::now();
            decoding.step();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("measured (simulated, kernels do nothing), 32 layers, a token: {:.3} ms", times[100]);
    assert!(times[100] < 5.0, "{:.3} ms", times[100]);
}

/// What a device is found to have given away is within what was planned.
#[test]
fn the_plan_counts_what_is_taken() {
    if !is_child() {
        for card in CARDS {
            let settings = [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_DEVICES", "2")];
            in_child("calls::the_plan_counts_what_is_taken", &settings);
        }
        return;
    }
    simulator::open();
    let dir = TempDir::new();
    deep().write_dir(dir.path());
    for (device, devices) in [("npu:0", 1), ("npu:0,1", 2)] {
        let options = LoadOptions { device: device.into(), max_batch: 2, ..LoadOptions::default() };
        let plan = open::plan(dir.path(), &options).unwrap().memory;
        let mut go = |_: &str, _, _| ControlFlow::Continue(());
        let (spec, _, mut executor) = open::open_executor(dir.path(), &options, &mut go).unwrap();
        // The largest prompt that a step takes.
        let rows = executor.capabilities().step_tokens;
        let tokens = vec![1; rows];
        let positions: Vec<u32> = (0..rows as u32).collect();
        let step = Step {
            tokens: &tokens,
            positions: &positions,
            slots: &positions,
            sequences: &[StepSequence { first_row: 0, rows, context: rows, first_block: 0, blocks: 2 }],
            block_tables: &[0, 1],
            wanted: &[WantedRow { row: rows - 1, want: Want::Logits }],
            carry: &[],
        };
        let ticket = executor.submit(&step).unwrap();
        executor.collect(ticket).unwrap();
        let planned = plan.weight_bytes_private + plan.workspace_bytes + plan.kv_bytes();
        let taken: u64 = (0..devices).map(simulator::used).sum();
        assert!(taken <= planned, "{device}: {taken} taken, {planned} planned");
        // Page sizes round small tensors up; the plan rounds as well.
        assert!(planned - taken <= planned / 2, "{device}: {taken} taken, {planned} planned");
        drop((executor, spec));
        assert_eq!((0..devices).map(simulator::used).sum::<u64>(), 0);
    }
    expect_clean();
}

/// Aquila-7B in f16 at 2,048 tokens, one sequence, on a card: planned from a file of its headers.
#[test]
fn aquila_7b_fits_in_16_gib_and_a_half() {
    if !is_child() {
        for card in CARDS {
            in_child("calls::aquila_7b_fits_in_16_gib_and_a_half", &[("AQUILA_SIM_SOC", card)]);
        }
        return;
    }
    let dir = TempDir::new();
    write_aquila_7b_without_numbers(dir.path());
    let options = LoadOptions { device: "npu:0".into(), max_batch: 1, ..LoadOptions::default() };
    let plan = open::plan(dir.path(), &options).unwrap();
    let memory = &plan.memory;
    assert_eq!(memory.refusal, None);
    let all = memory.weight_bytes_private + memory.workspace_bytes + memory.kv_bytes();
    println!(
        "measured (simulated): Aquila-7B: {:.2} GiB of weights, {:.2} of workspace and tables, {:.2} of KV cache: {:.2}",
        memory.weight_bytes_private as f64 / 1f64.exp2().powi(30),
        memory.workspace_bytes as f64 / 1f64.exp2().powi(30),
        memory.kv_bytes() as f64 / 1f64.exp2().powi(30),
        all as f64 / 1f64.exp2().powi(30)
    );
    assert_eq!(plan.context, (2048, "model"));
    assert!(all <= (33 << 30) / 2, "{all}");
}

/// Aquila-7B's directory: all headers, and a hole in the file where the numbers are.
fn write_aquila_7b_without_numbers(dir: &Path) {
    let (hidden, ffn, vocab) = (4096, 11008, 100_008);
    let shape = TinyModel {
        layers: 32,
        hidden,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        ffn,
        vocab,
        context: 2048,
        dtype: TinyType::F16,
        ..TinyModel::default()
    };
    std::fs::write(dir.join("config.json"), shape.config().to_string()).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    let mut add = |name: String, shape: &[usize]| {
        let begin = end;
        end += shape.iter().product::<usize>() * 2;
        header.insert(name, json!({"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}));
    };
    add("model.embed_tokens.weight".into(), &[vocab, hidden]);
    for layer in 0..shape.layers {
        let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(at(norm), &[hidden]);
        }
        for part in ["q", "k", "v", "o"] {
            add(at(&format!("self_attn.{part}_proj")), &[hidden, hidden]);
        }
        for part in ["gate", "up"] {
            add(at(&format!("mlp.{part}_proj")), &[ffn, hidden]);
        }
        add(at("mlp.down_proj"), &[hidden, ffn]);
    }
    add("model.norm.weight".into(), &[hidden]);
    add("lm_head.weight".into(), &[vocab, hidden]);
    let bytes = safetensors_with(&Value::Object(header).to_string(), &[]);
    let path = dir.join("model.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len((bytes.len() + end) as u64).unwrap();
}
