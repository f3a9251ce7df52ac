//! Sessions: texts that grow from request to request.

use super::engine::{aquila_engine, pin_engine};
use super::guard::{self, status_call, value_call};
use super::handles::{self, Noun, Pin, Table};
use super::status::{aquila_error, aquila_status};
use super::text::put;
use crate::base::error::Result;
use crate::engine::Session;
use std::ffi::c_char;

/// A text on an engine that grows from request to request: a request whose aquila_job names it continues it, and what it
/// made belongs to it. It is the list of its tokens, and costs no more memory than these; what was computed of them
/// stays in the engine's KV cache as long as there is room, and is computed again where there was none. A handle, never
/// dereferenced.
pub struct aquila_session;

/// What a session's handle stands for.
pub(super) struct SessionObject(Session);

impl SessionObject {
    pub fn session(&self) -> &Session {
        &self.0
    }
}

impl Noun for SessionObject {
    const KIND: u64 = 5;
    const NAME: &'static str = "aquila_session";
    fn table() -> &'static Table<Self> {
        static TABLE: Table<SessionObject> = Table::new();
        &TABLE
    }
}

/// Holds the session of a handle for a call.
pub(super) fn pin_session(handle: *const aquila_session) -> Result<Pin<SessionObject>> {
    handles::pin::<SessionObject, _>(handle).map_err(|e| e.at("session"))
}

fn give(out: &mut *mut aquila_session, session: Session) -> Result<()> {
    *out = handles::insert(SessionObject(session)).map_err(|(error, _)| error)?;
    Ok(())
}

/// Makes an empty session.
///
/// Parameters: `session`, where the handle is written, NULL on failure.
/// Returns: AQUILA_OK; AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_NO_MEMORY;
/// AQUILA_ERR_STATE after AQUILA_ERR_INTERNAL.
/// Ownership: the session is the caller's, to be given back with aquila_session_free, also after aquila_free.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_session_create(
    engine: *mut aquila_engine,
    session: *mut *mut aquila_session,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(session);
        status_call(error, || {
            let out = guard::out("session", session)?;
            let engine = pin_engine(engine)?;
            give(out, engine.engine().session()?)
        })
    }
}

/// Makes a copy of a session that goes its own way. It costs no computing: both share what is in the KV cache.
///
/// Parameters: `session`; `copy`, where the handle is written, NULL on failure.
/// Returns: AQUILA_OK; AQUILA_ERR_BUSY while a request runs on the session; and as aquila_session_create.
/// Ownership: as aquila_session_create.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_session_fork(
    session: *mut aquila_session,
    copy: *mut *mut aquila_session,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(copy);
        status_call(error, || {
            let out = guard::out("copy", copy)?;
            give(out, pin_session(session)?.0.fork()?)
        })
    }
}

/// Cuts a session to its first `length` tokens.
///
/// Parameters: `length`, at most aquila_session_length; 0 empties it.
/// Returns: AQUILA_OK; AQUILA_ERR_ARGUMENT where it has fewer tokens; AQUILA_ERR_BUSY while a request runs on it;
/// AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_STATE.
/// Threads: any, at any time.
///
/// # Safety
/// `error` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_session_rollback(
    session: *mut aquila_session,
    length: usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise is the same.
    unsafe { status_call(error, || pin_session(session)?.0.rollback(length)) }
}

/// How many tokens a session has; while a request runs on it, how many it had before.
///
/// Returns: the number; 0 also for NULL, for a freed session, and in a forked child.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_session_length(session: *const aquila_session) -> usize {
    value_call(0, || Ok(pin_session(session)?.0.len()))
}

/// The tokens of a session: those of all its inputs and of all that was made, without the ids that ended texts.
///
/// Parameters: `ids`, room for `capacity` ids; `count`, NULL or where their number is written, also with
/// AQUILA_ERR_TOO_SMALL.
/// Returns: AQUILA_OK; AQUILA_ERR_TOO_SMALL if `capacity` is less than `count`, nothing but that is written then. With
/// `ids` NULL and `capacity` 0 it only counts and returns AQUILA_OK. AQUILA_ERR_BUSY while a request runs on it;
/// AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_STATE.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_session_tokens(
    session: *mut aquila_session,
    ids: *mut i32,
    capacity: usize,
    count: *mut usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let count = guard::optional_out("count", count)?;
            let tokens = pin_session(session)?.0.tokens()?;
            let found: Vec<i32> = tokens.into_iter().map(|id| id as i32).collect();
            put("ids", &found, ids, capacity, count)
        })
    }
}

/// Writes a session to a file: its tokens, and what the KV cache still holds of them. A file of that name is replaced when
/// the new one is whole and on the disk: after a crash there is the old one or the new one. It takes about
/// kv_bytes_per_token (of aquila_plan) for each token. Requests that run meanwhile go on.
///
/// Parameters: `path`, of the file.
/// Returns: AQUILA_OK; AQUILA_ERR_IO or AQUILA_ERR_NOT_FOUND, naming the path; AQUILA_ERR_BUSY while a request runs on
/// it; AQUILA_ERR_ARGUMENT, AQUILA_ERR_NO_MEMORY, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_STATE. On failure an
/// older file is as it was.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_session_save(
    session: *mut aquila_session,
    path: *const c_char,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let path = guard::path("path", path)?;
            pin_session(session)?.0.save(path)
        })
    }
}

/// Takes a session up from a file that aquila_session_save wrote, in this process or another one. The file is read and
/// checked as a whole before anything is changed. What it brings into the KV cache only this session and its
/// copies find.
///
/// Parameters: `engine`, with the same model, dtype and kv_dtype as the one that saved it; `path`, of the file; `session`,
/// where the handle is written, NULL on failure.
/// Returns: AQUILA_OK; AQUILA_ERR_NOT_FOUND, AQUILA_ERR_IO; AQUILA_ERR_FORMAT, saying what is wrong, for a file that
/// was cut or altered, or is of another model, arithmetic or KV cache; AQUILA_ERR_CONTEXT_FULL where it has more
/// tokens than max_context; and as aquila_session_create.
/// Ownership: as aquila_session_create.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_session_restore(
    engine: *mut aquila_engine,
    path: *const c_char,
    session: *mut *mut aquila_session,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(session);
        status_call(error, || {
            let out = guard::out("session", session)?;
            let engine = pin_engine(engine)?;
            let path = guard::path("path", path)?;
            give(out, engine.engine().restore_session(path)?)
        })
    }
}

/// Frees a session. A request that runs on it goes on.
///
/// Parameters: `session`; NULL and a freed handle are fine: nothing happens.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_session_free(session: *mut aquila_session) {
    value_call((), || {
        drop(handles::close::<SessionObject, _>(session));
        Ok(())
    })
}
