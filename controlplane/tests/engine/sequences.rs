//! Any sequence of messages, losses, replays, reports and pauses keeps the invariants; and when the trouble
//! is over every client gets back in (I13).

use crate::client::{Client, Sent};
use crate::rig::{Answers, PATH_A, PATH_B, PATH_C, PEERS, Rig, endpoint};
use jvpn_abi::Endpoint;
use jvpn_abi::wire::MsgType;
use jvpn_abi::wire::reattach::{ECHO_AT, ECHO_LEN, MAC_AT};
use jvpn_controlplane::engine::TableEvent;
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, SwitchCause};
use proptest::prelude::*;
use std::time::Duration;

/// One step of a sequence.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// A handshake; the response may get lost.
    Handshake {
        peer: u8,
        path: u8,
        lost: bool,
    },
    /// A request; the answer may get lost.
    Request {
        peer: u8,
        path: u8,
        voluntary: bool,
        lost: bool,
    },
    /// A request, its answer, and the first frame.
    Switch {
        peer: u8,
        path: u8,
    },
    /// The client's last request again.
    Repeat {
        peer: u8,
        path: u8,
    },
    /// A frame over what the client takes for its binding.
    Frame {
        peer: u8,
    },
    /// Something recorded earlier, from anywhere.
    Replay {
        index: usize,
        path: u8,
    },
    /// DATA from elsewhere.
    Sample {
        peer: u8,
        path: u8,
        counter: u64,
    },
    Terminate {
        peer: u8,
    },
    Wait {
        ms: u64,
    },
    /// How the data plane answers from now on.
    Answers {
        quiesce: Answers,
        install: Answers,
    },
    LetGo,
    /// The process is killed after so many outputs, and its successor perhaps too.
    Kill {
        after: u32,
        again: Option<u32>,
    },
    Lose,
    Up {
        context_kept: bool,
    },
}

fn answers() -> impl Strategy<Value = Answers> {
    prop_oneof![
        4 => Just(Answers::AtOnce),
        2 => Just(Answers::Held),
        1 => Just(Answers::Refused),
        1 => Just(Answers::Never)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let (peer, path) = (0..PEERS, 0u8..4);
    let wait = prop_oneof![4 => 0u64..400, 2 => 400u64..6_000, 1 => 6_000u64..100_000];
    prop_oneof![
        1 => (peer.clone(), path.clone(), prop::bool::weighted(0.2))
            .prop_map(|(peer, path, lost)| Op::Handshake { peer, path, lost }),
        8 => (peer.clone(), path.clone(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(peer, path, voluntary, lost)| Op::Request { peer, path, voluntary, lost }),
        6 => (peer.clone(), path.clone()).prop_map(|(peer, path)| Op::Switch { peer, path }),
        3 => (peer.clone(), path.clone()).prop_map(|(peer, path)| Op::Repeat { peer, path }),
        10 => peer.clone().prop_map(|peer| Op::Frame { peer }),
        4 => (any::<usize>(), path.clone()).prop_map(|(index, path)| Op::Replay { index, path }),
        2 => (peer.clone(), path, 0u64..6)
            .prop_map(|(peer, path, counter)| Op::Sample { peer, path, counter }),
        1 => peer.prop_map(|peer| Op::Terminate { peer }),
        6 => wait.prop_map(|ms| Op::Wait { ms }),
        2 => (answers(), answers()).prop_map(|(quiesce, install)| Op::Answers { quiesce, install }),
        2 => Just(Op::LetGo),
        3 => (0u32..16, proptest::option::weighted(0.3, 0u32..8))
            .prop_map(|(after, again)| Op::Kill { after, again }),
        1 => Just(Op::Lose),
        2 => any::<bool>().prop_map(|context_kept| Op::Up { context_kept }),
    ]
}

fn path(number: u8) -> Endpoint {
    [PATH_A(), PATH_B(), PATH_C(), endpoint(40, 40_003)][usize::from(number)]
}

struct Actor {
    client: Client,
    at: Endpoint,
    last: Option<(Sent, Endpoint)>,
}

struct World {
    rig: Rig,
    actors: Vec<Actor>,
    recorded: Vec<Vec<u8>>,
    /// When the next successor is killed.
    again: Option<u32>,
}

impl World {
    fn new() -> Self {
        let rig = Rig::new(Policy { max_switches_per_min: 3, ..Policy::default() });
        let actor = |peer| Actor { client: Client::new(peer, rig.gateway), at: PATH_A(), last: None };
        let actors = (0..PEERS).map(actor).collect();
        Self { rig, actors, recorded: Vec::new(), again: None }
    }

    /// Sends a datagram and returns what came back to this endpoint, of one type. Delayed answers to others
    /// may be among it.
    fn ask(&mut self, from: Endpoint, datagram: &[u8], wanted: MsgType) -> Vec<Vec<u8>> {
        self.recorded.push(datagram.to_vec());
        self.rig.sent.clear();
        self.rig.datagram(from, datagram);
        let answers = self.rig.sent.iter().filter(|t| t.remote == from);
        answers.map(|t| t.payload.clone()).filter(|payload| payload[0] == wanted.octet()).collect()
    }

    fn handshake(&mut self, peer: u8, from: Endpoint, lost: bool) {
        let actor = &mut self.actors[usize::from(peer)];
        let (init, initiation) = actor.client.init(&mut self.rig);
        // Nothing delayed: only a birth that is installed at once is answered at once.
        let response = self.ask(from, &init, MsgType::HandshakeResponse).pop();
        let actor = &mut self.actors[usize::from(peer)];
        if let Some(response) = response.filter(|_| !lost)
            && actor.client.read_response(initiation, &response).is_ok()
        {
            actor.at = from;
            actor.last = None;
        }
    }

    fn request(&mut self, peer: u8, from: Endpoint, voluntary: bool, lost: bool) {
        let actor = &mut self.actors[usize::from(peer)];
        if actor.client.grant.is_none() {
            return;
        }
        actor.client.cause = if voluntary { SwitchCause::Voluntary } else { SwitchCause::PathDead };
        let mut sent = actor.client.request(&mut self.rig);
        let acks = self.ask(from, &sent.datagram.clone(), MsgType::ReattachAck);
        let own = acks
            .into_iter()
            .find(|ack| ack[ECHO_AT..ECHO_AT + ECHO_LEN] == sent.datagram[MAC_AT..][..ECHO_LEN]);
        let actor = &mut self.actors[usize::from(peer)];
        if let Some(ack) = own.filter(|_| !lost) {
            actor.client.read_ack(&mut sent, &ack);
            actor.at = from;
        }
        actor.last = Some((sent, from));
    }

    fn frame(&mut self, peer: u8) {
        let actor = &mut self.actors[usize::from(peer)];
        if actor.client.grant.is_none() {
            return;
        }
        let (slot, at) = (actor.client.slot(), actor.at);
        let number = actor.client.newest().key_number;
        self.rig.frame_under(slot, at, number);
        if self.rig.find(&self.actors[usize::from(peer)].client).is_some_and(|s| s.slot == Some(slot.0)) {
            self.actors[usize::from(peer)].client.settle();
        }
    }

    fn run(&mut self, op: Op) {
        while self.rig.is_dead() {
            let again = self.again.take();
            self.rig.restart_until(again);
        }
        match op {
            Op::Handshake { peer, path: from, lost } => self.handshake(peer, path(from), lost),
            Op::Request { peer, path: from, voluntary, lost } => {
                self.request(peer, path(from), voluntary, lost);
            }
            Op::Switch { peer, path: to } => {
                self.request(peer, path(to), false, false);
                self.frame(peer);
            }
            Op::Repeat { peer, path: from } => {
                if let Some((sent, _)) = &self.actors[usize::from(peer)].last {
                    let datagram = sent.datagram.clone();
                    self.rig.datagram(path(from), &datagram);
                }
            }
            Op::Frame { peer } => self.frame(peer),
            Op::Replay { index, path: from } => {
                if !self.recorded.is_empty() {
                    let datagram = self.recorded[index % self.recorded.len()].clone();
                    self.rig.datagram(path(from), &datagram);
                }
            }
            Op::Sample { peer, path: from, counter } => {
                let client = &self.actors[usize::from(peer)].client;
                if client.grant.is_some() {
                    let sample = client.sample(client.newest(), counter);
                    self.rig.datagram(path(from), &sample);
                }
            }
            Op::Terminate { peer } => {
                let actor = &self.actors[usize::from(peer)];
                if actor.client.grant.is_some() {
                    let message = ControlMessage::Terminate { reason: jvpn_abi::Reason::PeerTerminate };
                    let (at, control) = (actor.at, actor.client.control(&message));
                    self.rig.datagram(at, &control);
                }
            }
            Op::Wait { ms } => self.rig.wait(Duration::from_millis(ms)),
            Op::Answers { quiesce, install } => {
                // A quiescence is reported, late or never; it is not refused.
                let refused = quiesce == Answers::Refused;
                self.rig.tables.quiesce = if refused { Answers::Never } else { quiesce };
                self.rig.tables.install = install;
            }
            Op::LetGo => self.rig.let_go(),
            Op::Kill { after, again } => {
                self.rig.fuse = Some(after);
                self.again = again;
            }
            Op::Lose => {
                self.rig.tables.bound.clear();
                self.rig.tables.routes.clear();
                self.rig.tables.held.clear();
                self.rig.tables.forget_keys();
                self.rig.event(TableEvent::DataPlaneLost);
            }
            Op::Up { context_kept } => {
                self.rig.tables.bound.clear();
                self.rig.tables.held.clear();
                self.rig.tables.forget_keys();
                self.rig.event(TableEvent::DataPlaneUp { slots: 64, context_kept });
            }
        }
        self.check();
    }

    /// What an outside observer of the tables can see at any moment.
    fn check(&self) {
        if self.rig.is_dead() {
            return;
        }
        let status = self.rig.engine.status(self.rig.now, &self.rig.tables.contexts);
        for session in &status.sessions {
            let bound = ["ATTACHED", "VOLATILE", "DEGRADED"].contains(&session.state);
            if bound {
                assert!(session.slot.is_some(), "I1: {session:?}");
            }
            if session.state == "TERMINATED" {
                assert_eq!(session.slot, None, "I4: {session:?}");
            }
        }
        let named: Vec<_> = status.sessions.iter().filter_map(|session| session.slot).collect();
        for (index, (word, ..)) in &self.rig.tables.bound {
            let slot = jvpn_abi::wire::SlotId::new(*index, word.serial()).unwrap();
            assert!(named.contains(&slot.0), "I1: the tables bind a slot that no session has");
        }
        assert!(status.slots_in_use <= 64);
    }

    /// The trouble is over: honest tables, honest paths, patience as the answers ask for it.
    fn recover(&mut self) {
        self.rig.tables.quiesce = Answers::AtOnce;
        self.rig.tables.install = Answers::AtOnce;
        while self.rig.is_dead() {
            self.rig.restart();
        }
        self.rig.fuse = None;
        self.run(Op::Up { context_kept: true });
        for peer in 0..PEERS {
            for attempt in 0.. {
                assert!(attempt < 40, "I13: peer {peer} does not get back in: {:?}", self.states());
                self.request(peer, PATH_C(), false, false);
                self.frame(peer);
                if self.is_in(peer) {
                    break;
                }
                let client = &self.actors[usize::from(peer)].client;
                let ended = client.grant.is_none()
                    || self.rig.find(client).is_none_or(|s| s.state == "TERMINATED" || s.state == "BIRTH");
                if ended {
                    self.handshake(peer, PATH_C(), false);
                    self.frame(peer);
                }
                if self.is_in(peer) {
                    break;
                }
                self.rig.wait(Duration::from_secs(6));
            }
        }
    }

    /// Whether a peer's session is bound by what the client holds.
    fn is_in(&self, peer: u8) -> bool {
        let client = &self.actors[usize::from(peer)].client;
        client.grant.is_some()
            && self.rig.find(client).is_some_and(|session| {
                session.state != "BIRTH"
                    && session.slot == Some(client.slot().0)
                    && session.state != "RECOVERING"
            })
    }

    fn states(&self) -> Vec<String> {
        let status = self.rig.engine.status(self.rig.now, &self.rig.tables.contexts);
        status.sessions.iter().map(|s| format!("{} {} {}", s.peer, s.state, s.reason)).collect()
    }
}

fn run(ops: &[Op]) -> World {
    let mut world = World::new();
    for peer in 0..PEERS {
        world.handshake(peer, PATH_A(), false);
        world.frame(peer);
    }
    for op in ops {
        world.run(*op);
    }
    world.recover();
    world.rig.check_audit();
    world
}

/// Few cases in the ordinary run; PROPTEST_CASES asks for more.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 48 }, ..default }
}

proptest! {
    #![proptest_config(config())]

    /// R1.1–R1.8, R1.9, R2.4, I1–I13.
    #[test]
    fn any_sequence_keeps_the_invariants_and_locks_nobody_out(ops in proptest::collection::vec(op(), 1..60)) {
        let world = run(&ops);
        let again = run(&ops);
        prop_assert_eq!(&world.rig.tables.log, &again.rig.tables.log, "I9: the same inputs gave two outcomes");
        prop_assert_eq!(&world.rig.lines, &again.rig.lines, "I9: the same inputs gave two logs");
    }
}

/// R3.2: a client that flaps as fast as it can is held to its budget and stays in.
#[test]
fn r3_2_flapping_is_bounded() {
    let mut world = World::new();
    world.handshake(0, PATH_A(), false);
    world.frame(0);
    for n in 0..600u32 {
        world.request(0, path((n % 3) as u8), n % 2 == 0, false);
        world.frame(0);
        world.rig.wait(Duration::from_millis(200));
        world.frame(0);
    }
    let switches = world.rig.status(&world.actors[0].client).switches;
    assert!(switches <= 3 * 3, "{switches} switches in 120 s at 3 a minute");
    world.recover();
    world.rig.check_audit();
}

/// R8.2, I10: churn leaves nothing behind but what is remembered on purpose.
#[test]
fn i10_churn_leaves_no_slots_behind() {
    let mut world = World::new();
    for _ in 0..50 {
        world.handshake(0, PATH_A(), false);
        world.frame(0);
        for next in [PATH_B(), PATH_C()] {
            world.request(0, next, false, false);
            world.frame(0);
        }
        world.run(Op::Terminate { peer: 0 });
    }
    let status = world.rig.engine.status(world.rig.now, &world.rig.tables.contexts);
    assert_eq!((status.slots_in_use, status.live_sessions), (0, 0));
    world.rig.wait(Duration::from_secs(1_000));
    let status = world.rig.engine.status(world.rig.now, &world.rig.tables.contexts);
    assert!(status.sessions.is_empty());
    assert_eq!(world.rig.engine.poll_timeout(), None);
}
