//! An asynchronous executor that behaves as an accelerator does: steps run on a thread of its own
//! while the host goes on, blocks hold 128 tokens, tokens can be selected and carried on the device,
//! prompts may have to come whole, and o and down lie in three pieces along k. It keeps the rules:
//! whatever the engine may not do panics here, and the test sees a poisoned engine.

use crate::model::{KeyValue, Plain, largest};
use aquila::Result;
use aquila::backend::{
    Capabilities, Carry, Collected, Executor, Row, Step, StepSequence, Tap, Ticket, Want, WantedRow,
};
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

pub const BLOCK_TOKENS: usize = 128;

/// How the device behaves.
#[derive(Clone, Debug)]
pub struct Manner {
    pub device_select: bool,
    /// So many of the largest logits it finds; 0: none.
    pub candidates: usize,
    /// Logits are rounded to whole numbers, so that many are equal.
    pub coarse: bool,
    pub whole_prompts: bool,
    pub kv_blocks: usize,
    pub block_tokens: usize,
    pub step_tokens: usize,
    pub cheap_rows: usize,
    /// Submits that fail, counted from 0.
    pub failing_submits: Vec<u64>,
    /// Collects that fail, counted from 0.
    pub failing_collects: Vec<u64>,
    /// The submit that panics.
    pub panicking_submit: Option<u64>,
    /// Each step waits for a message, until the sender is gone.
    pub gate: Option<Arc<Mutex<Receiver<()>>>>,
}

impl Default for Manner {
    fn default() -> Self {
        Manner {
            device_select: false,
            candidates: 0,
            coarse: false,
            whole_prompts: false,
            kv_blocks: 16,
            block_tokens: BLOCK_TOKENS,
            step_tokens: 256,
            cheap_rows: 8,
            failing_submits: Vec::new(),
            failing_collects: Vec::new(),
            panicking_submit: None,
            gate: None,
        }
    }
}

/// A step as the device's thread gets it: everything copied.
struct Job {
    ticket: u64,
    tokens: Vec<u32>,
    slots: Vec<u32>,
    sequences: Vec<StepSequence>,
    block_tables: Vec<u32>,
    wanted: Vec<WantedRow>,
    carry: Vec<Carry>,
}

/// What the device's thread is told, in order.
enum Order {
    Step(Job),
    /// The numbers of these blocks' slots that were written, the others as zeros.
    Read(Vec<u32>, Sender<Vec<f32>>),
    Write(Vec<u32>, Vec<f32>),
}

/// Numbers of one slot: a key and a value for each layer.
fn slot_numbers(plain: &Plain) -> usize {
    plain.spec.layers * 2 * plain.spec.kv_width()
}

enum Result1 {
    Logits(Vec<f32>),
    Selected(u32),
    Candidates(Vec<f32>, Vec<u32>),
}

/// What the host can see of the device's doings.
#[derive(Debug, Default)]
pub struct Seen {
    pub steps: u64,
    pub carried: u64,
    pub most_in_flight: u64,
    pub largest_step: usize,
    pub candidate_rows: usize,
    pub logit_rows: usize,
}

pub struct Mock {
    capabilities: Capabilities,
    manner: Manner,
    vocab: usize,
    jobs: Option<Sender<Order>>,
    done: Receiver<(u64, Vec<Result1>)>,
    device: Option<std::thread::JoinHandle<()>>,
    submitted: u64,
    collected: u64,
    current: Results,
    seen: Arc<Mutex<Seen>>,
}

struct Results(Vec<Result1>);

impl Collected for Results {
    fn row(&self, index: usize) -> Row<'_> {
        match &self.0[index] {
            Result1::Logits(logits) => Row::Logits(logits),
            Result1::Selected(id) => Row::Selected(*id),
            Result1::Candidates(logits, ids) => Row::Candidates { logits, ids },
        }
    }
}

impl Mock {
    pub fn new(plain: Arc<Plain>, manner: Manner, seen: Arc<Mutex<Seen>>) -> Self {
        let (jobs, inbox) = channel::<Order>();
        let (outbox, done) = channel();
        let (vocab, slot_numbers, device_manner) = (plain.spec.vocab, slot_numbers(&plain), manner.clone());
        let device = std::thread::spawn(move || run_device(&plain, &inbox, &outbox, &device_manner));
        let capabilities = Capabilities {
            block_tokens: manner.block_tokens,
            block_bytes: manner.block_tokens * slot_numbers * 4,
            block_form: "mock".into(),
            prefill_over_cache: !manner.whole_prompts,
            mixed_steps: !manner.whole_prompts,
            device_select: manner.device_select,
            candidates: manner.candidates,
            reproducible: true,
            step_tokens: manner.step_tokens,
            step_sequences: 8,
            logit_rows: 8,
            cheap_rows: manner.cheap_rows,
        };
        Mock {
            capabilities,
            manner,
            vocab,
            jobs: Some(jobs),
            done,
            device: Some(device),
            submitted: 0,
            collected: 0,
            current: Results(Vec::new()),
            seen,
        }
    }

    /// The rules of `backend::Step`.
    fn check(&self, step: &Step<'_>) {
        let rows = step.tokens.len();
        assert!(rows > 0 && rows <= self.capabilities.step_tokens, "{rows} rows");
        assert!(step.positions.len() == rows && step.slots.len() == rows);
        assert!(step.tokens.iter().all(|&id| (id as usize) < self.vocab));
        assert_eq!(step.slots.iter().collect::<HashSet<_>>().len(), rows, "a slot is written twice");
        let mut next_row = 0;
        for s in step.sequences {
            assert_eq!(s.first_row, next_row, "rows without a sequence");
            next_row += s.rows;
            assert!(s.rows > 0 && s.context >= s.rows);
            assert!(s.blocks * self.manner.block_tokens >= s.context);
            let table = &step.block_tables[s.first_block..s.first_block + s.blocks];
            assert!(table.iter().all(|&b| (b as usize) < self.manner.kv_blocks));
            for j in 0..s.rows {
                let position = s.context - s.rows + j;
                assert_eq!(step.positions[s.first_row + j] as usize, position);
                let slot = step.slots[s.first_row + j] as usize;
                assert_eq!(
                    slot / self.manner.block_tokens,
                    table[position / self.manner.block_tokens] as usize
                );
                assert_eq!(slot % self.manner.block_tokens, position % self.manner.block_tokens);
            }
            if self.manner.whole_prompts && s.rows > 1 {
                assert_eq!(s.context, s.rows, "a prompt in chunks on a device that cannot");
            }
        }
        assert_eq!(next_row, rows);
        if self.manner.whole_prompts {
            let prompts = step.sequences.iter().filter(|s| s.context == s.rows).count();
            assert!(prompts == 0 || prompts == step.sequences.len(), "prompt and decode rows are mixed");
        }
        assert!(step.wanted.len() <= self.capabilities.logit_rows);
        assert!(step.wanted.windows(2).all(|w| w[0].row < w[1].row));
        let candidates = step.wanted.iter().any(|w| w.want == Want::Candidates);
        assert!(!candidates || self.manner.candidates > 0, "this device finds none");
        assert!(step.carry.is_empty() || self.manner.device_select);
        for carry in step.carry {
            assert!(carry.from.0 < self.submitted, "carried from a step that does not exist");
        }
    }
}

impl Executor for Mock {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket> {
        let number = self.submitted;
        assert!(self.manner.panicking_submit != Some(number), "the device's driver has a bug");
        self.check(step);
        let mut seen = self.seen.lock().unwrap();
        seen.steps += 1;
        seen.carried += step.carry.len() as u64;
        seen.most_in_flight = seen.most_in_flight.max(number + 1 - self.collected);
        seen.largest_step = seen.largest_step.max(step.tokens.len());
        let wanted = |want| step.wanted.iter().filter(|w| w.want == want).count();
        seen.candidate_rows += wanted(Want::Candidates);
        seen.logit_rows += wanted(Want::Logits);
        drop(seen);
        if self.manner.failing_submits.contains(&number) {
            self.manner.failing_submits.retain(|&n| n != number);
            return Err(aquila::error!(Device, "launch {number} failed"));
        }
        let job = Job {
            ticket: number,
            tokens: step.tokens.to_vec(),
            slots: step.slots.to_vec(),
            sequences: step.sequences.to_vec(),
            block_tables: step.block_tables.to_vec(),
            wanted: step.wanted.to_vec(),
            carry: step.carry.to_vec(),
        };
        self.jobs.as_ref().unwrap().send(Order::Step(job)).unwrap();
        self.submitted += 1;
        Ok(Ticket(number))
    }

    fn collect(&mut self, ticket: Ticket) -> Result<&dyn Collected> {
        assert_eq!(ticket.0, self.collected, "tickets are collected in order");
        self.collected += 1;
        let (number, results) = self.done.recv().unwrap();
        assert_eq!(number, ticket.0);
        if self.manner.failing_collects.contains(&number) {
            return Err(aquila::error!(Device, "step {number} failed"));
        }
        self.current = Results(results);
        Ok(&self.current)
    }

    fn copy_blocks(&mut self, _pairs: &[(u32, u32)]) -> Result<()> {
        Err(aquila::error!(Unsupported, "the mock copies no blocks"))
    }

    fn read_blocks(&mut self, blocks: &[u32], out: &mut [u8]) -> Result<()> {
        assert_eq!(out.len(), blocks.len() * self.capabilities.block_bytes);
        let (answer, numbers) = channel();
        self.jobs.as_ref().unwrap().send(Order::Read(blocks.to_vec(), answer)).unwrap();
        for (out, number) in out.chunks_exact_mut(4).zip(numbers.recv().unwrap()) {
            out.copy_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }

    fn write_blocks(&mut self, blocks: &[u32], bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), blocks.len() * self.capabilities.block_bytes);
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        self.jobs.as_ref().unwrap().send(Order::Write(blocks.to_vec(), numbers)).unwrap();
        Ok(())
    }

    fn run_tapped(&mut self, _step: &Step<'_>, _tap: Tap<'_>) -> Result<Ticket> {
        Err(aquila::error!(Unsupported, "the mock has no tap"))
    }

    fn describe(&self) -> Vec<(&'static str, String)> {
        vec![("device", "mock".into())]
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(device) = self.device.take() {
            device.join().unwrap();
        }
    }
}

/// The device: slots of keys and values, steps one after another.
fn run_device(plain: &Plain, orders: &Receiver<Order>, done: &Sender<(u64, Vec<Result1>)>, manner: &Manner) {
    let block_tokens = manner.block_tokens;
    let mut cache: HashMap<u32, KeyValue> = HashMap::new();
    let mut selected: HashMap<(u64, usize), u32> = HashMap::new();
    for order in orders {
        let mut job = match order {
            Order::Step(job) => job,
            Order::Read(blocks, answer) => {
                answer.send(read(&cache, &blocks, plain, block_tokens)).unwrap();
                continue;
            }
            Order::Write(blocks, numbers) => {
                write(&mut cache, &blocks, &numbers, plain, block_tokens);
                continue;
            }
        };
        if let Some(gate) = &manner.gate {
            let _ = gate.lock().unwrap().recv();
        }
        for carry in &job.carry {
            job.tokens[carry.row] = selected[&(carry.from.0, carry.from_wanted)];
        }
        let mut results = Vec::new();
        for s in &job.sequences {
            let table = &job.block_tables[s.first_block..s.first_block + s.blocks];
            for row in s.first_row..s.first_row + s.rows {
                let position = s.context - s.rows + row - s.first_row;
                let (made, mut logits) = plain.token(job.tokens[row], position, |layer, p| {
                    let slot = table[p / block_tokens] * block_tokens as u32 + (p % block_tokens) as u32;
                    cache[&slot][layer].clone()
                });
                cache.insert(job.slots[row], made);
                if manner.coarse {
                    logits.iter_mut().for_each(|logit| *logit = logit.round() + 0.0);
                }
                if let Some(place) = job.wanted.iter().position(|w| w.row == row) {
                    results.push(match job.wanted[place].want {
                        Want::Select => {
                            selected.insert((job.ticket, place), largest(&logits));
                            Result1::Selected(largest(&logits))
                        }
                        Want::Candidates => {
                            let (logits, ids) = largest_ones(&logits, manner.candidates);
                            Result1::Candidates(logits, ids)
                        }
                        _ => Result1::Logits(logits),
                    });
                }
            }
        }
        if done.send((job.ticket, results)).is_err() {
            return;
        }
    }
}

/// The largest logits and their ids; of equal ones the highest ids first, which no caller may rely on.
fn largest_ones(logits: &[f32], count: usize) -> (Vec<f32>, Vec<u32>) {
    let mut ids: Vec<u32> = (0..logits.len() as u32).rev().collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    ids.truncate(count);
    (ids.iter().map(|&id| logits[id as usize]).collect(), ids)
}

fn slots(blocks: &[u32], block_tokens: usize) -> impl Iterator<Item = u32> {
    let of = move |&block: &u32| block * block_tokens as u32..(block + 1) * block_tokens as u32;
    blocks.iter().flat_map(of)
}

fn read(cache: &HashMap<u32, KeyValue>, blocks: &[u32], plain: &Plain, block_tokens: usize) -> Vec<f32> {
    let mut numbers = Vec::new();
    for slot in slots(blocks, block_tokens) {
        match cache.get(&slot) {
            Some(layers) => layers.iter().for_each(|(key, value)| numbers.extend([&key[..], value].concat())),
            None => numbers.resize(numbers.len() + slot_numbers(plain), 0.0),
        }
    }
    numbers
}

fn write(
    cache: &mut HashMap<u32, KeyValue>,
    blocks: &[u32],
    numbers: &[f32],
    plain: &Plain,
    block_tokens: usize,
) {
    let width = plain.spec.kv_width();
    for (slot, numbers) in slots(blocks, block_tokens).zip(numbers.chunks_exact(slot_numbers(plain))) {
        let layers = numbers.chunks_exact(2 * width);
        cache.insert(slot, layers.map(|kv| (kv[..width].to_vec(), kv[width..].to_vec())).collect());
    }
}
