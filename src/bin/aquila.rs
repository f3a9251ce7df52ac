//! The program `aquila`: the library from a terminal. Everything it does is in `src/tasks/`.

#[path = "../tasks/mod.rs"]
mod tasks;

fn main() -> std::process::ExitCode {
    tasks::main()
}
