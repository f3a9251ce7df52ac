//! A session: a text that grows from request to request, and that can be copied, cut, kept in a file and taken up again.
//!
//! It is the list of its tokens. The KV blocks behind them are the prefix cache's: a request on a session finds what the
//! one before it computed, a copy shares all blocks with its original, and cutting forgets nothing that another
//! holds. Blocks of a session that nobody used for long may be given to others, and are then computed again from
//! the tokens, so ten thousand sessions cost no more KV cache than one, and no request ever fails for an idle one.
//!
//! What a request computes for a session is shared with all requests, like any prompt, unless it asks for
//! `no_cache`: then, and after a session came out of a file, its blocks are in a *realm* of its own, where only the
//! session and its copies find them.

use crate::base::error::{Error, Result};
use crate::engine::Engine;
use crate::engine::kv_content::{Errand, KvText};
use crate::engine::shared::Shared;
use crate::loading::session_file::{SessionFile, SessionWriter};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};

/// Bytes of KV blocks that one errand moves: some milliseconds of the engine's thread.
const ERRAND_BYTES: usize = 16 << 20;

/// A text on an engine. All methods may be called from any thread at once; while a request runs on it they give `Busy`.
/// Dropping it changes nothing for a request that runs.
pub struct Session {
    state: Arc<SessionState>,
    shared: Arc<Shared>,
}

/// The part of a session that its requests hold.
pub(crate) struct SessionState {
    /// Never 0; copies have the same.
    realm: u64,
    /// Whether it came out of a file.
    restored: bool,
    history: Mutex<History>,
}

struct History {
    tokens: Vec<u32>,
    /// Where the blocks of its last request are.
    realm: u64,
    busy: bool,
}

/// A request's hold on its session, which is busy meanwhile. Dropped without [`SessionHold::commit`] it leaves the session
/// as it was.
pub(crate) struct SessionHold {
    state: Arc<SessionState>,
    /// Where the blocks of the request are looked for.
    pub(crate) realm: u64,
}

impl SessionHold {
    /// The tokens so far.
    pub(crate) fn tokens(&self) -> Vec<u32> {
        self.state.history.lock().tokens.clone()
    }

    /// The session's text from now on.
    pub(crate) fn commit(self, tokens: Vec<u32>) {
        let mut history = self.state.history.lock();
        (history.tokens, history.realm) = (tokens, self.realm);
    }
}

impl Drop for SessionHold {
    fn drop(&mut self) {
        self.state.history.lock().busy = false;
    }
}

impl Session {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Session> {
        let realm = shared.next_id.fetch_add(1, Relaxed);
        Session::of(shared, realm, false, History { tokens: Vec::new(), realm: 0, busy: false })
    }

    fn of(shared: &Arc<Shared>, realm: u64, restored: bool, history: History) -> Result<Session> {
        check(shared)?;
        let history = Mutex::new(history);
        shared.sessions.fetch_add(1, Relaxed);
        Ok(Session { state: Arc::new(SessionState { realm, restored, history }), shared: shared.clone() })
    }

    /// Its tokens, unless a request runs on it.
    fn at_rest<T>(&self, body: impl FnOnce(&mut History) -> Result<T>) -> Result<T> {
        check(&self.shared)?;
        let mut history = self.state.history.lock();
        crate::ensure!(!history.busy, Busy, "session: a request runs on it");
        body(&mut history)
    }

    /// Takes it for a request of `shared`.
    pub(crate) fn hold(&self, shared: &Arc<Shared>, no_cache: bool) -> Result<SessionHold> {
        crate::ensure!(Arc::ptr_eq(shared, &self.shared), Argument, "session: it belongs to another engine");
        let realm = if no_cache || self.state.restored { self.state.realm } else { 0 };
        self.at_rest(|history| {
            history.busy = true;
            Ok(SessionHold { state: self.state.clone(), realm })
        })
    }

    /// How many tokens it has; while a request runs, how many it had before.
    pub fn len(&self) -> usize {
        if !self.shared.process.is_current() {
            return 0;
        }
        self.state.history.lock().tokens.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its tokens: those of all inputs and of all answers, without the ids that ended them.
    pub fn tokens(&self) -> Result<Vec<u32>> {
        self.at_rest(|history| Ok(history.tokens.clone()))
    }

    /// A copy that goes its own way. It shares what is computed; `Busy`, `Closed`, `State`, `Forked`.
    pub fn fork(&self) -> Result<Session> {
        let (tokens, realm) = self.at_rest(|history| Ok((history.tokens.clone(), history.realm)))?;
        let history = History { tokens, realm, busy: false };
        Session::of(&self.shared, self.state.realm, self.state.restored, history)
    }

    /// Cuts it to its first `length` tokens; `Argument` where it has fewer, and as [`Session::fork`].
    pub fn rollback(&self, length: usize) -> Result<()> {
        self.at_rest(|History { tokens, .. }| {
            crate::ensure!(
                length <= tokens.len(),
                Argument,
                "length: {length}, and the session has {} tokens",
                tokens.len()
            );
            tokens.truncate(length);
            Ok(())
        })
    }

    /// Writes its tokens, and what is computed of them and still cached, to a file; what was there is replaced when the new
    /// file is whole and on the disk. `Io` and `NotFound` name the path; then, too, nothing of the old file is lost.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (tokens, realm) = self.at_rest(|history| Ok((history.tokens.clone(), history.realm)))?;
        let mut writer = SessionWriter::create(path, &self.shared.identity, &tokens)?;
        let most = blocks_at_once(&self.shared);
        let read = |text: &KvText, first: usize| {
            self.errand(|answer| Errand::Read { text: text.clone(), first, most, answer })
        };
        let text = KvText { realm, tokens: tokens.into() };
        let mut content = read(&text, 0)?;
        while !content.is_empty() {
            writer.add(&content)?;
            content = read(&text, writer.blocks())?;
        }
        writer.finish()
    }

    /// Takes a session up from a file that [`Session::save`] wrote. The whole file is checked first: `Format`, naming what
    /// is wrong, for a file that is cut, altered, of another model, of other arithmetic, or of another KV cache;
    /// `ContextFull` where it has more tokens than the context. What finds no room in the KV cache is computed again.
    pub(crate) fn restore(shared: &Arc<Shared>, path: &Path) -> Result<Session> {
        check(shared)?;
        let file = SessionFile::open(path, &shared.identity, shared.info.vocab, shared.info.context)?;
        file.verify()?;
        let realm = shared.next_id.fetch_add(1, Relaxed);
        let history = History { tokens: file.tokens().to_vec(), realm, busy: false };
        let session = Session::of(shared, realm, true, history)?;
        let text = KvText { realm, tokens: file.tokens().into() };
        let most = blocks_at_once(shared);
        let mut first = 0;
        while first < file.blocks() {
            let bytes = file.read(first, most.min(file.blocks() - first))?;
            let text = text.clone();
            match session.errand(|answer| Errand::Write { text, first, bytes, answer })? {
                0 => break,
                written => first += written,
            }
        }
        Ok(session)
    }

    /// Has the engine's thread do something, and waits for the answer.
    fn errand<T>(&self, errand: impl FnOnce(Sender<Result<T>>) -> Errand) -> Result<T> {
        let (sender, answer) = channel();
        self.shared.send_errand(errand(sender))?;
        answer.recv().unwrap_or_else(|_| Err(lost(&self.shared)))
    }
}

/// KV blocks that one errand moves.
fn blocks_at_once(shared: &Shared) -> usize {
    (ERRAND_BYTES / shared.identity.block_bytes.max(1)).max(1)
}

/// Why the engine's thread dropped an errand.
fn lost(shared: &Shared) -> Error {
    check(shared).err().unwrap_or_else(|| crate::error!(Internal, "a bug in the library: an errand was lost"))
}

fn check(shared: &Shared) -> Result<()> {
    shared.process.check()?;
    shared.inbox.lock().life.check()
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.sessions.fetch_sub(1, Relaxed);
    }
}

impl Engine {
    /// An empty session. `Closed`, `State`, `Forked`.
    pub fn session(&self) -> Result<Session> {
        Session::new(&self.shared)
    }

    /// A session that was saved, by this engine or by another one of the same model that is loaded the same way.
    pub fn restore_session(&self, path: &Path) -> Result<Session> {
        Session::restore(&self.shared, path)
    }
}
