//! A source of randomness that fails: whatever needs a draw is not done, and nothing is half done.

use crate::client::Client;
use crate::rig::{PATH_A, PATH_B, Rig, Seeded};
use jvpn_abi::wire::MsgType;
use jvpn_controlplane::engine::Counter;
use jvpn_crypto::rng::{Random, RandomError, SourceError};
use jvpn_session::Policy;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The engine's source. It works until somebody says otherwise.
#[derive(Clone)]
pub(crate) struct Source {
    seeded: Arc<Mutex<Seeded>>,
    /// Draws that still succeed.
    left: Arc<AtomicU64>,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seeded: Arc::new(Mutex::new(Seeded::new(seed))), left: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    fn fails_after(&self, draws: u64) {
        self.left.store(draws, Ordering::Relaxed);
    }

    fn works(&self) {
        self.fails_after(u64::MAX);
    }
}

impl Random for Source {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(RandomError::Unavailable(SourceError::Os(38)));
        }
        if left != u64::MAX {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        self.seeded.lock().unwrap().fill(out)
    }
}

/// Nothing is bound, routed, held in a slot or remembered that the sessions do not have.
fn check(rig: &Rig) {
    let status = rig.engine.status(rig.now, &rig.tables.contexts);
    let live: Vec<_> = status.sessions.iter().filter(|session| session.state != "TERMINATED").collect();
    let slots = live.iter().filter(|session| session.slot.is_some()).count();
    assert_eq!(rig.tables.bound.len(), slots, "{live:?}");
    // The slot that a switch leaves is remembered for late frames.
    let left = u32::from(live.iter().any(|session| session.epoch > 1));
    assert!(status.slots_in_use as u32 <= slots as u32 + left, "{live:?}");
    assert_eq!(rig.engine.live_sessions(), live.len());
    rig.check_audit();
}

/// R1.8, R2.5: the source fails at any draw of a birth: there is no session then and no answer. Once it works again the
/// peer gets in.
#[test]
fn r1_8_without_randomness_nobody_is_born() {
    let mut born = 0;
    for draws in 0..12 {
        let mut rig = Rig::new(Policy::default());
        let mut client = Client::new(0, rig.gateway);
        rig.source.fails_after(draws);
        let (init, _) = client.init(&mut rig);
        rig.datagram(PATH_A(), &init);
        let answered = rig.sent.iter().any(|sent| sent.payload[0] == MsgType::HandshakeResponse.octet());
        check(&rig);
        if !answered {
            assert_eq!((rig.engine.live_sessions(), rig.sent.len()), (0, 0), "after {draws} draws");
            assert!(
                rig.counter(Counter::CryptoFailed) > 0 || draws == 0,
                "after {draws} draws nothing was counted"
            );
        }
        born += u32::from(answered);
        rig.source.works();
        rig.sent.clear();
        rig.wait(Duration::from_secs(1));
        client.handshake(&mut rig, PATH_B());
        rig.frame(client.slot(), PATH_B());
        assert_eq!(rig.status(&client).state, "ATTACHED", "after {draws} draws");
        check(&rig);
    }
    assert!((1..12).contains(&born), "{born} of 12 births needed no draw that failed");
}

/// R1.8, R2.5, I5, I13: the source fails at any draw of a reattach: the session stays bound where it is, and its client
/// gets a new binding once the source works again.
#[test]
fn r1_8_without_randomness_a_session_stays_where_it_is() {
    let mut moved = 0;
    for draws in 0..12 {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        let before = rig.status(&client);
        rig.source.fails_after(draws);
        let sent = client.request(&mut rig);
        rig.datagram(PATH_B(), &sent.datagram);
        let answered = rig.sent.iter().any(|sent| sent.payload[0] == MsgType::ReattachAck.octet());
        check(&rig);
        if !answered {
            let after = rig.status(&client);
            assert_eq!(
                (after.state, after.state_version, after.slot),
                ("ATTACHED", before.state_version, before.slot),
                "after {draws} draws"
            );
            assert!(rig.sent.iter().all(|answer| answer.payload.len() <= sent.datagram.len()));
        }
        moved += u32::from(answered);
        rig.source.works();
        rig.sent.clear();
        rig.wait(Duration::from_secs(1));
        client.switch(&mut rig, PATH_B());
        assert_eq!(rig.status(&client).state, "ATTACHED", "after {draws} draws");
        check(&rig);
    }
    assert!((1..12).contains(&moved), "{moved} of 12 reattaches needed no draw that failed");
}
