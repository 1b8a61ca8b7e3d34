//! The part of the gateway's policy that a grant carries: numbers only.

use super::{Reader, Writer};

/// The numbers of the gateway's policy that the client lives by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPolicy {
    /// Probe interval while traffic flows, ms (the client takes max of this and 2 RTT).
    pub probe_traffic_ms: u32,
    /// Probe interval when idle, ms.
    pub probe_idle_ms: u32,
    /// Shortest probe interval under suspicion, ms (the client takes max of this and RTT/2).
    pub suspicion_ms: u32,
    /// Missed probes until the path is dead.
    pub dead_after_missed: u8,
    /// Cooldown after a switch, ms (voluntary switches only).
    pub cooldown_ms: u32,
    /// Recovery window, ms.
    pub recovery_window_ms: u32,
    /// Transport-loss TTL, ms.
    pub transport_loss_ttl_ms: u32,
    /// Paths beside the bound one that a client keeps validated.
    pub candidates_max: u8,
    /// Age of a key after which the client asks for the next one, ms.
    pub rekey_soft_ms: u32,
    /// Age of a key after which it is not used any more, ms.
    pub rekey_hard_ms: u32,
    /// DATA packets under one key and direction after which the client asks for the next one.
    pub rekey_soft_packets: u32,
    /// DATA packets under one key and direction after which it is not used any more.
    pub rekey_hard_packets: u32,
    /// Loss above which quality is bad, percent.
    pub volatile_loss_percent: u8,
    /// Round-trip time above which quality is bad, ms.
    pub volatile_rtt_ms: u32,
    /// Jitter above which quality is bad, ms.
    pub volatile_jitter_ms: u32,
    /// Span that quality is measured over, ms.
    pub quality_span_ms: u32,
    /// How long quality has to be good until it counts as good again, ms.
    pub stability_window_ms: u32,
}

impl ClientPolicy {
    pub(super) fn write(&self, w: &mut Writer) {
        w.u32(self.probe_traffic_ms)
            .u32(self.probe_idle_ms)
            .u32(self.suspicion_ms)
            .u8(self.dead_after_missed);
        w.u32(self.cooldown_ms).u32(self.recovery_window_ms).u32(self.transport_loss_ttl_ms);
        w.u8(self.candidates_max);
        w.u32(self.rekey_soft_ms).u32(self.rekey_hard_ms);
        w.u32(self.rekey_soft_packets).u32(self.rekey_hard_packets);
        w.u8(self.volatile_loss_percent).u32(self.volatile_rtt_ms).u32(self.volatile_jitter_ms);
        w.u32(self.quality_span_ms).u32(self.stability_window_ms);
    }
    pub(super) fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            probe_traffic_ms: r.u32()?,
            probe_idle_ms: r.u32()?,
            suspicion_ms: r.u32()?,
            dead_after_missed: r.u8()?,
            cooldown_ms: r.u32()?,
            recovery_window_ms: r.u32()?,
            transport_loss_ttl_ms: r.u32()?,
            candidates_max: r.u8()?,
            rekey_soft_ms: r.u32()?,
            rekey_hard_ms: r.u32()?,
            rekey_soft_packets: r.u32()?,
            rekey_hard_packets: r.u32()?,
            volatile_loss_percent: r.u8()?,
            volatile_rtt_ms: r.u32()?,
            volatile_jitter_ms: r.u32()?,
            quality_span_ms: r.u32()?,
            stability_window_ms: r.u32()?,
        })
    }
}
