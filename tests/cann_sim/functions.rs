//! The functions that the simulator exports: by the reference, and as its sources declare them.

use std::fs;
use std::path::Path;

/// Functions of `libascendcl.so` that a client may ask for.
pub const ACL: &[&str] = &[
    "aclDataTypeSize",
    "aclFinalize",
    "aclFloat16ToFloat",
    "aclFloatToFloat16",
    "aclGetRecentErrMsg",
    "aclInit",
    "aclInitCallbackRegister",
    "aclrtCreateContext",
    "aclrtCreateEvent",
    "aclrtCreateEventExWithFlag",
    "aclrtCreateEventWithFlag",
    "aclrtCreateStream",
    "aclrtCreateStreamWithConfig",
    "aclrtDestroyContext",
    "aclrtDestroyEvent",
    "aclrtDestroyStream",
    "aclrtDestroyStreamForce",
    "aclrtDeviceCanAccessPeer",
    "aclrtDeviceEnablePeerAccess",
    "aclrtEventElapsedTime",
    "aclrtFree",
    "aclrtFreeHost",
    "aclrtGetCurrentContext",
    "aclrtGetDevice",
    "aclrtGetDeviceCount",
    "aclrtGetMemInfo",
    "aclrtGetRunMode",
    "aclrtGetSocName",
    "aclrtGetVersion",
    "aclrtHostRegister",
    "aclrtLaunchCallback",
    "aclrtMalloc",
    "aclrtMallocAlign32",
    "aclrtMallocCached",
    "aclrtMallocHost",
    "aclrtMemcpy",
    "aclrtMemcpyAsync",
    "aclrtMemset",
    "aclrtMemsetAsync",
    "aclrtPeekAtLastError",
    "aclrtQueryEventStatus",
    "aclrtRecordEvent",
    "aclrtResetDevice",
    "aclrtResetDeviceForce",
    "aclrtResetEvent",
    "aclrtSetCurrentContext",
    "aclrtSetDevice",
    "aclrtSetOpWaitTimeout",
    "aclrtStreamQuery",
    "aclrtStreamWaitEvent",
    "aclrtSynchronizeDevice",
    "aclrtSynchronizeEvent",
    "aclrtSynchronizeEventWithTimeout",
    "aclrtSynchronizeStream",
    "aclrtSynchronizeStreamWithTimeout",
    "aclsysGetCANNVersion",
];

/// Functions of `libhccl.so`.
pub const HCCL: &[&str] = &[
    "HcclAllGather",
    "HcclAllReduce",
    "HcclBarrier",
    "HcclBroadcast",
    "HcclCommDestroy",
    "HcclCommInitAll",
    "HcclCommInitClusterInfo",
    "HcclCommInitRootInfo",
    "HcclCommInitRootInfoConfig",
    "HcclGetCommAsyncError",
    "HcclGetCommName",
    "HcclGetErrorString",
    "HcclGetRankId",
    "HcclGetRankSize",
    "HcclGetRootInfo",
    "HcclReduceScatter",
];

/// Name and type of each function of ACL and HCCL in the simulator's sources: `int(void **devPtr, size_t size)`.
pub fn declared() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cann-sim/src");
    let mut found = Vec::new();
    for folder in ["acl", "hccl"] {
        for entry in fs::read_dir(source.join(folder)).expect("the simulator's sources") {
            let text = fs::read_to_string(entry.expect("an entry").path()).expect("a source file");
            for definition in text.split("SIM_EXPORT ").skip(1) {
                let head = definition.split('{').next().expect("a definition").trim();
                let (front, parameters) = head.split_once('(').expect("a function");
                let at = front.rfind([' ', '*']).expect("a type and a name") + 1;
                let (kind, name) = front.split_at(at);
                if name.starts_with("acl") || name.starts_with("Hccl") {
                    found.push((name.to_string(), format!("{}({parameters}", kind.trim())));
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn sources_declare_what_the_lists_name() {
    let names: Vec<_> = declared().into_iter().map(|(name, _)| name).collect();
    let mut listed: Vec<_> = ACL.iter().chain(HCCL).map(ToString::to_string).collect();
    listed.sort();
    assert_eq!(names, listed);
}
