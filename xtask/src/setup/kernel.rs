//! What the demo and the privileged tests need of the running kernel: looked at, not installed.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::Need;

const BPFFS: &str = "/sys/fs/bpf";
/// AF_XDP in `linux/socket.h`.
const AF_XDP: AddressFamily = AddressFamily::from_raw(44);

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(super) fn needs() -> Vec<Need> {
    vec![
        Need { what: "root", state: root() },
        Need { what: "AF_XDP", state: af_xdp() },
        Need { what: "bpffs", state: bpffs() },
        Need { what: "TUN", state: tun() },
    ]
}

/// Mounts bpffs where it is missing and may be mounted; who needs it and finds it missing says so.
pub(super) fn mount_bpffs() {
    if is_root() && bpffs().is_err() {
        let _ = Command::new("mount")
            .args(["-t", "bpf", "bpf", BPFFS])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn root() -> Result<String, String> {
    if is_root() {
        Ok("yes".to_owned())
    } else {
        Err("not root: run it as root, for instance with sudo -E".to_owned())
    }
}

fn af_xdp() -> Result<String, String> {
    let socket: Result<OwnedFd, Errno> = socket_with(AF_XDP, SocketType::RAW, SocketFlags::CLOEXEC, None);
    match socket {
        Ok(_) => Ok("a socket can be made".to_owned()),
        Err(Errno::AFNOSUPPORT) => {
            Err("the kernel has no AF_XDP: it needs CONFIG_XDP_SOCKETS=y (Debian's and Ubuntu's have it)"
                .to_owned())
        }
        Err(Errno::PERM | Errno::ACCESS) => {
            Err("not permitted: needs CAP_NET_RAW (root has it, unless a container or seccomp takes it away)"
                .to_owned())
        }
        Err(other) => Err(format!("socket(AF_XDP): {other}")),
    }
}

fn bpffs() -> Result<String, String> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").map_err(|e| format!("cannot read /proc/self/mounts: {e}"))?;
    if is_mounted(&mounts, BPFFS, "bpf") {
        Ok(format!("mounted on {BPFFS}"))
    } else {
        Err(format!("mount -t bpf bpf {BPFFS} (`cargo xtask setup` does it as root)"))
    }
}

fn tun() -> Result<String, String> {
    const DEVICE: &str = "/dev/net/tun";
    if Path::new(DEVICE).exists() {
        Ok(DEVICE.to_owned())
    } else {
        Err(format!("{DEVICE} is missing: modprobe tun, or hand the device to the container"))
    }
}

fn is_mounted(mounts: &str, point: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(point) && fields.next() == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_counts_only_with_its_point_and_kind() {
        let mounts = "sysfs /sys sysfs rw 0 0\nnone /sys/fs/bpf bpf rw,mode=700 0 0\n";
        assert!(is_mounted(mounts, "/sys/fs/bpf", "bpf"));
        assert!(!is_mounted(mounts, "/sys/fs/bpf", "tmpfs"));
        assert!(!is_mounted("x /sys/fs/bpf2 bpf rw 0 0", "/sys/fs/bpf", "bpf"));
    }
}
