//! Several queues behind one worker's end of a side: of several interfaces, of one with more queues than there are workers,
//! or of one whose frames carry a VLAN tag.
//!
//! Each member keeps its own memory and its own mode, so that zero-copy and copy ports stand side by side and an interface
//! that goes away takes nothing with it but its own frames. The price: the pipeline builds a frame before anybody knows
//! where it leaves, in memory of the interface that sent last; if another one sends it, it is copied once.
//!
//! Which interface is said in the frame ([`PortMark`]): on the WAN side the group writes where a frame came in by over its
//! destination address; on both sides it finds where a frame leaves by in place of its source address, writes the
//! interface's own there, and puts the tag in.

use super::{PortStatistics, PortTally, Presence, QueuePort, Unseen, Watched};
use crate::frame::Mac;
use crate::gauges::RingLevels;
use jvpn_abi::ports::{MAX_PORTS, PortMark};
use jvpn_abi::steer::ETHERNET_LEN;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Octets of an 802.1Q tag.
const TAG_LEN: usize = 4;
/// Where the source address of a frame stands, and where the addresses end.
const SOURCE_AT: usize = 6;
const ADDRESSES_LEN: usize = 12;

/// One queue of a group.
#[derive(Debug)]
pub struct Member<P> {
    /// The queue.
    pub port: P,
    /// Number of its interface on this side, below [`MAX_PORTS`].
    pub number: usize,
    /// Address of its interface.
    pub mac: Mac,
    /// State of its interface.
    pub watched: Arc<Watched>,
    /// What this worker sent and received by it.
    pub tally: Arc<PortTally>,
}

/// Whether arriving frames are marked with the interface that they came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// On the WAN: the way back is learned from it.
    Marked,
    /// On the LAN: the slot's mark stands there.
    AsTheyAre,
}

/// The queues.
#[derive(Debug)]
pub struct Group<P: QueuePort> {
    members: Vec<Member<P>>,
    /// By the number of an interface: the member that sends.
    exits: [Option<usize>; MAX_PORTS],
    arrivals: Arrivals,
    tag: Option<[u8; TAG_LEN]>,
    /// Whose turn it is to be asked first.
    turn: usize,
    /// Number of the interface that sent last.
    last: usize,
    scratch: Vec<P::Rx>,
}

/// A received frame and whose it is.
#[derive(Debug)]
pub struct GroupRx<R> {
    member: usize,
    frame: R,
}

/// A frame to send with and whose it is.
#[derive(Debug)]
pub struct GroupTx<T> {
    member: usize,
    frame: T,
}

impl<P: QueuePort> Group<P> {
    /// A group. Of the members of one interface the first sends. `vlan`: every frame that leaves gets this tag; those that
    /// arrive have lost theirs in XDP. `batch`: frames that are received at a time.
    #[must_use]
    pub fn new(members: Vec<Member<P>>, arrivals: Arrivals, vlan: Option<u16>, batch: usize) -> Self {
        let mut exits = [None; MAX_PORTS];
        for (index, member) in members.iter().enumerate() {
            if let Some(exit @ None) = exits.get_mut(member.number) {
                *exit = Some(index);
            }
        }
        let tag = vlan.map(|vlan| {
            let [high, low] = vlan.to_be_bytes();
            [0x81, 0x00, high, low]
        });
        Self { members, exits, arrivals, tag, turn: 0, last: 0, scratch: Vec::with_capacity(batch) }
    }

    /// The members, for checks of conservation.
    #[must_use]
    pub fn members(&self) -> &[Member<P>] {
        &self.members
    }

    /// Octets in front of what the pipeline builds.
    const fn head(&self) -> usize {
        if self.tag.is_some() { TAG_LEN } else { 0 }
    }

    /// The member that sends for an interface, if that is up.
    fn exit(&self, number: usize) -> Option<usize> {
        let index = (*self.exits.get(number)?)?;
        self.members.get(index)?.watched.is_up().then_some(index)
    }

    /// The interface that a built frame leaves by. The first one's frames carry no mark.
    fn number_of(&mut self, member: usize, frame: &mut P::Tx) -> usize {
        let at = self.head() + SOURCE_AT;
        let room = self.members[member].port.room(frame);
        let source = jvpn_abi::wire::octets::<{ PortMark::LEN }>(room, at);
        source.and_then(PortMark::decode).map_or(0, |mark| usize::from(mark.0))
    }

    /// Writes what only the interface knows: its address, and the tag.
    fn complete(&self, member: usize, frame: &mut P::Tx, source: Mac) -> Option<()> {
        let room = self.members[member].port.room(frame);
        let at = self.head() + SOURCE_AT;
        room.get_mut(at..at + PortMark::LEN)?.copy_from_slice(&source.0);
        if let Some(tag) = self.tag {
            let front = room.get_mut(..TAG_LEN + ETHERNET_LEN)?;
            front.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
            front.get_mut(ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN)?.copy_from_slice(&tag);
        }
        Some(())
    }

    /// The same octets in a frame of another member.
    fn copied(&mut self, (from, frame): (usize, &mut P::Tx), to: usize, len: usize) -> Option<P::Tx> {
        let mut copy = self.members[to].port.take_free()?;
        let source = self.members[from].port.room(frame);
        let target = self.members[to].port.room(&mut copy);
        let fits = match (source.get(..len), target.get_mut(..len)) {
            (Some(source), Some(target)) => {
                target.copy_from_slice(source);
                true
            }
            _ => false,
        };
        if fits {
            return Some(copy);
        }
        self.members[to].port.put_back(copy);
        None
    }
}

impl<P: QueuePort> QueuePort for Group<P> {
    type Rx = GroupRx<P::Rx>;
    type Tx = GroupTx<P::Tx>;

    fn receive(&mut self, into: &mut Vec<Self::Rx>, most: usize) {
        let count = self.members.len();
        for step in 0..count {
            let left = most.saturating_sub(into.len());
            if left == 0 {
                break;
            }
            let index = (self.turn + step) % count;
            let member = &mut self.members[index];
            member.port.receive(&mut self.scratch, left);
            if !self.scratch.is_empty() {
                member.tally.add_received(self.scratch.len());
                into.extend(self.scratch.drain(..).map(|frame| GroupRx { member: index, frame }));
            }
        }
        // A busy interface must not keep the others from their turn.
        self.turn = (self.turn + 1) % count.max(1);
    }

    fn octets<'a>(&'a self, frame: &'a mut Self::Rx) -> &'a mut [u8] {
        let member = &self.members[frame.member];
        let octets = member.port.octets(&mut frame.frame);
        if self.arrivals == Arrivals::Marked
            && let Some(place) = octets.first_chunk_mut::<{ PortMark::LEN }>()
        {
            // Over every frame, so that none from the wire can say where it came from.
            *place = PortMark(u8::try_from(member.number).unwrap_or(0)).encode();
        }
        octets
    }

    fn peek<'a>(&'a self, frame: &'a Self::Rx) -> &'a [u8] {
        self.members[frame.member].port.peek(&frame.frame)
    }

    fn recycle(&mut self, frame: Self::Rx) {
        self.members[frame.member].port.recycle(frame.frame);
    }

    /// One of the interface that sent last: packets come in bursts. With no interface up any member's will do: what is built
    /// in it may be for the other side, and else is put back.
    fn take_free(&mut self) -> Option<Self::Tx> {
        for step in 0..MAX_PORTS {
            let Some(member) = self.exit((self.last + step) % MAX_PORTS) else { continue };
            if let Some(frame) = self.members[member].port.take_free() {
                return Some(GroupTx { member, frame });
            }
        }
        (0..self.members.len()).find_map(|member| {
            let frame = self.members[member].port.take_free()?;
            Some(GroupTx { member, frame })
        })
    }

    fn put_back(&mut self, frame: Self::Tx) {
        self.members[frame.member].port.put_back(frame.frame);
    }

    fn room<'a>(&'a self, frame: &'a mut Self::Tx) -> &'a mut [u8] {
        let head = self.head();
        self.members[frame.member].port.room(&mut frame.frame).get_mut(head..).unwrap_or_default()
    }

    fn transmit(&mut self, frame: Self::Tx, len: usize) {
        let GroupTx { member, mut frame } = frame;
        let number = self.number_of(member, &mut frame);
        let Some(exit) = self.exit(number) else {
            // Its interface is down or gone: whoever waits for the frame sends again, and the way may be another then.
            let of = self.exits.get(number).copied().flatten().unwrap_or(member);
            self.members[of].tally.add_lost();
            self.members[member].port.put_back(frame);
            return;
        };
        let whole = self.head() + len;
        let source = self.members[exit].mac;
        let sent = self.complete(member, &mut frame, source).and_then(|()| {
            if exit == member { None } else { self.copied((member, &mut frame), exit, whole) }
        });
        match sent {
            Some(copy) => {
                self.members[exit].port.transmit(copy, whole);
                self.members[member].port.put_back(frame);
            }
            None if exit == member => self.members[member].port.transmit(frame, whole),
            None => {
                self.members[exit].tally.add_lost();
                self.members[member].port.put_back(frame);
                return;
            }
        }
        self.members[exit].tally.add_sent();
        self.last = number;
    }

    fn flush(&mut self) -> usize {
        self.members.iter_mut().map(|member| member.port.flush()).sum()
    }

    /// Frames of an interface that is down or gone are not waited for.
    fn unsent(&mut self) -> usize {
        self.members
            .iter_mut()
            .filter(|member| member.watched.is_up())
            .map(|member| member.port.unsent())
            .sum()
    }

    /// The first one's; a worker waits on all of them.
    fn fd(&self) -> BorrowedFd<'_> {
        self.members[0].port.fd()
    }

    fn waits_on<'a>(&'a self, each: &mut dyn FnMut(BorrowedFd<'a>)) {
        // The socket of a device that is gone may say "error" for ever.
        for member in self.members.iter().filter(|member| member.watched.presence() != Presence::Gone) {
            member.port.waits_on(each);
        }
    }

    fn frames(&self) -> u32 {
        self.members.iter().map(|member| member.port.frames()).sum()
    }

    fn levels(&mut self) -> RingLevels {
        self.members.iter_mut().map(|member| member.port.levels()).fold(RingLevels::default(), |sum, one| {
            RingLevels {
                rx: sum.rx + one.rx,
                fill: sum.fill + one.fill,
                tx: sum.tx + one.tx,
                completion: sum.completion + one.completion,
                free: sum.free + one.free,
                size: sum.size + one.size,
            }
        })
    }

    fn statistics(&self) -> PortStatistics {
        self.members.iter().map(|member| member.port.statistics()).fold(
            PortStatistics::default(),
            |sum, one| PortStatistics {
                rx_dropped: sum.rx_dropped + one.rx_dropped,
                rx_ring_full: sum.rx_ring_full + one.rx_ring_full,
                fill_ring_empty: sum.fill_ring_empty + one.fill_ring_empty,
                invalid: sum.invalid + one.invalid,
            },
        )
    }

    fn unseen(&self) -> Unseen {
        self.members.iter().map(|member| member.port.unseen()).fold(Unseen::AtMost(0), Unseen::and)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plain::{End, PlainPort};
    use super::*;
    use std::collections::VecDeque;
    use std::io;
    use std::ops::Range;
    use std::sync::Mutex;

    /// Two queues of frames: from and to a wire that the test holds.
    #[derive(Clone, Default)]
    struct Wire {
        arriving: Arc<Mutex<VecDeque<Vec<u8>>>>,
        left: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl End for Wire {
        fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
            let Some(frame) = self.arriving.lock().unwrap().pop_front() else { return Ok(None) };
            buffer[..frame.len()].copy_from_slice(&frame);
            Ok(Some(0..frame.len()))
        }
        fn give(&mut self, frame: &[u8]) -> io::Result<()> {
            self.left.lock().unwrap().push(frame.to_vec());
            Ok(())
        }
        fn fd(&self) -> BorrowedFd<'_> {
            unreachable!("nobody waits in this test")
        }
    }

    const BATCH: usize = 8;
    const STATION: [u8; 6] = [2, 0, 0, 0, 9, 9];

    fn mac(number: usize) -> Mac {
        Mac([2, 0, 0, 0, 0, number as u8])
    }

    struct World {
        group: Group<PlainPort<Wire>>,
        wires: Vec<Wire>,
        watched: Vec<Arc<Watched>>,
    }

    fn world(numbers: &[usize], arrivals: Arrivals, vlan: Option<u16>) -> World {
        let wires: Vec<Wire> = numbers.iter().map(|_| Wire::default()).collect();
        let watched: Vec<Arc<Watched>> = numbers.iter().map(|_| Arc::default()).collect();
        let member = |(index, number): (usize, &usize)| Member {
            port: PlainPort::new(wires[index].clone(), BATCH),
            number: *number,
            mac: mac(*number),
            watched: Arc::clone(&watched[index]),
            tally: Arc::default(),
        };
        let members = numbers.iter().enumerate().map(member).collect();
        World { group: Group::new(members, arrivals, vlan, BATCH), wires, watched }
    }

    impl World {
        /// Sends a frame as the pipeline builds it: a mark instead of a source, unless it is for the first interface.
        fn send(&mut self, number: usize, body: u8) -> bool {
            let Some(mut frame) = self.group.take_free() else { return false };
            let source = if number == 0 { mac(0).0 } else { PortMark(number as u8).encode() };
            let octets = [&STATION[..], &source, &[8, 0, body]].concat();
            self.group.room(&mut frame)[..octets.len()].copy_from_slice(&octets);
            self.group.transmit(frame, octets.len());
            assert_eq!(self.group.flush(), 0);
            true
        }

        fn left(&self, wire: usize) -> Vec<Vec<u8>> {
            std::mem::take(&mut *self.wires[wire].left.lock().unwrap())
        }

        /// Nothing is out: each member has as many frames to receive into and to send with as at first.
        fn conserved(&mut self) {
            for member in &mut self.group.members {
                let levels = member.port.levels();
                assert_eq!((levels.fill, levels.tx, levels.free), (BATCH as u32, 0, levels.size));
            }
        }
    }

    fn expected(number: usize, body: u8) -> Vec<u8> {
        [&STATION[..], &mac(number).0, &[8, 0, body]].concat()
    }

    /// R0.2: a frame leaves by the interface that it names, with that one's address, wherever it was built; none is lost
    /// or kept.
    #[test]
    fn r0_2_frames_leave_by_the_interface_that_they_name() {
        let mut world = world(&[0, 1, 0, 2], Arrivals::Marked, None);
        for (turn, number) in [0, 1, 1, 2, 0, 2, 1, 0].into_iter().enumerate() {
            assert!(world.send(number, turn as u8));
            let wire = [0, 1, 3][number];
            assert_eq!(world.left(wire), [expected(number, turn as u8)], "turn {turn}");
            assert!((0..4).all(|other| world.left(other).is_empty()));
            world.conserved();
        }
        let sent: Vec<u64> = world.group.members().iter().map(|member| member.tally.shown().sent).collect();
        assert_eq!(sent, [3, 3, 0, 2], "the first queue of an interface sends");
    }

    /// R0.2, R1.9: frames for an interface that is down, gone, or was never there are dropped and counted; the others go on.
    #[test]
    fn r0_2_an_interface_that_is_gone_takes_nothing_with_it() {
        let mut world = world(&[0, 1], Arrivals::Marked, None);
        for state in [Presence::Down, Presence::Gone] {
            world.watched[1].set(state);
            assert!(world.send(1, 7) && world.left(1).is_empty());
            assert!(world.send(0, 8));
            assert_eq!(world.left(0), [expected(0, 8)]);
            assert!(world.send(3, 9), "a number beyond those that there are");
            assert!(world.left(0).is_empty() && world.left(1).is_empty());
            world.conserved();
        }
        assert_eq!(world.group.members()[1].tally.shown().lost, 2);
        world.watched[0].set(Presence::Down);
        let lost = |world: &World| world.group.members().iter().map(|of| of.tally.shown().lost).sum::<u64>();
        let before = lost(&world);
        // What is built where no interface is up may be for the other side; it does not leave by this one.
        for state in [Presence::Down, Presence::Gone] {
            world.watched[1].set(state);
            for number in [0, 1, 0] {
                assert!(world.send(number, 1), "{state:?}");
            }
            assert!(world.left(0).is_empty() && world.left(1).is_empty());
            world.conserved();
        }
        assert_eq!(lost(&world), before + 6);
        world.watched[1].set(Presence::Up);
        assert!(world.send(1, 2));
        assert_eq!(world.left(1), [expected(1, 2)]);
        world.conserved();
    }

    /// R0.2: frames of all members come, in order of arrival for each, no more than asked for, and marked on the WAN with the
    /// interface whatever stood there.
    #[test]
    fn r0_2_frames_of_all_interfaces_come_marked() {
        for arrivals in [Arrivals::Marked, Arrivals::AsTheyAre] {
            let mut world = world(&[0, 1], arrivals, None);
            let forged = [&PortMark(3).encode()[..], &[0; 8]].concat();
            for (wire, count) in [(0, 12), (1, 3)] {
                for n in 0..count {
                    let frame = [&forged[..], &[wire as u8, n]].concat();
                    world.wires[wire].arriving.lock().unwrap().push_back(frame);
                }
            }
            let (mut got, mut batch) = (Vec::new(), Vec::new());
            loop {
                world.group.receive(&mut batch, BATCH);
                assert!(batch.len() <= BATCH);
                if batch.is_empty() {
                    break;
                }
                while let Some(mut frame) = batch.pop() {
                    let octets = world.group.octets(&mut frame);
                    let number = PortMark::decode(octets[..6].try_into().unwrap()).unwrap().0;
                    assert_eq!(number, if arrivals == Arrivals::Marked { octets[14] } else { 3 });
                    got.push((octets[14], octets[15]));
                    world.group.recycle(frame);
                }
            }
            let of = |wire| got.iter().filter(|(from, _)| *from == wire).map(|(_, n)| *n).collect::<Vec<_>>();
            assert_eq!((of(0), of(1)), ((0..12).collect(), (0..3).collect()));
            world.conserved();
            assert_eq!(world.group.members()[0].tally.shown().received, 12);
        }
    }

    /// R0.2: on a tagged side every frame that leaves has the tag behind its addresses.
    #[test]
    fn r0_2_frames_leave_with_their_tag() {
        let mut world = world(&[0, 1], Arrivals::Marked, Some(0x0f9a));
        for number in [0, 1, 0] {
            assert!(world.send(number, 5));
            let tagged = [&STATION[..], &mac(number).0, &[0x81, 0, 0x0f, 0x9a, 8, 0, 5]].concat();
            assert_eq!(world.left(number), [tagged]);
            world.conserved();
        }
    }
}
