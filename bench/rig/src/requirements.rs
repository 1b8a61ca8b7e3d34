//! What a rig needs of the machine, asked before anything is changed.

use anyhow::{Result, bail};
use socket2::{Domain, Socket, Type};

use crate::tool;

/// Whether a rig with AF_XDP can be set up here.
///
/// # Errors
/// All that is missing, each with what to do.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("not root: network namespaces and XDP need it; run as root (sudo)".to_owned());
    }
    for tool in tool::ALL {
        let mut command = tool.command();
        let quiet =
            command.arg("--version").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        if quiet.status().is_err() {
            missing.push(format!("{} is missing: apt-get install {}", tool.program, tool.package));
        }
    }
    missing.extend(af_xdp_problem());
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks:\n  {}", missing.join("\n  "))
}

fn af_xdp_problem() -> Option<String> {
    let error = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).err()?;
    Some(match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => {
            "the kernel has no AF_XDP: it needs CONFIG_XDP_SOCKETS=y (Debian's own kernels have it)"
                .to_owned()
        }
        Some(libc::EPERM) => {
            "opening an AF_XDP socket is not permitted: CAP_NET_RAW is missing (in a container: \
                              --cap-add NET_RAW --cap-add NET_ADMIN --cap-add SYS_ADMIN --cap-add BPF)"
                .to_owned()
        }
        _ => format!("cannot open an AF_XDP socket: {error}"),
    })
}
