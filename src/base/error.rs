//! The one error type of the library: a status that says what to do, and a sentence that says why.

/// What a caller can do about a failure. The numbers are those of `aquila.h`; they never move and a
/// retired one is never used again. Last added: [`Status::Forked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// A bug in the library, caught before it could leave it.
    Internal = -1,
    /// An argument or option is outside its stated range.
    Argument = -2,
    /// The object cannot do this now (a poisoned engine, a call out of order).
    State = -3,
    /// Host memory, or the host budget, is exhausted.
    NoMemory = -4,
    /// Device memory, or the device budget, is exhausted.
    DeviceMemory = -5,
    /// No such path.
    NotFound = -6,
    /// The operating system refused a read or a write.
    Io = -7,
    /// A file is there and is not what it must be.
    Format = -8,
    /// Known, and not built into this library or not offered by this device.
    Unsupported = -9,
    /// The prompt leaves no room for a token in the context.
    ContextFull = -10,
    /// The caller cancelled.
    Cancelled = -11,
    /// The deadline passed.
    Deadline = -12,
    /// The session already runs a request.
    Busy = -13,
    /// The waiting line is full.
    Overloaded = -14,
    /// The engine was freed.
    Closed = -15,
    /// A device driver failed; the native code holds its number.
    Device = -16,
    /// A JSON schema, regular expression or grammar that is not understood or cannot be met.
    Constraint = -17,
    /// The caller's buffer is too small; the needed size was written.
    TooSmall = -18,
    /// The handle was made before a fork and is used in the child.
    Forked = -19,
}

impl Status {
    /// Every error status, newest last.
    pub const ALL: [Status; 19] = [
        Status::Internal,
        Status::Argument,
        Status::State,
        Status::NoMemory,
        Status::DeviceMemory,
        Status::NotFound,
        Status::Io,
        Status::Format,
        Status::Unsupported,
        Status::ContextFull,
        Status::Cancelled,
        Status::Deadline,
        Status::Busy,
        Status::Overloaded,
        Status::Closed,
        Status::Device,
        Status::Constraint,
        Status::TooSmall,
        Status::Forked,
    ];

    /// The name after `AQUILA_`, for example `ERR_FORMAT`.
    pub fn name(self) -> &'static str {
        match self {
            Status::Internal => "ERR_INTERNAL",
            Status::Argument => "ERR_ARGUMENT",
            Status::State => "ERR_STATE",
            Status::NoMemory => "ERR_NO_MEMORY",
            Status::DeviceMemory => "ERR_DEVICE_MEMORY",
            Status::NotFound => "ERR_NOT_FOUND",
            Status::Io => "ERR_IO",
            Status::Format => "ERR_FORMAT",
            Status::Unsupported => "ERR_UNSUPPORTED",
            Status::ContextFull => "ERR_CONTEXT_FULL",
            Status::Cancelled => "ERR_CANCELLED",
            Status::Deadline => "ERR_DEADLINE",
            Status::Busy => "ERR_BUSY",
            Status::Overloaded => "ERR_OVERLOADED",
            Status::Closed => "ERR_CLOSED",
            Status::Device => "ERR_DEVICE",
            Status::Constraint => "ERR_CONSTRAINT",
            Status::TooSmall => "ERR_TOO_SMALL",
            Status::Forked => "ERR_FORKED",
        }
    }
}

/// A failure: what to do ([`Status`]), the system's or driver's own code, and why, in one sentence
/// with the file, the item, what was expected and what was found.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do about it.
    pub status: Status,
    /// `errno`, `aclError` or `HcclResult` where the failure came from outside; else 0.
    pub native_code: i32,
    /// One sentence for a person.
    pub message: String,
}

/// The result of every fallible function of the library.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with no native code.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Error { status, native_code: 0, message: message.into() }
    }

    /// A refused read, write or open of `path`: `NotFound` where there is no such path, else `Io`
    /// with the `errno`.
    pub fn io(action: &str, path: &std::path::Path, cause: &std::io::Error) -> Self {
        let status = match cause.kind() {
            std::io::ErrorKind::NotFound => Status::NotFound,
            std::io::ErrorKind::OutOfMemory => Status::NoMemory,
            _ => Status::Io,
        };
        Error {
            status,
            native_code: cause.raw_os_error().unwrap_or(0),
            message: format!("{}: cannot {action}: {cause}", path.display()),
        }
    }

    /// The same error with `place` (a file, a tensor, an option) named in front.
    pub fn at(mut self, place: impl std::fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

/// Builds an [`Error`]: `error!(Format, "{}: {} tensors, expected {}", file, n, m)`.
#[macro_export]
macro_rules! error {
    ($status:ident, $($arg:tt)+) => {
        $crate::base::error::Error::new($crate::base::error::Status::$status, format!($($arg)+))
    };
}

/// Returns early with an [`Error`] made as by [`error!`].
#[macro_export]
macro_rules! bail {
    ($status:ident, $($arg:tt)+) => { return Err($crate::error!($status, $($arg)+)) };
}

/// Returns early with an [`Error`] unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $status:ident, $($arg:tt)+) => {
        if !$condition { return Err($crate::error!($status, $($arg)+)); }
    };
}
