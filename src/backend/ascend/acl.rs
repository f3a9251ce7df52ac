//! AscendCL, `libascendcl.so`: devices, contexts, streams, events and memory.
//!
//! Checked against the headers of several releases by `tests/ascend`. An enum of C is an integer here: a value that
//! a newer release adds must not be undefined behaviour.

use super::table::{constants, functions, types};
use std::ffi::{c_char, c_void};

types! {
    /// What every function answers; 0 is success.
    aclError = i32;
    /// A context: what a thread must have before it may call the runtime.
    aclrtContext = *mut c_void;
    /// A stream: work in it runs in order.
    aclrtStream = *mut c_void;
    /// An event: a mark in a stream.
    aclrtEvent = *mut c_void;
    /// Whether the process runs on the device itself.
    aclrtRunMode = i32;
    /// Which pages device memory is taken from.
    aclrtMemMallocPolicy = i32;
    /// The direction of a copy.
    aclrtMemcpyKind = i32;
    /// Which memory is asked about.
    aclrtMemAttr = i32;
    /// Whether a stream is empty.
    aclrtStreamStatus = i32;
    /// Whether an event was reached.
    aclrtEventRecordedStatus = i32;
    /// The level of `aclrtPeekAtLastError`.
    aclrtLastErrLevel = i32;
    /// The type of an element of a tensor.
    aclDataType = i32;
    /// The order of the elements of a tensor.
    aclFormat = i32;
    /// A package of CANN.
    aclCANNPackageName = i32;
    /// The bits of an f16.
    aclFloat16 = u16;
    /// The versions of a package, as text.
    aclCANNPackageVersion = PackageVersion;
}

/// The versions of a package of CANN; strings that end with NUL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PackageVersion {
    /// The whole version.
    pub version: [c_char; 128],
    /// Its first part.
    pub major: [c_char; 64],
    /// Its second part.
    pub minor: [c_char; 64],
    /// Its third part.
    pub release: [c_char; 64],
    /// Its fourth part.
    pub patch: [c_char; 64],
    /// Nothing.
    pub reserved: [c_char; 128],
}

constants! {
    /// The call did what was asked.
    ACL_SUCCESS: aclError = 0;
    /// `aclInit` was called before, by the host or another library: no failure.
    ACL_ERROR_REPEAT_INITIALIZE: aclError = 100_002;
    /// A wait for an event ended before it was reached.
    [newer] ACL_ERROR_RT_WAIT_TIMEOUT: aclError = 107_019;
    /// The same, of the functions with a limit.
    [newer] ACL_ERROR_RT_EVENT_SYNC_TIMEOUT: aclError = 507_047;
    /// A stub library of the toolkit answered: it is made to link against, not to run.
    ACL_ERROR_COMPILING_STUB_MODE: aclError = 100_039;

    /// The process runs on the device itself.
    ACL_DEVICE: aclrtRunMode = 0;
    /// The process runs on the host of a device.
    ACL_HOST: aclrtRunMode = 1;

    /// Large pages where there are any, else small ones.
    ACL_MEM_MALLOC_HUGE_FIRST: aclrtMemMallocPolicy = 0;
    /// Large pages.
    ACL_MEM_MALLOC_HUGE_ONLY: aclrtMemMallocPolicy = 1;
    /// Small pages.
    ACL_MEM_MALLOC_NORMAL_ONLY: aclrtMemMallocPolicy = 2;
    /// Large pages where there are any, for copies between devices.
    ACL_MEM_MALLOC_HUGE_FIRST_P2P: aclrtMemMallocPolicy = 3;

    /// Within host memory.
    ACL_MEMCPY_HOST_TO_HOST: aclrtMemcpyKind = 0;
    /// From the host to the device.
    ACL_MEMCPY_HOST_TO_DEVICE: aclrtMemcpyKind = 1;
    /// From the device to the host.
    ACL_MEMCPY_DEVICE_TO_HOST: aclrtMemcpyKind = 2;
    /// Within or between devices.
    ACL_MEMCPY_DEVICE_TO_DEVICE: aclrtMemcpyKind = 3;

    /// DDR memory: Atlas 300I DUO.
    ACL_DDR_MEM: aclrtMemAttr = 0;
    /// HBM: Atlas 800I A2.
    ACL_HBM_MEM: aclrtMemAttr = 1;

    /// The stream's launches are prepared ahead.
    ACL_STREAM_FAST_LAUNCH: u32 = 1;
    /// Waiting for the stream spins.
    ACL_STREAM_FAST_SYNC: u32 = 2;
    /// All work of the stream is done.
    ACL_STREAM_STATUS_COMPLETE: aclrtStreamStatus = 0;
    /// It is not.
    ACL_STREAM_STATUS_NOT_READY: aclrtStreamStatus = 1;

    /// A stream can wait for the event.
    ACL_EVENT_SYNC: u32 = 1;
    /// The event tells the time.
    ACL_EVENT_TIME_LINE: u32 = 8;
    /// The event was not reached.
    ACL_EVENT_RECORDED_STATUS_NOT_READY: aclrtEventRecordedStatus = 0;
    /// It was.
    ACL_EVENT_RECORDED_STATUS_COMPLETE: aclrtEventRecordedStatus = 1;

    /// As the other side says.
    ACL_DT_UNDEFINED: aclDataType = -1;
    /// f32.
    ACL_FLOAT: aclDataType = 0;
    /// f16.
    ACL_FLOAT16: aclDataType = 1;
    /// i8.
    ACL_INT8: aclDataType = 2;
    /// i32.
    ACL_INT32: aclDataType = 3;
    /// u8.
    ACL_UINT8: aclDataType = 4;
    /// u32.
    ACL_UINT32: aclDataType = 8;
    /// i64.
    ACL_INT64: aclDataType = 9;
    /// u64.
    ACL_UINT64: aclDataType = 10;
    /// One byte, 0 or 1.
    ACL_BOOL: aclDataType = 12;
    /// bf16.
    ACL_BF16: aclDataType = 27;

    /// As the other side says.
    ACL_FORMAT_UNDEFINED: aclFormat = -1;
    /// Rows of elements, as in C.
    ACL_FORMAT_ND: aclFormat = 2;
    /// Tiles of 16 by 16, those of a column after one another: what the 310P's matrix unit reads.
    ACL_FORMAT_FRACTAL_NZ: aclFormat = 29;

    /// CANN as a whole.
    ACL_PKG_NAME_CANN: aclCANNPackageName = 0;
    /// The runtime.
    ACL_PKG_NAME_RUNTIME: aclCANNPackageName = 1;
    /// The driver.
    ACL_PKG_NAME_DRIVER: aclCANNPackageName = 7;
}

functions! {
    /// The functions of `libascendcl.so` that the backend calls.
    Acl;
    needed aclInit(*const c_char) -> aclError;
    needed aclFinalize() -> aclError;
    optional aclsysGetCANNVersion(aclCANNPackageName, *mut aclCANNPackageVersion) -> aclError;
    optional aclrtGetVersion(*mut i32, *mut i32, *mut i32) -> aclError;
    needed aclrtGetSocName() -> *const c_char;
    needed aclGetRecentErrMsg() -> *const c_char;
    needed aclrtGetRunMode(*mut aclrtRunMode) -> aclError;

    needed aclrtGetDeviceCount(*mut u32) -> aclError;
    needed aclrtSetDevice(i32) -> aclError;
    needed aclrtResetDevice(i32) -> aclError;
    optional aclrtResetDeviceForce(i32) -> aclError;
    needed aclrtGetDevice(*mut i32) -> aclError;
    needed aclrtSynchronizeDevice() -> aclError;
    needed aclrtDeviceCanAccessPeer(*mut i32, i32, i32) -> aclError;
    needed aclrtDeviceEnablePeerAccess(i32, u32) -> aclError;

    needed aclrtCreateContext(*mut aclrtContext, i32) -> aclError;
    needed aclrtDestroyContext(aclrtContext) -> aclError;
    needed aclrtSetCurrentContext(aclrtContext) -> aclError;
    needed aclrtGetCurrentContext(*mut aclrtContext) -> aclError;

    needed aclrtCreateStream(*mut aclrtStream) -> aclError;
    needed aclrtCreateStreamWithConfig(*mut aclrtStream, u32, u32) -> aclError;
    needed aclrtDestroyStream(aclrtStream) -> aclError;
    optional aclrtDestroyStreamForce(aclrtStream) -> aclError;
    needed aclrtSynchronizeStream(aclrtStream) -> aclError;
    needed aclrtSynchronizeStreamWithTimeout(aclrtStream, i32) -> aclError;
    needed aclrtStreamQuery(aclrtStream, *mut aclrtStreamStatus) -> aclError;

    needed aclrtCreateEvent(*mut aclrtEvent) -> aclError;
    needed aclrtCreateEventWithFlag(*mut aclrtEvent, u32) -> aclError;
    optional aclrtCreateEventExWithFlag(*mut aclrtEvent, u32) -> aclError;
    needed aclrtDestroyEvent(aclrtEvent) -> aclError;
    needed aclrtSynchronizeEvent(aclrtEvent) -> aclError;
    optional aclrtSynchronizeEventWithTimeout(aclrtEvent, i32) -> aclError;
    needed aclrtRecordEvent(aclrtEvent, aclrtStream) -> aclError;
    needed aclrtResetEvent(aclrtEvent, aclrtStream) -> aclError;
    needed aclrtQueryEventStatus(aclrtEvent, *mut aclrtEventRecordedStatus) -> aclError;
    needed aclrtEventElapsedTime(*mut f32, aclrtEvent, aclrtEvent) -> aclError;
    needed aclrtStreamWaitEvent(aclrtStream, aclrtEvent) -> aclError;

    needed aclrtMalloc(*mut *mut c_void, usize, aclrtMemMallocPolicy) -> aclError;
    optional aclrtMallocAlign32(*mut *mut c_void, usize, aclrtMemMallocPolicy) -> aclError;
    optional aclrtMallocCached(*mut *mut c_void, usize, aclrtMemMallocPolicy) -> aclError;
    needed aclrtFree(*mut c_void) -> aclError;
    needed aclrtMallocHost(*mut *mut c_void, usize) -> aclError;
    needed aclrtFreeHost(*mut c_void) -> aclError;
    needed aclrtMemcpy(*mut c_void, usize, *const c_void, usize, aclrtMemcpyKind) -> aclError;
    needed aclrtMemcpyAsync(*mut c_void, usize, *const c_void, usize, aclrtMemcpyKind, aclrtStream) -> aclError;
    needed aclrtMemset(*mut c_void, usize, i32, usize) -> aclError;
    needed aclrtMemsetAsync(*mut c_void, usize, i32, usize, aclrtStream) -> aclError;
    needed aclrtGetMemInfo(aclrtMemAttr, *mut usize, *mut usize) -> aclError;

    needed aclrtSetOpWaitTimeout(u32) -> aclError;
    optional aclrtPeekAtLastError(aclrtLastErrLevel) -> aclError;
    optional aclDataTypeSize(aclDataType) -> usize;
    optional aclFloat16ToFloat(aclFloat16) -> f32;
    optional aclFloatToFloat16(f32) -> aclFloat16;
}
