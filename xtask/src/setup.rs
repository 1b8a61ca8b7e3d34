//! `setup`: what a build and a demo need, found or installed.
//!
//! One list of needs, each with what is there or what to do. `--check` prints it and changes nothing; set-up itself
//! installs what can be installed and then looks again, so that what it says is what is.

pub(crate) mod extras;
mod kernel;
mod packages;
pub(crate) mod peers;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::ebpf::{self, Compiler, LINKER_VARIABLE, LINKER_VERSION};
use crate::run::{Runner, done};
use crate::tree::Tree;

pub(crate) use kernel::is_root;

/// What set-up is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Change nothing, say what is missing.
    Look,
    /// Install what build and demo need.
    Needs,
    /// The same, and a browser.
    Browser,
    /// What is measured beside ours.
    Peers,
}

/// One thing that the machine must have.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) what: &'static str,
    /// What was found, or what is missing and what to do.
    pub(crate) state: Result<String, String>,
}

/// Prints every need; fails when one is missing. Changes nothing.
pub(crate) fn check(tree: &Tree) -> Result<()> {
    let groups =
        [("to build", build_needs(tree)), ("to run the demo and the privileged tests", kernel::needs())];
    let mut missing = 0;
    for (purpose, needs) in groups {
        println!("Needed {purpose}:");
        for Need { what, state } in needs {
            let (mark, text) = match state {
                Ok(found) => ("ok", found),
                Err(todo) => {
                    missing += 1;
                    ("MISSING", todo)
                }
            };
            println!("  {mark:<8}{what:<16}{text}");
        }
    }
    if missing > 0 {
        bail!("{missing} missing; `cargo xtask setup`, as root, installs what can be installed");
    }
    Ok(())
}

/// Installs what the build needs and is not there. A second run downloads nothing.
pub(crate) fn install(tree: &Tree, runner: &Runner) -> Result<()> {
    let start = Instant::now();
    let mut apt = packages::Apt::new(runner);

    let mut wanted = packages::missing(packages::BASE)?;
    let mut compiler = Compiler::find(tree.root());
    if compiler.is_err() && packages::has_apt() && is_root() && apt.offers(packages::COMPILER_CORE)? {
        wanted.extend(packages::missing(packages::COMPILER)?);
    }
    if !wanted.is_empty() {
        apt.install(&wanted)?;
        compiler = Compiler::find(tree.root());
    }
    let compiler = match compiler {
        Ok(compiler) => compiler,
        Err(why) => install_nightly(tree, runner, &why)?,
    };
    let linker = match ebpf::find_linker(tree.root(), compiler.llvm_major) {
        Some(linker) => linker,
        // Another one would not be looked at.
        None if std::env::var_os(LINKER_VARIABLE).is_some() => {
            bail!("{LINKER_VARIABLE} names no file; unset it")
        }
        None => install_linker(tree, runner, &mut apt, compiler.llvm_major)?,
    };
    kernel::mount_bpffs();
    done(&format!("setup: XDP object by {compiler}, {}", linker.display()), start.elapsed());
    Ok(())
}

/// The same, and a headless browser that opens the bench's reports in tests.
pub(crate) fn install_with_browser(tree: &Tree, runner: &Runner) -> Result<()> {
    install(tree, runner)?;
    let start = Instant::now();
    let browser = browser(&mut packages::Apt::new(runner))?;
    done(&format!("setup: {} opens reports", browser.display()), start.elapsed());
    Ok(())
}

fn browser(apt: &mut packages::Apt<'_>) -> Result<PathBuf> {
    if packages::browser().is_none() {
        if packages::has_apt() && !apt.offers(packages::CHROMIUM)? {
            // Ubuntu has it as a snap only, which cannot read a report in /tmp.
            bail!("apt offers no {}; put a Chromium or Chrome on PATH", packages::CHROMIUM);
        }
        apt.install(&[packages::CHROMIUM])?;
    }
    packages::browser().context("the browser was installed and yet is not on PATH")
}

/// The privileged part of tests and demo needs root, AF_XDP and more; the error lists all that is missing.
pub(crate) fn require_kernel() -> Result<()> {
    let missing: Vec<String> = kernel::needs()
        .into_iter()
        .filter_map(|need| need.state.err().map(|todo| format!("  {}: {todo}", need.what)))
        .collect();
    if !missing.is_empty() {
        bail!("this machine lacks:\n{}", missing.join("\n"));
    }
    Ok(())
}

fn build_needs(tree: &Tree) -> Vec<Need> {
    let compiler = Compiler::find(tree.root());
    let linker = match &compiler {
        Err(_) => Err("first the compiler: its LLVM decides".to_owned()),
        Ok(found) => ebpf::find_linker(tree.root(), found.llvm_major)
            .map(|path| format!("{LINKER_VERSION}, {}", path.display()))
            .ok_or_else(|| {
                let llvm = packages::llvm(found.llvm_major);
                format!(
                    "{LINKER_VERSION} for LLVM {}; `cargo xtask setup` builds it with {llvm}",
                    found.llvm_major
                )
            }),
    };
    let packages = match packages::missing(packages::BASE) {
        Ok(missing) if missing.is_empty() => Ok(format!("all {} installed", packages::BASE.len())),
        Ok(missing) => Err(packages::advice(&missing)),
        Err(why) => Err(why.to_string()),
    };
    let compiler = compiler.map(|found| found.to_string()).map_err(|why| {
        let debian = packages::advice(packages::COMPILER);
        format!("{why}; {debian}, or `rustup toolchain install nightly --component rust-src`")
    });
    // Its absence leaves one test out, and is no lack.
    let browser = packages::browser()
        .map_or("none: reports are opened by no test; --browser".to_owned(), |path| {
            format!("{}, for reports", path.display())
        });
    vec![
        Need { what: "browser", state: Ok(browser) },
        Need { what: "packages", state: packages },
        Need { what: "XDP compiler", state: compiler },
        Need { what: "bpf-linker", state: linker },
    ]
}

/// Where the distribution has no compiler for BPF: rustup's nightly.
fn install_nightly(tree: &Tree, runner: &Runner, why: &str) -> Result<Compiler> {
    println!("  …     no compiler for the XDP object ({why}); trying rustup's nightly with rust-src");
    runner
        .logged(
            "rustup nightly",
            Command::new("rustup")
                .args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"])
                .env_remove("RUSTUP_TOOLCHAIN"),
        )
        .with_context(|| {
            format!(
                "the XDP object needs a compiler with core for BPF, and there is none: {why}. Either install Debian's \
                 {} (as root), or give rustup access to its download server for nightly with rust-src",
                packages::COMPILER.join(" ")
            )
        })?;
    Compiler::find(tree.root()).map_err(|why| anyhow::anyhow!("rustup installed nightly, but {why}"))
}

fn install_linker(
    tree: &Tree,
    runner: &Runner,
    apt: &mut packages::Apt<'_>,
    llvm_major: u32,
) -> Result<PathBuf> {
    let prefix = format!("/usr/lib/llvm-{llvm_major}");
    if !std::path::Path::new(&prefix).join("bin/llvm-config").exists() {
        let package = packages::llvm(llvm_major);
        apt.install(&[&package]).with_context(|| {
            format!(
                "bpf-linker is built with LLVM {llvm_major} (the compiler's), which is not in {prefix}. Without it, put \
                 a released bpf-linker {LINKER_VERSION} on PATH or name it in JVPN_BPF_LINKER"
            )
        })?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = tree.cargo();
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm_major}"), "--root"])
        .arg(ebpf::linker_root(tree.root(), llvm_major))
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", format!("{prefix}/bin:{path}"))
        .env_remove("CARGO_TARGET_DIR");
    runner.logged(&format!("bpf-linker {LINKER_VERSION}"), &mut command)?;
    ebpf::find_linker(tree.root(), llvm_major)
        .context("bpf-linker was built and yet does not answer --version")
}
