//! The simulator of CANN in `tests/cann-sim/`: built by each compiler that is here, its own test programs for both C++
//! ABIs, and its symbols and signatures against those of the real libraries.

mod build;
mod conformance;
mod functions;

use build::{Compiler, Simulator};

/// What the programs beside the simulator test; each is one file of `tests/cann-sim/test`.
const PROGRAMS: [&str; 8] =
    ["runtime", "numbers", "attention", "elements", "rules", "graph", "decoder", "collectives"];

fn run_programs(simulator: &Simulator) {
    for abi in [0, 1] {
        simulator.build_tests(abi);
        for program in PROGRAMS {
            simulator.run(abi, program);
        }
    }
}

#[test]
fn programs_with_gcc() {
    if let Some(simulator) = Simulator::standard() {
        run_programs(simulator);
    }
}

#[test]
fn programs_with_clang() {
    if let Some(simulator) = Simulator::build(Compiler::Clang) {
        run_programs(&simulator);
    }
}

/// The guide's hosts are aarch64: there by an emulator.
#[test]
fn programs_on_aarch64() {
    if let Some(simulator) = Simulator::build(Compiler::CrossAarch64) {
        run_programs(&simulator);
    }
}

#[test]
fn a_client_says_what_it_runs_on() {
    let Some(simulator) = Simulator::standard() else { return };
    let said =
        simulator.source("echo $ASCEND_HOME_PATH $ATB_HOME_PATH; cat $ATB_HOME_PATH/../version.info", 0);
    assert!(said.contains("cann-sim/atb/cxx_abi_0\n") && said.contains("aquila-cann-simulator"), "{said}");
}
