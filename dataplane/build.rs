//! Builds the XDP object from `../xdp-ebpf` and hands its path to the crate as `JVPN_XDP_OBJECT`.
//!
//! The object is built by another compiler for another target, in a target directory of its own that all profiles
//! share (`target/xdp`), then copied to OUT_DIR. Nothing is installed here: that is `cargo xtask setup`.

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the object is made of, relative to the root of the tree.
const INPUTS: [&str; 8] = [
    "xdp-ebpf/src",
    "xdp-ebpf/Cargo.toml",
    "xdp-ebpf/Cargo.lock",
    "xdp-ebpf/.cargo/config.toml",
    "common/abi/src",
    "common/abi/Cargo.toml",
    "Cargo.toml",
    "xtask/src/ebpf.rs",
];

fn main() -> ExitCode {
    match build() {
        Ok(object) => {
            println!("cargo::rustc-env=JVPN_XDP_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            let (first, rest) = message.split_once('\n').unwrap_or((&message, ""));
            println!("cargo::error={first}");
            eprint!("{rest}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<PathBuf, String> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let root = here.parent().ok_or("the data plane's directory has no parent")?;
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    for name in [ebpf::LINKER_VARIABLE, "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let toolchain = ebpf::Toolchain::find(root)?;
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());
    let target_dir = shared_target_dir(&out_dir);
    let built = compile(&toolchain, &root.join("xdp-ebpf"), &target_dir)?;
    let object = out_dir.join("jvpn-xdp.o");
    fs::copy(&built, &object).map_err(|e| {
        format!("cannot copy the XDP object {} to {}: {e}", built.display(), object.display())
    })?;
    Ok(object)
}

fn compile(toolchain: &ebpf::Toolchain, xdp_dir: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let (mut command, object) = toolchain.build_command(xdp_dir, target_dir);
    let answer = command
        .output()
        .map_err(|e| format!("cannot start the build of the XDP object with {}: {e}", toolchain.compiler))?;
    let messages = String::from_utf8_lossy(&answer.stderr);
    if !answer.status.success() {
        return Err(format!("the XDP object does not build with {}:\n{messages}", toolchain.compiler));
    }
    if messages.contains("warning: ") {
        for line in messages.lines() {
            println!("cargo::warning={line}");
        }
    }
    Ok(object)
}

/// One target directory for all profiles: found as the directory that cargo marks as a cache, else below OUT_DIR.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    out_dir.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).unwrap_or(out_dir).join("xdp")
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}, which cargo sets for a build script: {e}"))
}
