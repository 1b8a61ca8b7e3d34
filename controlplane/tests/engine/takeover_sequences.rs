//! Any sequence of deaths, slow and failing stores, takeover exchanges, reattaches, losses and replays keeps the
//! invariants; and when the trouble is over the client gets back into the same session (I13).

use crate::client::Client;
use crate::reborn::{answer, ask, attached, broken, hold, lose_everything, rig, take};
use crate::rig::{Answers, PATH_A, PATH_B, PATH_C, Rig, UNIX_OFFSET_MS};
use jvpn_abi::Endpoint;
use jvpn_abi::Reason;
use jvpn_abi::wire::MsgType;
use jvpn_controlplane::engine::TableEvent;
use jvpn_controlplane::store::writer::Request;
use jvpn_controlplane::store::{Change, Expected, Version, Versioned};
use jvpn_session::messages::SessionId;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

/// How the store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Works,
    Fails,
    /// Later.
    Slow,
}

/// One step.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Both processes die and come back.
    Reborn,
    /// The control plane dies and comes back.
    Restart,
    Store(Store),
    /// A takeover request; its answer may get lost.
    Ask {
        path: u8,
        lost: bool,
    },
    /// TAKE_OVER of what is held; the answer may get lost.
    Take {
        path: u8,
    },
    /// A reattach under what is held.
    Request {
        path: u8,
        lost: bool,
    },
    Frame,
    /// A takeover request of earlier, from anywhere.
    Replay {
        index: usize,
        path: u8,
    },
    Wait {
        ms: u64,
    },
    Answers {
        quiesce: Answers,
        install: Answers,
    },
    LetGo,
    Lose,
    Up,
}

fn op() -> impl Strategy<Value = Op> {
    let answers =
        || prop_oneof![4 => Just(Answers::AtOnce), 1 => Just(Answers::Held), 1 => Just(Answers::Never)];
    let path = 0u8..3;
    let lost = prop::bool::weighted(0.25);
    prop_oneof![
        3 => Just(Op::Reborn),
        2 => Just(Op::Restart),
        2 => prop_oneof![Just(Store::Works), Just(Store::Fails), Just(Store::Slow)].prop_map(Op::Store),
        8 => (path.clone(), lost).prop_map(|(path, lost)| Op::Ask { path, lost }),
        8 => path.clone().prop_map(|path| Op::Take { path }),
        4 => (path.clone(), lost).prop_map(|(path, lost)| Op::Request { path, lost }),
        8 => Just(Op::Frame),
        3 => (any::<usize>(), path).prop_map(|(index, path)| Op::Replay { index, path }),
        5 => prop_oneof![0u64..400, 400u64..8_000].prop_map(|ms| Op::Wait { ms }),
        2 => (answers(), answers()).prop_map(|(quiesce, install)| Op::Answers { quiesce, install }),
        2 => Just(Op::LetGo),
        1 => Just(Op::Lose),
        2 => Just(Op::Up),
    ]
}

fn endpoint(path: u8) -> Endpoint {
    [PATH_A(), PATH_B(), PATH_C()][usize::from(path)]
}

struct World {
    rig: Rig,
    client: Client,
    /// Where its newest binding was asked for.
    at: Endpoint,
    id: SessionId,
    record: Option<Versioned>,
    store: Store,
    waiting: Vec<Request>,
    asked: Vec<Vec<u8>>,
    /// Versions of the session only rise, whoever tells them.
    version: u64,
    slots: BTreeSet<u64>,
}

impl World {
    fn new() -> Self {
        let mut rig = rig();
        let (client, (id, record)) = attached(&mut rig, 0);
        Self {
            rig,
            client,
            at: PATH_A(),
            id,
            record: Some(record),
            store: Store::Works,
            waiting: Vec::new(),
            asked: Vec::new(),
            version: 0,
            slots: BTreeSet::new(),
        }
    }

    /// The store's thread has its turn.
    fn serve_store(&mut self) {
        loop {
            self.waiting.extend(std::iter::from_fn(|| self.rig.engine.poll_store()));
            if self.store == Store::Slow || self.waiting.is_empty() {
                return;
            }
            for request in std::mem::take(&mut self.waiting) {
                if self.store == Store::Fails {
                    answer(&mut self.rig, &request, Err(broken()));
                    continue;
                }
                let version = self.commit(&request);
                answer(&mut self.rig, &request, Ok(version));
            }
            if self.store == Store::Fails {
                return;
            }
        }
    }

    fn commit(&mut self, request: &Request) -> Version {
        match &request.change {
            Change::Put { id, expected, session } => {
                let before = self.record.as_ref().unwrap();
                assert_eq!((*id, *expected), (self.id, Expected::Version(before.version)), "compare-and-set");
                assert!(session.term > before.session.term, "I3: a load that does not raise the term");
                let version = Version(before.version.0 + 1);
                self.record = Some(Versioned { version, session: (**session).clone() });
                version
            }
            Change::Delete { .. } => {
                self.record = None;
                Version(0)
            }
        }
    }

    fn records(&self) -> Vec<(SessionId, Versioned)> {
        self.record.iter().map(|record| (self.id, record.clone())).collect()
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Reborn => {
                self.waiting.clear();
                lose_everything(&mut self.rig);
                self.rig.engine.load_stored(self.rig.now, self.records());
                self.rig.pump();
            }
            Op::Restart => self.restart(),
            Op::Store(store) => self.store = store,
            Op::Ask { path, lost } => self.ask(endpoint(path), lost),
            Op::Take { path } => {
                let message = take(&self.client);
                self.rig.datagram(endpoint(path), &message);
            }
            Op::Request { path, lost } => self.request(endpoint(path), lost),
            Op::Frame => {
                let slot = self.client.slot();
                self.rig.frame(slot, self.at);
                let slot_now = self.rig.find(&self.client).and_then(|session| session.slot);
                if slot_now == Some(slot.0) {
                    self.client.settle();
                }
            }
            Op::Replay { index, path } => self.replay(index, endpoint(path)),
            Op::Wait { ms } => self.rig.wait(Duration::from_millis(ms)),
            Op::Answers { quiesce, install } => {
                (self.rig.tables.quiesce, self.rig.tables.install) = (quiesce, install);
            }
            Op::LetGo => self.rig.let_go(),
            Op::Lose => {
                self.lose_tables();
                self.rig.event(TableEvent::DataPlaneLost);
            }
            Op::Up => {
                self.lose_tables();
                self.rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept: true });
            }
        }
        self.serve_store();
        self.check();
    }

    fn lose_tables(&mut self) {
        self.rig.tables.bound.clear();
        self.rig.tables.routes.clear();
        self.rig.tables.held.clear();
        self.rig.tables.forget_keys();
    }

    fn restart(&mut self) {
        self.waiting.clear();
        let (records, mut unknown) = (self.records(), Vec::new());
        self.rig.restart_with(|engine| {
            engine.keep_store(UNIX_OFFSET_MS);
            unknown = records.into_iter().filter(|(id, record)| !engine.match_stored(*id, record)).collect();
        });
        self.rig.engine.load_stored(self.rig.now, unknown);
        self.rig.pump();
    }

    /// The answers of one type that came back.
    fn answers(&mut self, from: Endpoint, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.rig.sent.clear();
        self.rig.datagram(from, datagram);
        let own = self.rig.sent.drain(..).filter(|sent| sent.remote == from).map(|sent| sent.payload);
        let own: Vec<_> = own.collect();
        assert!(own.iter().all(|answer| answer.len() <= datagram.len()), "R3.2: amplified");
        own
    }

    fn ask(&mut self, from: Endpoint, lost: bool) {
        let (request, mut pending) = ask(&mut self.rig, &mut self.client);
        let bound = self.rig.tables.bound.clone();
        let answers = self.answers(from, &request);
        let kept = self.rig.tables.bound.iter().all(|(slot, bound_now)| bound.get(slot) == Some(bound_now));
        assert!(kept, "I5: a takeover request has bound something");
        self.asked.push(request);
        for answer in answers.into_iter().filter(|_| !lost) {
            if answer[0] == MsgType::ReattachAck.octet() {
                hold(&mut self.client, &mut pending, &answer);
                self.at = from;
            } else if let Ok(reject) = pending.read_reject(&answer) {
                let is_over = self.record.is_none() || self.is_over();
                let ends = [Reason::SessionNotFound, Reason::SessionExpired, Reason::SessionTerminated];
                assert!(
                    is_over || !ends.contains(&reject.reason),
                    "R1.2: {:?} of a live session",
                    reject.reason
                );
            }
        }
    }

    fn request(&mut self, from: Endpoint, lost: bool) {
        let mut sent = self.client.request(&mut self.rig);
        let ack = self.answers(from, &sent.datagram.clone());
        let ack = ack.into_iter().find(|answer| answer[0] == MsgType::ReattachAck.octet());
        if let Some(ack) = ack.filter(|_| !lost) {
            self.client.read_ack(&mut sent, &ack);
            self.at = from;
        }
    }

    fn replay(&mut self, index: usize, from: Endpoint) {
        if self.asked.is_empty() {
            return;
        }
        let request = self.asked[index % self.asked.len()].clone();
        let bound = self.rig.tables.bound.clone();
        self.answers(from, &request);
        let kept = self.rig.tables.bound.iter().all(|(slot, bound_now)| bound.get(slot) == Some(bound_now));
        assert!(kept, "R2.4: a replayed request has bound something");
    }

    fn is_over(&self) -> bool {
        self.rig.find(&self.client).is_some_and(|session| session.state == "TERMINATED")
    }

    fn check(&mut self) {
        assert!(self.rig.tables.bound.len() <= 1, "I1: {:?}", self.rig.tables.bound);
        let Some(session) = self.rig.find(&self.client) else {
            assert!(self.rig.tables.bound.is_empty(), "I1: a binding without a session");
            return;
        };
        assert!(
            session.state_version >= self.version,
            "I3: {} after {}",
            session.state_version,
            self.version
        );
        self.version = session.state_version;
        let bound = ["ATTACHED", "VOLATILE", "DEGRADED"].contains(&session.state);
        assert!(!bound || session.slot.is_some(), "I1: {session:?}");
        assert!(session.state != "TERMINATED" || session.slot.is_none(), "I4: {session:?}");
        self.slots.extend(session.slot.map(u64::from));
    }

    /// Everybody does his duty again. `false`: the session has ended meanwhile, by its clocks.
    fn recover(&mut self) -> bool {
        (self.rig.tables.quiesce, self.rig.tables.install) = (Answers::AtOnce, Answers::AtOnce);
        self.run(Op::Store(Store::Works));
        self.run(Op::Up);
        for _ in 0..40 {
            self.run(Op::Wait { ms: 6_000 });
            if self.record.is_none() || self.is_over() {
                return false;
            }
            self.run(Op::Ask { path: 2, lost: false });
            self.run(Op::Take { path: 2 });
            self.run(Op::Frame);
            let session = self.rig.find(&self.client);
            if session.is_some_and(|s| s.slot == Some(self.client.slot().0) && s.state != "RECOVERING") {
                return true;
            }
        }
        panic!("I13: the client does not get back in: {:?}", self.rig.find(&self.client));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 500, ..ProptestConfig::default() })]

    /// R1.2, R1.3, R1.8, R2.4, R3.2, R4.1, I1, I3–I5, I13: over any sequence.
    #[test]
    fn any_sequence_of_takeovers_keeps_the_invariants(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        if world.recover() {
            prop_assert_eq!(world.rig.bound_slots(), [world.client.slot().index()], "I1");
        }
        world.rig.check_audit();
    }
}
