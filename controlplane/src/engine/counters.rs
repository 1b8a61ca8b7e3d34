//! What the engine counts: every datagram that led nowhere, every rejection by its reason, every event that
//! was ignored.

use jvpn_abi::Reason;
use std::collections::BTreeMap;

/// Single counters. The name is what `status` shows.
macro_rules! counters {
    ($($(#[$meta:meta])* $variant:ident = $text:literal;)+) => {
        /// A counter of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Counter { $($(#[$meta])* $variant),+ }

        impl Counter {
            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}

counters! {
    /// Empty, or a type that no gateway takes.
    UnknownType = "unknown_type";
    /// DATA of a bound path in the kernel's socket: XDP should have taken it.
    KernelSocketBoundData = "kernel_socket_bound_data";
    /// Other DATA in the kernel's socket.
    KernelSocketOtherData = "kernel_socket_other_data";
    /// Handshakes whose framing or MAC is wrong.
    HandshakeMacWrong = "handshake_mac_wrong";
    /// Handshakes that arrived with a right MAC.
    HandshakeReceived = "handshake_received";
    /// Sessions born.
    SessionsBorn = "sessions_born";
    /// Requests that arrived with the right size.
    ReattachReceived = "reattach_received";
    /// Requests accepted.
    ReattachAccepted = "reattach_accepted";
    /// Bindings to addresses that their requests had proven: they send before they are confirmed.
    ReattachAddressProven = "reattach_address_proven";
    /// Repeated requests whose answer was sent again.
    ReattachAnsweredAgain = "reattach_answered_again";
    /// Repeated requests whose answer is still being prepared.
    ReattachInProgress = "reattach_in_progress";
    /// Rekeys whose new keys came into use.
    Rekeyed = "rekeyed";
    /// Takeover requests whose framing or MAC is wrong.
    TakeoverMacWrong = "takeover_mac_wrong";
    /// Takeover requests that arrived with a right MAC.
    TakeoverReceived = "takeover_received";
    /// Takeover requests that were answered with an offer.
    TakeoverAnswered = "takeover_answered";
    /// Offers that their clients took.
    TakeoverAccepted = "takeover_accepted";
    /// RESETs sent for handles.
    HandleResetSent = "handle_reset_sent";
    /// RESETs sent for slots.
    SlotResetSent = "slot_reset_sent";
    /// RESETs that a limit or the missing data plane held back.
    ResetHeldBack = "reset_held_back";
    /// Path hints sent.
    PathHintSent = "path_hint_sent";
    /// Path hints that a limit or the size of the question held back.
    PathHintHeldBack = "path_hint_held_back";
    /// Times that load of handshakes began: cookies are asked for.
    HandshakeLoad = "handshake_load";
    /// Times that load of reattach requests began.
    ReattachLoad = "reattach_load";
    /// Times that load of requests with unknown handles began.
    UnknownHandleLoad = "unknown_handle_load";
    /// Times that load of takeover requests began.
    TakeoverLoad = "takeover_load";
    /// RETRYs sent, each to a request without a cookie that is good here and now.
    RetrySent = "retry_sent";
    /// RETRYs that a limit held back: these requests met silence.
    RetryHeldBack = "retry_held_back";
    /// Requests under load that showed their cookie.
    CookieAccepted = "cookie_accepted";
    /// Requests under load with a cookie of another path or time.
    CookieRefused = "cookie_refused";
    /// Handshakes with a cookie, more than one source prefix gets of what is reserved for those.
    CookiePrefixLimited = "cookie_prefix_limited";
    /// Unbound samples received.
    SampleReceived = "sample_received";
    /// Samples over the limit.
    SampleLimited = "sample_limited";
    /// Samples that are no DATA.
    SampleMalformed = "sample_malformed";
    /// Samples that do not open.
    SampleAuthFail = "sample_auth_fail";
    /// Samples whose counter was committed before: replays.
    SampleReplayed = "sample_replayed";
    /// Samples from the bound endpoint: bound while they were under way.
    SampleOfBoundPath = "sample_of_bound_path";
    /// Samples of a binding whose keys only the workers have since the control plane restarted.
    SampleWithoutKey = "sample_without_key";
    /// Genuine DATA of a binding that the session has left: held back on its way, not answered.
    SampleOfFormerBinding = "sample_of_former_binding";
    /// CONTROL that does not open or parse.
    ControlRefused = "control_refused";
    /// CONTROL for a slot that is not bound.
    ControlUnknownSlot = "control_unknown_slot";
    /// CONTROL that means nothing to a gateway.
    ControlMeaningless = "control_meaningless";
    /// Path probes that are not framed as such.
    PathProbeMalformed = "path_probe_malformed";
    /// Path probes over the node's limit.
    PathProbeLimited = "path_probe_limited";
    /// Path probes whose ticket is not of this time.
    PathProbeExpired = "path_probe_expired";
    /// Path probes whose MAC is wrong.
    PathProbeAuthFail = "path_probe_auth_fail";
    /// Path probes that were echoed.
    PathEchoSent = "path_echo_sent";
    /// Batches of tickets handed out.
    TicketsHandedOut = "tickets_handed_out";
    /// Batches that a limit or an unconfirmed binding held back.
    TicketsHeldBack = "tickets_held_back";
    /// Reports of the tables that no longer apply.
    StaleReport = "stale_report";
    /// Sessions that went on from JOURNAL when the control plane started.
    SessionsAdopted = "sessions_adopted";
    /// Sessions that were loaded from the store when the control plane started without their memory.
    SessionsLoaded = "sessions_loaded";
    /// Records of JOURNAL that could not be read: their sessions are loaded from the store.
    JournalDamaged = "journal_damaged";
    /// Changes of sessions for which JOURNAL had no room: they end with their process.
    JournalFull = "journal_full";
    /// Records of the store that this process cannot read, and leaves as they are.
    StoreRecordsKept = "store_records_kept";
    /// Records of the store that nobody will ever read, removed.
    StoreRecordsRemoved = "store_records_removed";
    /// Births and ends that the session store did not take.
    StoreFailed = "store_failed";
    /// Datagrams that the edge refused, as far as this process has read of them.
    EdgeRefused = "edge_refused";
    /// Bindings for which there was no slot.
    NoSlot = "no_slot";
    /// What could not be made durable.
    StateWriteFailed = "state_write_failed";
    /// What the cryptography refused to make (no randomness, a part that failed).
    CryptoFailed = "crypto_failed";
}

/// All counters of an engine.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    single: BTreeMap<Counter, u64>,
    handshake_refused: BTreeMap<Reason, u64>,
    reattach_rejected: BTreeMap<Reason, u64>,
    takeover_refused: BTreeMap<Reason, u64>,
    transitions: BTreeMap<Reason, u64>,
    events_ignored: BTreeMap<&'static str, u64>,
    events_rejected: BTreeMap<Reason, u64>,
}

fn bump<K: Ord>(map: &mut BTreeMap<K, u64>, key: K) {
    let count = map.entry(key).or_default();
    *count = count.saturating_add(1);
}

impl Counters {
    pub(super) fn count(&mut self, counter: Counter) {
        bump(&mut self.single, counter);
    }
    pub(super) fn count_many(&mut self, counter: Counter, times: u64) {
        let count = self.single.entry(counter).or_default();
        *count = count.saturating_add(times);
    }
    pub(super) fn handshake_refused(&mut self, reason: Reason) {
        bump(&mut self.handshake_refused, reason);
    }
    pub(super) fn reattach_rejected(&mut self, reason: Reason) {
        bump(&mut self.reattach_rejected, reason);
    }
    pub(super) fn takeover_refused(&mut self, reason: Reason) {
        bump(&mut self.takeover_refused, reason);
    }
    pub(super) fn transition(&mut self, reason: Reason) {
        bump(&mut self.transitions, reason);
    }
    pub(super) fn event_ignored(&mut self, event: &'static str) {
        bump(&mut self.events_ignored, event);
    }
    pub(super) fn event_rejected(&mut self, reason: Reason) {
        bump(&mut self.events_rejected, reason);
    }

    /// One single counter.
    #[must_use]
    pub fn single(&self, counter: Counter) -> u64 {
        self.single.get(&counter).copied().unwrap_or(0)
    }

    /// Reattach requests rejected for a reason.
    #[must_use]
    pub fn reattach_rejections(&self, reason: Reason) -> u64 {
        self.reattach_rejected.get(&reason).copied().unwrap_or(0)
    }

    /// Takeover requests refused for a reason.
    #[must_use]
    pub fn takeover_refusals(&self, reason: Reason) -> u64 {
        self.takeover_refused.get(&reason).copied().unwrap_or(0)
    }

    /// Handshakes refused for a reason.
    #[must_use]
    pub fn handshake_refusals(&self, reason: Reason) -> u64 {
        self.handshake_refused.get(&reason).copied().unwrap_or(0)
    }

    /// Every counter by name; single ones also when they are zero.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for counter in Counter::ALL {
            all.insert(counter.name().to_owned(), self.single(*counter));
        }
        let by_reason = [
            ("handshake_refused", &self.handshake_refused),
            ("reattach_rejected", &self.reattach_rejected),
            ("takeover_refused", &self.takeover_refused),
            ("transition", &self.transitions),
            ("event_rejected", &self.events_rejected),
        ];
        for (prefix, map) in by_reason {
            all.extend(map.iter().map(|(reason, count)| (format!("{prefix}.{}", reason.name()), *count)));
        }
        all.extend(self.events_ignored.iter().map(|(name, count)| (format!("event_ignored.{name}"), *count)));
        all
    }
}
