//! The file of a saved session: its tokens, and the KV blocks that were computed of them.
//!
//! ```text
//! header   64 bytes: magic, version, tokens and bytes of a block, model, counts, a checksum of all but the blocks
//! texts    the arithmetic, the form of a block
//! tokens   4 bytes each
//! blocks   each a checksum of 8 bytes and its content, in the order of the tokens they hold
//! ```
//!
//! All numbers are little-endian. Every byte is under a checksum (xxh3), the lengths under that of the header, and the
//! file has not a byte more: so one that was cut or altered is refused whole, before anything of it is used. A checksum is
//! no signature. What a forged file can do is bounded otherwise: its blocks are found by the restored session alone.

use crate::base::error::Result;
use crate::base::new_file::NewFile;
use crate::base::{checked, limits};
use crate::loading::file::SourceFile;
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: [u8; 8] = *b"AQUILA\x1aS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
/// Where the header's checksum is: all before it, the texts and the tokens are under it.
const CHECKSUM_AT: usize = 56;
/// Longest of the texts.
const TEXT_BYTES_MAX: u32 = 256;
/// Bytes that are read at once when a file is verified.
const VERIFY_BYTES: usize = 16 << 20;

/// What the file and the engine must agree in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The model: names, sizes and both ends of its weight files.
    pub model: u64,
    /// What keys and values were computed with.
    pub arithmetic: String,
    /// What the bytes of a block mean.
    pub block_form: String,
    /// Token positions of a block.
    pub block_tokens: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// Header, texts and tokens as bytes.
fn encode(identity: &Identity, tokens: &[u32], blocks: usize) -> Vec<u8> {
    let texts = [&identity.arithmetic, &identity.block_form].map(|text| clip(text));
    let mut bytes = Vec::with_capacity(HEADER_BYTES + texts[0].len() + texts[1].len() + 4 * tokens.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((identity.block_tokens as u32).to_le_bytes());
    bytes.extend((identity.block_bytes as u64).to_le_bytes());
    bytes.extend(identity.model.to_le_bytes());
    bytes.extend((tokens.len() as u64).to_le_bytes());
    bytes.extend((blocks as u64).to_le_bytes());
    bytes.extend(texts.map(|text| (text.len() as u32).to_le_bytes()).concat());
    bytes.extend([0; HEADER_BYTES - CHECKSUM_AT]);
    texts.iter().for_each(|text| bytes.extend(text.as_bytes()));
    tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
    let sum = checksum(&bytes).to_le_bytes();
    bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum);
    bytes
}

/// Of header, texts and tokens, without the checksum itself.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&bytes[..CHECKSUM_AT]);
    hash.update(&bytes[HEADER_BYTES..]);
    hash.digest()
}

fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX as usize)).unwrap_or_default()
}

/// A session's file in the making. Dropped before [`SessionWriter::finish`] it leaves nothing.
#[derive(Debug)]
pub struct SessionWriter {
    file: NewFile,
    identity: Identity,
    tokens: Vec<u32>,
    blocks: usize,
    end: u64,
}

impl SessionWriter {
    /// Begins a file that will be at `path`; what is there stays until it is whole.
    pub fn create(path: &Path, identity: &Identity, tokens: &[u32]) -> Result<SessionWriter> {
        let file = NewFile::create(path, "a session")?;
        let end = encode(identity, tokens, 0).len() as u64;
        Ok(SessionWriter { file, identity: identity.clone(), tokens: tokens.to_vec(), blocks: 0, end })
    }

    /// Blocks so far.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Adds whole blocks.
    pub fn add(&mut self, blocks: &[u8]) -> Result<()> {
        for block in blocks.chunks_exact(self.identity.block_bytes.max(1)) {
            self.file.put(self.end, &xxh3_64(block).to_le_bytes())?;
            self.file.write(self.end + 8, block)?;
            self.end += 8 + block.len() as u64;
            self.blocks += 1;
        }
        Ok(())
    }

    /// Has all of it written to the disk, and gives the file its name.
    pub fn finish(self) -> Result<()> {
        self.file.put(0, &encode(&self.identity, &self.tokens, self.blocks))?;
        self.file.set_len(self.end)?;
        self.file.synchronise()?;
        self.file.publish()
    }
}

/// A session's file whose header, texts, tokens and length are checked.
#[derive(Debug)]
pub struct SessionFile {
    source: SourceFile,
    tokens: Vec<u32>,
    blocks: usize,
    block_bytes: usize,
    /// Where the first block's checksum is.
    first: u64,
}

impl SessionFile {
    /// Opens a file for an engine that is `wanted`, has `vocab` ids and holds `context` tokens. Errors as
    /// `Engine::restore_session`.
    pub fn open(path: &Path, wanted: &Identity, vocab: u32, context: u32) -> Result<SessionFile> {
        SessionFile::read_from(SourceFile::open(path)?, wanted, vocab, context)
    }

    /// The same for bytes that may be in memory.
    pub fn read_from(source: SourceFile, wanted: &Identity, vocab: u32, context: u32) -> Result<SessionFile> {
        let path = source.path().to_path_buf();
        let path = path.display();
        let mut header = [0; HEADER_BYTES];
        source.read_at(0, &mut header)?;
        crate::ensure!(
            header.starts_with(&MAGIC),
            Format,
            "{path}: no saved session: it begins with {:?}",
            String::from_utf8_lossy(&header[..8])
        );
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let version = word(8);
        crate::ensure!(
            version == VERSION,
            Format,
            "{path}: version {version} of saved sessions, expected {VERSION}"
        );
        let (tokens, blocks) = (long(32), long(40));
        let texts = [word(48), word(52)];
        // Before any memory is taken: all sizes against their bounds, and against the file.
        crate::ensure!(
            texts.iter().all(|&len| len <= TEXT_BYTES_MAX),
            Format,
            "{path}: texts of {} and {} bytes, expected at most {TEXT_BYTES_MAX}",
            texts[0],
            texts[1]
        );
        crate::ensure!(
            tokens <= u64::from(limits::CONTEXT_MAX),
            Format,
            "{path}: {tokens} tokens, expected at most {}",
            limits::CONTEXT_MAX
        );
        let (block_tokens, block_bytes) = (u64::from(word(12)), long(16));
        crate::ensure!(
            block_tokens > 0 && blocks <= tokens / block_tokens,
            Format,
            "{path}: {blocks} KV blocks of {block_tokens} tokens, and it has {tokens} tokens"
        );
        let text_bytes = u64::from(texts[0]) + u64::from(texts[1]);
        let first = HEADER_BYTES as u64 + text_bytes + 4 * tokens;
        let length = checked::add(block_bytes, 8, "a KV block")
            .and_then(|block| checked::mul(blocks, block, "KV blocks"))
            .and_then(|all| checked::add(first, all, "a saved session"))
            .map_err(|error| error.at(&path))?;
        crate::ensure!(
            source.len() == length,
            Format,
            "{path}: expected {length} bytes by its header, found {}",
            source.len()
        );
        let mut front = header.to_vec();
        front.extend(source.read_range(HEADER_BYTES as u64..first)?);
        crate::ensure!(
            checksum(&front) == long(CHECKSUM_AT),
            Format,
            "{path}: damaged: the checksum of its header and tokens is another"
        );
        // The header is what was written: now whether it is this engine's.
        let text = |from: usize, len: u32| {
            let at = HEADER_BYTES + from;
            String::from_utf8_lossy(&front[at..at + len as usize]).into_owned()
        };
        let found = Identity {
            model: long(24),
            arithmetic: text(0, texts[0]),
            block_form: text(texts[0] as usize, texts[1]),
            block_tokens: word(12) as usize,
            block_bytes: checked::usize(block_bytes, "a KV block")?,
        };
        check_identity(&found, wanted).map_err(|error| error.at(&path))?;
        let tokens: Vec<u32> = front[HEADER_BYTES + text_bytes as usize..]
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        crate::ensure!(
            tokens.iter().all(|&id| id < vocab),
            Format,
            "{path}: token ids of {vocab} and more, which the model does not have"
        );
        crate::ensure!(
            tokens.len() <= context as usize,
            ContextFull,
            "{path}: {} tokens, and this engine's context holds {context}",
            tokens.len()
        );
        let blocks = checked::usize(blocks, "KV blocks")?;
        Ok(SessionFile { source, tokens, blocks, block_bytes: found.block_bytes, first })
    }

    /// The session's tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many KV blocks it holds: those of the first tokens.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Compares every block with its checksum.
    pub fn verify(&self) -> Result<()> {
        let most = (VERIFY_BYTES / self.block_bytes.max(1)).max(1);
        (0..self.blocks).step_by(most).try_for_each(|first| self.read(first, most).map(drop))
    }

    /// Up to `count` blocks from number `first` on, compared with their checksums: `Format` names the one that is damaged.
    pub fn read(&self, first: usize, count: usize) -> Result<Vec<u8>> {
        let count = count.min(self.blocks.saturating_sub(first));
        let stored = self.block_bytes as u64 + 8;
        let start = self.first + first as u64 * stored;
        let bytes = self.source.read_range(start..start + count as u64 * stored)?;
        let mut content = Vec::new();
        let len = count * self.block_bytes;
        content
            .try_reserve_exact(len)
            .map_err(|_| crate::error!(NoMemory, "cannot take {len} bytes for KV blocks"))?;
        for (index, stored) in bytes.chunks_exact(self.block_bytes + 8).enumerate() {
            let (sum, block) = stored.split_at(8);
            crate::ensure!(
                sum == xxh3_64(block).to_le_bytes(),
                Format,
                "{}: damaged: the checksum of KV block {} is another",
                self.source.path().display(),
                first + index
            );
            content.extend_from_slice(block);
        }
        Ok(content)
    }
}

fn check_identity(found: &Identity, wanted: &Identity) -> Result<()> {
    crate::ensure!(
        found.model == wanted.model,
        Format,
        "saved with another model: fingerprint {:016x}, this engine's is {:016x}",
        found.model,
        wanted.model
    );
    let pairs = [
        ("computed with", &found.arithmetic, clip(&wanted.arithmetic)),
        ("KV cache", &found.block_form, clip(&wanted.block_form)),
    ];
    for (what, found, wanted) in pairs {
        crate::ensure!(found == wanted, Format, "saved with {what} {found:?}, this engine has {wanted:?}");
    }
    crate::ensure!(
        (found.block_tokens, found.block_bytes) == (wanted.block_tokens, wanted.block_bytes),
        Format,
        "saved with KV blocks of {} tokens and {} bytes, this engine has {} and {}",
        found.block_tokens,
        found.block_bytes,
        wanted.block_tokens,
        wanted.block_bytes
    );
    Ok(())
}

#[cfg(test)]
mod tests;
