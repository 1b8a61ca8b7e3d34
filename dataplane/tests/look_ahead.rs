//! R0.5: look-ahead decides nothing: with it or without, on frames that lie or are none, called too often or not at all,
//! packets take the way that they take.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::*;
use jvpn_dataplane::pipeline::Verdict;

#[test]
fn r0_5_look_ahead_changes_no_verdict_and_never_fails() {
    let mut bench = Bench::attached();
    let packet = inner(CLIENT, SERVER, 64, b"x");
    let mut counter = 1;
    for batch_len in [0_usize, 1, 2, 7, 64, 200] {
        let frames: Vec<Vec<u8>> = (0..batch_len)
            .map(|n| match n % 5 {
                // Cut off in its headers, noise, and a slot beyond the table.
                1 => data_frame(1, &packet)[..n % 60].to_vec(),
                2 => vec![n as u8; 200],
                3 => {
                    let mut lies = data_frame(1, &packet);
                    lies[46..50].fill(0xff);
                    lies
                }
                _ => {
                    counter += 1;
                    data_frame(counter, &packet)
                }
            })
            .collect();
        if batch_len != 7 {
            bench.pipeline.begin_batch();
        }
        let mut accepted = 0;
        for at in 0..batch_len {
            bench.pipeline.look_ahead_inbound(|ahead| frames.get(at + ahead).map(Vec::as_slice));
            bench.pipeline.look_ahead_outbound(|ahead| frames.get(at + ahead).map(Vec::as_slice));
            accepted += usize::from(matches!(bench.inbound(&frames[at]), Verdict::ToLan(_)));
        }
        for _ in 0..40 {
            bench.pipeline.look_ahead_inbound(|_| None);
        }
        assert_eq!(accepted, (0..batch_len).filter(|n| !matches!(n % 5, 1..=3)).count());
    }
}
