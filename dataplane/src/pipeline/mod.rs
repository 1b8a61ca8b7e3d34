//! The packet pipeline: a frame in, a verdict out. Pure – no socket, no ring, no clock – and free of allocation, so that
//! tests, benches and fuzzers drive exactly what the workers run.

mod inbound;
mod look_ahead;
mod next_hops;
mod no_clients;
mod outbound;
mod plain_v4;
mod tally;
mod turned;

pub use inbound::note_probe;
pub(crate) use look_ahead::{Expanded, expanded_at, prefetch_expanded, prefetch_whole};
pub(crate) use plain_v4::{PathV4, path_v4};

use crate::frame::{Address, Ecn, GatewayAddresses, IcmpError, Mac};
use crate::gauges::OwnCount;
use crate::lan::{LanView, NextHop, Station};
use crate::lan_mtu::LanMtus;
use crate::slots::{
    Handout, SlotContext, WorkerQueues, is_confirmed, key_state, may_send_early, sending_keys, take_counter,
};
use crate::tables::{Tables, count, push_event};
use crossbeam_queue::ArrayQueue;
use jvpn_abi::limit::{Bucket, Rate};
use jvpn_abi::ports::PortMark;
use jvpn_abi::tables::{Context, NEXT_HOP_KNOWN, WorkerReport};
use jvpn_abi::wire::{DATA_HEADER_LEN, DataHeader, TAG_LEN};
use jvpn_abi::{BootTime, DropReason};
use look_ahead::LookAhead;
use next_hops::NextHops;
use no_clients::NoClients;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tally::Tally;

/// Errors that one worker sends back, at most (RFC 1812 §4.3.2.8, RFC 4443 §2.4(f)).
const ICMP_ERRORS: Rate = Rate { per_second: 200, burst: 50 };

/// What a client may say about its path at least: an outer packet of 1,280 octets (RFC 8200 §5) less the tunnel's own 80.
const PATH_MTU_MIN: usize = 1_200;

/// Why a packet is not forwarded, and what its sender is told.
struct Refused {
    reason: DropReason,
    error: Option<IcmpError>,
}

/// What becomes of a frame. The buffers that it was built in are named by the port they leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first `n` octets of the LAN buffer leave by the LAN port.
    ToLan(usize),
    /// The first `n` octets of the WAN buffer leave by the WAN port.
    ToWan(usize),
    /// As [`Self::ToWan`], and a further piece is left, from octet `rest` on. Outbound it lies in the received frame: handle
    /// that part as a frame of its own. Inbound it lies in the LAN buffer: pass that part to [`Pipeline::turned_rest`].
    ToWanInPart {
        /// Octets of the WAN buffer.
        len: usize,
        /// Where the rest begins.
        rest: usize,
    },
    /// Nothing leaves.
    Drop(DropReason),
}

/// What the pipeline must know beyond the tables.
#[derive(Clone, Copy, Debug)]
pub struct PipelineConfig {
    /// The gateway's own inner addresses; they answer echo, and errors come from them.
    pub gateway: GatewayAddresses,
    /// Networks of the inner addresses of clients.
    pub pools: Pools,
    /// Largest inner packet, octets.
    pub mtu: usize,
    /// MAC address of the LAN port.
    pub lan_mac: Mac,
    /// What becomes of packets from one client for another.
    pub between_clients: BetweenClients,
}

/// What becomes of packets from one client for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetweenClients {
    /// They are refused.
    Denied,
    /// The worker turns them round.
    TurnedRound,
}

/// Networks of the inner addresses of clients: (network, mask) over IPv4-mapped addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// Of IPv4.
    pub v4: Option<(u128, u128)>,
    /// Of IPv6.
    pub v6: Option<(u128, u128)>,
}

impl Pools {
    /// Whether the address is a client's.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: Address) -> bool {
        let is_in =
            |pool: Option<(u128, u128)>| pool.is_some_and(|(network, mask)| address.0 & mask == network);
        is_in(self.v4) || is_in(self.v6)
    }
}

/// Finds the slot of the client that an inner address leads to. Asked for every packet: it neither allocates nor waits.
pub trait Routes: Send + Sync {
    /// The slot's index, by the longest prefix.
    fn slot_of(&self, destination: Address) -> Option<u32>;

    /// Another number whenever [`Self::slot_of`] may say something else: what was learned under the same one still holds.
    fn generation(&self) -> u64;
}

/// One worker's pipeline.
pub struct Pipeline {
    tables: Arc<Tables>,
    worker: usize,
    config: PipelineConfig,
    slots: Box<[Option<Arc<SlotContext>>]>,
    lan: Arc<LanView>,
    marked_arrivals: bool,
    several_lans: bool,
    lan_mtus: Arc<LanMtus>,
    /// Counts checksums that were left out; `None` where no sender does that.
    finished: Option<Arc<OwnCount>>,
    routes: Option<Arc<dyn Routes>>,
    misses: Arc<ArrayQueue<Address>>,
    icmp_errors: Cell<Bucket>,
    // Cells, so that a packet's handling borrows the worker's slots without counting references.
    missed: Cell<bool>,
    confirmed_any: Cell<bool>,
    tally: Tally,
    ahead: LookAhead,
    next_hops: NextHops,
    no_clients: NoClients,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("worker", &self.worker).finish_non_exhaustive()
    }
}

/// What the I/O shell must do after a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AfterBatch {
    /// A binding was confirmed: ring the control plane.
    pub confirmed: bool,
    /// A LAN neighbour is missing: wake the neighbour thread.
    pub missed: bool,
}

impl Pipeline {
    /// A pipeline without any binding. `misses` takes LAN neighbours that must be resolved.
    #[must_use]
    pub fn new(
        tables: Arc<Tables>,
        worker: usize,
        config: PipelineConfig,
        misses: Arc<ArrayQueue<Address>>,
    ) -> Self {
        let slots = (0..tables.bindings.slots()).map(|_| None).collect();
        let lan = Arc::new(LanView::default());
        Self {
            tables,
            worker,
            config,
            slots,
            lan,
            marked_arrivals: false,
            several_lans: false,
            lan_mtus: Arc::default(),
            finished: None,
            routes: None,
            misses,
            icmp_errors: Cell::new(Bucket::default()),
            missed: Cell::new(false),
            confirmed_any: Cell::new(false),
            tally: Tally::default(),
            ahead: LookAhead::default(),
            next_hops: NextHops::default(),
            no_clients: NoClients::default(),
        }
    }

    /// Tells the worker which addresses are clients' and their sites': without it, it knows the pools alone and turns nothing
    /// round.
    #[must_use]
    pub fn with_routes(mut self, routes: Arc<dyn Routes>) -> Self {
        self.routes = Some(routes);
        self
    }

    /// Takes the interface of the WAN that a frame came in by from its mark, for a WAN that marks every frame
    /// ([`crate::port::Group`]): elsewhere a mark would be somebody's on the wire.
    #[must_use]
    pub const fn with_marked_arrivals(mut self) -> Self {
        self.marked_arrivals = true;
        self
    }

    /// For a LAN of several interfaces.
    #[must_use]
    pub const fn with_several_lans(mut self) -> Self {
        self.several_lans = true;
        self
    }

    /// What each interface of the LAN takes: without it, all that the tunnel carries.
    #[must_use]
    pub fn with_lan_mtus(mut self, mtus: Arc<LanMtus>) -> Self {
        self.lan_mtus = mtus;
        self
    }

    /// For a LAN behind which senders may leave checksums to a device that computes none ([`crate::frame::unfinished`]):
    /// those of TCP and UDP are computed here, and counted in `finished`.
    #[must_use]
    pub fn with_unfinished_checksums(mut self, finished: Arc<OwnCount>) -> Self {
        self.finished = Some(finished);
        self
    }

    /// The interface of the WAN that a frame came in by.
    #[inline]
    fn arrived_by(&self, frame: &[u8]) -> PortMark {
        let mark = || PortMark::decode(jvpn_abi::wire::octets(frame, 0)?);
        if self.marked_arrivals { mark().unwrap_or(PortMark(0)) } else { PortMark(0) }
    }

    /// The source of a frame that leaves by this interface of the LAN. Whoever sends it puts the address into a mark's place.
    #[inline]
    const fn lan_source(&self, port: u8) -> Mac {
        if port == 0 { self.config.lan_mac } else { Mac(PortMark(port).encode()) }
    }

    /// This worker's report.
    #[must_use]
    pub fn report(&self) -> &WorkerReport {
        self.tables.report(self.worker)
    }

    /// Applies what the installer handed out, at a batch boundary. Returns the last sequence applied.
    pub fn apply(&mut self, queues: &WorkerQueues) -> Option<u64> {
        let (mut last, mut retired) = (None, false);
        while let Some(Handout { seq, slot_index, context }) = queues.handouts.pop() {
            if let Some(place) = self.slots.get_mut(slot_index as usize)
                && let Some(old) = std::mem::replace(place, context)
            {
                // Freed by the installer, not here. It keeps room; should it not, freeing here is late, not wrong.
                let _full = queues.retired.push(old);
                retired = true;
            }
            last = Some(seq);
        }
        if retired {
            // Once per binding or key that goes, never per packet: its keys must not lie about until the next one comes.
            queues.installer_bell.ring();
        }
        last
    }

    /// Replaces the view of the LAN; the old one is returned for another thread to free.
    #[must_use]
    pub fn replace_lan(&mut self, lan: Arc<LanView>) -> Arc<LanView> {
        self.next_hops.forget();
        std::mem::replace(&mut self.lan, lan)
    }

    /// What happened since the last call that others must be told. To be called before the next batch boundary.
    pub fn after_batch(&mut self) -> AfterBatch {
        self.tally.end_batch(&self.tables.contexts);
        AfterBatch { confirmed: self.confirmed_any.take(), missed: self.missed.take() }
    }

    /// Counts a verdict's reason.
    pub(crate) fn count(&self, reason: DropReason) {
        count(self.report(), reason);
    }

    /// The installed binding of a slot, if it is the one that BINDINGS binds now.
    fn bound(&self, slot_index: u32) -> Result<(&SlotContext, &Context), DropReason> {
        let (Some(place), Some(context)) =
            (self.slots.get(slot_index as usize), self.tables.contexts.get(slot_index as usize))
        else {
            return Err(DropReason::SlotOutOfRange);
        };
        let word = self.tables.bindings.word(slot_index);
        if !word.is_bound() {
            return Err(DropReason::SlotUnbound);
        }
        let Some(slot) = place else { return Err(DropReason::NoContext) };
        if slot.word != word {
            return Err(DropReason::SlotUnbound);
        }
        Ok((slot, context))
    }

    /// Tells the control plane that a binding was confirmed, or its next keys are in use.
    fn push_confirmed(&self, slot_index: u32) {
        push_event(self.report(), slot_index);
        self.confirmed_any.set(true);
    }

    /// The client that an inner address leads to, if one is bound that has it.
    #[inline]
    fn client_of(&self, address: Address) -> Option<u32> {
        self.routes.as_ref().and_then(|routes| routes.slot_of(address))
    }

    /// As long as it stays the same, no client has got or lost an address.
    #[inline]
    fn generation(&self) -> u64 {
        self.routes.as_ref().map_or(0, |routes| routes.generation())
    }

    /// Whether an address is one of the pools' or of a site behind a client.
    #[inline]
    fn is_of_clients(&self, address: Address) -> bool {
        let generation = self.generation();
        if self.no_clients.has(address, generation) {
            return false;
        }
        let is_theirs = self.config.pools.contains(address) || self.client_of(address).is_some();
        if !is_theirs {
            self.no_clients.keep(address);
        }
        is_theirs
    }

    /// Resolves the next hop on the LAN; a miss is queued for the neighbour thread.
    fn next_hop(&self, destination: Address) -> Result<Station, DropReason> {
        match self.lan.next_hop(destination) {
            NextHop::Known(station) => Ok(station),
            NextHop::None => Err(DropReason::NoRoute),
            NextHop::Unresolved(hop) => {
                // A full queue is no loss: the next packet asks again.
                let _full = self.misses.push(hop);
                self.missed.set(true);
                Err(DropReason::NeighbourMissing)
            }
        }
    }
}

impl Pipeline {
    /// Whether another error may be sent back now.
    fn may_answer(&self, now: Now) -> bool {
        let mut bucket = self.icmp_errors.get();
        let may = bucket.take(now, ICMP_ERRORS);
        self.icmp_errors.set(bucket);
        may
    }

    /// A reason with the error that tells the sender of it, where senders are told; `mtu` is what would have fitted.
    const fn refused(reason: DropReason, mtu: usize) -> Refused {
        // Of all reasons these alone are a sender's business.
        let error = if matches!(reason, DropReason::TooBig) {
            Some(IcmpError::TooBig(mtu))
        } else if matches!(reason, DropReason::TtlExpired) {
            Some(IcmpError::HopsExceeded)
        } else if matches!(reason, DropReason::NoRoute) {
            Some(IcmpError::NoRoute)
        } else if matches!(reason, DropReason::ClientToClientDenied) {
            Some(IcmpError::Prohibited)
        } else {
            None
        };
        Refused { reason, error }
    }

    /// The largest packet that this client's path carries: what the client said, within what is configured.
    #[inline]
    fn path_mtu(&self, context: &Context) -> usize {
        match context.path_mtu.load(Ordering::Relaxed) {
            0 => self.config.mtu,
            said => (said as usize).max(PATH_MTU_MIN).min(self.config.mtu),
        }
    }
}

/// Seals `plaintext` for a binding that is confirmed, or has its advance, into `out`, headers first. Returns the length of
/// the frame.
///
/// The counter is taken from CONTEXT before sealing, so whoever dies in between never lets it be used twice.
fn seal_into(
    slot: &SlotContext,
    context: &Context,
    plaintext: &[u8],
    ecn: Ecn,
    out: &mut [u8],
) -> Result<usize, DropReason> {
    if !is_confirmed(context, slot.word) && !may_send_early(slot, context) {
        return Err(DropReason::Unconfirmed);
    }
    let next_hop = context.next_hop_mac.load(Ordering::Acquire);
    if next_hop & NEXT_HOP_KNOWN == 0 {
        return Err(DropReason::Unconfirmed);
    }
    let header_at = slot.outer.header_len();
    let sealed_at = header_at + DATA_HEADER_LEN;
    let end = sealed_at + plaintext.len() + TAG_LEN;
    // Nothing is spent on a frame that has no place.
    let Some(frame) = out.get_mut(..end) else {
        return Err(if out.is_empty() { DropReason::NoTxFrame } else { DropReason::TooBig });
    };
    let keys = sending_keys(slot, context).ok_or(DropReason::NoContext)?;
    let state = key_state(context, keys.number);
    let counter = take_counter(state, keys.hard_packets).ok_or(DropReason::KeyExhausted)?;
    let header = DataHeader { key_phase: keys.phase(), shard: slot.shard, slot: slot.slot, counter }.encode();
    let udp_payload = DATA_HEADER_LEN + plaintext.len() + TAG_LEN;
    slot.outer.write(frame, Mac::from_bits(next_hop), udp_payload, ecn).ok_or(DropReason::TooBig)?;
    leave_by(frame, PortMark::of_next_hop(next_hop));
    frame[header_at..sealed_at].copy_from_slice(&header);
    keys.seal
        .seal(counter, &header, plaintext, &mut frame[sealed_at..])
        .map_err(|_| DropReason::SealFailed)?;
    slot.outer.finish(frame);
    Ok(end)
}

/// Names the interface that a frame leaves by, in place of its source. The first one's address is in the template.
#[inline]
fn leave_by(frame: &mut [u8], port: PortMark) {
    if port != PortMark(0)
        && let Some(source) = frame.get_mut(6..6 + PortMark::LEN)
    {
        source.copy_from_slice(&port.encode());
    }
}

/// Now, as batches know it.
pub type Now = BootTime;
