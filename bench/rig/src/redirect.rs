//! The smallest XDP program that serves AF_XDP: every frame to the socket of its queue. What plain forwarding is compared
//! by; five instructions, put together here so that the product's object carries nothing for benches.

use anyhow::{Context as _, Result};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// linux/bpf.h
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;
/// linux/if_link.h
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_DROP: i32 = 1;
/// Offset of `rx_queue_index` in `struct xdp_md`.
const RX_QUEUE_INDEX: i16 = 16;
/// Queues of the map.
const QUEUES: u32 = 8;

/// An attached program with its map. Dropping it detaches.
#[derive(Debug)]
pub struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// bpf(2).
fn bpf<A>(command: libc::c_int, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the attributes are laid out as the command wants them, are valid for the call, and so is what they point at.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        i32::try_from(outcome).map_err(io::Error::other)
    }
}

fn descriptor<A>(command: libc::c_int, attributes: &mut A) -> io::Result<OwnedFd> {
    let raw = bpf(command, attributes)?;
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

impl Redirect {
    /// Loads it and attaches it natively to an interface of this thread's network namespace.
    ///
    /// # Errors
    /// There is no such interface, it takes no native XDP, or the right is missing.
    pub fn attach(interface: &str) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface).context("no such interface")?;
        let mut map = MapCreate { kind: BPF_MAP_TYPE_XSKMAP, key_size: 4, value_size: 4, entries: QUEUES };
        let map = descriptor(BPF_MAP_CREATE, &mut map).context("XSKMAP")?;
        let code = [
            instruction(0x61, 2, 1, RX_QUEUE_INDEX, 0),
            instruction(0x18, 1, 1, 0, map.as_raw_fd()),
            instruction(0, 0, 0, 0, 0),
            instruction(0xb7, 3, 0, 0, XDP_DROP),
            instruction(0x85, 0, 0, 0, BPF_FUNC_REDIRECT_MAP),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let mut load = ProgramLoad {
            kind: BPF_PROG_TYPE_XDP,
            count: u32::try_from(code.len()).context("instructions")?,
            instructions: code.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"jvpn_plain\0\0\0\0\0\0",
            interface: 0,
            attach_type: BPF_XDP,
        };
        let program = descriptor(BPF_PROG_LOAD, &mut load).context("the program that redirects")?;
        let mut create = LinkCreate {
            program: number(&program),
            interface: index,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let link =
            descriptor(BPF_LINK_CREATE, &mut create).with_context(|| format!("native XDP on {interface}"))?;
        Ok(Self { map, _program: program, _link: link })
    }

    /// Puts a socket into its map.
    ///
    /// # Errors
    /// The queue is beyond the map, or it is not an AF_XDP socket.
    pub fn set(&self, queue: u32, socket: RawFd) -> Result<()> {
        let value = socket.cast_unsigned();
        let mut update = MapUpdate {
            map: number(&self.map),
            padding: 0,
            key: &raw const queue as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut update).map(drop).context("socket into XSKMAP")
    }
}
