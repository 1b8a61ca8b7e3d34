//! Seeded bugs. Each changes one rule of the model, or what is made of a production decision; a checker that does not
//! find them all proves nothing.

/// A seeded bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The next binding is bound while the one before is still bound.
    BindBeforeUnbind,
    /// Unbind and installation count as passed when the fastest worker has passed them.
    NoQuiescence,
    /// The nonce is committed with the claim, before MAC and Noise message were looked at.
    NonceBeforeProof,
    /// A proven request that is refused does not burn its nonce.
    NonceNotBurntOnRefusal,
    /// The confirmed generation is erased when the answer leaves, not when it has arrived.
    AnswerLostOldErased,
    /// anchor_version is compared with the live version, not with the generation's.
    VersionComparedWithLive,
    /// A worker seals for a binding that nobody has confirmed, and whose address its request did not prove.
    SendUnproven,
    /// A cookie of another address lets a binding send before it is confirmed.
    CookieOfAnotherAddressSends,
    /// A session gets its advance with each request that shows a cookie, whether or not a binding was ever confirmed.
    AdvanceWithoutEnd,
    /// A restarted data plane begins CONTEXT anew under keys that were in use.
    CounterReusedAfterRestart,
    /// The client takes any RESET that the gateway made, also one for another tenant's handle.
    ForeignReset,
    /// A control plane that loads a session does not store the term that it gives it.
    TermNotStored,
    /// What was bound before the gateway lost its memory stays bound beside the session that it loads.
    OldTermStaysBound,
    /// A takeover request moves the session, without the CONTROL that shows that its client is there.
    TakeoverByRequest,
    /// A gateway that has not loaded all of its store says that there is no such session.
    NotFoundWhileLoading,
    /// A cookie counts from any address.
    CookieFromElsewhere,
    /// A request that comes again with a cookie is judged as another one.
    CookieFormJudgedAnew,
    /// A RESET for the last generation ends the session at the client, without the takeover exchange.
    EndOnReset,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::BindBeforeUnbind,
        Self::NoQuiescence,
        Self::NonceBeforeProof,
        Self::NonceNotBurntOnRefusal,
        Self::AnswerLostOldErased,
        Self::VersionComparedWithLive,
        Self::SendUnproven,
        Self::CookieOfAnotherAddressSends,
        Self::AdvanceWithoutEnd,
        Self::CounterReusedAfterRestart,
        Self::ForeignReset,
        Self::EndOnReset,
        Self::TermNotStored,
        Self::OldTermStaysBound,
        Self::TakeoverByRequest,
        Self::NotFoundWhileLoading,
        Self::CookieFromElsewhere,
        Self::CookieFormJudgedAnew,
    ];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BindBeforeUnbind => "bind-before-unbind",
            Self::NoQuiescence => "no-quiescence",
            Self::NonceBeforeProof => "nonce-before-proof",
            Self::NonceNotBurntOnRefusal => "nonce-not-burnt-on-refusal",
            Self::AnswerLostOldErased => "answer-lost-old-erased",
            Self::VersionComparedWithLive => "version-compared-with-live",
            Self::SendUnproven => "send-without-any-proof",
            Self::CookieOfAnotherAddressSends => "cookie-of-another-address-sends",
            Self::AdvanceWithoutEnd => "advance-without-end",
            Self::CounterReusedAfterRestart => "counter-reused-after-restart",
            Self::ForeignReset => "foreign-reset-accepted",
            Self::EndOnReset => "end-on-reset",
            Self::TermNotStored => "term-not-stored",
            Self::OldTermStaysBound => "old-term-stays-bound",
            Self::TakeoverByRequest => "takeover-by-request",
            Self::NotFoundWhileLoading => "not-found-while-loading",
            Self::CookieFromElsewhere => "cookie-from-elsewhere",
            Self::CookieFormJudgedAnew => "cookie-form-judged-anew",
        }
    }

    /// The mutant of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.name() == name)
    }
}

impl std::fmt::Display for Mutant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
