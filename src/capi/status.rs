//! Statuses and the error struct.

use super::guard::value_call;
use crate::base::error::Error;
use std::ffi::{CStr, c_char};

/// What a call answers: `AQUILA_OK`, or a negative number that says what the caller can do about the
/// failure. A positive number will never be an error. Numbers never move and are never used again.
pub type aquila_status = i32;

/// The call did what was asked.
pub const AQUILA_OK: i32 = 0;
/// There is nothing more: all events of the request were read.
pub const AQUILA_DONE: i32 = 1;
/// The time passed; nothing is lost.
pub const AQUILA_TIMEOUT: i32 = 2;
/// A bug in the library, caught before it could leave it. Please report the message.
pub const AQUILA_ERR_INTERNAL: i32 = -1;
/// An argument or option is NULL, misaligned, or outside its stated range.
pub const AQUILA_ERR_ARGUMENT: i32 = -2;
/// The object cannot do this now: for example, its engine met a bug before.
pub const AQUILA_ERR_STATE: i32 = -3;
/// Host memory, or the host budget, is exhausted.
pub const AQUILA_ERR_NO_MEMORY: i32 = -4;
/// Device memory, or the device budget, is exhausted.
pub const AQUILA_ERR_DEVICE_MEMORY: i32 = -5;
/// No such path.
pub const AQUILA_ERR_NOT_FOUND: i32 = -6;
/// The operating system refused; `native_code` holds its errno.
pub const AQUILA_ERR_IO: i32 = -7;
/// A file is there and is not what it must be.
pub const AQUILA_ERR_FORMAT: i32 = -8;
/// Known, and not built into this library or not offered by this device or model.
pub const AQUILA_ERR_UNSUPPORTED: i32 = -9;
/// The prompt leaves no room for a token in the context.
pub const AQUILA_ERR_CONTEXT_FULL: i32 = -10;
/// The caller's callback abandoned the load.
pub const AQUILA_ERR_CANCELLED: i32 = -11;
/// The deadline passed.
pub const AQUILA_ERR_DEADLINE: i32 = -12;
/// The object already runs a request.
pub const AQUILA_ERR_BUSY: i32 = -13;
/// The waiting line is full: try again later.
pub const AQUILA_ERR_OVERLOADED: i32 = -14;
/// The handle, or the engine behind it, was freed.
pub const AQUILA_ERR_CLOSED: i32 = -15;
/// A device driver failed; `native_code` holds its number.
pub const AQUILA_ERR_DEVICE: i32 = -16;
/// A JSON schema, regular expression or grammar that is not understood or cannot be met; only its request is affected.
pub const AQUILA_ERR_CONSTRAINT: i32 = -17;
/// The caller's buffer is too small; the needed size was written.
pub const AQUILA_ERR_TOO_SMALL: i32 = -18;
/// The handle was made before a fork and is used in the child. Last added.
pub const AQUILA_ERR_FORKED: i32 = -19;

/// Bytes of an error message, its NUL included.
pub const AQUILA_MESSAGE_SIZE: u32 = 504;

/// Why a call failed. The caller owns it; every call that takes one rewrites it, also on success
/// (AQUILA_OK and an empty message). NULL is allowed everywhere. The layout is frozen at 512 bytes.
#[repr(C)]
pub struct aquila_error {
    /// The status that the call returned.
    pub status: aquila_status,
    /// errno, aclError, HcclResult ... of the failure behind it, or 0.
    pub native_code: i32,
    /// One sentence for a person: UTF-8, NUL-terminated, cut between characters if too long.
    pub message: [c_char; 504],
}

const _: () = assert!(size_of::<aquila_error>() == 512 && AQUILA_MESSAGE_SIZE == 504);

impl aquila_error {
    /// What a success leaves.
    pub const fn empty() -> Self {
        aquila_error { status: AQUILA_OK, native_code: 0, message: [0; 504] }
    }

    /// Takes over `error`, or says success.
    pub fn fill(&mut self, error: Option<&Error>) {
        *self = aquila_error::empty();
        let Some(error) = error else { return };
        self.status = error.status as aquila_status;
        self.native_code = error.native_code;
        let room = self.message.len() - 1;
        let text = &error.message[..error.message.floor_char_boundary(room)];
        for (to, from) in self.message.iter_mut().zip(text.bytes()) {
            // A NUL inside (from a file's names) would hide the rest.
            *to = if from == 0 { b'?' } else { from } as c_char;
        }
    }
}

/// Every status with its name in the header, newest last.
const NAMES: [(aquila_status, &CStr); 22] = [
    (AQUILA_DONE, c"AQUILA_DONE"),
    (AQUILA_TIMEOUT, c"AQUILA_TIMEOUT"),
    (AQUILA_OK, c"AQUILA_OK"),
    (AQUILA_ERR_INTERNAL, c"AQUILA_ERR_INTERNAL"),
    (AQUILA_ERR_ARGUMENT, c"AQUILA_ERR_ARGUMENT"),
    (AQUILA_ERR_STATE, c"AQUILA_ERR_STATE"),
    (AQUILA_ERR_NO_MEMORY, c"AQUILA_ERR_NO_MEMORY"),
    (AQUILA_ERR_DEVICE_MEMORY, c"AQUILA_ERR_DEVICE_MEMORY"),
    (AQUILA_ERR_NOT_FOUND, c"AQUILA_ERR_NOT_FOUND"),
    (AQUILA_ERR_IO, c"AQUILA_ERR_IO"),
    (AQUILA_ERR_FORMAT, c"AQUILA_ERR_FORMAT"),
    (AQUILA_ERR_UNSUPPORTED, c"AQUILA_ERR_UNSUPPORTED"),
    (AQUILA_ERR_CONTEXT_FULL, c"AQUILA_ERR_CONTEXT_FULL"),
    (AQUILA_ERR_CANCELLED, c"AQUILA_ERR_CANCELLED"),
    (AQUILA_ERR_DEADLINE, c"AQUILA_ERR_DEADLINE"),
    (AQUILA_ERR_BUSY, c"AQUILA_ERR_BUSY"),
    (AQUILA_ERR_OVERLOADED, c"AQUILA_ERR_OVERLOADED"),
    (AQUILA_ERR_CLOSED, c"AQUILA_ERR_CLOSED"),
    (AQUILA_ERR_DEVICE, c"AQUILA_ERR_DEVICE"),
    (AQUILA_ERR_CONSTRAINT, c"AQUILA_ERR_CONSTRAINT"),
    (AQUILA_ERR_TOO_SMALL, c"AQUILA_ERR_TOO_SMALL"),
    (AQUILA_ERR_FORKED, c"AQUILA_ERR_FORKED"),
];

/// The name of a status as it stands in this header, for logs.
///
/// Returns: a static string, for example "AQUILA_ERR_FORMAT"; "unknown status" for a number that this
/// library does not know. Never NULL.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_status_name(status: aquila_status) -> *const c_char {
    let unknown = c"unknown status".as_ptr();
    value_call(unknown, || {
        let known = NAMES.iter().find(|(number, _)| *number == status);
        Ok(known.map_or(unknown, |(_, name)| name.as_ptr()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn header_and_library_have_the_same_statuses() {
        let errors = &NAMES[3..];
        assert_eq!(errors.len(), Status::ALL.len());
        for (status, (number, name)) in Status::ALL.iter().zip(errors) {
            assert_eq!(*status as i32, *number);
            assert_eq!(format!("AQUILA_{}", status.name()), name.to_str().unwrap());
        }
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let mut error = aquila_error::empty();
        for lead in 0..3 {
            let text = "x".repeat(lead) + &"模".repeat(400);
            error.fill(Some(&Error::new(Status::Format, text.clone())));
            let bytes: Vec<u8> =
                error.message.iter().map(|&c| c.to_ne_bytes()[0]).take_while(|&b| b != 0).collect();
            let cut = std::str::from_utf8(&bytes).unwrap();
            assert!(text.starts_with(cut) && (501..=503).contains(&cut.len()), "{}", cut.len());
        }
        error.fill(Some(&Error::new(Status::Format, "a\0b")));
        assert_eq!(error.message[..4].iter().map(|&c| c.to_ne_bytes()[0]).collect::<Vec<_>>(), b"a?b\0");
    }
}
