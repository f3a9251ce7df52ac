//! What KV blocks hold, out and in: done by the engine's thread between two steps, for a host thread that saves or
//! restores a session. One errand moves some megabytes, so that requests which run meanwhile hardly wait.

use crate::backend::Executor;
use crate::base::error::Result;
use crate::engine::kv_blocks::KvBlocks;
use crate::engine::prefix::Chain;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The text whose KV blocks are meant: from its first token on, in its realm.
#[derive(Clone, Debug)]
pub(crate) struct KvText {
    pub(crate) realm: u64,
    pub(crate) tokens: Arc<[u32]>,
}

/// What is to be done. Whoever waits for the answer of one that was lost is told so by its channel.
pub(crate) enum Errand {
    /// Read up to `most` blocks from number `first` on, as many as are cached one after another.
    Read { text: KvText, first: usize, most: usize, answer: Sender<Result<Vec<u8>>> },
    /// Let the blocks from number `first` on hold `bytes`, as far as there is room, and say how many do.
    Write { text: KvText, first: usize, bytes: Vec<u8>, answer: Sender<Result<usize>> },
}

impl Errand {
    pub(crate) fn run(self, kv: &mut KvBlocks, executor: &mut dyn Executor) {
        // A host thread that is gone needs no answer.
        match self {
            Errand::Read { text, first, most, answer } => {
                let _ = answer.send(read(&text, first, most, kv, executor));
            }
            Errand::Write { text, first, bytes, answer } => {
                let _ = answer.send(write(&text, first, &bytes, kv, executor));
            }
        }
    }
}

fn read(
    text: &KvText,
    first: usize,
    most: usize,
    kv: &mut KvBlocks,
    executor: &mut dyn Executor,
) -> Result<Vec<u8>> {
    let mut table = Vec::new();
    kv.adopt(&mut table, &text.tokens, text.tokens.len(), Chain::start(text.realm));
    let found = table.get(first..table.len().min(first.saturating_add(most))).unwrap_or(&[]);
    let content = read_blocks(found, executor);
    kv.release(&mut table);
    content
}

fn read_blocks(blocks: &[u32], executor: &mut dyn Executor) -> Result<Vec<u8>> {
    let len = blocks.len().saturating_mul(executor.capabilities().block_bytes);
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| crate::error!(NoMemory, "cannot take {len} bytes for KV blocks"))?;
    bytes.resize(len, 0);
    executor.read_blocks(blocks, &mut bytes)?;
    Ok(bytes)
}

fn write(
    text: &KvText,
    first: usize,
    bytes: &[u8],
    kv: &mut KvBlocks,
    executor: &mut dyn Executor,
) -> Result<usize> {
    let block_tokens = kv.block_tokens();
    let mut table = Vec::new();
    // The blocks before are held meanwhile: room for these is not made at their cost.
    let chain = kv.adopt(&mut table, &text.tokens, first * block_tokens, Chain::start(text.realm));
    let mut written = Ok(0);
    if table.len() == first {
        let count = (bytes.len() / executor.capabilities().block_bytes.max(1)).min(kv.free_blocks());
        let end = (first + count) * block_tokens;
        if count > 0 && end <= text.tokens.len() && kv.grow(&mut table, end) {
            let bytes = &bytes[..count * executor.capabilities().block_bytes];
            written = executor.write_blocks(&table[first..], bytes).map(|()| count);
            if written.is_ok() {
                kv.publish(&table, &text.tokens[..end], first, chain);
            }
        }
    }
    // What nobody knows is free again, also what a failed write left half done.
    kv.release(&mut table);
    written
}
