//! Every reason there is, once: why a session moved or a request was refused ([`Reason`]), and why a packet left the
//! pipeline ([`DropReason`]). Numbers are stable: they stand on the wire, in counters and in logs.

/// Declares a fieldless enum with stable numbers, stable names and a list of all variants.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident: $repr:ty { $($(#[$vmeta:meta])* $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name { $($(#[$vmeta])* $variant = $number),+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable name, as logs and documents spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: $repr) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The stable number.
            #[must_use]
            #[inline(always)]
            pub const fn number(self) -> $repr { self as $repr }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.write_str(self.name()) }
        }
    };
}

reasons! {
    /// Why a session changed state, or why a request was refused. `docs/PROTOCOL.md` lists the same table.
    Reason: u8 {
        /// A handshake was proven; the session is born.
        HandshakeStart = 1, "HANDSHAKE_START";
        /// The first authenticated frame came over the first binding.
        HandshakeOk = 2, "HANDSHAKE_OK";
        /// The birth did not complete.
        HandshakeFail = 3, "HANDSHAKE_FAIL";
        /// Quality fell below a threshold.
        VolatilitySignal = 4, "VOLATILITY_SIGNAL";
        /// Quality was good for the stability window.
        HealthRecovered = 5, "HEALTH_RECOVERED";
        /// Quality was below the floor for too long.
        QualityFloorViolation = 6, "QUALITY_FLOOR_VIOLATION";
        /// Quality and budget allow unrestricted operation again.
        ExitDegradedMode = 7, "EXIT_DEGRADED_MODE";
        /// Policy ends a session whose quality stayed bad.
        PolicyTermination = 8, "POLICY_TERMINATION";
        /// The bound path is silent beyond its announced intervals.
        TransportDead = 9, "TRANSPORT_DEAD";
        /// A proven reattach starts a switch.
        RecoveryStart = 10, "RECOVERY_START";
        /// A hard key limit was reached; the keys are erased.
        KeyExhausted = 11, "KEY_EXHAUSTED";
        /// The data plane is gone together with its memory.
        DataPlaneLost = 12, "DATA_PLANE_LOST";
        /// New keys at the same endpoint.
        RekeyOk = 13, "REKEY_OK";
        /// A further proven reattach during recovery.
        RecoveryRetry = 14, "RECOVERY_RETRY";
        /// The new binding is confirmed.
        TransportSwitchOk = 15, "TRANSPORT_SWITCH_OK";
        /// The new binding is confirmed and used up the switch budget.
        PolicyFlapLimit = 16, "POLICY_FLAP_LIMIT";
        /// The data plane could not install the binding.
        InstallFailed = 17, "INSTALL_FAILED";
        /// No authenticated frame came over the new binding in time.
        BindUnconfirmed = 18, "BIND_UNCONFIRMED";
        /// The recovery window is over.
        RecoveryBoundsExceeded = 19, "RECOVERY_BOUNDS_EXCEEDED";
        /// The transport-loss TTL is over.
        TtlTransportLossExpired = 20, "TTL_TRANSPORT_LOSS_EXPIRED";
        /// The session TTL is over.
        TtlSessionExpired = 21, "TTL_SESSION_EXPIRED";
        /// Two records claim one ownership term.
        OwnershipConflict = 22, "OWNERSHIP_CONFLICT";
        /// The owner restarted without its memory.
        OwnerRestart = 23, "OWNER_RESTART";
        /// Ownership moved to this node.
        OwnerTakeover = 24, "OWNER_TAKEOVER";
        /// The peer ended the session.
        PeerTerminate = 25, "PEER_TERMINATE";
        /// An operator ended the session.
        AdminTerminate = 26, "ADMIN_TERMINATE";
        /// The peer's key was revoked.
        KeyRevoked = 27, "KEY_REVOKED";
        /// A newer session of the same peer took its place.
        Superseded = 28, "SUPERSEDED";
        /// Internal integrity is broken.
        SecurityViolation = 29, "SECURITY_VIOLATION";

        /// Rejection: authentication failed.
        AuthFail = 64, "AUTH_FAIL";
        /// Rejection: nonce or handle was used before.
        ReplayDetected = 65, "REPLAY_DETECTED";
        /// Rejection: the request was made for an older version than its generation's.
        StaleVersion = 66, "STALE_VERSION";
        /// Rejection: the request claims a newer version than its generation's.
        VersionAhead = 67, "VERSION_AHEAD";
        /// Rejection: no such session or handle here.
        SessionNotFound = 68, "SESSION_NOT_FOUND";
        /// Rejection: a TTL of the session is over.
        SessionExpired = 69, "SESSION_EXPIRED";
        /// Rejection: the session is TERMINATED.
        SessionTerminated = 70, "SESSION_TERMINATED";
        /// Rejection: policy does not allow it.
        PolicyDeny = 71, "POLICY_DENY";
        /// Rejection: a rate limit.
        RateLimited = 72, "RATE_LIMITED";
        /// Rejection: cooldown or switch budget.
        Cooldown = 73, "COOLDOWN";
        /// Rejection: install, store or owner out of reach.
        Unavailable = 74, "UNAVAILABLE";
        /// Rejection: the datagram is not framed as the protocol says.
        Malformed = 75, "MALFORMED";
        /// Rejection: no offered version or suite is acceptable.
        VersionUnsupported = 76, "VERSION_UNSUPPORTED";
        /// Rejection: the event does not apply in this state.
        NotApplicable = 77, "NOT_APPLICABLE";
    }
}

reasons! {
    /// Why a packet left the data plane's pipeline. The number is the index of its counter in `COUNTERS` and `REPORTS`.
    DropReason: u32 {
        /// Forwarded, not dropped: WAN to LAN.
        ForwardedIn = 0, "forwarded_in";
        /// Forwarded, not dropped: LAN to WAN.
        ForwardedOut = 1, "forwarded_out";
        /// A probe was answered.
        ProbeAnswered = 2, "probe_answered";
        /// An echo request to the gateway's inner address was answered.
        EchoAnswered = 3, "echo_answered";
        /// XDP: passed to the kernel because it is none of ours.
        PassedToKernel = 4, "passed_to_kernel";
        /// XDP: control datagram passed to the control plane.
        ControlPassed = 5, "control_passed";
        /// XDP: steered into an AF_XDP socket.
        Steered = 6, "steered";
        /// XDP: sample of unbound traffic passed to the control plane.
        UnboundSampled = 7, "unbound_sampled";
        /// XDP: control datagram over the edge limit.
        EdgeLimited = 8, "edge_limited";
        /// XDP: no AF_XDP socket on this queue.
        NoSocket = 9, "no_socket";
        /// A datagram type that this port does not take.
        UnknownType = 10, "unknown_type";
        /// Shorter than its format allows.
        TooShort = 11, "too_short";
        /// DATA for a slot index beyond the table.
        SlotOutOfRange = 12, "slot_out_of_range";
        /// DATA for a slot that is not bound, or bound under another serial.
        SlotUnbound = 13, "slot_unbound";
        /// DATA from or to another endpoint than the bound one.
        EndpointMismatch = 14, "endpoint_mismatch";
        /// The fence deadline of this node is over.
        Fenced = 15, "fenced";
        /// No keys are installed for this binding on this worker.
        NoContext = 16, "no_context";
        /// Counter seen before, or older than the replay window.
        Replayed = 17, "replayed";
        /// The AEAD did not open.
        OpenFailed = 18, "open_failed";
        /// The decrypted packet is not well-formed IP (or an internal frame).
        InnerMalformed = 19, "inner_malformed";
        /// The decrypted packet's source address is not one of the peer's.
        InnerSourceDenied = 20, "inner_source_denied";
        /// The inner TTL is used up.
        TtlExpired = 21, "ttl_expired";
        /// No route for the inner destination.
        NoRoute = 22, "no_route";
        /// The LAN neighbour is not resolved yet.
        NeighbourMissing = 23, "neighbour_missing";
        /// The binding is not confirmed: nothing is sent.
        Unconfirmed = 24, "unconfirmed";
        /// The hard packet limit of the sending key is reached.
        KeyExhausted = 25, "key_exhausted";
        /// No free TX frame.
        NoTxFrame = 26, "no_tx_frame";
        /// The TX ring was full.
        TxRingFull = 27, "tx_ring_full";
        /// Larger than the tunnel MTU.
        TooBig = 28, "too_big";
        /// Sealing failed.
        SealFailed = 29, "seal_failed";
        /// Client-to-client traffic, denied by policy.
        ClientToClientDenied = 30, "client_to_client_denied";
        /// An internal frame of unknown kind.
        UnknownInternalFrame = 31, "unknown_internal_frame";
        /// Frame on the LAN port without the steering mark.
        NoSteeringMark = 32, "no_steering_mark";
        /// The replay window was locked for too long by another worker.
        WindowBusy = 33, "window_busy";
        /// XDP: control datagram over the limit of its source prefix.
        SourceLimited = 34, "source_limited";
        /// XDP: a fragment, or IP options or extension headers, in front of our port.
        OddHeaders = 35, "odd_headers";
        /// Beside another reason: the packet's sender was told by ICMP.
        IcmpErrorSent = 36, "icmp_error_sent";
        /// The network saw congestion and the inner packet cannot say so (RFC 6040 §4.2).
        CongestionLost = 37, "congestion_lost";
        /// Not dropped: a piece of a packet that was cut, its sender allowing it.
        Fragmented = 38, "fragmented";
        /// Forwarded, not dropped: from one client to another.
        TurnedRound = 39, "turned_round";
    }
}

/// How many packet counters there are.
pub const DROP_REASONS: usize = DropReason::ALL.len();

const _: () = assert!(DROP_REASONS == 40, "counters in the shared tables are sized by this");

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_unique_and_reversible() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(*reason));
        }
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.number() as usize, index, "{reason}: the number is the counter's index");
        }
    }
}
