//! The command `jvpn-bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    jvpn_bench::cli::main()
}
