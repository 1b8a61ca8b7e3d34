//! Frames of a real port: none is lost, however many packets pass.

use std::net::{Ipv4Addr, UdpSocket};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use jvpn_bench::deployment::Role;
use jvpn_dataplane::attach::Steering;
use jvpn_dataplane::config::Config;
use jvpn_dataplane::port::{Account, Port, RxFrame, Settling};
use jvpn_rig::capture::{Capture, Keep, Match};
use jvpn_rig::tool::ETHTOOL;
use jvpn_rig::topology::LAN_SERVER;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::{Lab, PATIENCE};

/// TX frames of a port, and entries of its fill ring (dataplane/src/port).
const FRAMES: usize = 2_048;
/// Packets sent at a time: as many as a worker takes.
const BATCH: usize = 64;
/// Enough batches to go through all frames more than three times.
const BATCHES: usize = 3 * FRAMES / BATCH + 4;
/// Where the packets go: an address of the pool, a port that nobody uses.
const TARGET: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 0, 2), 7_777);

/// Both ports' first queue, with a hand in place of the worker.
struct Hand {
    lan: Port,
    wan: Port,
    batch: Vec<RxFrame>,
}

impl Hand {
    fn new(config: &Config) -> (Steering, Self) {
        let mut steering = Steering::attach(config, &[0]).unwrap();
        let wan = Port::open(config.wan.interface(), 0).unwrap();
        let lan = Port::open(config.lan.interface(), 0).unwrap();
        steering.set_socket("WAN_XSKS", 0, wan.raw_fd()).unwrap();
        steering.set_socket("LAN_XSKS", 0, lan.raw_fd()).unwrap();
        let routes = Map::LpmTrie(MapData::from_fd(steering.table("ROUTES").unwrap()).unwrap());
        let mut routes: LpmTrie<_, [u8; 16], u32> = routes.try_into().unwrap();
        routes.insert(&Key::new(128, TARGET.0.to_ipv6_mapped().octets()), 0, 0).unwrap();
        (steering, Self { lan, wan, batch: Vec::new() })
    }

    /// Waits for frames from the LAN.
    fn receive(&mut self) {
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        let ready = poll(&mut [PollFd::new(self.lan.fd(), PollFlags::POLLIN)], patience).unwrap();
        assert_eq!(ready, 1, "reception has stopped: the fill ring is dry");
        self.lan.receive(&mut self.batch, BATCH);
    }

    /// Copies what was received into TX frames of the other port, as a worker does, and gives it back.
    fn forward(&mut self) -> usize {
        let count = self.batch.len();
        while let Some(mut received) = self.batch.pop() {
            let mut free = self.wan.take_free().expect("a TX frame is free");
            let octets = self.lan.octets(&mut received);
            let len = octets.len();
            // For everybody: the observer takes it, and the router's own stack does not.
            octets[..6].fill(0xff);
            self.wan.room(&mut free)[..len].copy_from_slice(octets);
            self.lan.recycle(received);
            self.wan.transmit(free, len);
        }
        assert_eq!(self.wan.flush() + self.lan.flush(), 0, "a TX ring was full");
        count
    }

    /// Every TX frame of both ports is in exactly one place.
    fn assert_conserved(&self) {
        for port in [&self.wan, &self.lan] {
            let (free, collected, at_the_kernel) = port.tx_frames();
            assert_eq!(free + collected + at_the_kernel, FRAMES);
        }
    }
}

fn send_batch(socket: &UdpSocket) {
    for _ in 0..BATCH {
        socket.send_to(b"conserve me", TARGET).unwrap();
    }
}

/// R0.2: more than three times as many packets as a port has frames pass from LAN to WAN through real rings;
/// no frame is lost, and reception goes on. Then frames are lost on purpose, and the account at the end has each of them.
#[test]
#[ignore = "needs root: network namespaces, XDP, AF_XDP"]
fn r0_2_no_frame_of_a_real_port_is_lost() {
    let lab = Lab::prepare();
    let path = lab.places.config_dir.join(Role::DataPlane.config_file());
    let config = Config { workers: 1, cores: Vec::new(), ..jvpn_host::config::load(&path).unwrap() };
    // One transmit queue there is one receive queue here.
    ETHTOOL.run(Some(lab.rig.lan()), &["-L", "eth0", "tx", "1"]).unwrap();
    let sender = lab.rig.lan().run(|| UdpSocket::bind((LAN_SERVER, 0)).unwrap()).unwrap();
    let arrived =
        Capture::start(lab.rig.router(), "rW", Match::arriving(TARGET.1, None), Keep::Count).unwrap();
    lab.rig
        .gateway()
        .run(|| {
            let (_steering, mut hand) = Hand::new(&config);
            hand.assert_conserved();
            let mut passed = 0;
            for batch in 1..=BATCHES {
                send_batch(&sender);
                while passed < batch * BATCH {
                    hand.receive();
                    passed += hand.forward();
                    hand.assert_conserved();
                }
            }
            let sent = u64::try_from(passed).unwrap();
            arrived.wait_for("every packet comes out", sent, PATIENCE, &lab.interrupt).unwrap();
            for port in [&hand.wan, &hand.lan] {
                let statistics = port.statistics().unwrap();
                let lost = statistics.rx_dropped + statistics.rx_ring_full + statistics.invalid;
                assert_eq!((lost, statistics.fill_ring_empty), (0, 0), "{statistics:?}");
            }
            let missing = |port: &mut Port| Account::settled(port, Settling::Patient.deadline()).elsewhere();
            assert_eq!(
                (missing(&mut hand.wan), missing(&mut hand.lan)),
                (0, 0),
                "the account of a worker's end"
            );
            let mut leaked = 0;
            while hand.lan.statistics().unwrap().fill_ring_empty == 0 {
                send_batch(&sender);
                hand.lan.receive(&mut hand.batch, BATCH);
                leaked += hand.batch.drain(..).count();
                assert!(leaked <= FRAMES, "{leaked} frames came from a fill ring of {FRAMES}");
            }
            assert!(leaked > FRAMES / 2, "{leaked} leaked frames ran a fill ring of {FRAMES} dry");
            assert_eq!(missing(&mut hand.lan), i64::try_from(leaked).unwrap(), "as many as were lost");
        })
        .unwrap();
    arrived.complete().unwrap();
}
