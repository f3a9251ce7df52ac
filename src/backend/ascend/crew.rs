//! The ranks of an engine, each on a thread of its own, and how the engine's thread speaks with them.
//!
//! CANN binds a device to the thread that set it, so all that a rank has is made, used and given back on its thread. It is
//! asked through a channel and answers through another. A step that is submitted has no answer: what went wrong is
//! said when it is collected. So the host goes on at once, and the rank waits only when it is asked to.
//!
//! A call of CANN may never return. Every answer is waited for with a limit; when it is over, the rank is left behind with
//! its thread, and the engine says so. When one rank fails the others would wait for it in a collective, for half an
//! hour by HCCL's own limit: they are told, and give their work up.

use super::comm::{Comm, Root};
use super::device::Device;
use super::image::{Image, PassKind};
use super::open::{Cann, answer_limit, no_answer};
use super::plan::Setup;
use super::program::Making;
use super::rank::{Rank, RankOptions};
use super::rank_table::RankTable;
use super::slot::Output;
use super::upload::Told;
use crate::backend::Progress;
use crate::base::error::{Error, Result, Status};
use crate::model::spec::DecoderSpec;
use crate::model::weights::WeightSet;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Asks that may wait for a rank: two steps, their collection, and one more.
const ASKS: usize = 8;
/// HCCL's own limit for joining a group.
const CONNECT_LIMIT: Duration = Duration::from_secs(120);
/// How often who waits for the ranks looks up: to tell progress.
const SLICE: Duration = Duration::from_millis(50);
/// How long a rank is waited for that was told to give up.
const GIVE_UP: Duration = Duration::from_secs(5);

/// What a crew is opened with.
#[derive(Clone, Debug)]
pub struct Opening {
    /// CANN.
    pub cann: &'static Cann,
    /// A device for each rank.
    pub devices: Vec<u32>,
    /// All ranks' choices.
    pub setup: Setup,
    /// The decoder.
    pub spec: Arc<DecoderSpec>,
    /// KV blocks to take.
    pub kv_blocks: usize,
    /// Bytes that will be brought over to all devices together.
    pub upload_bytes: u64,
    /// Bytes of workspace each rank takes.
    pub workspace_bytes: Vec<u64>,
    /// Graphs, or node by node.
    pub making: Making,
    /// By which the ranks find each other; else by what the first one makes.
    pub rank_table: Option<Arc<RankTable>>,
}

/// What a rank is asked.
enum Ask {
    Join(Option<Box<Root>>),
    Step(Arc<Image>),
    Collect(Output),
    Tapped(Arc<Image>),
    Copy(Arc<[(u32, u32)]>),
    Read(Arc<[u32]>, Vec<u8>),
    Write(Arc<[u32]>, Vec<u8>),
}

/// A layer's rows of a pass.
pub type TappedRows = (PassKind, usize, Vec<f32>);

/// What it answers.
enum Reply {
    Ready(Option<Box<Root>>),
    Opened,
    Output(Output),
    Tapped(Vec<TappedRows>),
    Done,
    Bytes(Vec<u8>),
}

struct Member {
    who: String,
    asks: Option<SyncSender<Ask>>,
    thread: Option<JoinHandle<()>>,
    /// What it answered to the question that is open.
    reply: Option<Result<Reply>>,
    /// It did not answer in time.
    left_behind: bool,
}

/// The ranks of an engine.
pub struct Crew {
    members: Vec<Member>,
    answers: Receiver<(usize, Result<Reply>)>,
    give_up: Arc<AtomicBool>,
    limit: Duration,
    outputs: Vec<Output>,
    /// Why the ranks can do nothing any more.
    dead: Option<Error>,
}

impl Crew {
    /// Starts the ranks and loads them. On an error all is given back, as far as the devices answer.
    pub fn open(opening: Opening, weights: WeightSet, progress: Progress<'_>) -> Result<Crew> {
        let limit = answer_limit();
        let ranks = opening.devices.len();
        let told = Arc::new(Told::default());
        let total = opening.upload_bytes;
        let weights = Arc::new(weights);
        let opening = Arc::new(opening);
        let (answer, answers) = sync_channel(ASKS * ranks);
        let mut crew = Crew {
            members: Vec::with_capacity(ranks),
            answers,
            give_up: Arc::new(AtomicBool::new(false)),
            limit,
            outputs: vec![Output::default(); ranks],
            dead: None,
        };
        for rank in 0..ranks {
            let (asks, asked) = sync_channel(ASKS);
            let work = RankThread {
                opening: opening.clone(),
                told: told.clone(),
                give_up: crew.give_up.clone(),
                limit,
                rank,
                asked,
                answer: answer.clone(),
            };
            let weights = weights.clone();
            let thread = crate::base::thread::spawn("aquila-npu", move || work.run(weights))?;
            let who = format!("npu:{}", opening.devices[rank]);
            let thread = Some(thread);
            crew.members.push(Member { who, asks: Some(asks), thread, reply: None, left_behind: false });
        }
        drop((weights, answer));
        crew.join(&told, total, progress)?;
        Ok(crew)
    }

    /// First all devices, then the group, then memory and weights.
    fn join(&mut self, told: &Told, total: u64, progress: Progress<'_>) -> Result<()> {
        self.wait_for_all(self.limit, &mut || false)?;
        let mut root = None;
        for member in &mut self.members {
            match member.take()? {
                Reply::Ready(made) => root = root.or(made),
                _ => return Err(out_of_turn()),
            }
        }
        for index in 0..self.members.len() {
            self.ask(index, Ask::Join(root.clone()))?;
        }
        let joining = if self.members.len() > 1 { CONNECT_LIMIT } else { Duration::ZERO };
        let mut bytes = 0;
        self.wait_for_all(self.limit + joining, &mut || {
            let now = told.bytes.load(Ordering::Relaxed);
            let moved = now != bytes;
            bytes = now;
            if moved && progress("load", bytes, total).is_break() {
                told.abandoned.store(true, Ordering::Relaxed);
            }
            moved
        })?;
        self.members.iter_mut().try_for_each(|member| member.take().map(drop))?;
        let _ = progress("load", total, total);
        Ok(())
    }

    /// Sends a step to all ranks.
    pub fn submit(&mut self, image: &Arc<Image>) -> Result<()> {
        self.alive()?;
        for index in 0..self.members.len() {
            self.ask(index, Ask::Step(image.clone()))?;
        }
        Ok(())
    }

    /// Waits for the oldest step; the first rank's results are put into `output`.
    pub fn collect(&mut self, output: &mut Output) -> Result<()> {
        self.alive()?;
        for index in 0..self.members.len() {
            let room =
                if index == 0 { std::mem::take(output) } else { std::mem::take(&mut self.outputs[index]) };
            self.ask(index, Ask::Collect(room))?;
        }
        self.wait_for_step()?;
        for (index, member) in self.members.iter_mut().enumerate() {
            match (member.take()?, index) {
                (Reply::Output(filled), 0) => *output = filled,
                (Reply::Output(room), _) => self.outputs[index] = room,
                _ => return Err(out_of_turn()),
            }
        }
        Ok(())
    }

    /// Runs a step to its end; the residual stream of the first rank after each layer.
    pub fn run_tapped(&mut self, image: &Arc<Image>) -> Result<Vec<TappedRows>> {
        self.alive()?;
        for index in 0..self.members.len() {
            self.ask(index, Ask::Tapped(image.clone()))?;
        }
        self.wait_for_step()?;
        let mut first = None;
        for member in &mut self.members {
            let Reply::Tapped(taps) = member.take()? else { return Err(out_of_turn()) };
            first.get_or_insert(taps);
        }
        first.ok_or_else(out_of_turn)
    }

    /// Copies KV blocks.
    pub fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.alive()?;
        let pairs: Arc<[_]> = pairs.into();
        for index in 0..self.members.len() {
            self.ask(index, Ask::Copy(pairs.clone()))?;
        }
        self.wait_for_step()?;
        self.members.iter_mut().try_for_each(|member| member.take().map(drop))
    }

    /// Reads KV blocks, `pieces[rank]` bytes a block of each rank: `out` is `[blocks][ranks][piece]`.
    pub fn read_blocks(&mut self, blocks: &[u32], pieces: &[usize], out: &mut [u8]) -> Result<()> {
        self.alive()?;
        let list: Arc<[_]> = blocks.into();
        for (index, piece) in pieces.iter().enumerate() {
            self.ask(index, Ask::Read(list.clone(), vec![0; piece * blocks.len()]))?;
        }
        let whole: usize = pieces.iter().sum();
        let mut at = 0;
        self.wait_for_step()?;
        for (member, &piece) in self.members.iter_mut().zip(pieces) {
            let Reply::Bytes(bytes) = member.take()? else { return Err(out_of_turn()) };
            for (to, from) in out.chunks_exact_mut(whole).zip(bytes.chunks_exact(piece)) {
                to[at..at + piece].copy_from_slice(from);
            }
            at += piece;
        }
        Ok(())
    }

    /// The other way.
    pub fn write_blocks(&mut self, blocks: &[u32], pieces: &[usize], bytes: &[u8]) -> Result<()> {
        self.alive()?;
        let list: Arc<[_]> = blocks.into();
        let whole: usize = pieces.iter().sum();
        let mut at = 0;
        for (index, &piece) in pieces.iter().enumerate() {
            let own = bytes.chunks_exact(whole).flat_map(|block| &block[at..at + piece]).copied().collect();
            self.ask(index, Ask::Write(list.clone(), own))?;
            at += piece;
        }
        self.wait_for_step()?;
        self.members.iter_mut().try_for_each(|member| member.take().map(drop))
    }

    fn alive(&self) -> Result<()> {
        self.dead.clone().map_or(Ok(()), Err)
    }

    fn ask(&mut self, index: usize, ask: Ask) -> Result<()> {
        let member = &self.members[index];
        let sent = member.asks.as_ref().is_some_and(|asks| asks.try_send(ask).is_ok());
        if sent { Ok(()) } else { Err(self.failed(ended(&self.members[index].who))) }
    }

    /// Waits for an answer of each rank to a question about a step. The ranks' own limit is to speak first, because they
    /// know what they wait for.
    fn wait_for_step(&mut self) -> Result<()> {
        let limit = self.limit + self.limit / 2 + Duration::from_secs(1);
        self.wait_for_all(limit, &mut || false)
    }

    /// Waits until every rank has answered. The first failure is told to the others, so that they give up, and is the
    /// result. `moved` says whether there was progress, from which the limit then counts.
    fn wait_for_all(&mut self, limit: Duration, moved: &mut dyn FnMut() -> bool) -> Result<()> {
        let mut first = None;
        let mut since = Instant::now();
        while self.members.iter().any(|member| member.reply.is_none()) {
            match self.answers.recv_timeout(SLICE) {
                Ok((rank, reply)) => {
                    if let Err(error) = &reply {
                        first.get_or_insert_with(|| error.clone());
                        self.give_up.store(true, Ordering::Relaxed);
                        since = Instant::now();
                    }
                    self.members[rank].reply = Some(reply);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    first
                        .get_or_insert_with(|| Error::new(Status::Internal, "the ranks' threads have ended"));
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if moved() {
                since = Instant::now();
            }
            // Who is told to give up is not waited for as long.
            let limit = if first.is_some() { limit.min(GIVE_UP) } else { limit };
            if since.elapsed() > limit {
                for member in self.members.iter_mut().filter(|member| member.reply.is_none()) {
                    member.left_behind = true;
                    first.get_or_insert_with(|| no_answer(&member.who, limit));
                }
                break;
            }
        }
        match first {
            None => Ok(()),
            Some(error) => Err(self.failed(error)),
        }
    }

    /// Where a rank of several fails, or a device, nothing more can be done.
    fn failed(&mut self, error: Error) -> Error {
        self.members.iter_mut().for_each(|member| member.reply = None);
        let lost = matches!(error.status, Status::Device | Status::Internal);
        if self.members.len() > 1 || lost {
            self.dead.get_or_insert_with(|| error.clone());
        } else {
            self.give_up.store(false, Ordering::Relaxed);
        }
        error
    }
}

impl Member {
    fn take(&mut self) -> Result<Reply> {
        self.reply.take().unwrap_or_else(|| Err(out_of_turn()))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(|member| member.asks = None);
        let started = Instant::now();
        for member in &mut self.members {
            let Some(thread) = member.thread.take() else { continue };
            let limit = if member.left_behind { Duration::ZERO } else { self.limit };
            while !thread.is_finished() && started.elapsed() < limit {
                // Answers that nobody took must not keep it.
                let _ = self.answers.recv_timeout(Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                log::warn!(target: "aquila::npu", "{}: its thread is left behind in a call of CANN", member.who);
            }
        }
    }
}

/// What a rank's thread begins with.
struct RankThread {
    opening: Arc<Opening>,
    told: Arc<Told>,
    give_up: Arc<AtomicBool>,
    limit: Duration,
    rank: usize,
    asked: Receiver<Ask>,
    answer: SyncSender<(usize, Result<Reply>)>,
}

impl RankThread {
    fn run(self, weights: Arc<WeightSet>) {
        let (rank, answer) = (self.rank, self.answer.clone());
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(weights)));
        let error = match served {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => Error::new(Status::Internal, format!("rank {rank}: its thread panicked")),
        };
        let _ = answer.try_send((rank, Err(error)));
    }

    fn say(&self, reply: Result<Reply>) {
        // Nobody listens any more: the asks end as well.
        let _ = self.answer.try_send((self.rank, reply));
    }

    fn milliseconds(&self) -> u32 {
        self.limit.as_millis().min(i32::MAX as u128) as u32
    }

    /// An error before the rank is open ends the thread, and is said by `run`.
    fn serve(&self, weights: Arc<WeightSet>) -> Result<()> {
        let opening = &*self.opening;
        let ranks = opening.devices.len();
        let device = Device::open(opening.cann, opening.devices[self.rank])?;
        let table = opening.rank_table.as_deref();
        let makes_root = ranks > 1 && self.rank == 0 && table.is_none();
        let root = if makes_root { Some(Box::new(Root::new(&device)?)) } else { None };
        self.say(Ok(Reply::Ready(root)));
        let Ok(Ask::Join(root)) = self.asked.recv() else { return Ok(()) };
        let comm = match (table, root) {
            (Some(table), _) if ranks > 1 => Some(Comm::join_by_table(&device, table, self.rank as u32)?),
            (None, Some(root)) => Some(Comm::join(&device, &root, self.rank as u32, ranks as u32)?),
            _ => None,
        };
        let options = RankOptions {
            setup: &opening.setup,
            spec: &opening.spec,
            rank: self.rank,
            kv_blocks: opening.kv_blocks,
            workspace_bytes: opening.workspace_bytes[self.rank],
            making: opening.making,
            step_milliseconds: self.milliseconds(),
            load_milliseconds: self.milliseconds(),
        };
        let mut rank = Rank::open(&device, comm, &weights, &options, &self.told)?;
        drop(weights);
        self.say(Ok(Reply::Opened));
        self.answer_asks(&mut rank);
        Ok(())
    }

    fn answer_asks(&self, rank: &mut Rank) {
        let keep_waiting = || !self.give_up.load(Ordering::Relaxed);
        // What came of the steps that were submitted and not collected.
        let mut submitted: VecDeque<Result<()>> = VecDeque::with_capacity(ASKS);
        while let Ok(ask) = self.asked.recv() {
            let reply = match ask {
                Ask::Step(image) => {
                    submitted.push_back(rank.submit(&image));
                    continue;
                }
                Ask::Collect(mut output) => submitted
                    .pop_front()
                    .unwrap_or_else(|| Err(out_of_turn()))
                    .and_then(|()| rank.collect(&mut output, &keep_waiting))
                    .map(|()| Reply::Output(output)),
                Ask::Tapped(image) => {
                    let mut taps = Vec::new();
                    let mut tell = |kind, layer, rows: &[f32]| taps.push((kind, layer, rows.to_vec()));
                    let result = rank.run_tapped(&image, &mut tell);
                    submitted.push_back(result.clone());
                    result.map(|()| Reply::Tapped(taps))
                }
                Ask::Copy(pairs) => rank.copy_blocks(&pairs).map(|()| Reply::Done),
                Ask::Read(blocks, mut bytes) => {
                    rank.read_blocks(&blocks, &mut bytes).map(|()| Reply::Bytes(bytes))
                }
                Ask::Write(blocks, bytes) => rank.write_blocks(&blocks, &bytes).map(|()| Reply::Done),
                Ask::Join(_) => Err(out_of_turn()),
            };
            self.say(reply);
        }
    }
}

fn ended(who: &str) -> Error {
    crate::error!(Internal, "{who}: its thread has ended")
}

fn out_of_turn() -> Error {
    Error::new(Status::Internal, "a rank answered another question than it was asked")
}
