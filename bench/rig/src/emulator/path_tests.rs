use super::super::profile::Share;
use super::*;
use crate::frame::Datagram;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn path(text: &str) -> Path {
    Path::new(&Profile::parse(&format!("name = \"x\"\n{text}")).unwrap(), 1)
}

fn frame(len: usize) -> Vec<u8> {
    let datagram = Datagram {
        source: "10.0.1.2:40000".parse().unwrap(),
        destination: "198.51.100.1:4500".parse().unwrap(),
        payload: &vec![7; len],
    };
    datagram.to_frame([2; 6], [4; 6]).unwrap()
}

/// Sends a frame up at each moment and gives when each arrives; `None` = not at all.
fn arrivals(path: &mut Path, moments: &[u64]) -> Vec<Option<u64>> {
    moments
        .iter()
        .map(|at| {
            path.handle_frame(ms(*at), Direction::Up, frame(10));
            let due = path.lanes[0].next_due()?;
            path.poll_frame(due).map(|(_, due, _)| u64::try_from(due.as_millis()).unwrap())
        })
        .collect()
}

/// R7.1: a script is followed to the moment, also in its second round; both ends of each change are edges.
#[test]
fn r7_1_a_script_changes_the_path_over_time() {
    let text = "repeat = \"1s\"\n[up]\ndelay = \"5ms\"\n\
                [[change]]\nafter = \"200ms\"\nlasts = \"100ms\"\nup = { blackhole = true }\n\
                [[change]]\nafter = \"500ms\"\nboth = { delay = \"50ms\" }\nup = { delay = \"20ms\" }\n";
    let mut path = path(text);
    assert_eq!(path.poll_timeout(), Some(ms(200)));
    let moments = [0, 199, 200, 299, 300, 499, 500, 999, 1_000, 1_250, 1_300];
    let wanted =
        [5, 204, 0, 0, 305, 504, 520, 1_019, 1_005, 0, 1_305].map(|at| Some(at).filter(|at| *at > 0));
    // The frame of 999 ms is due after that of 1000 ms was sent: order is kept, so that one waits for it.
    let wanted: Vec<_> = wanted.map(|at| if at == Some(1_005) { Some(1_019) } else { at }).into();
    assert_eq!(arrivals(&mut path, &moments), wanted);
    assert_eq!(path.lanes[1].settings().delay, ms(0));
    path.handle_timeout(ms(1_500));
    assert_eq!(path.lanes[1].settings().delay, ms(50), "both, where `down` says nothing");
}

#[test]
fn the_link_goes_down_and_its_frames_with_it() {
    let text = "[up]\ndelay = \"50ms\"\n[[change]]\nafter = \"100ms\"\nlasts = \"100ms\"\nlink_down = true\n";
    let mut path = path(text);
    path.handle_frame(ms(90), Direction::Up, frame(1));
    path.handle_timeout(ms(100));
    assert!(path.is_link_down());
    assert_eq!(path.poll_frame(ms(500)), None, "what was on its way is gone");
    path.handle_frame(ms(150), Direction::Up, frame(1));
    path.handle_timeout(ms(200));
    assert!(!path.is_link_down());
    path.handle_frame(ms(200), Direction::Up, frame(1));
    assert_eq!(path.poll_frame(ms(250)).unwrap().1, ms(250));
    path.set_link_down(ms(300), true);
    assert!(path.is_link_down());
    path.set_link_down(ms(301), false);
    assert!(!path.is_link_down());
}

#[test]
fn what_is_done_by_hand_stands_above_the_script_and_can_be_undone() {
    let mut path =
        path("[up]\ndelay = \"5ms\"\n[[change]]\nafter = \"10ms\"\nboth = { loss_percent = 100 }\n");
    path.change(ms(0), Direction::Up, LanePatch::blackhole());
    path.hold(Direction::Up, 8);
    assert_eq!(arrivals(&mut path, &[1, 2]), [None, None]);
    path.change(ms(3), Direction::Up, LanePatch::default());
    assert_eq!(path.release(ms(4), Direction::Up), [frame(10).len(); 2]);
    assert_eq!(path.poll_frame(ms(9)).unwrap().1, ms(9), "as if they had only been slow");
    assert_eq!(arrivals(&mut path, &[11]), [Some(9)], "the second one of them");
    path.change(ms(12), Direction::Up, LanePatch::loss(Share::NONE));
    assert_eq!(arrivals(&mut path, &[13]), [Some(18)]);
}

#[test]
fn a_nat_rebinds_by_script_and_by_hand_and_packets_too_big_come_back_as_errors() {
    let text = "[up]\nmtu = 500\nmtu_answer = \"icmp\"\n[nat]\nttl = \"1min\"\n\
                [[change]]\nafter = \"100ms\"\nrebind_nat = true\n";
    let mut path = path(text);
    let source = |path: &mut Path, at| {
        path.handle_frame(ms(at), Direction::Up, frame(1));
        let (_, _, frame) = path.poll_frame(ms(at)).unwrap();
        packet::flow(&frame).unwrap().source
    };
    let first = source(&mut path, 0);
    assert_eq!(source(&mut path, 99), first);
    let second = source(&mut path, 101);
    assert_ne!(second, first);
    path.rebind_nat();
    assert_ne!(source(&mut path, 102), second);
    let back = |to: std::net::SocketAddr| {
        let std::net::SocketAddr::V4(destination) = to else { unreachable!() };
        let source = "198.51.100.1:4500".parse().unwrap();
        Datagram { source, destination, payload: b"x" }.to_frame([4; 6], [2; 6]).unwrap()
    };
    path.handle_frame(ms(103), Direction::Down, back(second));
    assert_eq!(path.poll_frame(ms(103)), None, "that mapping is forgotten");
    path.handle_frame(ms(104), Direction::Up, frame(500));
    let (direction, _, answer) = path.poll_frame(ms(104)).unwrap();
    assert_eq!((direction, answer[34], answer[35]), (Direction::Down, 3, 4));
    assert_eq!(path.counters().up.too_big, 1);
    // ARP passes whatever happens to packets.
    path.change(ms(105), Direction::Up, LanePatch::blackhole());
    path.handle_frame(ms(105), Direction::Up, [vec![0xff; 12], vec![8, 6], vec![0; 28]].concat());
    assert!(path.poll_frame(ms(105)).is_some());
}
