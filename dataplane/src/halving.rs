//! How many queues a start takes: one for each worker on both sides and what is left over at first, fewer where the kernel
//! has not the memory for all or refuses one, and no AF_XDP on a side only where fewer would not help either. Who opens
//! sockets is handed in.

use crate::attach::Side;
use crate::plan::Seat;
use anyhow::Result;

/// Whether queues get sockets beyond those that each worker has anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spare {
    /// They are spread over the workers.
    Served,
    /// They stay without.
    Left,
}

/// What the kernel did not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Memory for frames.
    Memory,
    /// This queue, or a socket on it.
    Queue,
}

/// A socket that a worker has to have was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Whose it would have been.
    pub(crate) worker: usize,
    /// Spare queues of this side that had got a socket before.
    pub(crate) spares: usize,
    /// What was missing.
    pub(crate) lack: Lack,
    /// What the system said.
    pub(crate) said: String,
}

/// The sockets of a side.
#[derive(Debug)]
pub(crate) struct Taken<S> {
    /// Those of workers' own queues and the others.
    pub(crate) sockets: S,
    /// How many of them are of spare queues.
    pub(crate) spares: usize,
}

/// What became of a side.
#[derive(Debug)]
pub(crate) enum Outcome<S> {
    /// Every worker has its own.
    Taken(Taken<S>),
    /// The side has no AF_XDP.
    Without,
    /// One was refused; those before it are closed.
    Refused(Refusal),
}

/// Who opens sockets.
pub(crate) trait Opener {
    /// Those of a side. Dropping closes them.
    type Sockets;

    /// Opens those of a side.
    ///
    /// # Errors
    /// What ends the start.
    fn open(&mut self, side: Side, seats: &[Seat], spare: Spare) -> Result<Outcome<Self::Sockets>>;

    /// Notes that so many queues are served from now on, and no others, because `side` was refused one.
    fn take_fewer(&mut self, side: Side, queues: usize, said: &str);

    /// Takes AF_XDP from a side.
    ///
    /// # Errors
    /// If it must not be.
    fn go_without(&mut self, side: Side, said: &str) -> Result<()>;
}

/// The sockets of both sides, for as many workers as there are seats.
#[derive(Debug)]
pub(crate) struct Both<S> {
    /// `None`: the side has no AF_XDP.
    pub(crate) wan: Option<S>,
    /// The same.
    pub(crate) lan: Option<S>,
    /// The workers that have their queues.
    pub(crate) seats: Vec<Seat>,
}

/// Opens both sides for as many of `seats` as the kernel lets.
///
/// # Errors
/// Those of `opener`.
pub(crate) fn open_both<O: Opener>(opener: &mut O, seats: &[Seat]) -> Result<Both<O::Sockets>> {
    let mut share = Share { seats: seats.to_vec(), spare: [Spare::Served; 2] };
    loop {
        let Turn::Done(wan) = share.open(opener, Side::Wan, None)? else { continue };
        let spares_of_wan = wan.as_ref().map(|taken| taken.spares);
        // If not, those of the WAN are closed before they are opened anew.
        if let Turn::Done(lan) = share.open(opener, Side::Lan, spares_of_wan)? {
            let of = |taken: Option<Taken<O::Sockets>>| taken.map(|taken| taken.sockets);
            return Ok(Both { wan: of(wan), lan: of(lan), seats: share.seats });
        }
    }
}

/// What is asked for.
struct Share {
    seats: Vec<Seat>,
    /// By side.
    spare: [Spare; 2],
}

/// A try at one side.
enum Turn<S> {
    /// It has its sockets, or does without.
    Done(Option<Taken<S>>),
    /// Less is asked for: both sides are opened again.
    Again,
}

impl Share {
    /// `other`: the spare sockets of the side that is open already.
    fn open<O: Opener>(
        &mut self,
        opener: &mut O,
        side: Side,
        other: Option<usize>,
    ) -> Result<Turn<O::Sockets>> {
        let refusal = match opener.open(side, &self.seats, self.spare[side as usize])? {
            Outcome::Taken(taken) => return Ok(Turn::Done(Some(taken))),
            Outcome::Without => return Ok(Turn::Done(None)),
            Outcome::Refused(refusal) => refusal,
        };
        if self.shrink(side, &refusal, other) {
            opener.take_fewer(side, self.seats.len(), &refusal.said);
            return Ok(Turn::Again);
        }
        opener.go_without(side, &refusal.said)?;
        Ok(Turn::Done(None))
    }

    /// Asks for less, if that may help: `false` if it would not. Memory that spare queues or other workers hold is memory
    /// that this one lacks, on whichever side they are; a queue that is refused is missing for itself alone.
    fn shrink(&mut self, side: Side, refusal: &Refusal, other: Option<usize>) -> bool {
        let is_memory = refusal.lack == Lack::Memory;
        if is_memory && refusal.spares + other.unwrap_or(0) > 0 {
            self.spare = [Spare::Left; 2];
            return true;
        }
        let would_help = refusal.worker > 0 || (is_memory && other.is_some());
        if self.seats.len() < 2 || !would_help {
            return false;
        }
        self.seats.truncate(half(self.seats.len()));
        match refusal.lack {
            Lack::Memory => self.spare = [Spare::Left; 2],
            Lack::Queue => self.spare[side as usize] = Spare::Left,
        }
        true
    }
}

/// Half of the queues, and at least one.
const fn half(queues: usize) -> usize {
    if queues > 1 { queues / 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::cell::Cell;
    use std::rc::Rc;

    /// R9.1: halving ends at one queue.
    #[test]
    fn r9_1_halves_down_to_one_queue() {
        let steps: Vec<usize> = std::iter::successors(Some(12), |n| (*n > 1).then(|| half(*n))).collect();
        assert_eq!(steps, [12, 6, 3, 1]);
    }

    /// A socket, for as long as it lives.
    struct Socket(Rc<Cell<usize>>);

    impl Drop for Socket {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    /// A kernel with memory for so many sockets, and interfaces with so many queues each; one queue more is refused.
    struct Kernel {
        memory: usize,
        open: Rc<Cell<usize>>,
        /// Interfaces of each side, and queues of each of them.
        interfaces: [usize; 2],
        queues: [usize; 2],
        without: [bool; 2],
        must_have: bool,
        /// What was noted: the side, the queues.
        fewer: Vec<(Side, usize)>,
    }

    impl Kernel {
        fn new(memory: usize, queues: [usize; 2]) -> Self {
            let (open, fewer) = (Rc::default(), Vec::new());
            Self { memory, open, interfaces: [1, 1], queues, without: [false; 2], must_have: false, fewer }
        }

        fn socket(&self) -> Option<Socket> {
            (self.open.get() < self.memory).then(|| {
                self.open.set(self.open.get() + 1);
                Socket(Rc::clone(&self.open))
            })
        }

        /// Workers, and the sockets of each side.
        fn start(&mut self, workers: u32) -> Result<(usize, [usize; 2])> {
            let seat = |queue| Seat { queue, cpu: queue as usize, node: None };
            let seats: Vec<Seat> = (0..workers).map(seat).collect();
            let both = open_both(self, &seats)?;
            let count = |sockets: &Option<Vec<Socket>>| sockets.as_ref().map_or(0, Vec::len);
            let counts = [count(&both.wan), count(&both.lan)];
            assert_eq!(counts.iter().sum::<usize>(), self.open.get(), "nothing else is open");
            Ok((both.seats.len(), counts))
        }
    }

    impl Opener for Kernel {
        type Sockets = Vec<Socket>;

        fn open(&mut self, side: Side, seats: &[Seat], spare: Spare) -> Result<Outcome<Self::Sockets>> {
            let at = side as usize;
            if self.without[at] {
                return Ok(Outcome::Without);
            }
            let (mut sockets, mut spares) = (Vec::new(), 0);
            for worker in 0..seats.len() {
                let refused = |lack, spares| {
                    let said = format!("worker {worker}");
                    Ok(Outcome::Refused(Refusal { worker, spares, lack, said }))
                };
                for _ in 0..self.interfaces[at] {
                    if worker >= self.queues[at] {
                        return refused(Lack::Queue, spares);
                    }
                    let Some(socket) = self.socket() else { return refused(Lack::Memory, spares) };
                    sockets.push(socket);
                }
                if spare == Spare::Served {
                    let more = (worker + seats.len()..self.queues[at]).step_by(seats.len());
                    let more: Vec<Socket> = more.map_while(|_| self.socket()).collect();
                    spares += more.len();
                    sockets.extend(more);
                }
            }
            Ok(Outcome::Taken(Taken { sockets, spares }))
        }

        fn take_fewer(&mut self, side: Side, queues: usize, _said: &str) {
            self.fewer.push((side, queues));
        }

        fn go_without(&mut self, side: Side, said: &str) -> Result<()> {
            if self.must_have {
                bail!("{said} is refused");
            }
            self.without[side as usize] = true;
            Ok(())
        }
    }

    /// R9.1: whatever memory there is from one socket for each side on, both sides have AF_XDP, with as many workers as it
    /// lasts for; below that the WAN has it.
    #[test]
    fn r9_1_no_side_loses_af_xdp_while_fewer_queues_would_do() {
        for (memory, workers, sockets) in [
            (16, 8, [8, 8]),
            (15, 4, [4, 4]),
            (9, 4, [4, 4]),
            (8, 4, [4, 4]),
            (7, 2, [2, 2]),
            (3, 1, [1, 1]),
            (2, 1, [1, 1]),
            (1, 1, [1, 0]),
            (0, 8, [0, 0]),
        ] {
            let mut kernel = Kernel::new(memory, [8, 8]);
            assert_eq!(
                kernel.start(8).unwrap(),
                (workers, sockets),
                "memory for {memory}: {:?}",
                kernel.fewer
            );
            assert_eq!(kernel.without, sockets.map(|count| count == 0), "memory for {memory}");
        }
    }

    /// R9.1, R0.2: spare queues of either side go before a worker does, and a worker before a side.
    #[test]
    fn r9_1_spare_queues_go_before_workers() {
        let mut kernel = Kernel::new(8, [8, 2]);
        assert_eq!(kernel.start(2).unwrap(), (2, [2, 2]), "the WAN's spare queues are let go for the LAN");
        assert_eq!(kernel.fewer, [(Side::Lan, 2)]);
        let mut kernel = Kernel::new(4, [8, 8]);
        assert_eq!(kernel.start(2).unwrap(), (2, [2, 2]), "those of the first worker for the second");
        assert_eq!(kernel.fewer, [(Side::Wan, 2)]);
        let mut kernel = Kernel::new(10, [8, 2]);
        assert_eq!(kernel.start(2).unwrap(), (2, [8, 2]), "and none where there is enough");
        assert!(kernel.fewer.is_empty());
    }

    /// R9.1: a queue that is refused leaves half of the workers, and the spare queues of the other side are theirs.
    #[test]
    fn r9_1_a_refused_queue_leaves_the_other_side_as_it_is() {
        let mut kernel = Kernel::new(64, [4, 1]);
        assert_eq!(kernel.start(4).unwrap(), (1, [4, 1]));
        assert_eq!(kernel.fewer, [(Side::Lan, 2), (Side::Lan, 1)]);
    }

    /// R9.1: several interfaces: what one worker needs on all of them is the least.
    #[test]
    fn r9_1_one_worker_needs_a_socket_on_every_interface() {
        for (memory, workers, sockets) in [(12, 4, [8, 4]), (11, 2, [4, 2]), (3, 1, [2, 1]), (2, 1, [2, 0])] {
            let mut kernel = Kernel { interfaces: [2, 1], ..Kernel::new(memory, [4, 4]) };
            assert_eq!(kernel.start(4).unwrap(), (workers, sockets), "memory for {memory}");
        }
    }

    /// R0.5: who must not go without does not start, and has tried with fewer before.
    #[test]
    fn r0_5_who_must_have_af_xdp_is_told() {
        let must_have = |memory| Kernel { must_have: true, ..Kernel::new(memory, [4, 4]) };
        assert_eq!(must_have(2).start(4).unwrap(), (1, [1, 1]));
        assert!(must_have(1).start(4).unwrap_err().to_string().contains("worker 0"));
    }
}
