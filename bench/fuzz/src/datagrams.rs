//! Target `datagrams`: the framing and sealing of every control datagram.
//!
//! The input chooses a datagram, what it carries and what becomes of it on the way. Changed in any octet it is refused,
//! and afterwards the genuine one is still read; garbage in its place is refused as well.

use crate::Source;
use crate::messages;
use crate::random::Seeded;
use jvpn_abi::wire::control::CONTROL_OVERHEAD;
use jvpn_abi::wire::handshake::{INIT_LEN, INIT_PAYLOAD_LEN, RESPONSE_PAYLOAD_MAX};
use jvpn_abi::wire::path::{PathEcho, TICKET_ID_LEN};
use jvpn_abi::wire::reattach::{ACK_PAYLOAD_MAX, REQUEST_LEN, REQUEST_PAYLOAD_LEN};
use jvpn_abi::wire::takeover::{TAKEOVER_ACK_PAYLOAD_MAX, TAKEOVER_LEN, TAKEOVER_PAYLOAD_LEN};
use jvpn_abi::wire::{Direction, SlotId, Suite};
use jvpn_abi::{BootTime, Endpoint, Reason};
use jvpn_crypto::CryptoError;
use jvpn_crypto::control::{CONTROL_MESSAGE_MAX, ControlOpener, ControlSealer};
use jvpn_crypto::cookie::{self, Cookie, CookieJar, Question, read_retry};
use jvpn_crypto::handshake::{self, init_mac_ok, initiate, read_init};
use jvpn_crypto::keys::{NodeKey, PresharedKey, StaticSecret};
use jvpn_crypto::path::TicketMint;
use jvpn_crypto::reattach::{RequestFrame, RequestParams, reject, request};
use jvpn_crypto::schedule::{EpochSecret, Resume};
use jvpn_crypto::takeover;
use jvpn_session::messages::{
    ControlMessage, HandshakeAnswer, HandshakeOffer, ReattachAsk, ReattachGrant, TakeoverAsk,
};
use std::sync::OnceLock;

/// What both ends hold before.
struct Ends {
    client: StaticSecret,
    gateway: StaticSecret,
    psk: PresharedKey,
    epoch: EpochSecret,
    resume: Resume,
}

fn ends() -> &'static Ends {
    static ENDS: OnceLock<Ends> = OnceLock::new();
    ENDS.get_or_init(|| {
        let mut rng = Seeded::new(1);
        let client = StaticSecret::generate(&mut rng).unwrap();
        let gateway = StaticSecret::generate(&mut rng).unwrap();
        let psk = PresharedKey::generate(&mut rng).unwrap();
        let (init, _) = initiate(&mut rng, &client, &gateway.public(), &psk, 7, b"").unwrap();
        let (_proven, incoming) = read_init(&mut rng, &gateway, &init).unwrap();
        let (_, epoch) = incoming.respond(&psk, b"").unwrap();
        let resume = epoch.resume();
        Ends { client, gateway, psk, epoch, resume }
    })
}

const SESSION: [u8; 16] = [5; 16];
const NOW: BootTime = BootTime::from_millis(5_000_000);

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.u8() % 6 {
        0 => handshake(&mut source),
        1 => reattach(&mut source),
        2 => control(&mut source),
        3 => path(&mut source),
        4 => takeover(&mut source),
        _ => cookie(&mut source),
    }
}

fn cut(payload: &[u8], most: usize) -> &[u8] {
    payload.get(..most).unwrap_or(payload)
}

/// INIT and RESPONSE.
fn handshake(source: &mut Source<'_>) {
    let Ends { client, gateway, psk, .. } = ends();
    let mut rng = Seeded::new(2);
    let garbage = source.chunk();
    assert!(!init_mac_ok(&gateway.public(), garbage) && read_init(&mut rng, gateway, garbage).is_err());
    let (asked, granted) = (cut(source.chunk(), INIT_PAYLOAD_LEN), cut(source.chunk(), RESPONSE_PAYLOAD_MAX));
    let (init, mut initiation) =
        initiate(&mut rng, client, &gateway.public(), psk, source.u32(), asked).unwrap();
    let spoiled = source.spoil(&init);
    if spoiled != init {
        assert!(!init_mac_ok(&gateway.public(), &spoiled), "the MAC covers every octet");
    }
    let (_proven, incoming) = read_init(&mut rng, gateway, &init).unwrap();
    assert!(incoming.peer == client.public() && incoming.payload.starts_with(asked));
    let _offer = HandshakeOffer::decode(&incoming.payload);
    let (response, _) = incoming.respond(psk, granted).unwrap();
    assert!(response.len() <= INIT_LEN, "an answer is never larger than its question");
    for wrong in [garbage, &source.spoil(&response)] {
        assert!(wrong == response || initiation.read_response(wrong).is_err());
    }
    let (_, payload) = initiation.read_response(&response).unwrap();
    assert_eq!(payload, granted);
    let _answer = HandshakeAnswer::decode(&payload);
    assert_eq!(initiation.read_response(&response).err(), Some(CryptoError::Repeated));
}

/// The same of the takeover exchange, and its two answers.
fn takeover(source: &mut Source<'_>) {
    let Ends { client, gateway, psk, epoch, .. } = ends();
    let (mut rng, secret) = (Seeded::new(5), epoch.root().takeover());
    let garbage = source.chunk();
    assert!(!takeover::request_mac_ok(&gateway.public(), garbage));
    let asked = cut(source.chunk(), TAKEOVER_PAYLOAD_LEN);
    let granted = cut(source.chunk(), TAKEOVER_ACK_PAYLOAD_MAX);
    let params = takeover::RequestParams {
        local: client,
        gateway: &gateway.public(),
        takeover: &secret,
        preshared: psk,
        client_index: source.u32(),
    };
    let (datagram, mut pending) = takeover::request(&mut rng, &params, asked).unwrap();
    let spoiled = source.spoil(&datagram);
    assert!(spoiled == datagram || !takeover::request_mac_ok(&gateway.public(), &spoiled));
    let incoming = takeover::read_request(&mut rng, gateway, &datagram).unwrap();
    assert!(incoming.peer == client.public() && incoming.payload.starts_with(asked));
    let _ask = TakeoverAsk::decode(&incoming.payload);
    let slot = SlotId(source.u32());
    let answered = incoming.answer(&secret, granted, Suite::Aes256Gcm, slot).unwrap();
    let ack = answered.datagram;
    assert!(ack.len() <= TAKEOVER_LEN, "an answer is never larger than its question");
    assert!(pending.read_reject(&ack).is_err(), "a grant is no refusal");
    for wrong in [garbage, &source.spoil(&ack)] {
        assert!(wrong == ack || pending.read_ack(wrong).is_err());
    }
    let (_, payload) = pending.read_ack(&ack).unwrap();
    assert_eq!(payload, granted);
    assert!(pending.read_ack(&ack).is_err(), "once");
}

/// RETRY, and the same request with its cookie.
fn cookie(source: &mut Source<'_>) {
    let Ends { client, gateway, psk, .. } = ends();
    let (mut rng, mut jar) = (Seeded::new(6), CookieJar::default());
    let garbage = source.chunk();
    let (mut init, _) = initiate(&mut rng, client, &gateway.public(), psk, source.u32(), b"").unwrap();
    let question = Question::of_init(&init).unwrap();
    let (remote, local) = (Endpoint::v4([203, 0, 113, 9], 40_000), Endpoint::v4([198, 51, 100, 1], 4_500));
    let baked = jar.bake(&mut rng, NOW, remote, local).unwrap();
    let retry = cookie::retry(&gateway.public(), &question, baked);
    for wrong in [garbage, &source.spoil(&retry)] {
        let read = read_retry(&gateway.public(), &question, wrong);
        assert!(wrong == retry || read.is_err(), "a RETRY that nobody made");
    }
    let shown = read_retry(&gateway.public(), &question, &retry).unwrap();
    handshake::with_cookie(&gateway.public(), &mut init, shown).unwrap();
    assert!(init_mac_ok(&gateway.public(), &init), "with its cookie it is a request as before");
    assert!(jar.accepts(NOW, remote, local, shown));
    let elsewhere = Endpoint { port: source.u16(), ..remote };
    assert!(elsewhere == remote || !jar.accepts(NOW, elsewhere, local, shown));
}

/// REQUEST, ACK and REJECT.
fn reattach(source: &mut Source<'_>) {
    let Ends { client, gateway, resume, .. } = ends();
    let mut rng = Seeded::new(3);
    let garbage = source.chunk();
    assert!(RequestFrame::parse(garbage).is_none_or(|frame| !frame.mac_ok(resume)));
    let (asked, granted) = (cut(source.chunk(), REQUEST_PAYLOAD_LEN), cut(source.chunk(), ACK_PAYLOAD_MAX));
    let params = RequestParams {
        local: client,
        gateway: &gateway.public(),
        resume,
        session_id: SESSION,
        anchor_version: source.u64(),
        nonce: source.u64(),
        handle: [6; 8],
    };
    let (datagram, mut pending) = request(&mut rng, &params, asked).unwrap();
    let spoiled = source.spoil(&datagram);
    if spoiled != datagram {
        assert!(RequestFrame::parse(&spoiled).is_none_or(|frame| !frame.mac_ok(resume)));
    }
    let frame = RequestFrame::parse(&datagram).unwrap();
    let claim = frame.unmask(resume);
    assert_eq!((claim.anchor_version, claim.nonce), (params.anchor_version, params.nonce));
    let (_proven, incoming) = frame.read(&mut rng, gateway, &client.public(), resume, SESSION).unwrap();
    assert!(incoming.payload.starts_with(asked));
    let _ask = ReattachAsk::decode(&incoming.payload);
    let reason = Reason::from_number(source.u8()).unwrap_or(Reason::Cooldown);
    let (refusal, retry_after_ms) = (reject(resume, &frame, reason, 77), 77);
    let (ack, _) = incoming.answer(granted).unwrap();
    assert!(ack.len() <= REQUEST_LEN && refusal.len() <= REQUEST_LEN);
    for wrong in [garbage, &source.spoil(&ack), &source.spoil(&refusal), &ack, &refusal] {
        assert!(wrong == ack || pending.read_ack(wrong).is_err());
        assert!(wrong == refusal || pending.read_reject(wrong).is_err());
    }
    let read = pending.read_reject(&refusal).unwrap();
    assert_eq!((read.reason, read.retry_after_ms), (reason, retry_after_ms));
    let (_, payload) = pending.read_ack(&ack).unwrap();
    assert_eq!(payload, granted);
    let _grant = ReattachGrant::decode(&payload);
    assert_eq!(pending.read_ack(&ack).err(), Some(CryptoError::Repeated));
}

/// CONTROL: any order of genuine, changed, repeated messages and incarnations.
fn control(source: &mut Source<'_>) {
    let Ends { epoch, .. } = ends();
    let suite = if source.u8() & 1 == 0 { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
    let (direction, slot) = (Direction::ClientToGateway, SlotId::new(7, 3).unwrap());
    let mut opener = ControlOpener::new(epoch, suite, direction, slot);
    let mut incarnation = u32::from(source.u8());
    let mut sealer = ControlSealer::new(epoch, suite, direction, slot, incarnation);
    let garbage = source.chunk();
    assert!(opener.open(garbage).is_err());
    for _ in 0..8 {
        if source.u8().is_multiple_of(8) {
            incarnation = incarnation.saturating_add(1 + u32::from(source.u8()));
            sealer = ControlSealer::new(epoch, suite, direction, slot, incarnation);
        }
        let message = cut(source.chunk(), CONTROL_MESSAGE_MAX);
        let datagram = sealer.seal(message).unwrap();
        assert_eq!(datagram.len(), message.len() + CONTROL_OVERHEAD);
        let spoiled = source.spoil(&datagram);
        if spoiled != datagram {
            assert!(opener.open(&spoiled).is_err());
        }
        assert_eq!(opener.open(&datagram).as_deref(), Ok(message));
        let _message = ControlMessage::decode(message);
        assert_eq!(opener.open(&datagram), Err(CryptoError::Repeated));
        if source.is_empty() {
            break;
        }
    }
    // What is kept over a restart lets nothing in twice.
    let heard = opener.heard();
    let last = sealer.seal(b"next").unwrap();
    let mut next = ControlOpener::from_secret(epoch.control_secret(direction), suite, slot, heard);
    assert!(next.open(&last).is_ok() && next.open(&last).is_err());
}

/// What an echo brings.
const COOKIE: Cookie = Cookie([5; 16]);

/// PATH_PROBE and PATH_ECHO.
fn path(source: &mut Source<'_>) {
    let mint = TicketMint::new(&NodeKey::from_bytes([9; 32]));
    let garbage = source.chunk();
    assert!(mint.echo(NOW, garbage, || COOKIE).is_err());
    let mut name = [0; TICKET_ID_LEN];
    name.copy_from_slice(&source.u64().to_be_bytes());
    let later = NOW.after(std::time::Duration::from_secs(u64::from(source.u16())));
    let (probe, awaited) = mint.issue(NOW, name).probe();
    let spoiled = source.spoil(&probe);
    assert!(spoiled == probe || mint.echo(NOW, &spoiled, || COOKIE).is_err());
    // In its time it is answered, always the same.
    if let Ok(echo) = mint.echo(later, &probe, || COOKIE) {
        assert!(awaited.matches(&PathEcho::parse(&echo).unwrap()));
        let spoiled = source.spoil(&echo);
        assert!(spoiled == echo || !PathEcho::parse(&spoiled).is_some_and(|echo| awaited.matches(&echo)));
    } else {
        assert!(later.since(NOW) >= jvpn_crypto::path::TICKET_LIFETIME);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let chunk = |octets: &[u8]| [&(octets.len() as u16).to_be_bytes()[..], octets].concat();
    let mut seeds = Vec::new();
    for (first, second) in [(0, 1), (3, 4), (3, 5)] {
        let (asked, granted) = (&messages::seeds()[first], &messages::seeds()[second]);
        for kind in [0, 1] {
            seeds.push(
                [vec![kind], chunk(&[]), chunk(asked), chunk(granted), vec![1, 2, 0, 5, 0x80]].concat(),
            );
        }
    }
    for message in &messages::seeds()[6..11] {
        seeds.push(
            [vec![2, 1, 0], chunk(&[0x28; 40]), vec![1], chunk(message), vec![2, 0, 1, 9, 0, 30, 0]].concat(),
        );
    }
    let (asked, granted) = (messages::takeover_ask().encode(), &messages::seeds()[4]);
    seeds.push([vec![4], chunk(&[]), chunk(&asked), chunk(granted), vec![1, 2, 3, 4, 0, 5, 0x80]].concat());
    seeds.push([vec![5], chunk(&[0x22; 44]), vec![1, 2, 3, 4, 1, 30, 1, 9, 9]].concat());
    seeds.push([vec![3], chunk(&[0x2c; 32]), vec![1; 8], vec![0, 9, 1, 0, 3, 7]].concat());
    seeds
}
