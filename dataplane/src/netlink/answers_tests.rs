//! Exchanges with a kernel that says, datagram by datagram, what the test has it say.

use super::*;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_MULTIPART, NLMSG_DONE, NLMSG_ERROR};
use netlink_packet_route::neighbour::NeighbourMessage;
use std::collections::VecDeque;

/// What answers a request, given its number.
type Reply = Box<dyn Fn(u32) -> Vec<Vec<u8>>>;

/// A kernel: each request has its reply, and what is not read stays in the socket.
#[derive(Default)]
struct Script {
    replies: VecDeque<Reply>,
    socket: VecDeque<Vec<u8>>,
    asked: usize,
}

impl Script {
    fn then(mut self, reply: impl Fn(u32) -> Vec<Vec<u8>> + 'static) -> Self {
        self.replies.push_back(Box::new(reply));
        self
    }
}

impl Line for Script {
    fn say(&mut self, datagram: &[u8]) -> io::Result<()> {
        let sequence = NetlinkBuffer::new_checked(datagram).unwrap().sequence_number();
        self.asked += 1;
        let reply = self.replies.pop_front().expect("a request that the script does not know");
        self.socket.extend(reply(sequence));
        Ok(())
    }

    fn hear(&mut self, _wait: Wait, datagram: &mut Vec<u8>) -> io::Result<()> {
        *datagram = self.socket.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        Ok(())
    }
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let len = 16 + payload.len() as u32;
    let mut octets = len.to_ne_bytes().to_vec();
    octets.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    octets.extend([sequence.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
    octets.extend(payload);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// A neighbour of IPv4 on interface `index`, as a bare `struct ndmsg`.
fn entry(sequence: u32, index: u32) -> Vec<u8> {
    let head = [[libc::AF_INET as u8, 0, 0, 0], index.to_ne_bytes(), [2, 0, 0, 1]].concat();
    message(libc::RTM_NEWNEIGH, NLM_F_MULTIPART, sequence, &head)
}

/// One that is cut short, with a sound length.
fn unreadable_entry(sequence: u32) -> Vec<u8> {
    message(libc::RTM_NEWNEIGH, NLM_F_MULTIPART, sequence, &[0; 4])
}

fn done(sequence: u32, code: i32) -> Vec<u8> {
    message(NLMSG_DONE, NLM_F_MULTIPART, sequence, &code.to_ne_bytes())
}

fn dump(dialogue: &mut Dialogue<Script>) -> io::Result<Vec<u32>> {
    ask(dialogue, NLM_F_DUMP)
}

/// The interfaces of the neighbours that are the answer.
fn ask(dialogue: &mut Dialogue<Script>, flags: u16) -> io::Result<Vec<u32>> {
    let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let indexes = dialogue.request(question, flags)?.into_iter().map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(entry) => entry.header.ifindex,
        other => panic!("{other:?}"),
    });
    Ok(indexes.collect())
}

/// R1.9: one entry that cannot be read costs itself alone, not the view, and not the answers that follow.
#[test]
fn r1_9_an_unreadable_entry_is_passed_over_and_counted() {
    let script = Script::default()
        .then(|n| vec![[entry(n, 1), unreadable_entry(n), entry(n, 2)].concat(), entry(n, 3), done(n, 0)])
        .then(|n| vec![[entry(n, 4), done(n, 0)].concat()]);
    let mut dialogue = Dialogue::over(script);
    assert_eq!(dump(&mut dialogue).unwrap(), [1, 2, 3]);
    assert_eq!(dialogue.unreadable, 1);
    assert_eq!(dump(&mut dialogue).unwrap(), [4]);
}

/// R1.9: a dump that cannot be read on is read away: the next request has its own answer, not the rest of that one.
#[test]
fn r1_9_after_a_failure_the_next_answer_is_its_own() {
    let cut = |n| {
        let mut long = entry(n, 1);
        long.splice(..4, 4_000_u32.to_ne_bytes());
        vec![long, [entry(n, 2), entry(n, 3)].concat(), done(n, 0)]
    };
    let script = Script::default().then(cut).then(|n| vec![entry(n, 4), done(n, 0)]);
    let mut dialogue = Dialogue::over(script);
    assert_eq!(dump(&mut dialogue).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(dialogue.line.socket.is_empty(), "nothing is left for the next one");
    assert_eq!(dump(&mut dialogue).unwrap(), [4]);
}

/// R1.9: what stayed in the socket all the same is nobody's answer: neither its entries, nor its end, nor its refusal.
#[test]
fn r1_9_answers_to_another_request_are_passed_over() {
    let refusal = |n| message(NLMSG_ERROR, 0, n, &(-libc::ENOENT).to_ne_bytes());
    let acknowledgement = |n| message(NLMSG_ERROR, 0, n, &0_i32.to_ne_bytes());
    let script = Script::default()
        .then(|n| vec![entry(n, 4), done(n, 0)])
        .then(move |n| vec![acknowledgement(n - 1), refusal(n)])
        .then(move |n| vec![refusal(n - 1), entry(n - 1, 1), entry(n, 5)]);
    let mut dialogue = Dialogue::over(script);
    dialogue.sequence = 8;
    dialogue.line.socket.extend([entry(7, 1), done(7, 0), refusal(8)]);
    assert_eq!(dump(&mut dialogue).unwrap(), [4]);
    let refused = ask(&mut dialogue, NLM_F_ACK | NLM_F_CREATE).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOENT), "the acknowledgement was another's");
    assert_eq!(ask(&mut dialogue, 0).unwrap(), [5]);
}

/// R1.9: a dump during which something changed is asked for anew, a bounded number of times.
#[test]
fn r1_9_an_inconsistent_dump_is_asked_for_anew() {
    let torn = |n| {
        let torn = message(libc::RTM_NEWNEIGH, NLM_F_MULTIPART | NLM_F_DUMP_INTR, n, &[0; 12]);
        vec![[entry(n, 1), torn].concat(), done(n, 0)]
    };
    let script = Script::default().then(torn).then(torn).then(|n| vec![entry(n, 2), done(n, 0)]);
    let mut dialogue = Dialogue::over(script);
    assert_eq!(dump(&mut dialogue).unwrap(), [2]);
    assert_eq!(dialogue.line.asked, 3);
    let mut dialogue = Dialogue::over((0..TRIES).fold(Script::default(), |script, _| script.then(torn)));
    assert_eq!(dump(&mut dialogue).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    assert_eq!((dialogue.line.asked, dialogue.line.socket.len()), (TRIES, 0));
}

/// R1.9: a dump that fails on its way is no short list, and an answer that never ends is an error, not a wait.
#[test]
fn r1_9_a_dump_without_a_good_end_is_an_error() {
    let script = Script::default()
        .then(|n| vec![entry(n, 1), done(n, -libc::ENOMEM)])
        .then(|n| vec![entry(n, 1)])
        .then(|n| vec![entry(n, 1), message(NLMSG_DONE, 0, n, &[0; 2]), entry(n, 2)])
        .then(|n| vec![unreadable_entry(n)]);
    let mut dialogue = Dialogue::over(script);
    assert_eq!(dump(&mut dialogue).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(dump(&mut dialogue).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(dump(&mut dialogue).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(dialogue.line.socket.is_empty());
    assert_eq!(ask(&mut dialogue, 0).unwrap_err().kind(), io::ErrorKind::InvalidData, "the only answer");
}
