//! A gateway whose processes have died with everything but the store, and what a client does to get back into its session
//! there.

use crate::client::{Client, Held};
use crate::rig::{PATH_A, Rig, UNIX_OFFSET_MS};
use jvpn_abi::wire::MsgType;
use jvpn_abi::{Endpoint, Reason};
use jvpn_controlplane::store::writer::{Outcome, Request};
use jvpn_controlplane::store::{Change, Expected, StoreError, Version, Versioned};
use jvpn_crypto::rng::Random;
use jvpn_crypto::takeover::{self, Pending, RequestParams};
use jvpn_session::Policy;
use jvpn_session::messages::{ControlMessage, ReattachGrant, SessionId, SwitchCause, TakeoverAsk};

/// A rig whose store says what the test wants.
pub(crate) fn rig() -> Rig {
    let mut rig = Rig::new(Policy::default());
    rig.engine.keep_store(UNIX_OFFSET_MS);
    rig
}

pub(crate) fn answer(rig: &mut Rig, request: &Request, result: Result<Version, StoreError>) {
    let (Change::Put { id, .. } | Change::Delete { id, .. }) = request.change;
    let outcome = Outcome { ticket: request.ticket, id, result };
    rig.engine.handle_store_outcome(rig.now, outcome, &rig.tables.contexts);
    rig.pump();
}

pub(crate) fn broken() -> StoreError {
    StoreError::Unavailable { place: "here".into(), problem: "no room".into() }
}

/// An attached client, and its record.
pub(crate) fn attached(rig: &mut Rig, peer: u8) -> (Client, (SessionId, Versioned)) {
    let mut client = Client::new(peer, rig.gateway);
    let record = born(rig, &mut client);
    (client, record)
}

/// A session for this client, attached, and its record.
pub(crate) fn born(rig: &mut Rig, client: &mut Client) -> (SessionId, Versioned) {
    let (init, initiation) = client.init(rig);
    rig.datagram(PATH_A(), &init);
    let request = rig.engine.poll_store().unwrap();
    let Change::Put { id, session, .. } = &request.change else { panic!("{request:?}") };
    let record = (*id, Versioned { version: Version(1), session: (**session).clone() });
    answer(rig, &request, Ok(Version(1)));
    let is_response = |payload: &[u8]| payload.first() == Some(&MsgType::HandshakeResponse.octet());
    let response = rig.sent.drain(..).find(|sent| is_response(&sent.payload)).unwrap();
    client.read_response(initiation, &response.payload).unwrap();
    rig.frame(client.slot(), PATH_A());
    assert_eq!(rig.status(client).state, "ATTACHED");
    rig.sent.clear();
    record
}

/// Both processes are gone, with everything but the store.
pub(crate) fn lose_everything(rig: &mut Rig) {
    rig.forget();
    rig.engine.keep_store(UNIX_OFFSET_MS);
}

/// Both processes have died and come back; the store has raised the term of every record.
pub(crate) fn reborn(rig: &mut Rig, records: &mut [(SessionId, Versioned)]) {
    lose_everything(rig);
    rig.engine.load_stored(rig.now, records.to_vec());
    while let Some(request) = rig.engine.poll_store() {
        let Change::Put { id, expected, session } = &request.change else { panic!("{request:?}") };
        let record = &mut records.iter_mut().find(|(own, _)| own == id).unwrap().1;
        assert_eq!(*expected, Expected::Version(record.version));
        assert_eq!(session.term, record.session.term + 1);
        *record = Versioned { version: Version(record.version.0 + 1), session: (**session).clone() };
        let version = record.version;
        answer(rig, &request, Ok(version));
    }
}

/// A takeover request of a client.
pub(crate) fn ask(rig: &mut Rig, client: &mut Client) -> (Vec<u8>, Pending) {
    let id = client.session();
    ask_for(rig, client, id)
}

pub(crate) fn ask_for(rig: &mut Rig, client: &mut Client, session_id: SessionId) -> (Vec<u8>, Pending) {
    client.timestamp_ns += 1;
    let mut index = [0; 4];
    rig.rng.fill(&mut index).unwrap();
    let params = RequestParams {
        local: &client.secret,
        gateway: &rig.gateway,
        takeover: client.takeover.as_ref().unwrap(),
        preshared: &Default::default(),
        client_index: u32::from_be_bytes(index),
    };
    let (timestamp_ns, cause, attempt) = (client.timestamp_ns, SwitchCause::SlotReset, client.attempt);
    let ask = TakeoverAsk { session_id, timestamp_ns, cause, detect_ms: 400, attempt };
    takeover::request(&mut rig.rng, &params, &ask.encode()).unwrap()
}

/// The client holds what an ACK offers.
pub(crate) fn hold(client: &mut Client, pending: &mut Pending, ack: &[u8]) {
    let (secret, payload) = pending.read_ack(ack).unwrap();
    let grant = ReattachGrant::decode(&payload).unwrap();
    assert!(!grant.rekey && grant.key_number == 0);
    client.held.push(Held::new(grant.binding, secret));
}

/// TAKE_OVER under the newest binding.
pub(crate) fn take(client: &Client) -> Vec<u8> {
    let grant = &client.newest().grant;
    client.control(&ControlMessage::TakeOver { epoch: grant.epoch, version: grant.anchor_version })
}

/// The whole exchange, up to the first frame.
pub(crate) fn take_over(rig: &mut Rig, client: &mut Client, path: Endpoint) {
    let (request, mut pending) = ask(rig, client);
    let ack = rig.ask(path, &request);
    hold(client, &mut pending, &ack);
    let state = rig.ask(path, &take(client));
    let told = client.open(client.newest(), &state).unwrap();
    assert!(matches!(told, ControlMessage::State { .. }), "{told:?}");
    rig.frame(client.slot(), path);
    client.settle();
}

pub(crate) fn refused(rig: &mut Rig, client: &mut Client, path: Endpoint) -> (Reason, u32) {
    let (request, mut pending) = ask(rig, client);
    let refusal = rig.ask(path, &request);
    let reject = pending.read_reject(&refusal).unwrap();
    (reject.reason, reject.retry_after_ms)
}

/// A gateway that has lost everything but its store and has loaded the session of its only client from there; the client,
/// and the records.
pub(crate) fn reborn_gateway() -> (Rig, Client, Vec<(SessionId, Versioned)>) {
    let mut rig = rig();
    let (client, record) = attached(&mut rig, 0);
    let mut records = vec![record];
    reborn(&mut rig, &mut records);
    (rig, client, records)
}
