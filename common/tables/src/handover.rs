//! How the control plane gets the descriptors of the shared tables: one HELLO, one WELCOME over a Unix socket
//! (SOCK_SEQPACKET), descriptors by SCM_RIGHTS. Each side also hands the other's successor what must outlive a process.
//!
//! The connection stays open: its end is how each side learns, at once, that the other is gone.

use bytemuck::{Pod, Zeroable};
use jvpn_abi::CONTRACT_VERSION;
use jvpn_abi::tables::MAX_WORKERS;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, accept4,
    bind, connect, getsockopt, listen, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tells a handover message from a stray client.
const MAGIC: u32 = 0x6a76_706e;
/// Most descriptors that the kernel carries in one message (include/net/scm.h, SCM_MAX_FD). There is room for all of them:
/// of a message that does not fit the kernel hands out what does, and that would have to be closed as well.
const SCM_MAX_FD: usize = 253;
const _: () = assert!(WELCOME_FIXED_FDS + MAX_WORKERS <= SCM_MAX_FD);

/// Connections that may wait for a data plane.
const BACKLOG: i32 = 4;

/// Why a handover failed.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// A system call failed.
    #[error("handover socket {path}: {step}: {cause}")]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The other process speaks another contract.
    #[error(
        "the other process speaks contract version {theirs}, this one {ours}; \
         run data plane and control plane of one release"
    )]
    Version {
        /// The peer's version.
        theirs: u32,
        /// This process's version.
        ours: u32,
    },
    /// The message is not what is expected.
    #[error("handover message is malformed: {0}")]
    Malformed(&'static str),
    /// The other process closed the connection.
    #[error("the other process closed the handover connection")]
    Closed,
}

impl HandoverError {
    /// Whether the process or the host is out of descriptors or memory: a moment later the same may succeed.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        const SHORTAGES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
        matches!(self, Self::System { cause, .. }
            if cause.raw_os_error().is_some_and(|number| SHORTAGES.contains(&number)))
    }
}

/// Control plane to data plane.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Hello {
    magic: u32,
    version: u32,
    /// 1 = the first descriptor is CONTEXT from an earlier data plane.
    pub has_context: u32,
    /// 1 = the next descriptor is the UDP socket from an earlier data plane.
    pub has_udp: u32,
    /// 1 = the last descriptor is JOURNAL, from an earlier data plane.
    pub has_journal: u32,
    /// Entries of that CONTEXT.
    pub context_slots: u32,
    /// Elements of that JOURNAL; or, without one, how many it shall have if the data plane keeps none.
    pub journal_records: u32,
    /// Zero.
    pub reserved: u32,
}

impl Hello {
    /// A greeting of this version.
    #[must_use]
    pub const fn new(has_context: bool, has_udp: bool, context_slots: u32) -> Self {
        Self {
            magic: MAGIC,
            version: CONTRACT_VERSION,
            has_context: has_context as u32,
            has_udp: has_udp as u32,
            has_journal: 0,
            context_slots,
            journal_records: 0,
            reserved: 0,
        }
    }

    /// With a JOURNAL of `records` elements, or the wish for one.
    #[must_use]
    pub const fn with_journal(mut self, is_here: bool, records: u32) -> Self {
        self.has_journal = is_here as u32;
        self.journal_records = records;
        self
    }
}

/// Data plane to control plane. Descriptors, in this order: BINDINGS, ROUTES, GATE, KEYS, CONTEXT, REPORTS, UDP socket,
/// installer doorbell, report doorbell, HANDLES, JOURNAL, EDGE, PREFIXES, then one doorbell per worker.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Welcome {
    magic: u32,
    version: u32,
    /// Entries of BINDINGS and CONTEXT.
    pub slots: u32,
    /// Workers.
    pub workers: u32,
    /// 1 = CONTEXT is the one that HELLO brought, counters and windows go on.
    pub context_kept: u32,
    /// UDP port of the gateway.
    pub port: u32,
    /// 1 = JOURNAL was filled by an earlier control plane of this or another data plane.
    pub journal_kept: u32,
    /// Elements of JOURNAL.
    pub journal_records: u32,
}

/// Descriptors in a WELCOME before those of the workers.
pub const WELCOME_FIXED_FDS: usize = 13;

impl Welcome {
    /// A welcome of this version.
    #[must_use]
    pub const fn new(slots: u32, workers: u32, context_kept: bool, port: u16) -> Self {
        Self {
            magic: MAGIC,
            version: CONTRACT_VERSION,
            slots,
            workers,
            context_kept: context_kept as u32,
            port: port as u32,
            journal_kept: 0,
            journal_records: 0,
        }
    }

    /// With a JOURNAL of `records` elements.
    #[must_use]
    pub const fn with_journal(mut self, kept: bool, records: u32) -> Self {
        self.journal_kept = kept as u32;
        self.journal_records = records;
        self
    }
}

/// Messages of the handover: magic and version lead.
trait Message: Pod {
    fn check(&self) -> Result<(), HandoverError>;
}

fn check(magic: u32, version: u32) -> Result<(), HandoverError> {
    if magic != MAGIC {
        return Err(HandoverError::Malformed("not a handover message"));
    }
    if version != CONTRACT_VERSION {
        return Err(HandoverError::Version { theirs: version, ours: CONTRACT_VERSION });
    }
    Ok(())
}

impl Message for Hello {
    fn check(&self) -> Result<(), HandoverError> {
        check(self.magic, self.version)
    }
}

impl Message for Welcome {
    fn check(&self) -> Result<(), HandoverError> {
        check(self.magic, self.version)
    }
}

/// The data plane's end: listens, takes one control plane at a time.
#[derive(Debug)]
pub struct HandoverListener {
    fd: OwnedFd,
    path: PathBuf,
    /// The socket at that path: device and inode. Another one is another process's.
    place: (u64, u64),
}

/// One connection between the two processes.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    path: PathBuf,
}

impl HandoverListener {
    /// Takes `path`, for user `uid` (and root) alone; [`HandoverListener::accept`] says who comes all the same. Whoever
    /// connects is turned away until [`Self::listen`]: a greeting must not wait for one that is not ready for it.
    ///
    /// # Errors
    /// If another process listens there, something else than a socket is there, or the directory cannot be written.
    pub fn bind(path: &Path, uid: u32) -> Result<Self, HandoverError> {
        let failed =
            |step| move |cause: io::Error| HandoverError::System { path: path.to_owned(), step, cause };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed("make its directory"))?;
        }
        if is_served(path) {
            let cause = io::Error::new(io::ErrorKind::AddrInUse, "another data plane is running there");
            return Err(failed("listen")(cause));
        }
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(failed("remove the old one"))?;
            }
            Ok(_) => {
                let cause = io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not a socket");
                return Err(failed("listen")(cause));
            }
            Err(_) => {}
        }
        let fd = seqpacket(SockFlag::SOCK_NONBLOCK).map_err(failed("create"))?;
        let address = UnixAddr::new(path).map_err(io::Error::from).map_err(failed("name"))?;
        bind(fd.as_raw_fd(), &address).map_err(io::Error::from).map_err(failed("bind"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(failed("close to others"))?;
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(path, Some(uid), None)
                .map_err(failed("give to the control plane's user"))?;
        }
        let place = place_of(path).map_err(failed("look at"))?;
        Ok(Self { fd, path: path.to_owned(), place })
    }

    /// From here on control planes are let in.
    ///
    /// # Errors
    /// If another process has taken the path meanwhile, or the system refuses.
    pub fn listen(&self) -> Result<(), HandoverError> {
        if !self.is_in_place() {
            let cause = io::Error::new(io::ErrorKind::AddrInUse, "another data plane has taken its place");
            return Err(HandoverError::System { path: self.path.clone(), step: "listen", cause });
        }
        Backlog::new(BACKLOG).and_then(|backlog| listen(&self.fd, backlog)).map_err(|cause| {
            HandoverError::System { path: self.path.clone(), step: "listen", cause: cause.into() }
        })
    }

    fn is_in_place(&self) -> bool {
        place_of(&self.path).is_ok_and(|place| place == self.place)
    }

    /// Takes a waiting connection, if there is one, and says who it is.
    ///
    /// # Errors
    /// If the system refuses: see [`HandoverError::is_shortage`]. Nobody there, or not any more, is `None`.
    pub fn accept(&self) -> Result<Option<(Connection, UnixCredentials)>, HandoverError> {
        let failed = |step| {
            move |cause: nix::Error| HandoverError::System {
                path: self.path.clone(),
                step,
                cause: cause.into(),
            }
        };
        let raw = match accept4(self.fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(raw) => raw,
            Err(nix::Error::EAGAIN | nix::Error::ECONNABORTED | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(failed("accept")(error)),
        };
        // SAFETY: accept4 just returned this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let who = getsockopt(&fd, sockopt::PeerCredentials).map_err(failed("ask who it is"))?;
        Ok(Some((Connection { fd, path: self.path.clone() }, who)))
    }
}

fn place_of(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Whether a process listens at `path`. One that was just killed may be seen for a moment longer.
fn is_served(path: &Path) -> bool {
    const MOMENT: Duration = Duration::from_millis(1_000);
    const STEP: Duration = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while answers(path) {
        if waited >= MOMENT {
            return true;
        }
        // The end of a foreign process that holds this socket is no event that can be waited for.
        std::thread::sleep(STEP);
        waited += STEP;
    }
    false
}

/// Whether a connection is taken there, or would be if others did not wait already.
fn answers(path: &Path) -> bool {
    match Connection::connect(path) {
        Ok(_) => true,
        Err(HandoverError::System { cause, .. }) => cause.kind() == io::ErrorKind::WouldBlock,
        Err(_) => false,
    }
}

impl AsFd for HandoverListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for HandoverListener {
    fn drop(&mut self) {
        if self.is_in_place() {
            // The file may be gone already; the next start removes whatever is left.
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

fn seqpacket(extra: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | extra, None)?)
}

impl Connection {
    /// Connects to the data plane that listens at `path`. Does not wait: where too many wait already, that is an error.
    ///
    /// # Errors
    /// If nobody listens there; `WouldBlock` if others wait.
    pub fn connect(path: &Path) -> Result<Self, HandoverError> {
        let failed = |step| {
            move |cause: nix::Error| HandoverError::System {
                path: path.to_owned(),
                step,
                cause: cause.into(),
            }
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed("create"))?;
        let address = UnixAddr::new(path).map_err(failed("name"))?;
        connect(fd.as_raw_fd(), &address).map_err(failed("connect"))?;
        // Only connecting is not to wait: for a message see `set_patience`.
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty())).map_err(failed("let it wait"))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Whether the other side has closed its end: whatever it said before, nobody waits for an answer.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && fds.first().and_then(PollFd::revents).is_some_and(|events| events.intersects(gone))
    }

    /// Process ID of the other side.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn peer_pid(&self) -> Result<i32, HandoverError> {
        getsockopt(&self.fd, sockopt::PeerCredentials)
            .map(|who| who.pid())
            .map_err(|cause| self.failed("ask who it is", cause))
    }

    /// How long [`Self::receive_hello`] and [`Self::receive_welcome`] wait for the other side.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_patience(&self, seconds: u16) -> Result<(), HandoverError> {
        let patience = TimeVal::seconds(i64::from(seconds));
        setsockopt(&self.fd, sockopt::ReceiveTimeout, &patience)
            .map_err(|cause| self.failed("set its patience", cause))
    }

    fn failed(&self, step: &'static str, cause: impl Into<io::Error>) -> HandoverError {
        HandoverError::System { path: self.path.clone(), step, cause: cause.into() }
    }

    fn send<M: Message>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let data = [IoSlice::new(bytemuck::bytes_of(message))];
        sendmsg::<()>(self.fd.as_raw_fd(), &data, rights, MsgFlags::MSG_NOSIGNAL, None)
            .map(|_| ())
            .map_err(|cause| self.failed("send", cause))
    }

    /// Takes one message. Whatever came with one that is refused is closed.
    fn receive<M: Message>(&self, how: RecvFlags) -> Result<(M, Vec<OwnedFd>), HandoverError> {
        let mut message = M::zeroed();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(bytemuck::bytes_of_mut(&mut message))];
        let received = recvmsg(&self.fd, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC | how)
            .map_err(|cause| self.failed("receive", cause))?;
        let mut fds: Vec<OwnedFd> = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(HandoverError::Closed);
        }
        if received.bytes >= 8 {
            // A peer of another version may send another length: its version is the better complaint.
            message.check()?;
        }
        if received.bytes != size_of::<M>() || received.flags.contains(ReturnFlags::TRUNC) {
            return Err(HandoverError::Malformed("it has another length than this version's"));
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(HandoverError::Malformed(
                "not all of its descriptors could be taken (is the limit of open files, RLIMIT_NOFILE, reached?)",
            ));
        }
        Ok((message, fds))
    }

    /// Control plane: greets, hands over what an earlier data plane left.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn send_hello(&self, hello: &Hello, fds: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        self.send(hello, fds)
    }

    /// Data plane: takes the greeting.
    ///
    /// # Errors
    /// If it is malformed or of another version.
    pub fn receive_hello(&self) -> Result<(Hello, Vec<OwnedFd>), HandoverError> {
        let (hello, fds) = self.receive::<Hello>(RecvFlags::empty())?;
        let announced =
            [hello.has_context, hello.has_udp, hello.has_journal].map(|flag| flag.min(1) as usize);
        if fds.len() != announced.iter().sum::<usize>() {
            return Err(HandoverError::Malformed("HELLO brings another number of descriptors than it says"));
        }
        Ok((hello, fds))
    }

    /// Data plane: welcomes.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn send_welcome(&self, welcome: &Welcome, fds: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        self.send(welcome, fds)
    }

    /// Control plane: takes the welcome.
    ///
    /// # Errors
    /// If it is malformed or of another version.
    pub fn receive_welcome(&self) -> Result<(Welcome, Vec<OwnedFd>), HandoverError> {
        self.welcome(RecvFlags::empty())
    }

    /// As [`Self::receive_welcome`], of what is there: `None` until the other side has answered.
    ///
    /// # Errors
    /// As [`Self::receive_welcome`].
    pub fn try_receive_welcome(&self) -> Result<Option<(Welcome, Vec<OwnedFd>)>, HandoverError> {
        match self.welcome(RecvFlags::DONTWAIT) {
            Err(HandoverError::System { cause, .. }) if is_passing(&cause) => Ok(None),
            received => received.map(Some),
        }
    }

    fn welcome(&self, how: RecvFlags) -> Result<(Welcome, Vec<OwnedFd>), HandoverError> {
        let (welcome, fds) = self.receive::<Welcome>(how)?;
        if fds.len() != WELCOME_FIXED_FDS + welcome.workers as usize {
            return Err(HandoverError::Malformed(
                "WELCOME brings another number of descriptors than it says",
            ));
        }
        Ok((welcome, fds))
    }
}

/// Whether it only means: later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
