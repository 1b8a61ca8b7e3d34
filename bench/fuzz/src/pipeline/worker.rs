//! A gateway's only worker and what it works on, and what must hold of every frame that leaves it.

use super::outside::{self, Transport};
use super::world::{Client, Lan, Leads, Path, World};
use super::{GATEWAY, GATEWAY_V6, MTU, gateway};
use crossbeam_queue::ArrayQueue;
use jvpn_abi::ports::PortMark;
use jvpn_abi::steer::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use jvpn_abi::tables::{
    BINDING_WORDS, BindingEntry, Gate, InstallEntry, InstallOp, KeyRing, Reports, context_octets,
};
use jvpn_abi::wire::{DataHeader, SlotId};
use jvpn_abi::{BootTime, DropReason, Endpoint};
use jvpn_dataplane::frame::{Address, Family, Inner, Mac};
use jvpn_dataplane::gauges::OwnCount;
use jvpn_dataplane::pipeline::{BetweenClients, Pipeline, PipelineConfig, Pools, Verdict};
use jvpn_dataplane::slots::{Installer, WorkerQueues};
use jvpn_dataplane::tables::Tables;
use jvpn_tables::Mapping;
use jvpn_tables::keys::KeyMailbox;
use jvpn_tables::mapping::shared_memory;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: u32 = 8;
const BUFFER_LEN: usize = 1_792;
/// Addresses of the ports themselves.
const WAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
/// Numbers of the WAN's interfaces where it has several: by what has another one nobody is reached after an adoption.
const WAN_NUMBERS: [usize; 2] = [0, 1];

/// A way through the pipeline that an input has to choose. None is taken by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A frame over IPv6 was opened, and something came of it.
    OpenedV6,
    /// A frame left over IPv6, with its checksum.
    SealedV6,
    /// A checksum that a sender had left out was computed.
    Finished,
    /// A frame left by another interface of the WAN than the first.
    SecondWan,
    /// The same of the LAN.
    SecondLan,
}

/// What a frame that leaves by the WAN was made of.
#[derive(Clone, Copy, Debug)]
enum Made<'a> {
    /// The gateway's own answer.
    Here,
    /// This packet, one hop further.
    Of(&'a [u8]),
    /// A piece of one.
    Piece,
    /// A packet that came sealed, and nobody here knows it.
    Unknown,
}

pub(super) struct Worker {
    world: World,
    pub(super) tables: Arc<Tables>,
    pub(super) pipeline: Pipeline,
    installer: Installer,
    mailbox: KeyMailbox,
    pub(super) queues: Arc<WorkerQueues>,
    _gate: OwnedFd,
    pub(super) now: BootTime,
    seq: u64,
    lan: Lan,
    lan_out: Vec<u8>,
    wan_out: Vec<u8>,
    finished: Arc<OwnCount>,
    /// Slot, phase and counter of every frame that left since keys changed.
    sealed: BTreeSet<(u32, bool, u64)>,
    /// By slot: the path of the binding that was installed last.
    paths: HashMap<u32, Path>,
    /// Numbers of the WAN's interfaces in the marks of frames that came; the first is always there.
    arrived_by: BTreeSet<u8>,
    pub(super) reached: BTreeSet<Place>,
    /// Every frame that came, by its port: a worker gets them once more.
    pub(super) came: [Vec<Vec<u8>>; 2],
}

/// The pipeline of a world.
fn pipeline(world: World, tables: &Arc<Tables>, finished: &Arc<OwnCount>) -> Pipeline {
    let network =
        |address: Address, len: u32| Some((address.0 & (u128::MAX << (128 - len)), u128::MAX << (128 - len)));
    let denied = world.has(World::DENIED);
    let config = PipelineConfig {
        gateway: gateway(),
        pools: Pools { v4: network(GATEWAY.into(), 96 + 16), v6: network(GATEWAY_V6.into(), 64) },
        mtu: MTU,
        lan_mac: LAN_MAC,
        between_clients: if denied { BetweenClients::Denied } else { BetweenClients::TurnedRound },
    };
    let routes = Leads { has_second: world.has(World::SECOND) };
    let mut pipeline = Pipeline::new(Arc::clone(tables), 0, config, Arc::new(ArrayQueue::new(8)))
        .with_routes(Arc::new(routes));
    if world.has(World::UNFINISHED) {
        pipeline = pipeline.with_unfinished_checksums(Arc::clone(finished));
    }
    if world.has(World::MARKED) {
        pipeline = pipeline.with_marked_arrivals();
    }
    if world.has(World::TWO_LANS) {
        pipeline = pipeline.with_several_lans();
    }
    drop(pipeline.replace_lan(Arc::new(world.lan().view())));
    pipeline
}

impl Worker {
    fn new(world: World) -> Self {
        let memory = |octets| shared_memory("FUZZ", c"jvpn-fuzz", octets).unwrap();
        let bindings = memory(SLOTS as usize * BINDING_WORDS * 8);
        let context = memory(context_octets(SLOTS));
        let (reports, gate, keys) =
            (memory(size_of::<Reports>()), memory(4_096), memory(size_of::<KeyRing>()));
        let fence = std::mem::offset_of!(Gate, fence_deadline_ns) / 8;
        Mapping::<AtomicU64>::new("GATE", gate.as_fd(), fence + 1).unwrap()[fence]
            .store(u64::MAX, Ordering::Release);
        let tables = Tables::map(SLOTS, bindings.as_fd(), context.as_fd(), reports.as_fd(), gate.as_fd());
        let tables = Arc::new(tables.unwrap());
        let queues = Arc::new(WorkerQueues::new().unwrap());
        let mut installer = Installer::new(Arc::clone(&tables), vec![Arc::clone(&queues)], WAN_MAC);
        if world.has(World::MARKED) {
            installer = installer.with_wan_numbers(WAN_NUMBERS);
        }
        let finished = Arc::default();
        Self {
            world,
            installer,
            mailbox: KeyMailbox::map(keys.as_fd()).unwrap(),
            pipeline: pipeline(world, &tables, &finished),
            tables,
            queues,
            _gate: gate,
            now: BootTime::from_millis(1_000),
            seq: 0,
            lan: world.lan(),
            lan_out: vec![0; BUFFER_LEN],
            wan_out: vec![0; BUFFER_LEN],
            finished,
            sealed: BTreeSet::new(),
            paths: HashMap::new(),
            arrived_by: BTreeSet::from([0]),
            reached: BTreeSet::new(),
            came: Default::default(),
        }
    }

    /// The worker of a gateway that has just bound this world's clients.
    pub(super) fn attached(world: World) -> Self {
        let mut worker = Self::new(world);
        for client in world.clients() {
            let path = world.path(*client);
            worker.install(&client.entry(path, InstallOp::Install as u32));
            worker.bind(*client, path);
        }
        worker
    }

    pub(super) const fn world(&self) -> World {
        self.world
    }

    pub(super) fn install(&mut self, entry: &InstallEntry) {
        self.seq += 1;
        assert!(self.mailbox.put(&InstallEntry { seq: self.seq, ..*entry }));
        let installed = self.installer.run(&self.mailbox);
        let op = InstallOp::from_number(entry.op);
        if installed.handed > 0 && matches!(op, Some(InstallOp::Install | InstallOp::Adopt)) {
            let path = Path {
                remote: Endpoint { addr: entry.remote_addr, port: entry.remote_port },
                local: Endpoint { addr: entry.local_addr, port: entry.local_port },
            };
            self.paths.insert(SlotId(entry.slot).index(), path);
        }
        let _last = self.pipeline.apply(&self.queues);
        self.sealed.clear();
    }

    pub(super) fn bind(&self, client: Client, path: Path) {
        let entry = BindingEntry::new(path.remote, path.local);
        self.tables.bindings.bind(client.slot().index(), &entry, client.word());
    }

    pub(super) fn unbind(&self, client: Client) {
        self.tables.bindings.unbind(client.slot().index());
    }

    /// The path that a client's frames come by.
    pub(super) fn path(&self, client: Client) -> Path {
        let installed = self.paths.get(&client.slot().index()).copied();
        installed.unwrap_or_else(|| self.world.path(client))
    }

    /// Another view of the LAN.
    pub(super) fn change_lan(&mut self) {
        self.lan = self.lan.other();
        drop(self.pipeline.replace_lan(Arc::new(self.lan.view())));
    }

    /// A frame by the WAN; `plain` is what is sealed in it, if that is known.
    pub(super) fn inbound(&mut self, frame: &[u8], plain: Option<&[u8]>) -> Verdict {
        self.came[0].push(frame.to_vec());
        let mark = jvpn_abi::wire::octets(frame, 0).and_then(PortMark::decode);
        // As much of the number as CONTEXT keeps.
        self.arrived_by.extend(mark.map(|PortMark(number)| number & 0x0f));
        let turned = self.counted(DropReason::TurnedRound);
        let verdict = self.pipeline.inbound(self.now, frame, &mut self.lan_out, &mut self.wan_out);
        let is_turned = self.counted(DropReason::TurnedRound) > turned;
        if outside::is_v6(frame) && !matches!(verdict, Verdict::Drop(_)) {
            self.reached.insert(Place::OpenedV6);
        }
        match verdict {
            Verdict::Drop(_) => {}
            Verdict::ToLan(len) => self.forwarded(len, plain),
            Verdict::ToWan(len) => {
                let made = if is_turned { plain.map_or(Made::Unknown, Made::Of) } else { Made::Here };
                self.left_by_wan(len, made);
            }
            Verdict::ToWanInPart { len, rest } => {
                assert!(is_turned, "what is answered is not cut");
                self.left_by_wan(len, Made::Piece);
                self.turn_rest(rest);
            }
        }
        verdict
    }

    /// The further pieces of a packet that was turned round and cut.
    fn turn_rest(&mut self, rest: usize) {
        let (mut start, mut rest) = (0, rest);
        loop {
            assert!(rest > 0, "pieces get shorter");
            start += rest;
            let left = self.lan_out.get_mut(start..).expect("a piece lies within the frame");
            match self.pipeline.turned_rest(self.now, left, &mut self.wan_out) {
                Verdict::Drop(_) => break,
                Verdict::ToLan(_) => panic!("what was turned round does not go to the LAN"),
                Verdict::ToWan(len) => {
                    self.left_by_wan(len, Made::Piece);
                    break;
                }
                Verdict::ToWanInPart { len, rest: next } => {
                    self.left_by_wan(len, Made::Piece);
                    rest = next;
                }
            }
        }
    }

    /// A frame by the LAN; `left_out`: its sender left the checksum of TCP or UDP to a device.
    pub(super) fn outbound(&mut self, frame: &[u8], left_out: bool) {
        self.came[1].push(frame.to_vec());
        let mut octets = frame.to_vec();
        let finished = self.finished.get();
        let mut start = 0;
        loop {
            let piece = octets.get_mut(start..).expect("a piece lies within the frame");
            match self.pipeline.outbound(self.now, piece, &mut self.lan_out, &mut self.wan_out) {
                Verdict::Drop(_) => break,
                Verdict::ToLan(len) => {
                    self.told(len, frame);
                    break;
                }
                Verdict::ToWan(len) if start > 0 => {
                    self.left_by_wan(len, Made::Piece);
                    break;
                }
                Verdict::ToWan(len) => {
                    let packet = frame.get(ETHERNET_LEN..).unwrap_or_default();
                    let plain = self.left_by_wan(len, Made::Of(packet));
                    if left_out && self.world.has(World::UNFINISHED) {
                        let transport =
                            Transport::of(&plain).expect("it was there when its sum was left out");
                        assert!(transport.is_true(&plain), "a checksum that was left out is computed");
                        assert_eq!(self.finished.get(), finished + 1, "and counted, once");
                        self.reached.insert(Place::Finished);
                    }
                    break;
                }
                Verdict::ToWanInPart { len, rest } => {
                    self.left_by_wan(len, Made::Piece);
                    assert!(rest > 0, "pieces get shorter");
                    start += rest;
                }
            }
        }
    }

    pub(super) fn counted(&self, reason: DropReason) -> u64 {
        self.tables.report(0).counters[reason.number() as usize].load(Ordering::Relaxed)
    }

    /// What policy does not have was never done, whoever asked for it. Returns every reason that there was.
    pub(super) fn conclude(&mut self) -> BTreeSet<DropReason> {
        let _after = self.pipeline.after_batch();
        let denied = self.world.has(World::DENIED);
        let never = if denied { DropReason::TurnedRound } else { DropReason::ClientToClientDenied };
        assert_eq!(self.counted(never), 0, "{never}");
        DropReason::ALL.iter().copied().filter(|reason| self.counted(*reason) > 0).collect()
    }
}

/// What leaves.
impl Worker {
    /// A client's packet for the LAN: whole, one hop further, to the station that it is routed by.
    fn forwarded(&mut self, len: usize, plain: Option<&[u8]>) {
        let packet = &self.lan_out[ETHERNET_LEN..len];
        let inner = Inner::parse(packet).unwrap();
        assert!(inner.len == packet.len() && inner.len <= MTU, "{inner:?}");
        if let Some(plain) = plain {
            went_on(plain, packet);
        }
        let station = self.lan.station(inner.destination);
        self.left_by_lan(&inner, station.expect("nobody's packet is handed over"));
    }

    /// An error for who sent this frame from the LAN.
    fn told(&mut self, len: usize, frame: &[u8]) {
        let packet = &self.lan_out[ETHERNET_LEN..len];
        check(Made::Here, packet);
        let inner = Inner::parse(packet).expect("only errors go back to the LAN");
        let station = if self.world.has(World::TWO_LANS) {
            self.lan.station(inner.destination).expect("who is told can be reached")
        } else {
            (Mac(jvpn_abi::wire::octets(frame, 6).unwrap()), 0)
        };
        self.left_by_lan(&inner, station);
    }

    /// The Ethernet header of what lies in the LAN's buffer.
    fn left_by_lan(&mut self, inner: &Inner, (to, port): (Mac, u8)) {
        let from = if port == 0 { LAN_MAC } else { Mac(PortMark(port).encode()) };
        let ethertype = match inner.family {
            Family::V4 => ETHERTYPE_IPV4,
            Family::V6 => ETHERTYPE_IPV6,
        };
        assert_eq!(self.lan_out[..ETHERNET_LEN], [&to.0[..], &from.0, &ethertype].concat());
        if port > 0 {
            self.reached.insert(Place::SecondLan);
        }
    }

    /// What lies in the WAN's buffer: true headers for the path of its binding, by the way that was learned, sealed
    /// under a fresh counter. Returns the plaintext, as its client opens it.
    fn left_by_wan(&mut self, len: usize, made: Made<'_>) -> Vec<u8> {
        let frame = &self.wan_out[..len];
        let (path, datagram) = outside::read(frame);
        let header = DataHeader::parse(datagram).unwrap();
        let used = (header.slot.0, header.key_phase, header.counter);
        assert!(self.sealed.insert(used), "I11: {used:?} was sealed twice");
        let index = header.slot.index();
        assert_eq!(self.paths.get(&index), Some(&path), "it leaves by the path of its binding");
        let hop = self.tables.contexts[index as usize].next_hop_mac.load(Ordering::Relaxed);
        let by = PortMark::of_next_hop(hop);
        let from = if by == PortMark(0) { WAN_MAC } else { Mac(by.encode()) };
        assert_eq!(
            frame[..12],
            [Mac::from_bits(hop).0, from.0].concat(),
            "it leaves by the way that was learned"
        );
        let marks = self.world.has(World::MARKED);
        assert!(by == PortMark(0) || marks && self.arrived_by.contains(&by.0), "a mark off the wire: {by:?}");
        if by != PortMark(0) {
            self.reached.insert(Place::SecondWan);
        }
        if path.family() == Family::V6 {
            self.reached.insert(Place::SealedV6);
        }
        let plain = Client::of(header.slot).opens(datagram).expect("its client opens what leaves");
        check(made, &plain);
        plain
    }
}

/// A packet that leaves has the length that it says; of the gateway's own all checksums are true, of others those that
/// were.
fn check(made: Made<'_>, packet: &[u8]) {
    let Some(inner) = Inner::parse(packet) else {
        let is_internal = packet.first().is_some_and(|octet| octet >> 4 == 0);
        assert!(matches!(made, Made::Here) && is_internal, "{made:?} became {packet:02x?}");
        return;
    };
    assert_eq!(inner.len, packet.len(), "{inner:?}");
    match made {
        Made::Here => {
            assert!(gateway().contains(inner.source), "only the gateway answers: {inner:?}");
            assert!(
                outside::header_is_true(packet, &inner) && outside::icmp_is_true(packet, &inner),
                "{inner:?}"
            );
        }
        Made::Of(before) => went_on(before, packet),
        Made::Piece => assert!(outside::header_is_true(packet, &inner), "{inner:?}"),
        Made::Unknown => {}
    }
}

/// A packet that goes on is as it was but for what routers change, and what was true of its checksums still is.
fn went_on(before: &[u8], after: &[u8]) {
    let (was, is) = (Inner::parse(before).unwrap(), Inner::parse(after).unwrap());
    let hops = was.hop_limit.checked_sub(1);
    assert_eq!(
        (was.len, was.source, was.destination, was.protocol, hops),
        (is.len, is.source, is.destination, is.protocol, Some(is.hop_limit))
    );
    assert!(
        !outside::header_is_true(before, &was) || outside::header_is_true(after, &is),
        "RFC 1624: {is:?}"
    );
    if let Some(transport) = Transport::of(before)
        && transport.is_true(before)
    {
        assert!(transport.is_true(after), "the checksum of {is:?} was true");
    }
}
