//! The `netrec` program; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    netrec::cli::main()
}
