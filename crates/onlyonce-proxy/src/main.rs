//! The binary `onlyonce`.

use std::process::ExitCode;

fn main() -> ExitCode {
    onlyonce_proxy::cli::main()
}
