//! The toolchain of the XDP object: which compiler, which linker, and the one command line that builds it.
//!
//! Compiled into xtask and, by path, into `dataplane/build.rs`, so that set-up and build cannot disagree. It uses
//! the standard library only and changes nothing on the machine: installing is the business of `cargo xtask setup`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of bpf-linker that set-up builds; 0.13 is the first that takes LLVM 22, the LLVM of the compilers below.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// Names another linker than the one that set-up builds.
pub(crate) const LINKER_VARIABLE: &str = "JVPN_BPF_LINKER";

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "jvpn-xdp";

/// A Rust compiler that has (or can build) `core` for the BPF target.
#[derive(Debug)]
pub(crate) struct Compiler {
    pub(crate) origin: Origin,
    /// As in `rustc 1.96.0`.
    pub(crate) version: String,
    /// The linker must understand the bitcode of this LLVM.
    pub(crate) llvm_major: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Debian's `rustc-web`, with the prebuilt `core` of `libstd-rust-web-dev-bpf`: no rustup download needed.
    Distribution,
    /// rustup's nightly with `rust-src`: builds `core` itself.
    RustupNightly,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Distribution => "the distribution's, with a prebuilt core for BPF",
            Origin::RustupNightly => "rustup's nightly with rust-src, building core itself",
        };
        write!(f, "rustc {} ({origin}; LLVM {})", self.version, self.llvm_major)
    }
}

/// Everything needed to build the XDP object.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Finds compiler and linker for the tree at `root`; the error says what is not there and what to do.
    pub(crate) fn find(root: &Path) -> Result<Self, String> {
        let compiler = Compiler::find(root)
            .map_err(|why| format!("no compiler for the XDP object: {why}. Run `cargo xtask setup`"))?;
        let llvm_major = compiler.llvm_major;
        let linker = find_linker(root, llvm_major).ok_or_else(|| match env::var_os(LINKER_VARIABLE) {
            Some(named) => format!("{LINKER_VARIABLE} names {}, which is no file", named.display()),
            None => format!(
                "bpf-linker {LINKER_VERSION} for LLVM {llvm_major} is missing. Run `cargo xtask setup`"
            ),
        })?;
        Ok(Self { compiler, linker })
    }

    /// The build of the XDP object from `xdp_dir`, to be run, and where the object will lie.
    pub(crate) fn build_command(&self, xdp_dir: &Path, target_dir: &Path) -> (Command, PathBuf) {
        let (mut command, extra): (Command, &[&str]) = match self.compiler.origin {
            Origin::Distribution => (Command::new(DISTRIBUTION_CARGO), &[]),
            Origin::RustupNightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                (command, &["-Z", "build-std=core"])
            }
        };
        for (name, _) in env::vars_os() {
            if belongs_to_outer_cargo(&name) {
                command.env_remove(name);
            }
        }
        if self.compiler.origin == Origin::Distribution {
            // aya-ebpf needs `asm_experimental_arch`, which this stable compiler has only behind the bootstrap switch.
            command.env("RUSTC", DISTRIBUTION_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        }
        command
            .current_dir(xdp_dir)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .args(["build", "--release", "--color", "never", "--target", TARGET, "--target-dir"])
            .arg(target_dir)
            .args(extra);
        (command, target_dir.join(TARGET).join("release").join(OBJECT))
    }
}

const DISTRIBUTION_CARGO: &str = "/usr/bin/cargo";
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

impl Compiler {
    /// The first usable compiler: the distribution's, else rustup's nightly; the error names what each one lacks.
    pub(crate) fn find(root: &Path) -> Result<Self, String> {
        let minimum = minimum_version(root)?;
        Self::distribution(minimum).or_else(|distribution| {
            Self::rustup_nightly(minimum).map_err(|nightly| format!("{distribution}; {nightly}"))
        })
    }

    fn distribution(minimum: (u32, u32)) -> Result<Self, String> {
        if !Path::new(DISTRIBUTION_RUSTC).exists() || !Path::new(DISTRIBUTION_CARGO).exists() {
            return Err(format!(
                "{DISTRIBUTION_RUSTC} and {DISTRIBUTION_CARGO} (rustc-web, cargo-web) are missing"
            ));
        }
        let compiler = Self::ask(Origin::Distribution, minimum, &[DISTRIBUTION_RUSTC])?;
        let lib_dir = output(&[DISTRIBUTION_RUSTC, "--print", "target-libdir", "--target", TARGET])?;
        let has_core = fs::read_dir(lib_dir.trim()).is_ok_and(|entries| {
            entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("libcore-"))
        });
        if !has_core {
            return Err(format!("{DISTRIBUTION_RUSTC} has no core for {TARGET} (libstd-rust-web-dev-bpf)"));
        }
        Ok(compiler)
    }

    fn rustup_nightly(minimum: (u32, u32)) -> Result<Self, String> {
        let compiler = Self::ask(Origin::RustupNightly, minimum, &["rustup", "run", "nightly", "rustc"])
            .map_err(|why| format!("rustup has no usable nightly ({why})"))?;
        let sysroot = output(&["rustup", "run", "nightly", "rustc", "--print", "sysroot"])?;
        if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
            return Err("rustup's nightly lacks the component rust-src".to_owned());
        }
        Ok(compiler)
    }

    fn ask(origin: Origin, minimum: (u32, u32), rustc: &[&str]) -> Result<Self, String> {
        let text = output(&[rustc, &["-vV"]].concat())?;
        let (version, llvm_major) = parse_version(&text)
            .ok_or_else(|| format!("cannot read the version in the answer of {rustc:?} -vV"))?;
        if major_minor(&version).is_none_or(|found| found < minimum) {
            return Err(format!(
                "{rustc:?} is {version}; the tree needs {}.{} or later",
                minimum.0, minimum.1
            ));
        }
        Ok(Self { origin, version, llvm_major })
    }
}

/// Where set-up puts bpf-linker: the user's cache, so that clones share it, else the tree's target directory.
pub(crate) fn linker_root(root: &Path, llvm_major: u32) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| {
            env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")).filter(|dir| dir.is_absolute())
        })
        .map_or_else(|| root.join("target").join("tools"), |cache| cache.join("jvpn"));
    cache.join(format!("bpf-linker-{LINKER_VERSION}-llvm{llvm_major}"))
}

/// The linker named by `JVPN_BPF_LINKER`, else the one that set-up built, else one of the same version on PATH.
pub(crate) fn find_linker(root: &Path, llvm_major: u32) -> Option<PathBuf> {
    if let Some(named) = env::var_os(LINKER_VARIABLE) {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let cached = linker_root(root, llvm_major).join("bin").join("bpf-linker");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("bpf-linker")).filter(|path| path.is_absolute());
    iter::once(cached).chain(on_path).find(|path| {
        // Asking it also shows that the libLLVM it was linked with is still installed.
        path.is_file()
            && path
                .to_str()
                .is_some_and(|p| output(&[p, "--version"]).is_ok_and(|v| v.contains(LINKER_VERSION)))
    })
}

/// Variables that the outer cargo or rustup set for its own build; what says how to reach the registry stays.
fn belongs_to_outer_cargo(name: &OsString) -> bool {
    const KEPT: [&str; 9] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "RUSTUP_HOME",
        "RUSTUP_DIST_SERVER",
        "RUSTUP_UPDATE_ROOT",
    ];
    let name = name.to_string_lossy();
    let of_cargo = ["CARGO", "RUST", "DEP_"].iter().any(|prefix| name.starts_with(prefix));
    let of_build_script =
        ["TARGET", "HOST", "OUT_DIR", "PROFILE", "OPT_LEVEL", "DEBUG", "NUM_JOBS", "MAKEFLAGS", "MFLAGS"]
            .contains(&name.as_ref());
    (of_cargo || of_build_script) && !KEPT.iter().any(|kept| name.starts_with(kept))
}

/// `rust-version` of the workspace: the XDP program compiles the same `common/abi` as everything else.
fn minimum_version(root: &Path) -> Result<(u32, u32), String> {
    let manifest = root.join("Cargo.toml");
    let text =
        fs::read_to_string(&manifest).map_err(|e| format!("cannot read {}: {e}", manifest.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'))
        .and_then(major_minor)
        .ok_or_else(|| format!("{} has no line rust-version = \"X.Y\"", manifest.display()))
}

/// Release and LLVM major version in the answer to `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm_major = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm_major))
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn output(command: &[&str]) -> Result<String, String> {
    let (program, args) = command.split_first().ok_or("empty command")?;
    let shown = command.join(" ");
    let answer = Command::new(program)
        .args(args)
        // A compiler of another origin must not be replaced by the one that the outer cargo chose.
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()
        .map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    if !answer.status.success() {
        let stderr = String::from_utf8_lossy(&answer.stderr);
        return Err(format!("`{shown}`: {}", stderr.lines().next().unwrap_or("failed without a word")));
    }
    String::from_utf8(answer.stdout).map_err(|_| format!("`{shown}` answered something that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_llvm_are_read_from_rustc() {
        let text = "rustc 1.96.0 (ac68faa20)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("release: 1.96.0\n"), None);
        assert_eq!(major_minor("1.97.0-nightly"), Some((1, 97)));
        assert!(major_minor("1.100.0") > major_minor("1.95"));
    }

    #[test]
    fn outer_build_is_cleared_and_registry_access_is_kept() {
        for cleared in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "OUT_DIR",
        ] {
            assert!(belongs_to_outer_cargo(&cleared.into()), "{cleared}");
        }
        for kept in [
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "PATH",
            "HOME",
            "HTTPS_PROXY",
        ] {
            assert!(!belongs_to_outer_cargo(&kept.into()), "{kept}");
        }
    }
}
