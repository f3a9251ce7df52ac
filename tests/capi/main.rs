//! The C door, from outside: the header in every standard, an installed tree used through pkg-config and
//! CMake, and C and C++ programs that hold and misuse it.

mod abi;
mod deadline;
mod header;
mod programs;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod symbols;
