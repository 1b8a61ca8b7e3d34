//! What stands in CONTEXT's memory after every single store of an installer: its mappings are read-only while it runs, and
//! each store that the kernel reports is done alone, by the processor's single-step flag. So the installer is the one that
//! ships, and no store of it can be forgotten here.

use crate::rig::Rig;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Stores of one entry that there is room for.
const ROOM: usize = 2_048;
/// The processor's flag that it stops after one instruction.
const SINGLE_STEP: libc::greg_t = 0x100;
const PAGE: usize = 4_096;

/// What the signal handlers know. One recording at a time.
struct Watched {
    /// Where the installer's mappings begin, and how long they are.
    ranges: [(AtomicUsize, AtomicUsize); 3],
    /// The same memory once more, and which words of it mean something.
    memory: AtomicPtr<AtomicU64>,
    words: [(AtomicUsize, AtomicUsize); 3],
    /// Where what stands there goes, and how many words that are so far.
    into: AtomicPtr<u64>,
    written: AtomicUsize,
    room: AtomicUsize,
}

const fn nowhere() -> [(AtomicUsize, AtomicUsize); 3] {
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 3]
}

static WATCHED: Watched = Watched {
    ranges: nowhere(),
    memory: AtomicPtr::new(null_mut()),
    words: nowhere(),
    into: AtomicPtr::new(null_mut()),
    written: AtomicUsize::new(0),
    room: AtomicUsize::new(0),
};
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn pairs(of: &[(AtomicUsize, AtomicUsize); 3]) -> [Range<usize>; 3] {
    of.each_ref().map(|(from, to)| from.load(Ordering::Relaxed)..to.load(Ordering::Relaxed))
}

fn set_pairs(of: &[(AtomicUsize, AtomicUsize); 3], to: &[Range<usize>; 3]) {
    for ((from, until), range) in of.iter().zip(to) {
        from.store(range.start, Ordering::Relaxed);
        until.store(range.end, Ordering::Relaxed);
    }
}

fn protect(protection: libc::c_int) {
    for range in pairs(&WATCHED.ranges) {
        let at = std::ptr::without_provenance_mut(range.start);
        // SAFETY: whole pages of a mapping that the caller of `after_every_store` has borrowed; nothing is unmapped.
        unsafe { libc::mprotect(at, range.len(), protection) };
    }
}

fn flags(context: *mut libc::c_void) -> *mut libc::greg_t {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel hands a handler that was set with SA_SIGINFO the context of the thread that it interrupted.
    unsafe { &raw mut (*context).uc_mcontext.gregs[libc::REG_EFL as usize] }
}

extern "C" fn on_store(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: as for the context.
    let at = unsafe { (*info).si_addr() }.addr();
    if !pairs(&WATCHED.ranges).iter().any(|range| range.contains(&at)) {
        // Not ours: the same again, without us.
        // SAFETY: sets a disposition.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        return;
    }
    protect(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a word of the context above.
    unsafe { *flags(context) |= SINGLE_STEP };
}

extern "C" fn after_store(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: a word of the context above.
    unsafe { *flags(context) &= !SINGLE_STEP };
    let (memory, into) = (WATCHED.memory.load(Ordering::Relaxed), WATCHED.into.load(Ordering::Relaxed));
    for at in pairs(&WATCHED.words).into_iter().flatten() {
        let written = WATCHED.written.fetch_add(1, Ordering::Relaxed);
        if written < WATCHED.room.load(Ordering::Relaxed) {
            // SAFETY: a word of the mapping, and one below the length of the buffer; `after_every_store` has both.
            unsafe { *into.add(written) = (*memory.add(at)).load(Ordering::SeqCst) };
        }
    }
    protect(libc::PROT_READ);
}

fn handle(signal: libc::c_int, by: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)) {
    // SAFETY: all zeroes is a sound sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = by as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a handler of the type that SA_SIGINFO asks for, which calls nothing but system calls.
    let set = unsafe { libc::sigaction(signal, &raw const action, null_mut()) };
    assert_eq!(set, 0);
}

/// Runs something, and says what stood in CONTEXT's memory after each store that it made there, the last one included.
pub(crate) fn after_every_store(rig: &mut Rig, run: impl FnOnce(&mut Rig)) -> Vec<Vec<u64>> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (memory, words) = rig.words();
    let each: usize = words.iter().map(Range::len).sum();
    let mut buffer = vec![0_u64; each * ROOM];
    let pages = |at: usize, octets: usize| at..at + octets.next_multiple_of(PAGE);
    let [contexts, windows, owners] = words.each_ref().map(|words| words.len() * 8);
    let window = std::ptr::from_ref(rig.window(0)).addr();
    let owner = std::ptr::from_ref(rig.tables.window_owner(0).unwrap()).addr();
    let ranges =
        [pages(rig.tables.contexts.as_ptr().addr(), contexts), pages(window, windows), pages(owner, owners)];
    set_pairs(&WATCHED.ranges, &ranges);
    set_pairs(&WATCHED.words, &words);
    WATCHED.memory.store(memory.as_ptr().cast_mut(), Ordering::Relaxed);
    WATCHED.into.store(buffer.as_mut_ptr(), Ordering::Relaxed);
    WATCHED.room.store(buffer.len(), Ordering::Relaxed);
    WATCHED.written.store(0, Ordering::Relaxed);
    handle(libc::SIGSEGV, on_store);
    handle(libc::SIGTRAP, after_store);
    protect(libc::PROT_READ);
    run(rig);
    protect(libc::PROT_READ | libc::PROT_WRITE);
    let written = WATCHED.written.load(Ordering::Relaxed);
    assert!(written <= buffer.len(), "more than {ROOM} stores");
    buffer.truncate(written);
    buffer.chunks(each).map(<[u64]>::to_vec).collect()
}
