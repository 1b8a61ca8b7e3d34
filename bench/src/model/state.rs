//! One state of the modelled world: client, control plane, shared tables, data plane, and everything that was ever
//! sent.
//!
//! Small numbers stand for names. A binding, its slot, its keys, its epoch's generation and its handle come into being
//! together and are never reused (`docs/decisions/0009`), so one [`Bind`] names them all.

use super::decisions::CoreId;
use jvpn_abi::Reason;
use jvpn_session::StateVersion;

/// A binding with its slot, keys, generation and handle, counted from 0.
pub(super) type Bind = u8;
/// A session, counted from 0.
pub(super) type SessionNo = u8;
/// Where a datagram comes from: the client's paths 0 and 1, or [`ATTACKER`].
pub(super) type Place = u8;
/// The endpoint of somebody who sees, withholds and forwards datagrams under his own address.
pub(super) const ATTACKER: Place = 2;
/// The worker that may stop in the middle of a frame, in scopes that have it.
pub(super) const SLOW: u8 = 0;
/// The worker that handles a frame, and passes a boundary, in no time.
pub(super) const QUICK: u8 = 1;
/// All workers, one bit each.
pub(super) const WORKERS: u8 = 1 << SLOW | 1 << QUICK;

/// Frames that a binding seals of its own accord: the answer to a probe and one more.
pub(super) const COUNTER_MAX: u8 = 2;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Index into the moments of the scope.
    pub(super) now: u8,
    pub(super) client: Client,
    pub(super) gateway: Gateway,
    pub(super) slots: Vec<Slot>,
    pub(super) data_plane: DataPlane,
    pub(super) net: Net,
    pub(super) left: Left,
    pub(super) seen: Seen,
}

/// Faults that may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) client_crashes: u8,
    pub(super) control_plane_crashes: u8,
    pub(super) data_plane_crashes: u8,
    /// How often the gateway may take a path for dead.
    pub(super) silences: u8,
}

/// What no process knows, and invariants are judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    /// Per session: highest epoch under which a worker has committed or sealed.
    pub(super) forwarded: [u8; SESSIONS_MAX],
    /// Per session: highest epoch whose answer has left.
    pub(super) answered: [u8; SESSIONS_MAX],
    /// Nonces whose request was proven, one bit each.
    pub(super) proven: u16,
    /// Places to which a cookie went in this life of the control plane, one bit each.
    pub(super) asked: u8,
    /// Per session: the binding under which something was sent unheard since it was last confirmed.
    pub(super) unheard: [Option<Bind>; SESSIONS_MAX],
    /// Per session: the highest term in which it was ever loaded.
    pub(super) terms: [u8; SESSIONS_MAX],
    /// Moments of confirmed switches, oldest first.
    pub(super) switches: Vec<u8>,
}

/// More sessions than any scope bears.
pub(super) const SESSIONS_MAX: usize = 6;

/// What was sent. Nothing ever leaves this set: a datagram that is never taken from it is lost, one that is taken twice
/// was duplicated or replayed, and any order is possible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Net(Vec<Message>);

impl Net {
    pub(super) fn send(&mut self, message: Message) {
        if let Err(at) = self.0.binary_search(&message) {
            self.0.insert(at, message);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Message) -> bool) {
        self.0.retain(|message| keep(*message));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Message> {
        self.0.iter().copied()
    }
}

/// A datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    /// HANDSHAKE_INIT.
    Init { stamp: u8, path: Place, shown: Option<Cookie> },
    /// HANDSHAKE_RESPONSE with a grant.
    Response { stamp: u8, bind: Bind },
    /// REATTACH_REQUEST under the generation of `under`.
    Request { nonce: u8, under: Bind, path: Place, voluntary: bool, shown: Option<Cookie> },
    /// REATTACH_ACK.
    Ack { nonce: u8, bind: Bind },
    /// REATTACH_REJECT. `again` is the moment that its retry_after names.
    Reject { nonce: u8, reason: Reason, again: u8 },
    /// The client's first DATA under a binding.
    Up { bind: Bind, path: Place },
    /// The gateway's DATA under a binding.
    Down { bind: Bind },
    /// RESET for the handle of a generation.
    Reset { bind: Bind },
    /// A takeover request. What it proves may be long past.
    TakeAsk { nonce: u8, session: SessionNo, path: Place, shown: Option<Cookie> },
    /// Its answer: a binding that is offered.
    Offer { nonce: u8, bind: Bind },
    /// TAKE_OVER: the client's first CONTROL under an offered binding.
    Take { bind: Bind, path: Place },
    /// STATE: the binding that was taken is there.
    Told { bind: Bind },
    /// RETRY: the request is wanted again, with a cookie.
    Retry { about: About, cookie: Cookie },
    /// RESET that the gateway made for the handle of another tenant, who passes it on.
    ForeignReset,
}

impl Message {
    /// Whether a gateway under load asks for a cookie before it looks at it.
    pub(super) const fn is_request(self) -> bool {
        matches!(self, Self::Init { .. } | Self::Request { .. } | Self::TakeAsk { .. })
    }
}

/// What a cookie is made for: a place, by one life of the control plane, whose secret dies with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Cookie {
    pub(super) place: Place,
    pub(super) life: u8,
}

/// The request that a RETRY answers, in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum About {
    Init {
        stamp: u8,
    },
    /// A reattach or a takeover: they count together.
    Request {
        nonce: u8,
    },
}

/// The client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) phase: Phase,
    /// Nonce of the last request. Counts over sessions too, so that it also counts requests.
    pub(super) nonce: u8,
    /// Timestamp of the last handshake; the clock outlives a crash.
    pub(super) stamp: u8,
    /// The latest request has followed its RETRY.
    pub(super) retried: bool,
    /// What was given for each path.
    pub(super) cookies: [Option<Cookie>; 2],
}

/// `client::agent::Phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// The process is gone.
    Crashed,
    /// Handshakes; `open` is the latest one's timestamp and path.
    Searching { open: Option<(u8, Place)> },
    /// A session.
    Session(Held),
    /// Told SUPERSEDED: never again by itself.
    Ended,
}

/// `client::agent::session::Session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) session: SessionNo,
    pub(super) held: Bind,
    pub(super) newer: Option<Bind>,
    pub(super) binding: Bind,
    pub(super) path: Place,
    /// `Sending::Allowed`.
    pub(super) sending: bool,
    /// A frame has opened under `binding`.
    pub(super) proven: bool,
    /// Past its birth.
    pub(super) attached: bool,
    pub(super) recovery: Option<Recovery>,
}

/// `client::agent::reattach::Recovery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Recovery {
    pub(super) voluntary: bool,
    /// `reattach::Exchange::Takeover`: the gateway has forgotten the session.
    pub(super) takeover: bool,
    pub(super) open: Option<Open>,
    /// Answered with a grant: the binding waits for its proof.
    pub(super) answered: bool,
    /// Moment of the decision.
    pub(super) decided: u8,
    /// Nothing is sent before this moment.
    pub(super) not_before: u8,
}

/// `client::agent::reattach::Request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Open {
    pub(super) nonce: u8,
    pub(super) under: Bind,
    /// `Under::Newer`.
    pub(super) newer: bool,
    pub(super) path: Place,
}

/// The control plane: `controlplane::engine` and what it has durably.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Gateway {
    pub(super) life: Life,
    pub(super) link: Link,
    /// `None`: forgotten by a restart.
    pub(super) sessions: Vec<Option<Session>>,
    pub(super) live: Option<SessionNo>,
    pub(super) birth: Option<SessionNo>,
    /// Highest handshake timestamp; durable.
    pub(super) stamp_mark: u8,
    /// Highest takeover request; in memory.
    pub(super) take_mark: u8,
    /// The store: the term of each session that it holds.
    pub(super) stored: Vec<Option<u8>>,
    /// What is stored has not been loaded yet.
    pub(super) loading: bool,
}

/// Whether the control plane runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Gone,
    /// Restarted; waits until every worker (a mask of those that have not) has passed a boundary.
    Sweeping(u8),
    Running,
}

/// `engine::world::DataPlane`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Link {
    Up,
    Lost,
}

/// `engine::session::Session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) core: CoreId,
    pub(super) binding: Option<Bound>,
    pub(super) attempt: Option<Attempt>,
    pub(super) draining: Option<Bind>,
    pub(super) confirmed: Option<Bind>,
    pub(super) pending: Option<Bind>,
    pub(super) erased: Option<Bind>,
    /// What a takeover's answer offers.
    pub(super) offered: Option<Bind>,
    /// `engine::early::Advance::Due`.
    pub(super) advance: bool,
}

/// `engine::session::Binding`, when bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bound {
    pub(super) bind: Bind,
    pub(super) confirmed: bool,
    /// A restarted data plane has not taken it back yet.
    pub(super) adopting: bool,
    /// This process made the keys; a restarted one does not have them.
    pub(super) keys: bool,
}

/// `engine::session::Attempt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) bind: Bind,
    /// `Stage::Installing`, else `Stage::Quiescing`.
    pub(super) installing: bool,
    pub(super) asked: Asked,
}

/// What an attempt answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Handshake { stamp: u8 },
    Reattach { nonce: u8 },
    Takeover,
}

/// One slot in the shared tables: BINDINGS, CONTEXT and REPORTS, and what the answer said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) session: SessionNo,
    pub(super) epoch: u8,
    /// anchor_version.
    pub(super) version: StateVersion,
    pub(super) remote: Place,
    /// Offered and not taken: its epoch is not used yet.
    pub(super) offered: bool,
    /// BINDINGS: the word is bound.
    pub(super) word: bool,
    /// Workers that have not passed its unbind.
    pub(super) draining: u8,
    /// The installer has handed it out.
    pub(super) handed: bool,
    /// Workers that have applied it.
    pub(super) applied: u8,
    /// What the installer was told: its address is proven, so it may send unheard.
    pub(super) early: bool,
    /// A cookie of that life of the control plane had gone to its address (judged by, known to nobody).
    pub(super) reached: bool,
    /// CONTEXT: the confirmed word.
    pub(super) confirmed: bool,
    /// CONTEXT: the window has the client's frame.
    pub(super) committed: bool,
    /// CONTEXT: the send counter.
    pub(super) counter: u8,
    /// Counters that were really used (judged by, known to nobody).
    pub(super) sealed: u8,
}

impl Slot {
    /// (term, epoch): how the bindings of a session follow each other.
    pub(super) const fn order(&self) -> u8 {
        (self.version.term() as u8) << 4 | self.epoch
    }
}

/// The data plane's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DataPlane {
    pub(super) running: bool,
    /// The frame in the hands of the slow worker: it has looked at the word and not yet committed or sealed.
    pub(super) frame: Option<Frame>,
}

/// A frame in the middle of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    /// From the client.
    Inbound(Bind),
    /// From the LAN.
    Outbound(Bind),
}
