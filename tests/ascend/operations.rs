//! The values over CANN: operations through the shim, memory, and that all is given back in the right order. On small
//! libraries under the real names, in a process of their own for each C++ ABI.

use crate::fake::{ATB, Atb, Install, TOOLKIT};
use crate::finish;
use aquila::Status;
use aquila::backend::ascend::acl::{ACL_FLOAT16, ACL_FORMAT_ND};
use aquila::backend::ascend::atb::{
    AtbContext, Desc, Graph, Node, Operation, Pack, Tensor, fixed, output_like, reshape, same,
};
use aquila::backend::ascend::device::{Device, Stream};
use aquila::backend::ascend::memory::{DeviceBuffer, PinnedBuffer};
use aquila::backend::ascend::open::Cann;
use aquila::backend::ascend::shim::{aqatb_elewise, aqatb_linear};
use std::process::Command;

const IN_CHILD: &str = "ASCEND_TEST_CHILD";

/// Runs one test of this program in a process that sees an installation, and gives the trace of the libraries' calls.
fn in_child(test: &str, abi: u32) -> String {
    let install = Install::new(&format!("{}-{abi}", test.replace("::", "-"))).with_toolkit(TOOLKIT);
    let install = install.with_atb(Atb { abi, ..ATB });
    let trace = install.root.join("trace");
    let mut command = Command::new(std::env::current_exe().unwrap());
    install.set(&mut command);
    command.env("ATB_HOME_PATH", install.atb_home(abi)).env("FAKE_TRACE", &trace).env(IN_CHILD, "1");
    let output = finish(command.args(["--exact", test, "--nocapture"]));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read_to_string(trace).unwrap()
}

fn is_child() -> bool {
    std::env::var_os(IN_CHILD).is_some()
}

fn linear(has_bias: i32) -> aqatb_linear {
    aqatb_linear { transpose_a: 0, transpose_b: 1, has_bias, out_dtype: -1, accumulate: 0, quant_mode: 0 }
}

fn elewise(r#type: i32) -> aqatb_elewise {
    aqatb_elewise { r#type, out_dtype: -1, factor: 0.0, input_scale: 0.0, input_offset: 0 }
}

fn desc(dims: &[i64]) -> Desc {
    Desc::new(ACL_FLOAT16, ACL_FORMAT_ND, dims).unwrap()
}

#[test]
fn operations_run_and_go_in_the_right_order() {
    if is_child() {
        return run_operations();
    }
    for abi in [0, 1] {
        let trace = in_child("operations::operations_run_and_go_in_the_right_order", abi);
        let calls: Vec<_> = trace.lines().skip_while(|line| *line != "destroy operation").collect();
        // Two single operations; the graph, which owns its node; the memory; and what they stand on, from above down.
        assert_eq!(
            calls,
            [
                "destroy operation",
                "destroy operation",
                "destroy operation",
                "destroy ATB context",
                "destroy stream",
                "free",
                "destroy context",
                "reset device"
            ],
            "C++ ABI {abi}"
        );
    }
}

fn run_operations() {
    let cann = Cann::open().unwrap();
    let device = Device::open(cann, 0).unwrap();
    assert_eq!((device.id(), device.soc()), (0, "Ascend910B3"));
    let stream = Stream::new(&device).unwrap();
    let mut memory = DeviceBuffer::new(&device, 4096).unwrap();
    let context = AtbContext::new(&stream).unwrap();

    // Whether a bias is there reaches ATB, and decides how many tensors go in.
    let mut product = Operation::new(&context, &linear(0)).unwrap();
    assert_eq!(product.counts().unwrap(), (2, 1));
    let with_bias = Operation::new(&context, &linear(1)).unwrap();
    assert_eq!(with_bias.counts().unwrap(), (3, 1));

    // Setup before each execute, with tensors whose sizes are exact.
    let mut pack = Pack::new(cann, 2, 1).unwrap();
    let at = memory.at(0).unwrap();
    pack.inputs()[0] = Tensor::new(desc(&[2, 16]), at).unwrap();
    pack.inputs()[1] = Tensor::new(desc(&[8, 16]), at).unwrap();
    pack.outputs()[0] = Tensor::new(desc(&[2, 8]), at).unwrap();
    // SAFETY: the libraries compute nothing, and no tensor has a copy on the host.
    unsafe {
        assert_eq!(product.setup(&pack).unwrap(), (2 * 16 + 8 * 16) * 2);
        product.execute(&pack, std::ptr::null_mut(), 0).unwrap();
        let error = product.execute(&pack, std::ptr::null_mut(), 0).unwrap_err();
        assert_eq!((error.status, error.native_code), (Status::Device, 3), "{error}");
        assert!(error.message.contains("Execute"), "{error}");
        let short = Pack::new(cann, 1, 1).unwrap();
        assert_eq!(product.setup(&short).unwrap_err().native_code, 5);
    }

    // What ATB refuses and what it throws.
    let error = Operation::new(&context, &elewise(98)).unwrap_err();
    assert_eq!((error.status, error.native_code), (Status::Unsupported, 13), "{error}");
    assert!(error.message.contains("Elewise") && error.message.contains("INI_MATCH"), "{error}");
    let error = Operation::new(&context, &elewise(99)).unwrap_err();
    assert_eq!(error.status, Status::Internal);
    assert!(error.message.contains("the fake throws"), "{error}");

    // A graph with an input seen otherwise, and an output that is described: [tokens, 64] to [tokens, 4, 16].
    let node = |inputs: Vec<u32>| Node {
        operation: Operation::new(&context, &elewise(1)).unwrap(),
        inputs,
        outputs: vec![2],
        reshapes: vec![reshape(0, &[same(0, 0), fixed(4), fixed(16)]).unwrap()],
    };
    let graph = |node| Graph {
        name: c"layer_0",
        nodes: vec![node],
        inputs: 2,
        outputs: 1,
        internals: 0,
        output_descs: Some(vec![output_like(1, &[same(0, 0), fixed(4), fixed(16)]).unwrap()]),
    };
    let error = Operation::graph(&context, graph(node(vec![3]))).unwrap_err();
    assert!(error.message.contains("tensor 3 of 3"), "{error}");
    let layer = Operation::graph(&context, graph(node(vec![0]))).unwrap();
    assert_eq!(layer.counts().unwrap(), (2, 1));
    let made = layer.infer(&[desc(&[7, 64]), desc(&[1, 1])]).unwrap();
    assert_eq!(made[0].dims(), [7, 4, 16]);
    assert_eq!(made[0].dtype, ACL_FLOAT16);

    // Memory: bytes there and back, nothing beyond the end, and the driver's words when there is no more.
    memory.write(100, b"aquila").unwrap();
    let mut back = [0; 6];
    memory.read(100, &mut back).unwrap();
    assert_eq!(&back, b"aquila");
    assert_eq!(memory.write(4091, b"aquila").unwrap_err().status, Status::Internal);
    assert_eq!(memory.read(usize::MAX, &mut back).unwrap_err().status, Status::Internal);
    let error = DeviceBuffer::new(&device, 2 << 20).unwrap_err();
    assert_eq!((error.status, error.native_code), (Status::DeviceMemory, 207_001));
    assert!(error.message.contains("2097152 bytes on npu:0"), "{error}");
    assert!(error.message.contains("the fake driver refuses"), "{error}");
    let mut pinned = PinnedBuffer::new(&device, 16).unwrap();
    assert_eq!(pinned.bytes(), [0; 16]);
    pinned.bytes_mut()[15] = 1;

    // The failed graph's node was destroyed above; the trace is looked at from here on.
    if let Some(trace) = std::env::var_os("FAKE_TRACE") {
        std::fs::write(trace, "").unwrap();
    }
    // In the wrong order on purpose: each holds what it stands on.
    drop(device);
    drop(stream);
    drop(context);
    drop((product, with_bias, layer, memory));
}
