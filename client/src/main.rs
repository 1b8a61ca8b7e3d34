//! `jvpn`: the client agent and the command-line tool.

fn main() {}
