//! Target `engine`: any sequence of genuine, lost, repeated, forged datagrams, reports of the tables, wishes of operators,
//! lies in CONTEXT, deaths of both processes and clocks that step back. Nothing breaks an invariant, and when the trouble
//! is over everybody gets back in (I13).

use crate::Source;
use crate::gateway::PEERS;
use crate::world::World;
use jvpn_abi::{BootTime, Endpoint};
use std::time::Duration;

/// Steps of one sequence.
const STEPS: usize = 40;

pub(crate) fn run(data: &[u8]) {
    let _said = outcome(data);
}

/// Runs a sequence; what everybody said, in one number (I9).
pub(crate) fn outcome(data: &[u8]) -> u64 {
    let mut source = Source::new(data);
    let mut world = World::attached();
    for _ in 0..STEPS {
        step(&mut world, &mut source);
        if source.is_empty() || world.is_tired() {
            break;
        }
    }
    world.recover();
    world.said()
}

fn step(world: &mut World, source: &mut Source<'_>) {
    if world.gateway.is_dead() && source.u8() & 1 == 1 {
        world.gateway.restart();
        world.collect();
    }
    match source.u8() % 8 {
        0 => world.run(Duration::from_millis(u64::from(source.u8()))),
        1 => world.run(Duration::from_millis(u64::from(source.u16()) * 2)),
        2 | 3 => world.disturb(source),
        4 => {
            let datagram = world.hostile(source);
            let from = Endpoint::v4([203, 0, 113, 10 + source.u8() % (PEERS * 2 + 1)], 40_000);
            world.gateway.receive(from, &datagram);
            world.collect();
        }
        5 | 6 => world.trouble(source),
        _ => {
            // A clock that steps back is a broken host; the engine must not break with it.
            let now = world.gateway.now;
            let back = u64::from(source.u16()) * 1_000_000;
            world.gateway.now = BootTime(now.0.saturating_sub(back));
            let datagram = world.hostile(source);
            world.gateway.ask(Endpoint::v4([203, 0, 113, 10], 40_000), &datagram);
            world.gateway.now = now;
            world.collect();
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let link_down = vec![2, 0, 0, 0];
    let link_up = vec![2, 0, 0, 1, 0];
    let second = vec![1, 1, 244];
    vec![
        [link_down.clone(), second.clone(), link_up.clone(), second.clone()].concat(),
        [vec![2, 0, 0, 3], vec![1, 4, 0], vec![5, 3, 2], vec![0, 9], vec![1], second.clone()].concat(),
        [vec![5, 3, 0], vec![1, 1, 0, 9], second.clone(), vec![5, 4], second.clone()].concat(),
        [vec![5, 5], second.clone(), vec![5, 6, 1], second.clone(), vec![5, 6, 0], second.clone()].concat(),
        [vec![5, 1, 1], link_down.clone(), second.clone(), vec![5, 2], second.clone()].concat(),
        [vec![5, 7, 0, 0], second.clone(), vec![5, 7, 1, 1], second.clone(), vec![5, 7, 0, 3, 1]].concat(),
        [vec![4, 0, 5, 0, 1], vec![4, 0, 9, 1, 2, 0, 9, 7], vec![4, 0, 0, 2, 0, 4, 0x24, 1, 0, 0, 0]]
            .concat(),
        [vec![7, 255, 255, 0, 3, 0], vec![2, 0, 0, 4, 7], vec![2, 0, 0, 6, 0, 20, 0x45], second.clone()]
            .concat(),
        [vec![5, 9, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 255], second, link_up, vec![2, 1, 0, 7]].concat(),
    ]
}
