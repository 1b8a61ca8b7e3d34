//! Shared memory, mapped and typed.

use jvpn_abi::tables::{Context, JournalRecord, KeyRing, ReplayWindow, Reports};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Why a table could not be made or mapped.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A system call failed.
    #[error("shared table {name}: {step}: {cause}")]
    System {
        /// Which table.
        name: &'static str,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The descriptor is smaller than the table must be.
    #[error(
        "shared table {name} has {actual} octets where {expected} are needed; are both processes of one version?"
    )]
    Size {
        /// Which table.
        name: &'static str,
        /// Octets that the descriptor has.
        actual: u64,
        /// Octets that the layout needs.
        expected: u64,
    },
}

/// Types that may lie in shared memory: only atomics, any bit pattern valid, no padding that matters.
///
/// # Safety
/// An implementor consists of `AtomicU64` alone, in `repr(C)`.
pub unsafe trait Shared {}

// SAFETY: an atomic u64.
unsafe impl Shared for AtomicU64 {}
// SAFETY: repr(C), AtomicU64 fields only.
unsafe impl Shared for Context {}
// SAFETY: repr(C), AtomicU64 fields only.
unsafe impl Shared for ReplayWindow {}
// SAFETY: repr(C), AtomicU64 fields only.
unsafe impl Shared for Reports {}
// SAFETY: repr(C), AtomicU64 fields only.
unsafe impl Shared for KeyRing {}
// SAFETY: repr(C), AtomicU64 fields only.
unsafe impl Shared for JournalRecord {}

/// `len` values of `T`, mapped shared from a descriptor, unmapped on drop.
#[derive(Debug)]
pub struct Mapping<T: Shared> {
    at: NonNull<T>,
    len: usize,
    octets: NonZeroUsize,
    _values: PhantomData<T>,
}

// SAFETY: the memory is only reached as `&[T]`, and `T` consists of atomics.
unsafe impl<T: Shared> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapping<T> {}

impl<T: Shared> Mapping<T> {
    /// Maps `len` values from the start of `fd`. For a regular memory file the size is checked first, since an access
    /// behind its end would end the process; the kernel checks that of a BPF map itself.
    ///
    /// # Errors
    /// If the descriptor is too small or cannot be mapped.
    pub fn new(name: &'static str, fd: BorrowedFd<'_>, len: usize) -> Result<Self, TableError> {
        Self::new_at(name, fd, 0, len)
    }

    /// As [`Self::new`], from `offset` octets on, which must be a multiple of a page.
    ///
    /// # Errors
    /// As for [`Self::new`], or if the offset is none.
    pub fn new_at(
        name: &'static str,
        fd: BorrowedFd<'_>,
        offset: usize,
        len: usize,
    ) -> Result<Self, TableError> {
        let system = |step, cause: nix::Error| TableError::System { name, step, cause: cause.into() };
        let octets = len.checked_mul(size_of::<T>()).and_then(NonZeroUsize::new).ok_or(TableError::Size {
            name,
            actual: 0,
            expected: len as u64,
        })?;
        let stat = fstat(fd).map_err(|error| system("look at its size", error))?;
        let actual = u64::try_from(stat.st_size).unwrap_or(0);
        let is_regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        let expected = octets.get() as u64 + offset as u64;
        if is_regular && actual < expected {
            return Err(TableError::Size { name, actual, expected });
        }
        let offset = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let at = unsafe { mmap(None, octets, protection, MapFlags::MAP_SHARED, fd, offset) }
            .map_err(|error| system("map it", error))?;
        Ok(Self { at: at.cast(), len, octets, _values: PhantomData })
    }
}

impl<T: Shared> Deref for Mapping<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `at` is page-aligned and spans `len` values for as long as `self` lives; `T` is only atomics.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl<T: Shared> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, not unmapped elsewhere.
        if let Err(error) = unsafe { munmap(self.at.cast(), self.octets.get()) } {
            debug_assert!(false, "munmap of an own mapping failed: {error}");
        }
    }
}

/// Makes a shared memory file of `octets`, sealed against shrinking (a peer that cut it would end us by SIGBUS).
///
/// # Errors
/// If the system refuses.
pub fn shared_memory(name: &'static str, label: &CStr, octets: usize) -> Result<OwnedFd, TableError> {
    let system = |step| move |cause: nix::Error| TableError::System { name, step, cause: cause.into() };
    let fd = memfd_create(label, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .map_err(system("create it"))?;
    let size = i64::try_from(octets).unwrap_or(i64::MAX);
    nix::unistd::ftruncate(&fd, size).map_err(system("size it"))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(system("seal it"))?;
    Ok(fd)
}

/// Whether a memory file from a peer is sealed against shrinking.
#[must_use]
pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals & libc::F_SEAL_SHRINK != 0)
}

/// Whether a memory file from a peer has at least so many octets: what it says of itself is no proof.
#[must_use]
pub fn holds(fd: BorrowedFd<'_>, octets: usize) -> bool {
    let size = fstat(fd).ok().and_then(|stat| usize::try_from(stat.st_size).ok());
    size.is_some_and(|size| size >= octets)
}

/// Whether two descriptors are one memory file.
#[must_use]
pub fn is_same_memory(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    let name = |fd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    name(a).is_ok_and(|a| name(b) == Ok(a))
}

/// How secret memory was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// `memfd_secret`: not even the kernel's direct map holds it.
    Secret,
    /// A sealed memory file; the mapper locks it and forbids dumps.
    Locked,
}

/// Makes memory for keys in transit: `memfd_secret`, or a memory file where the kernel has none.
///
/// # Errors
/// If neither can be had.
pub fn secret_memory(
    name: &'static str,
    label: &CStr,
    octets: usize,
) -> Result<(OwnedFd, Secrecy), TableError> {
    // SAFETY: memfd_secret takes flags only and returns a new descriptor or -1.
    let raw = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if let Some(raw) = i32::try_from(raw).ok().filter(|raw| *raw >= 0) {
        // SAFETY: a descriptor that the call just returned and nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let size = i64::try_from(octets).unwrap_or(i64::MAX);
        nix::unistd::ftruncate(fd.as_fd(), size).map_err(|cause| TableError::System {
            name,
            step: "size secret memory",
            cause: cause.into(),
        })?;
        return Ok((fd, Secrecy::Secret));
    }
    Ok((shared_memory(name, label, octets)?, Secrecy::Locked))
}

impl<T: Shared> Mapping<T> {
    /// Keeps the mapping out of swap and core dumps, as far as the kernel lets this process.
    ///
    /// # Errors
    /// If it can be swapped or dumped afterwards.
    pub fn lock(&self, name: &'static str) -> Result<(), TableError> {
        use nix::sys::mman::{MmapAdvise, madvise, mlock};
        let system = |step| move |cause: nix::Error| TableError::System { name, step, cause: cause.into() };
        // SAFETY: the range is this mapping; neither call changes its content.
        unsafe {
            mlock(self.at.cast(), self.octets.get()).map_err(system("lock it in memory"))?;
            madvise(self.at.cast(), self.octets.get(), MmapAdvise::MADV_DONTDUMP)
                .map_err(system("keep it out of dumps"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_see_one_memory() {
        let fd = shared_memory("TEST", c"jvpn-test", 4096).unwrap();
        let a = Mapping::<AtomicU64>::new("TEST", fd.as_fd(), 512).unwrap();
        let b = Mapping::<AtomicU64>::new("TEST", fd.as_fd(), 512).unwrap();
        a[511].store(7, Ordering::Release);
        assert_eq!(b[511].load(Ordering::Acquire), 7);
        assert!(is_sealed(fd.as_fd()));
        assert!(nix::unistd::ftruncate(&fd, 0).is_err(), "sealed against shrinking");
    }

    /// R7.3: a memory file is judged by what it is, not by what its sender says.
    #[test]
    fn r7_3_the_size_and_the_identity_of_memory_are_looked_up() {
        let [a, b] = [(); 2].map(|()| shared_memory("TEST", c"jvpn-test", 4096).unwrap());
        assert!(holds(a.as_fd(), 4096) && !holds(a.as_fd(), 4097));
        let again = a.try_clone().unwrap();
        assert!(is_same_memory(a.as_fd(), again.as_fd()) && !is_same_memory(a.as_fd(), b.as_fd()));
    }

    #[test]
    fn a_short_file_is_refused_with_both_sizes() {
        let fd = shared_memory("TEST", c"jvpn-test", 4096).unwrap();
        let error = Mapping::<AtomicU64>::new("TEST", fd.as_fd(), 513).unwrap_err().to_string();
        assert!(error.contains("4096") && error.contains("4104"), "{error}");
    }

    #[test]
    fn secret_memory_is_mapped_and_locked() {
        let (fd, secrecy) = secret_memory("TEST", c"jvpn-test", 4096).unwrap();
        let map = Mapping::<AtomicU64>::new("TEST", fd.as_fd(), 512).unwrap();
        map[0].store(1, Ordering::Relaxed);
        if secrecy == Secrecy::Locked {
            map.lock("TEST").unwrap();
        }
    }
}
