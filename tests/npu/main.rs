//! The Ascend executor on the simulator of CANN (`tests/cann-sim`): what it computes, how many calls it makes, and what
//! it does when any of them fails. All of it is **simulated**: it shows that the rules of CANN are kept and that the numbers are
//! right, nothing about a card's speed.
//!
//! CANN is opened once for a process, and its variables must be there before the process starts. So each test runs
//! itself again in a process that sees the simulator with the settings of the test ([`simulator::in_child`]).

#[path = "../cann_sim/build.rs"]
#[allow(dead_code)] // the tests of the simulator use all of it
mod build;
mod calls;
mod choice;
#[path = "../support/data.rs"]
mod data;
mod faults;
mod numbers;
mod opening;
mod parts;
#[path = "../support/quality.rs"]
mod quality;
mod serving;
mod simulator;
#[path = "../support/mod.rs"]
mod support;
mod w8a8;
