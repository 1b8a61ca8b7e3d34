//! `jvpn`: the client agent and the command-line tool. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    jvpn_client::cli::main()
}
