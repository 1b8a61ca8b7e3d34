//! R0.2: sealing, opening and the replay windows allocate nothing once keys and windows exist.

use jvpn_abi::tables::{KeyState, ReplayWindow, WINDOW_WORDS};
use jvpn_abi::wire::{Suite, TAG_LEN};
use jvpn_crypto::window::{OwnWindow, Window};
use jvpn_crypto::{OpenKey, SealKey};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::AtomicU64;

/// Counts what each thread asks for; other threads of the test harness do not disturb.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a thread-local without a
// destructor and allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn empty() -> KeyState {
    KeyState {
        send_counter: AtomicU64::new(0),
        reserved: [const { AtomicU64::new(0) }; 7],
        key_number_plus_one: AtomicU64::new(1),
        window_lock: AtomicU64::new(0),
        window_end: AtomicU64::new(0),
        received: AtomicU64::new(0),
        peer_received: AtomicU64::new(0),
        peer_end: AtomicU64::new(0),
        window_plus_one: AtomicU64::new(0),
        refused_seq: AtomicU64::new(0),
    }
}

#[test]
fn the_hot_path_allocates_nothing() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let (seal, open) = (SealKey::new(suite, &[7; 32]), OpenKey::new(suite, &[7; 32]));
        let state = empty();
        let bits = ReplayWindow { words: [const { AtomicU64::new(0) }; WINDOW_WORDS] };
        let window = Window::new(&state, &bits);
        let mut own = OwnWindow::new();
        let plaintext = [0x45; 1_400];
        let (mut sealed, mut out) = ([0; 1_400 + TAG_LEN], [0; 1_400]);
        let before = ALLOCATIONS.get();
        for counter in 0..5_000_u64 {
            let header = counter.to_be_bytes();
            seal.seal(counter, &header, &plaintext, &mut sealed).unwrap();
            window.check(counter).unwrap();
            let opened = open.open(counter, &header, &sealed, &mut out).unwrap();
            window.commit(opened).unwrap();
            let opened = open.open_in_place(counter, &header, &mut sealed).unwrap().0;
            own.commit(opened).unwrap();
            assert!(open.open(counter, &header, &sealed, &mut out).is_err(), "it is plain text now");
            seal.seal_in_place(counter, &header, &mut sealed).unwrap();
        }
        assert_eq!(ALLOCATIONS.get(), before, "{}", suite.name());
        let proof = vec![1_u8; 3];
        assert!(ALLOCATIONS.get() > before, "the counter counts: {proof:?}");
    }
}
