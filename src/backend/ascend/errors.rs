//! What the numbers of ACL, HCCL and ATB mean for a caller: a status, the number, its name, and the driver's own words.

use super::acl::Acl;
use super::hccl::Hccl;
use crate::base::error::{Error, Result, Status};
use std::ffi::{CStr, c_char};

/// A number of one of the libraries and what it means here.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The number.
    pub value: i32,
    /// Its name in the library's headers.
    pub name: &'static str,
    /// What a caller can do about it.
    pub status: Status,
    /// Whether older headers lack the name.
    pub newer: bool,
    /// Whether the device is unusable from then on.
    pub lost: bool,
}

const fn code(value: i32, name: &'static str, status: Status) -> Code {
    Code { value, name, status, newer: false, lost: false }
}

const fn newer(value: i32, name: &'static str, status: Status) -> Code {
    Code { newer: true, ..code(value, name, status) }
}

const fn lost(value: i32, name: &'static str) -> Code {
    Code { lost: true, ..code(value, name, Status::Device) }
}

/// The numbers of `aclError`. One that is not listed is [`Status::Device`].
pub const ACL_CODES: &[Code] = &[
    code(100_000, "ACL_ERROR_INVALID_PARAM", Status::Internal),
    code(100_001, "ACL_ERROR_UNINITIALIZE", Status::Internal),
    code(100_002, "ACL_ERROR_REPEAT_INITIALIZE", Status::State),
    code(100_037, "ACL_ERROR_REPEAT_FINALIZE", Status::State),
    code(100_039, "ACL_ERROR_COMPILING_STUB_MODE", Status::Device),
    code(148_051, "ACL_ERROR_RELATIVE_RESOURCE_NOT_CLEARED", Status::Internal),
    code(200_000, "ACL_ERROR_BAD_ALLOC", Status::NoMemory),
    code(200_001, "ACL_ERROR_API_NOT_SUPPORT", Status::Unsupported),
    code(200_002, "ACL_ERROR_INVALID_DEVICE", Status::Argument),
    code(200_006, "ACL_ERROR_FEATURE_UNSUPPORTED", Status::Unsupported),
    code(300_000, "ACL_ERROR_STORAGE_OVER_LIMIT", Status::DeviceMemory),
    code(500_000, "ACL_ERROR_INTERNAL_ERROR", Status::Device),
    code(500_001, "ACL_ERROR_FAILURE", Status::Device),
    code(500_003, "ACL_ERROR_RT_FAILURE", Status::Device),
    code(500_004, "ACL_ERROR_DRV_FAILURE", Status::Device),
    code(107_000, "ACL_ERROR_RT_PARAM_INVALID", Status::Internal),
    code(107_001, "ACL_ERROR_RT_INVALID_DEVICEID", Status::Argument),
    code(107_002, "ACL_ERROR_RT_CONTEXT_NULL", Status::Internal),
    code(107_003, "ACL_ERROR_RT_STREAM_CONTEXT", Status::Internal),
    code(107_008, "ACL_ERROR_RT_ADDR_UNALIGNED", Status::Internal),
    code(107_016, "ACL_ERROR_RT_INVALID_MEMORY_TYPE", Status::Internal),
    code(107_017, "ACL_ERROR_RT_INVALID_HANDLE", Status::Internal),
    newer(107_019, "ACL_ERROR_RT_WAIT_TIMEOUT", Status::Device),
    newer(107_020, "ACL_ERROR_RT_TASK_TIMEOUT", Status::Device),
    code(207_000, "ACL_ERROR_RT_FEATURE_NOT_SUPPORT", Status::Unsupported),
    code(207_001, "ACL_ERROR_RT_MEMORY_ALLOCATION", Status::DeviceMemory),
    code(207_004, "ACL_ERROR_RT_NO_DEVICE", Status::NotFound),
    code(207_005, "ACL_ERROR_RT_RESOURCE_ALLOC_FAIL", Status::Device),
    code(207_006, "ACL_ERROR_RT_NO_PERMISSION", Status::Device),
    code(207_007, "ACL_ERROR_RT_NO_EVENT_RESOURCE", Status::Device),
    code(207_008, "ACL_ERROR_RT_NO_STREAM_RESOURCE", Status::Device),
    newer(207_018, "ACL_ERROR_RT_DEVICE_OOM", Status::DeviceMemory),
    newer(207_020, "ACL_ERROR_RT_TIMEOUT", Status::Device),
    code(507_000, "ACL_ERROR_RT_INTERNAL_ERROR", Status::Device),
    code(507_002, "ACL_ERROR_RT_STREAM_TASK_FULL", Status::Device),
    code(507_008, "ACL_ERROR_RT_SOC_VERSION", Status::Device),
    lost(507_010, "ACL_ERROR_RT_LOST_HEARTBEAT"),
    lost(507_014, "ACL_ERROR_RT_AICORE_TIMEOUT"),
    lost(507_015, "ACL_ERROR_RT_AICORE_EXCEPTION"),
    lost(507_018, "ACL_ERROR_RT_AICPU_EXCEPTION"),
    code(507_033, "ACL_ERROR_RT_DEV_SETUP_ERROR", Status::Device),
    lost(507_034, "ACL_ERROR_RT_VECTOR_CORE_TIMEOUT"),
    lost(507_035, "ACL_ERROR_RT_VECTOR_CORE_EXCEPTION"),
    newer(507_046, "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT", Status::Device),
    newer(507_047, "ACL_ERROR_RT_EVENT_SYNC_TIMEOUT", Status::Device),
    lost(507_053, "ACL_ERROR_RT_DEVICE_MEM_ERROR"),
];

/// The numbers of `HcclResult`. One that is not listed is [`Status::Device`].
pub const HCCL_CODES: &[Code] = &[
    code(1, "HCCL_E_PARA", Status::Internal),
    code(2, "HCCL_E_PTR", Status::Internal),
    code(3, "HCCL_E_MEMORY", Status::DeviceMemory),
    code(4, "HCCL_E_INTERNAL", Status::Device),
    code(5, "HCCL_E_NOT_SUPPORT", Status::Unsupported),
    code(6, "HCCL_E_NOT_FOUND", Status::Device),
    code(7, "HCCL_E_UNAVAIL", Status::Device),
    code(8, "HCCL_E_SYSCALL", Status::Device),
    code(9, "HCCL_E_TIMEOUT", Status::Device),
    code(10, "HCCL_E_OPEN_FILE_FAILURE", Status::Device),
    code(11, "HCCL_E_TCP_CONNECT", Status::Device),
    code(12, "HCCL_E_ROCE_CONNECT", Status::Device),
    code(13, "HCCL_E_TCP_TRANSFER", Status::Device),
    code(14, "HCCL_E_ROCE_TRANSFER", Status::Device),
    code(15, "HCCL_E_RUNTIME", Status::Device),
    code(16, "HCCL_E_DRV", Status::Device),
    code(17, "HCCL_E_PROFILING", Status::Device),
    code(18, "HCCL_E_CCE", Status::Device),
    code(19, "HCCL_E_NETWORK", Status::Device),
    code(20, "HCCL_E_AGAIN", Status::Device),
    code(21, "HCCL_E_REMOTE", Status::Device),
    newer(22, "HCCL_E_SUSPENDING", Status::Device),
    newer(23, "HCCL_E_OPRETRY_FAIL", Status::Device),
    newer(24, "HCCL_E_OOM", Status::DeviceMemory),
];

/// The numbers of ATB's `ErrorType`, whose names ATB's headers begin with `ERROR_`. What ATB finds wrong with an
/// operation is a bug of this backend, but for the dtypes and formats that a chip may lack.
pub const ATB_CODES: &[Code] = &[
    code(1, "INVALID_PARAM", Status::Internal),
    code(2, "INVALID_GRAPH", Status::Internal),
    code(3, "INTERNAL_ERROR", Status::Device),
    code(4, "RT_FAIL", Status::Device),
    code(5, "INVALID_IN_TENSOR_NUM", Status::Internal),
    code(6, "INVALID_TENSOR_DTYPE", Status::Internal),
    code(7, "INVALID_TENSOR_FORMAT", Status::Internal),
    code(8, "INVALID_TENSOR_DIM", Status::Internal),
    code(9, "INVALID_TENSOR_SIZE", Status::Internal),
    code(10, "OPERATION_NULL_RUNNER", Status::Internal),
    code(11, "GRAPH_INFERSHAPE_FUNC_FAIL", Status::Internal),
    code(12, "CANN_ERROR", Status::Device),
    code(13, "INVALID_TENSOR_INI_MATCH", Status::Unsupported),
    code(14, "INVALID_TENSOR_ADDR", Status::Internal),
    code(15, "INVALID_TENSOR_NUM", Status::Internal),
    code(16, "INVALID_TENSOR_DIM_NUM", Status::Internal),
    code(17, "INVALID_SINGLE_OPERATION_PARAM", Status::Internal),
    code(18, "GRAPH_NODE_RESHAPE_FUNC_FAIL", Status::Internal),
    code(19, "INVALID_GRAPH_NODE_CHUNK", Status::Internal),
    code(20, "INVALID_CONTEXT_ADDR", Status::Internal),
    code(21, "INVALID_STREAM", Status::Internal),
    code(22, "INVALID_WORKSPACE_SIZE", Status::Internal),
    code(23, "INVALID_WORKSPACE_ADDR", Status::Internal),
    code(24, "INVALID_OPERATION_ADDR", Status::Internal),
    code(25, "HCCL_FAIL", Status::Device),
    code(26, "OUT_OF_DEVICE_MEMORY", Status::DeviceMemory),
    code(27, "OUT_OF_HOST_MEMORY", Status::NoMemory),
    code(28, "COMM_EMPTY", Status::Internal),
    code(29, "COPY_HOST_MEMORY_FAIL", Status::Device),
];

/// Longest text of the driver that a message takes over: its stack traces run to pages.
const DRIVER_TEXT_MAX: usize = 1000;

/// The error of a number: `call` is what was called, `words` what the driver says about it.
pub fn of_code(codes: &[Code], call: &str, value: i32, words: Option<&str>) -> Error {
    let known = codes.iter().find(|code| code.value == value);
    let name = known.map_or_else(String::new, |code| format!(" {}", code.name));
    let mut message = format!("{call}: error {value}{name}");
    if known.is_some_and(|code| code.lost) {
        message += ", the device is lost to this engine: free it, and load again";
    }
    // The driver writes several lines; a message is one.
    let words = words.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    if !words.is_empty() {
        message += "; the driver says: ";
        message += cut(&words);
    }
    Error { status: known.map_or(Status::Device, |code| code.status), native_code: value, message }
}

/// The beginning of a text, at most [`DRIVER_TEXT_MAX`] bytes of whole characters.
fn cut(words: &str) -> &str {
    &words[..words.floor_char_boundary(DRIVER_TEXT_MAX)]
}

/// A string that a C library owns, copied; `None` for NULL.
///
/// # Safety
/// `text` is NULL or points to bytes that end with NUL and stay until this returns.
pub unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the caller says the rest.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

impl Acl {
    /// Nothing, or the error of `call`. The driver's words are the calling thread's and are copied at once: the next
    /// call may free them.
    pub fn check(&self, call: &str, value: i32) -> Result<()> {
        if value == super::acl::ACL_SUCCESS { Ok(()) } else { Err(self.error(ACL_CODES, call, value)) }
    }

    /// The error of a number of any of the libraries, with what the driver says to this thread.
    pub fn error(&self, codes: &[Code], call: &str, value: i32) -> Error {
        // SAFETY: the function has no preconditions; it gives NULL or a string that stays until this thread's next
        // such call.
        let words = unsafe { text((self.aclGetRecentErrMsg)()) };
        of_code(codes, call, value, words.as_deref())
    }
}

impl Hccl {
    /// Nothing, or the error of `call`, with what the driver says to this thread.
    pub fn check(&self, acl: &Acl, call: &str, value: i32) -> Result<()> {
        if value == super::hccl::HCCL_SUCCESS { Ok(()) } else { Err(acl.error(HCCL_CODES, call, value)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_status_number_name_and_the_words_of_the_driver() {
        let error = of_code(ACL_CODES, "aclrtMalloc", 207_001, Some("[alloc]\n\t64 GiB\n"));
        assert_eq!((error.status, error.native_code), (Status::DeviceMemory, 207_001));
        assert_eq!(
            error.message,
            "aclrtMalloc: error 207001 ACL_ERROR_RT_MEMORY_ALLOCATION; the driver says: [alloc] 64 GiB"
        );
        let error = of_code(ACL_CODES, "aclrtSynchronizeStream", 507_015, None);
        assert_eq!(error.status, Status::Device);
        assert!(error.message.contains("lost"), "{error}");
        let error = of_code(HCCL_CODES, "HcclAllReduce", 4711, Some("  "));
        assert_eq!(error.message, "HcclAllReduce: error 4711");
        assert_eq!(error.status, Status::Device);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let error = of_code(&[], "x", 1, Some(&"错".repeat(1000)));
        assert!(error.message.len() < 1100 && error.message.ends_with('错'), "{}", error.message.len());
    }

    #[test]
    fn no_number_has_two_meanings() {
        for codes in [ACL_CODES, HCCL_CODES, ATB_CODES] {
            for (i, code) in codes.iter().enumerate() {
                assert!(codes[..i].iter().all(|other| other.value != code.value), "{}", code.name);
            }
        }
    }
}
