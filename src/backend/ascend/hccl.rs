//! HCCL, `libhccl.so`: what several devices do together. Its numbers of element types are not ACL's.

use super::acl::aclrtStream;
use super::table::{constants, functions, types};
use std::ffi::{c_char, c_void};

types! {
    /// What every function answers; 0 is success.
    HcclResult = i32;
    /// A communicator: one rank's end of a group.
    HcclComm = *mut c_void;
    /// The type of an element.
    HcclDataType = i32;
    /// How the ranks' numbers become one.
    HcclReduceOp = i32;
    /// What the ranks of a group must share before they can meet.
    HcclRootInfo = RootInfo;
}

/// What rank 0 makes and every rank of a group is given: bytes that only HCCL understands.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RootInfo {
    /// The bytes.
    pub internal: [c_char; 4108],
}

constants! {
    /// The call did what was asked.
    HCCL_SUCCESS: HcclResult = 0;

    /// The sum.
    HCCL_REDUCE_SUM: HcclReduceOp = 0;
    /// The largest.
    HCCL_REDUCE_MAX: HcclReduceOp = 2;

    /// i8.
    HCCL_DATA_TYPE_INT8: HcclDataType = 0;
    /// i32.
    HCCL_DATA_TYPE_INT32: HcclDataType = 2;
    /// f16.
    HCCL_DATA_TYPE_FP16: HcclDataType = 3;
    /// f32.
    HCCL_DATA_TYPE_FP32: HcclDataType = 4;
    /// bf16.
    HCCL_DATA_TYPE_BFP16: HcclDataType = 11;
}

functions! {
    /// The functions of `libhccl.so` that the backend calls. `HcclCommInitAll` is not among them: Atlas 800I A2 does
    /// not support it.
    Hccl;
    needed HcclGetRootInfo(*mut HcclRootInfo) -> HcclResult;
    needed HcclCommInitRootInfo(u32, *const HcclRootInfo, u32, *mut HcclComm) -> HcclResult;
    needed HcclCommInitClusterInfo(*const c_char, u32, *mut HcclComm) -> HcclResult;
    needed HcclCommDestroy(HcclComm) -> HcclResult;
    needed HcclAllReduce(*mut c_void, *mut c_void, u64, HcclDataType, HcclReduceOp, HcclComm, aclrtStream) -> HcclResult;
    needed HcclAllGather(*mut c_void, *mut c_void, u64, HcclDataType, HcclComm, aclrtStream) -> HcclResult;
    optional HcclReduceScatter(*mut c_void, *mut c_void, u64, HcclDataType, HcclReduceOp, HcclComm, aclrtStream) -> HcclResult;
    needed HcclBroadcast(*mut c_void, u64, HcclDataType, u32, HcclComm, aclrtStream) -> HcclResult;
    optional HcclBarrier(HcclComm, aclrtStream) -> HcclResult;
    optional HcclGetRankSize(HcclComm, *mut u32) -> HcclResult;
    optional HcclGetRankId(HcclComm, *mut u32) -> HcclResult;
    optional HcclGetCommAsyncError(HcclComm, *mut HcclResult) -> HcclResult;
    optional HcclGetErrorString(HcclResult) -> *const c_char;
    optional HcclGetCommName(HcclComm, *mut c_char) -> HcclResult;
}
