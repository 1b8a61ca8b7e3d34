//! A gateway that is found by its name, and moves: the name is asked for outside the tunnel.

use super::{Rig, echo};
use crate::resolve::tests::{reply, v4};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

/// Where the gateway is, and what its name says.
#[derive(Debug)]
pub(super) struct Place {
    last_octet: AtomicU8,
    moved: AtomicBool,
    over: AtomicBool,
    pub(super) questions: AtomicU32,
}

impl Default for Place {
    fn default() -> Self {
        let (moved, over) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { last_octet: AtomicU8::new(1), moved, over, questions: AtomicU32::new(0) }
    }
}

impl Place {
    fn address(&self) -> String {
        format!("198.51.100.{}", self.last_octet.load(Ordering::SeqCst))
    }

    pub(super) fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind((self.address().as_str(), 4_500)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        socket
    }

    pub(super) fn has_moved(&self) -> bool {
        self.moved.swap(false, Ordering::SeqCst)
    }

    fn moves_to(&self, last_octet: u8) {
        self.last_octet.store(last_octet, Ordering::SeqCst);
        self.moved.store(true, Ordering::SeqCst);
    }
}

/// A name server in the calling thread's namespace: every name is the gateway's, and has no IPv6 address.
pub(super) fn serve(place: &Arc<Place>) {
    let place = Arc::clone(place);
    let socket = UdpSocket::bind("198.51.100.53:53").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 600];
        while !place.over.load(Ordering::SeqCst) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let question = &buffer[..length];
            place.questions.fetch_add(1, Ordering::SeqCst);
            let is_v4 = question[length - 3] == 1;
            let records = if is_v4 { vec![("vpn.test", 1, v4(&place.address()))] } else { Vec::new() };
            // First something that is no answer at all: it must not end the lookup.
            for datagram in [&b"\0\0\x80garbage"[..], &reply(question, records)] {
                socket.send_to(datagram, from).unwrap();
            }
        }
    });
}

impl Drop for super::FarSide {
    fn drop(&mut self) {
        self.place.over.store(true, Ordering::SeqCst);
    }
}

/// R7.1: everything of the host is routed into the tunnel or held back, the gateway moves, and its name, asked for over the
/// uplinks, leads to the new place: one session.
#[test]
fn r7_1_a_gateway_that_moves_is_found_while_the_tunnel_is_down() {
    let Some(mut rig) = Rig::new() else { return };
    let resolv = rig.folder.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 198.51.100.53\n").unwrap();
    let path = rig.folder.path().join("client.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("198.51.100.1:4500", "vpn.test:4500")).unwrap();
    rig.configure(&format!(
        "[traffic]\nfull_tunnel = true\nkill_switch = true\n\
         [dns]\nservers = [\"10.77.0.1\"]\nresolv_conf = \"{}\"\n",
        resolv.display()
    ));
    rig.start();
    let status = rig.wait_for("the tunnel coming up", |s| s["state"] == "ATTACHED");
    assert_eq!(status["path"]["remote"], "198.51.100.1:4500");
    assert!(
        std::fs::read_to_string(&resolv).unwrap().contains("10.77.0.1"),
        "the host asks through the tunnel now"
    );
    let before = rig.far.place.questions.load(Ordering::SeqCst);
    assert!(before > 0 && echo(1));

    rig.far.place.moves_to(2);
    // The recovery between the two may be shorter than the time between two looks.
    let found =
        |s: &serde_json::Value| s["state"] == "ATTACHED" && s["path"]["remote"] == "198.51.100.2:4500";
    let back = rig.wait_for("the recovery", found);
    assert_eq!(back["session_id"], status["session_id"]);
    assert!(rig.far.place.questions.load(Ordering::SeqCst) > before && echo(2));
    rig.stop();
    assert_eq!(super::rules_and_routes(), "");
}
