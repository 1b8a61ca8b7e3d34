//! The production decisions: `jvpn_session::transition` and what goes with it, asked once per question.
//!
//! A [`Proven`] cannot be made for a test, copied or kept. So each question that needs one gets its own, from the real
//! cryptography: one fixed datagram, made once, is read anew, Diffie-Hellman and all. `transition` is pure (I9), so an
//! answer is remembered; at the first asking it is asked twice and the two answers are compared.

use crate::simulation::dice::Dice;
use jvpn_abi::{BootTime, Reason};
use jvpn_crypto::Proven;
use jvpn_crypto::handshake::{initiate, read_init};
use jvpn_crypto::keys::{PresharedKey, StaticSecret};
use jvpn_crypto::reattach::{RequestFrame, RequestParams, request};
use jvpn_crypto::schedule::Resume;
use jvpn_session::messages::SessionId;
use jvpn_session::{
    Anchor, BindingChange, Event, Generation, Policy, ReattachClaim, Rejection, SessionCore, State,
    StateVersion, Transition, admit_takeover, birth, reload, transition,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// Names a `SessionCore` that was met; equal cores have equal names.
pub(super) type CoreId = u16;

/// An event that needs no proof, as a name that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    Superseded,
    Confirmed(u64),
    InstallFailed(u64),
    BindUnconfirmed(u64),
    TransportDead,
    DataPlaneLost,
    LossTtl,
    RecoveryWindow,
    BirthTimeout,
    GoodSinceEntered,
}

/// What a proven request claims and where its nonce is burnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(super) nonce: u8,
    pub(super) under: Generation,
    pub(super) version: StateVersion,
    pub(super) voluntary: bool,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// A transition.
    Moved { core: CoreId, change: BindingChange },
    /// Refused; when to ask again.
    Refused { reason: Reason, retry_after: Duration },
    /// Nothing.
    Ignored,
    /// The decision itself breaks an invariant.
    Broken(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Question {
    Event(Cause),
    Request(Request),
    TakeOver(u64, StateVersion),
    Burn(u8),
    Installed(u64),
}

/// Every core that was met, and every answer that was given.
pub(super) struct Decisions {
    policy: Policy,
    proofs: Proofs,
    cores: RefCell<Vec<Rc<SessionCore>>>,
    names: RefCell<HashMap<String, CoreId>>,
    answers: RefCell<HashMap<(CoreId, Question, BootTime), Decision>>,
}

impl Decisions {
    pub(super) fn new(policy: Policy) -> anyhow::Result<Self> {
        Ok(Self {
            policy,
            proofs: Proofs::new()?,
            cores: RefCell::default(),
            names: RefCell::default(),
            answers: RefCell::default(),
        })
    }

    pub(super) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Different questions that production was asked.
    pub(super) fn asked(&self) -> usize {
        self.answers.borrow().len()
    }

    pub(super) fn core(&self, id: CoreId) -> Rc<SessionCore> {
        Rc::clone(&self.cores.borrow()[usize::from(id)])
    }

    fn name(&self, core: SessionCore) -> CoreId {
        let key = format!("{core:?}");
        let mut cores = self.cores.borrow_mut();
        let next = CoreId::try_from(cores.len()).unwrap_or(CoreId::MAX);
        assert!(next < CoreId::MAX, "the scope has more session cores than a name can tell apart");
        *self.names.borrow_mut().entry(key).or_insert_with(|| {
            cores.push(Rc::new(core));
            next
        })
    }

    /// `jvpn_session::birth`.
    pub(super) fn birth(&self, session: u8, now: BootTime) -> CoreId {
        let born = birth(self.proofs.of_handshake(), SessionId([session; 16]), 0, now);
        self.name(born.core)
    }

    /// `jvpn_session::transition` for an event that needs no proof.
    pub(super) fn event(&self, core: CoreId, cause: Cause, now: BootTime) -> Decision {
        self.remembered(core, Question::Event(cause), now, |before| {
            let entered = before.entered_at();
            let decide = || transition(before, event_of(cause, entered), now, &self.policy);
            self.judged(before, decide(), &decide())
        })
    }

    /// `jvpn_session::transition` for a proven request.
    pub(super) fn request(&self, core: CoreId, request: Request, now: BootTime) -> Decision {
        self.remembered(core, Question::Request(request), now, |before| {
            let claim = ReattachClaim {
                under: request.under,
                anchor_version: request.version.0,
                voluntary: request.voluntary,
            };
            let decide = || {
                let event = Event::ReattachProven(self.proofs.of_reattach(), claim);
                transition(before, event, now, &self.policy)
            };
            self.judged(before, decide(), &decide())
        })
    }

    /// `jvpn_session::reload`.
    pub(super) fn reload(&self, session: u8, term: u8, now: BootTime) -> CoreId {
        let id = SessionId([session; 16]);
        let Some(loaded) = reload(id, term.into(), Duration::ZERO, now, &self.policy) else {
            unreachable!("no scope has as many terms as there are")
        };
        self.name(loaded.core)
    }

    /// `jvpn_session::admit_takeover`: what may be offered.
    pub(super) fn admit_takeover(&self, core: CoreId, now: BootTime) -> Result<Anchor, Rejection> {
        admit_takeover(&self.core(core), now, &self.policy)
    }

    /// `jvpn_session::transition` for an offer that was taken.
    pub(super) fn take_over(&self, core: CoreId, offered: Anchor, now: BootTime) -> Decision {
        let question = Question::TakeOver(offered.epoch, offered.version);
        self.remembered(core, question, now, |before| {
            let decide = || {
                let event = Event::TakeoverProven(self.proofs.of_reattach(), offered);
                transition(before, event, now, &self.policy)
            };
            self.judged(before, decide(), &decide())
        })
    }

    /// `SessionCore::burn_nonce`.
    pub(super) fn burn(&self, core: CoreId, nonce: u8) -> CoreId {
        self.changed(core, Question::Burn(nonce), |core| {
            core.burn_nonce(&self.proofs.of_reattach(), nonce.into());
        })
    }

    /// `SessionCore::binding_installed`.
    pub(super) fn installed(&self, core: CoreId, epoch: u64) -> Option<CoreId> {
        let wanted = self.changed(core, Question::Installed(epoch), |core| {
            let _wanted = core.binding_installed(epoch);
        });
        (wanted != core).then_some(wanted)
    }

    fn changed(&self, core: CoreId, question: Question, change: impl FnOnce(&mut SessionCore)) -> CoreId {
        let decision = self.remembered(core, question, BootTime(0), |before| {
            let mut after = before.clone();
            change(&mut after);
            Decision::Moved { core: self.name(after), change: BindingChange::Keep }
        });
        match decision {
            Decision::Moved { core, .. } => core,
            Decision::Refused { .. } | Decision::Ignored | Decision::Broken(_) => core,
        }
    }

    fn remembered(
        &self,
        core: CoreId,
        question: Question,
        now: BootTime,
        decide: impl FnOnce(&SessionCore) -> Decision,
    ) -> Decision {
        let key = (core, question, now);
        if let Some(decision) = self.answers.borrow().get(&key) {
            return *decision;
        }
        let decision = decide(&self.core(core));
        self.answers.borrow_mut().insert(key, decision);
        decision
    }

    /// I9, I3, I4 and I5 of one decision of production's.
    fn judged(
        &self,
        before: &SessionCore,
        first: Result<Transition, Rejection>,
        second: &Result<Transition, Rejection>,
    ) -> Decision {
        if first != *second {
            return Decision::Broken("I9: the same inputs lead to different outputs");
        }
        match first {
            Ok(next) => {
                let (version, last) = (next.core.version(), before.version());
                if !before.state().is_live() {
                    Decision::Broken("I4: a terminated session changes")
                } else if next.core.id() != before.id() {
                    Decision::Broken("I2: the SessionId changes")
                } else if version != last.next() && version != last.next_term() {
                    Decision::Broken("I3: a version does not follow the one before")
                } else if next.from != Some(before.state()) {
                    Decision::Broken("I8: a transition does not name the state that it left")
                } else {
                    Decision::Moved { core: self.name(next.core), change: next.change }
                }
            }
            Err(Rejection::Refused { reason, retry_after }) => Decision::Refused { reason, retry_after },
            Err(Rejection::Ignored | Rejection::Relinquished) => Decision::Ignored,
        }
    }
}

fn event_of(cause: Cause, entered: BootTime) -> Event {
    match cause {
        Cause::Superseded => Event::Superseded,
        Cause::Confirmed(epoch) => Event::BindingConfirmed { epoch },
        Cause::InstallFailed(epoch) => Event::InstallFailed { epoch },
        Cause::BindUnconfirmed(epoch) => Event::BindUnconfirmed { epoch },
        Cause::TransportDead => Event::TransportDead,
        Cause::DataPlaneLost => Event::DataPlaneLost,
        Cause::LossTtl => Event::TransportLossTtlExpired,
        Cause::RecoveryWindow => Event::RecoveryWindowOver,
        Cause::BirthTimeout => Event::BirthTimeout,
        Cause::GoodSinceEntered => Event::QualityGood { since: entered },
    }
}

/// When an event of the session falls due that no report and no peer causes, in the order of `engine::timers::due`.
pub(super) fn overdue(core: &SessionCore, now: BootTime, policy: &Policy) -> Option<Cause> {
    let reached = |at: Option<BootTime>| at.is_some_and(|at| now >= at);
    if !core.state().is_live() {
        None
    } else if reached(core.transport_loss_deadline(policy)) {
        Some(Cause::LossTtl)
    } else if reached(core.recovery_deadline(policy)) {
        Some(Cause::RecoveryWindow)
    } else if reached(core.birth_deadline()) {
        Some(Cause::BirthTimeout)
    } else if core.state() == State::Degraded && now >= core.degraded_exit(core.entered_at(), now, policy) {
        Some(Cause::GoodSinceEntered)
    } else {
        None
    }
}

/// Two datagrams of a real exchange with fixed keys. Every reading of one mints one proof.
struct Proofs {
    dice: RefCell<Dice>,
    gateway: StaticSecret,
    client: StaticSecret,
    resume: Resume,
    init: Vec<u8>,
    request: Vec<u8>,
}

const SESSION: [u8; 16] = [7; 16];

impl Proofs {
    fn new() -> anyhow::Result<Self> {
        let mut dice = Dice::new(1, 0);
        let gateway = StaticSecret::generate(&mut dice)?;
        let client = StaticSecret::generate(&mut dice)?;
        let psk = PresharedKey::default();
        let (init, _) = initiate(&mut dice, &client, &gateway.public(), &psk, 1, b"")?;
        let (_, incoming) = read_init(&mut dice, &gateway, &init)?;
        let (_, secret) = incoming.respond(&psk, b"")?;
        let resume = secret.resume();
        let params = RequestParams {
            local: &client,
            gateway: &gateway.public(),
            resume: &resume,
            session_id: SESSION,
            anchor_version: 0,
            nonce: 1,
            handle: [1; 8],
        };
        let (request, _) = request(&mut dice, &params, b"")?;
        Ok(Self { dice: RefCell::new(dice), gateway, client, resume, init, request })
    }

    fn of_handshake(&self) -> Proven {
        let read = read_init(&mut *self.dice.borrow_mut(), &self.gateway, &self.init);
        let Ok((proof, _)) = read else { unreachable!("the same datagram was read when this was made") };
        proof
    }

    fn of_reattach(&self) -> Proven {
        let read = RequestFrame::parse(&self.request).map(|frame| {
            let mut dice = self.dice.borrow_mut();
            frame.read(&mut *dice, &self.gateway, &self.client.public(), &self.resume, SESSION)
        });
        let Some(Ok((proof, _))) = read else { unreachable!("the datagram was made for these keys") };
        proof
    }
}
