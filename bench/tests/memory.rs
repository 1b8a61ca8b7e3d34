//! Octets per session in the data plane. The only test of its program: what other threads allocate would be counted.

use jvpn_bench::forwarding::memory::measure;
use jvpn_rig::Interrupt;

/// R8.2: what a session takes is what its parts take, it does not depend on how many there are, and another worker
/// costs a place and no copy of keys.
#[test]
fn r8_2_octets_per_session_are_known() {
    let measured = |sessions, workers| measure(sessions, workers, &Interrupt::default()).unwrap();
    let (few, many, shared) = (measured(500, 1), measured(4_000, 1), measured(4_000, 4));
    assert!((few.heap - many.heap).abs() < 100.0, "{few:?} {many:?}");
    assert!((shared.heap - many.heap).abs() < 50.0, "{shared:?} {many:?}");
    assert!(many.per_session > many.context + 1_000.0 && many.per_session < 3_500.0, "{many:?}");
    // 8,192 bits and an owner, once: there is no rekey.
    assert!((many.windows - 1_032.0).abs() < 0.1, "{many:?}");
    assert!(shared.places > 2.0 * many.places, "{shared:?} {many:?}");
    // Four cells of 32 octets, and a head; a /128 of 20 octets with its slot; two handles of 8 octets with their buckets.
    assert!((128.0..130.0).contains(&many.prefixes) && (many.routes - 24.0).abs() < 0.1, "{many:?}");
    assert!(many.handles >= 2.0 * (8.0 + 8.0), "{many:?}");
    let parts = [
        many.context,
        many.windows,
        many.binding,
        many.heap,
        many.places,
        many.prefixes,
        many.routes,
        many.handles,
    ];
    assert!((many.per_session - parts.iter().sum::<f64>()).abs() < 0.01, "{many:?}");
    // A page of CONTEXT is resident once one of its slots is.
    assert!(many.resident as f64 > 0.5 * many.context * 4_000.0, "{many:?}");
}
