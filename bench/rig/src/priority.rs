//! Threads of the laboratory that must not wait for what they watch: emulators, senders and receivers of probes.

use std::io;
use std::mem;

/// Above every ordinary thread, below the kernel's own.
const PRIORITY: libc::c_int = 10;

/// Gives the calling thread a real-time priority (SCHED_RR), so that a busy machine delays what is measured and not the
/// measuring. Such a thread must sleep most of the time.
///
/// # Errors
/// Not allowed here (CAP_SYS_NICE); the thread goes on as it was.
pub fn raise() -> io::Result<()> {
    // SAFETY: all-zero is a valid `sched_param`.
    let mut param: libc::sched_param = unsafe { mem::zeroed() };
    param.sched_priority = PRIORITY;
    // SAFETY: the kernel reads one `sched_param`, which is whole and ours; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
