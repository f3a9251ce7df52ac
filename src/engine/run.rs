//! The engine's thread: takes requests in, plans a step, hands it to the executor, and gives the
//! results out, until the engine is closed.
//!
//! With a device that selects tokens itself two steps are in flight, so that the device never waits
//! for the host; else one. In steady decode the loop allocates nothing (unread output of a request grows
//! now and then), logs nothing, and takes two short locks: the inbox's once a step, and once a token that
//! of the request whose token it delivers.

use crate::backend::{Capabilities, Carry, Executor, Step, StepSequence, Ticket, Want, WantedRow};
use crate::base::error::{Error, Result, Status};
use crate::base::reserve;
use crate::engine::active::Active;
use crate::engine::kv_blocks::KvBlocks;
use crate::engine::offer::Offer;
use crate::engine::pace::Pace;
use crate::engine::params::Finish;
use crate::engine::scheduler::{PlannedRows, Queues, Results, StepLimits};
use crate::engine::shared::{Arrival, Life, Shared};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A step that was submitted and not collected.
struct InFlight {
    ticket: Ticket,
    plan: Vec<PlannedRows>,
    /// Rows of answers, and of prompts.
    rows: (usize, usize),
    submitted_ns: u64,
}

/// The vectors behind a [`Step`], reused from step to step.
#[derive(Default)]
struct StepBuffers {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    sequences: Vec<StepSequence>,
    block_tables: Vec<u32>,
    wanted: Vec<WantedRow>,
    carry: Vec<Carry>,
}

/// Everything that only the engine's thread touches.
pub(crate) struct Runner {
    shared: Arc<Shared>,
    executor: Box<dyn Executor>,
    limits: StepLimits,
    pace: Pace,
    /// When the last step was collected.
    collected_ns: u64,
    offer: Offer,
    /// Steps in flight at most.
    depth: usize,
    kv: KvBlocks,
    queues: Queues,
    active: HashMap<u64, Active>,
    /// Taken from the inbox, not in `active` yet.
    incoming: VecDeque<Arrival>,
    in_flight: VecDeque<InFlight>,
    /// Plan vectors that are not in use.
    spare: Vec<Vec<PlannedRows>>,
    buffers: StepBuffers,
}

impl Runner {
    pub(crate) fn new(shared: Arc<Shared>, executor: Box<dyn Executor>, kv_blocks: usize) -> Self {
        let capabilities: &Capabilities = executor.capabilities();
        let limits = StepLimits::of(capabilities);
        let kv = KvBlocks::new(kv_blocks, capabilities.block_tokens);
        let offer = Offer::of(capabilities, &limits);
        let depth = if capabilities.device_select { 2 } else { 1 };
        Runner {
            shared,
            executor,
            pace: Pace::new(limits.prompt_tokens_beside_decode, limits.tokens),
            collected_ns: 0,
            limits,
            offer,
            depth,
            kv,
            queues: Queues::default(),
            active: HashMap::new(),
            incoming: VecDeque::new(),
            in_flight: VecDeque::new(),
            spare: vec![Vec::new(), Vec::new()],
            buffers: StepBuffers::default(),
        }
    }

    /// Runs until the engine is closed. A panic ends all requests with `Internal` and poisons the
    /// engine; the process lives on.
    pub(crate) fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let (life, error) = match outcome {
            Ok(()) => (Life::Closed, crate::error!(Closed, "the engine was freed")),
            Err(panic) => {
                let text = panic_text(panic.as_ref());
                log::error!(target: "aquila::engine", "a bug was caught on the engine's thread: {text}");
                (Life::Poisoned, crate::error!(Internal, "a bug in the library was caught: {text}"))
            }
        };
        let arrivals = {
            let mut inbox = self.shared.inbox.lock();
            if inbox.life == Life::Running {
                inbox.life = life;
            }
            inbox.errands.clear();
            std::mem::take(&mut inbox.arrivals)
        };
        for (_, active) in self.active.drain() {
            active.finish(Finish::Error, Some(error.clone()), &self.shared);
        }
        for arrival in self.incoming.drain(..).chain(arrivals) {
            arrival.state.finish(Finish::Error, Some(error.clone()), None);
        }
        // The executor may be the one that panicked: a second panic while it is dropped must not
        // leave the thread either.
        let executor = self.executor;
        if catch_unwind(AssertUnwindSafe(|| drop(executor))).is_err() {
            log::error!(target: "aquila::engine", "the executor panicked while it was closed");
        }
    }

    fn serve(&mut self) {
        let mut hits = reserve::hits();
        while self.take_in() {
            self.end_early();
            self.queues.retire(&mut self.kv);
            self.note_state();
            let submitted = self.in_flight.len() < self.depth && self.submit_step();
            if self.in_flight.len() == self.depth || !submitted {
                self.collect_step();
                self.queues.retire(&mut self.kv);
                self.note_state();
            }
            if let Err(error) = reserve::check_since(hits) {
                self.fail_all(error);
                // Read behind it: what saying so took is no reason to fail those that come next.
                hits = reserve::hits();
            }
        }
    }

    /// Takes arrivals in; sleeps while there is nothing to do. `false`: the engine is closed.
    fn take_in(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut inbox = shared.inbox.lock();
        loop {
            if inbox.life == Life::Closed {
                return false;
            }
            let work = !inbox.arrivals.is_empty() || !inbox.errands.is_empty();
            if work || !self.active.is_empty() || !self.in_flight.is_empty() {
                break;
            }
            if !std::mem::take(&mut inbox.woken) {
                shared.bell.wait(&mut inbox);
            }
        }
        inbox.woken = false;
        std::mem::swap(&mut self.incoming, &mut inbox.arrivals);
        let errands = std::mem::take(&mut inbox.errands);
        // Counted while the inbox is held: else more could come in than may wait.
        shared.waiting.store(self.queues.waiting.len() + self.incoming.len(), Ordering::Relaxed);
        drop(inbox);
        for errand in errands {
            errand.run(&mut self.kv, &mut *self.executor);
        }
        while let Some(arrival) = self.incoming.pop_front() {
            let (active, mut sequence) = Active::new(arrival, &shared, self.offer);
            sequence.shares &= self.limits.chunked;
            if let Results::LogitsFrom(first) = sequence.results
                && !self.limits.chunked
                && sequence.known - first > self.limits.logit_rows
            {
                let most = self.limits.logit_rows;
                let error = crate::error!(Unsupported, "the device scores at most {most} tokens of a text");
                active.finish(Finish::Error, Some(error), &shared);
                continue;
            }
            self.active.insert(sequence.id, active);
            self.queues.push(sequence);
        }
        true
    }

    /// Ends the requests that were cancelled, and those whose deadline has passed.
    fn end_early(&mut self) {
        let Runner { active, queues, shared, .. } = self;
        let mark = |id: u64, queues: &mut Queues| {
            let mut all = queues.running.iter_mut().chain(queues.waiting.iter_mut());
            if let Some(sequence) = all.find(|s| s.id == id) {
                sequence.finished = true;
            }
        };
        let now = shared.clock.now_ns();
        // `extract_if` allocates nothing where nothing is to be ended.
        for (id, active) in active.extract_if(|_, a| a.state.ends_early(now).is_some()) {
            mark(id, queues);
            let reason = active.state.ends_early(now).unwrap_or(Finish::Cancelled);
            active.finish(reason, None, shared);
        }
    }

    /// Writes down how much is going on, for whoever asks.
    fn note_state(&self) {
        let shared = &self.shared;
        shared.waiting.store(self.queues.waiting.len(), Ordering::Relaxed);
        let held = self.kv.blocks() - self.kv.free_blocks();
        let counters = &shared.counters;
        counters.running.store(self.queues.running.len() as u64, Ordering::Relaxed);
        counters.kv_blocks_held.store(held as u64, Ordering::Relaxed);
        counters.kv_blocks_idle.store(self.kv.idle_blocks() as u64, Ordering::Relaxed);
        counters.put_back.store(self.queues.put_back, Ordering::Relaxed);
    }

    /// Plans and submits a step. `false`: there was nothing to submit.
    fn submit_step(&mut self) -> bool {
        self.propose();
        self.limits.prompt_tokens_beside_decode = self.pace.prompt_rows();
        let mut plan = self.spare.pop().unwrap_or_default();
        let active = &self.active;
        let tokens = |id: u64| active.get(&id).map_or(&[][..], |request| request.tokens.as_slice());
        self.queues.schedule(&mut self.kv, &self.limits, &mut plan, tokens);
        if plan.is_empty() {
            self.spare.push(plan);
            if self.in_flight.is_empty() && !self.active.is_empty() {
                // One full context always fits, so the oldest sequence can always go on.
                self.fail_all(crate::error!(Internal, "the scheduler found no step although requests run"));
            }
            return false;
        }
        let now = self.shared.clock.now_ns();
        for rows in &plan {
            if let Some(active) = self.active.get_mut(&rows.id) {
                active.stepped(now, rows.first, &self.shared);
            }
        }
        self.fill_buffers(&plan);
        let b = &self.buffers;
        let step = Step {
            tokens: &b.tokens,
            positions: &b.positions,
            slots: &b.slots,
            sequences: &b.sequences,
            block_tables: &b.block_tables,
            wanted: &b.wanted,
            carry: &b.carry,
        };
        self.shared.counters.steps.fetch_add(1, Ordering::Relaxed);
        match self.executor.submit(&step) {
            Ok(ticket) => {
                let of =
                    |prompt: bool| plan.iter().filter(|p| p.prompt == prompt).map(|p| p.rows).sum::<usize>();
                let rows = (of(false), of(true));
                self.in_flight.push_back(InFlight { ticket, plan, rows, submitted_ns: now });
            }
            Err(error) => self.fail_step(plan, error),
        }
        true
    }

    /// Lets the running requests propose tokens for the next step.
    fn propose(&mut self) {
        let room = self.queues.room_for_proposals(&self.limits);
        for sequence in &mut self.queues.running {
            let request = self.active.get_mut(&sequence.id).filter(|_| !sequence.finished);
            let tokenizer = self.shared.tokenizer.as_ref();
            sequence.proposed = request.map_or(0, |request| request.propose(room, tokenizer));
        }
    }

    /// Turns a plan into the arrays of a [`Step`].
    fn fill_buffers(&mut self, plan: &[PlannedRows]) {
        let b = &mut self.buffers;
        b.tokens.clear();
        b.positions.clear();
        b.slots.clear();
        b.sequences.clear();
        b.block_tables.clear();
        b.wanted.clear();
        b.carry.clear();
        let block_tokens = self.kv.block_tokens();
        for rows in plan {
            let Some(sequence) = self.queues.running.iter().find(|s| s.id == rows.id) else { continue };
            let first_row = b.tokens.len();
            if rows.carry {
                if let Some(from) = carried_from(&self.in_flight, rows.id) {
                    b.carry.push(Carry { row: first_row, from: from.0, from_wanted: from.1 });
                }
                // A known id in the place of the one that the device will put there.
                b.tokens.push(0);
            } else if let Some(active) = self.active.get(&rows.id) {
                let known = rows.first + rows.rows - rows.proposed;
                b.tokens.extend_from_slice(&active.tokens[rows.first..known]);
                b.tokens.extend_from_slice(&active.proposals()[..rows.proposed]);
            }
            for position in rows.first..rows.first + rows.rows {
                let block = sequence.blocks[position / block_tokens] as usize;
                b.positions.push(position as u32);
                b.slots.push((block * block_tokens + position % block_tokens) as u32);
            }
            let context = rows.first + rows.rows;
            let blocks = context.div_ceil(block_tokens);
            b.sequences.push(StepSequence {
                first_row,
                rows: rows.rows,
                context,
                first_block: b.block_tables.len(),
                blocks,
            });
            b.block_tables.extend_from_slice(&sequence.blocks[..blocks]);
            let want = self.active.get(&rows.id).map_or(Want::Logits, Active::want);
            for row in rows.rows - rows.wanted_rows()..rows.rows {
                b.wanted.push(WantedRow { row: first_row + row, want });
            }
        }
    }

    /// Waits for the oldest step in flight and gives its results out.
    fn collect_step(&mut self) {
        let Some(InFlight { ticket, plan, rows, submitted_ns }) = self.in_flight.pop_front() else { return };
        let Runner { executor, active, queues, kv, shared, .. } = self;
        let collected = match executor.collect(ticket) {
            Ok(collected) => collected,
            Err(error) => return self.fail_step(plan, error),
        };
        let now = shared.clock.now_ns();
        // A step that was submitted while the one before ran began when that ended.
        self.pace.took(rows.0, rows.1, now.saturating_sub(submitted_ns.max(self.collected_ns)));
        self.collected_ns = now;
        let mut next_result = 0;
        for rows in &plan {
            let results = next_result..next_result + rows.wanted_rows();
            next_result = results.end;
            let Some(sequence) = queues.running_mut(rows.id) else { continue };
            sequence.in_flight -= 1;
            let Some(request) = active.get_mut(&rows.id) else { continue };
            request.computed(rows.first + rows.rows);
            if results.is_empty() {
                sequence.publish(kv, &request.tokens[..rows.first + rows.rows]);
                continue;
            }
            if sequence.finished {
                continue;
            }
            let results = results.map(|index| collected.row(index));
            if request.measured.is_some() {
                let computed = rows.first + rows.rows;
                sequence.publish(kv, &request.tokens[..computed]);
                let ended = request.measure(computed - rows.wanted, results, shared).err();
                if ended.is_some() || computed == sequence.known {
                    sequence.finished = true;
                    if let Some(mut request) = active.remove(&rows.id) {
                        request.measured_to_the_end();
                        let reason = if ended.is_some() { Finish::Error } else { Finish::Length };
                        request.finish(reason, ended, shared);
                    }
                }
                continue;
            }
            let (taken, ended) = request.take_rows(results, rows.proposed, shared);
            sequence.known += taken;
            // The rows of the known tokens, and those of the proposals that were right, but for one that is to be computed
            // again.
            let again = usize::from(taken == 0 && matches!(ended, Ok(None)));
            let computed = rows.first + rows.rows - rows.proposed + taken.saturating_sub(1) - again;
            sequence.publish(kv, &request.tokens[..computed.min(request.tokens.len())]);
            let (reason, error) = match ended {
                Ok(None) => {
                    // Behind a rejected proposal the positions are written again.
                    sequence.submitted -= rows.proposed + 1 - taken;
                    // A prompt of one token that is computed again is a prompt again.
                    sequence.new |= sequence.submitted == 0;
                    if let Some((known, positions_max)) = request.shift_if_full() {
                        queues.begin_anew(kv, rows.id, known, positions_max);
                    }
                    continue;
                }
                Ok(Some(reason)) => (reason, None),
                Err(error) => (Finish::Error, Some(error)),
            };
            sequence.finished = true;
            if let Some(request) = active.remove(&rows.id) {
                request.finish(reason, error, shared);
            }
        }
        self.spare.push(plan);
    }

    /// A step failed: its requests end with the error, the others go on.
    fn fail_step(&mut self, plan: Vec<PlannedRows>, error: Error) {
        for rows in &plan {
            if let Some(sequence) = self.queues.running_mut(rows.id) {
                sequence.in_flight -= 1;
                sequence.finished = true;
            }
            if let Some(active) = self.active.remove(&rows.id) {
                active.finish(Finish::Error, Some(error.clone()), &self.shared);
            }
        }
        self.spare.push(plan);
    }

    fn fail_all(&mut self, error: Error) {
        for sequence in self.queues.running.iter_mut().chain(&mut self.queues.waiting) {
            sequence.finished = true;
        }
        for (_, active) in self.active.drain() {
            active.finish(Finish::Error, Some(error.clone()), &self.shared);
        }
    }
}

/// The ticket and the index among its wanted rows under which request `id` is selected in the newest
/// step in flight.
fn carried_from(in_flight: &VecDeque<InFlight>, id: u64) -> Option<(Ticket, usize)> {
    let step = in_flight.back()?;
    let at = step.plan.iter().position(|rows| rows.id == id && rows.wanted > 0)?;
    let place = step.plan[..at].iter().map(PlannedRows::wanted_rows).sum();
    Some((step.ticket, place))
}

/// What a caught panic says.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Starts the engine's thread.
pub(crate) fn start(
    shared: Arc<Shared>,
    executor: Box<dyn Executor>,
    kv_blocks: usize,
) -> Result<std::thread::JoinHandle<()>> {
    let capabilities = executor.capabilities();
    let context_blocks = (shared.info.context as usize).div_ceil(capabilities.block_tokens);
    if kv_blocks < context_blocks {
        return Err(Error::new(
            Status::NoMemory,
            format!(
                "{kv_blocks} KV blocks, and one full context of {} tokens needs {context_blocks}",
                shared.info.context
            ),
        ));
    }
    // A longer prompt, or a sequence that was put back, would wait for ever.
    crate::ensure!(
        capabilities.prefill_over_cache || capabilities.step_tokens >= shared.info.context as usize,
        Unsupported,
        "the device takes whole prompts of at most {} tokens, and the context is {} tokens: lower max_context",
        capabilities.step_tokens,
        shared.info.context
    );
    let runner = Runner::new(shared, executor, kv_blocks);
    crate::base::thread::spawn("aquila-engine", move || runner.run())
}
