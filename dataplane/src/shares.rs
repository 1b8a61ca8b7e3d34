//! Which worker serves which queue: its own of every interface, and its share of those that are left. What a device puts
//! into a queue in use that nobody serves is lost, so a start that would leave one is refused.

use crate::halving::Spare;
use crate::hook::Hook;
use crate::plan;
use anyhow::{Result, bail};
use jvpn_abi::tables::MAX_WORKERS;

/// Most sockets of one worker on one side: every queue of an interface that has a place in the XSKMAP, if need be.
pub(crate) const SOCKETS_MAX: usize = MAX_WORKERS;

/// A socket to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Of which interface of the side, in the order in which they are attached.
    pub(crate) hook: usize,
    pub(crate) queue: u32,
    /// A further queue of an interface that the worker has a socket on: not having it is no reason to fall.
    pub(crate) is_spare: bool,
}

/// The sockets of a worker: its queue of every interface, and its share of the queues that are left. The interfaces of the
/// side have `in_use` queues.
pub(crate) fn wanted(
    in_use: &[u32],
    (worker, workers, queue): (usize, usize, u32),
    spare: Spare,
) -> Vec<Wanted> {
    let own = (0..in_use.len()).map(|hook| Wanted { hook, queue, is_spare: false });
    let spares = in_use.iter().enumerate().filter(|_| spare == Spare::Served).flat_map(|(hook, queues)| {
        let queues = share(worker, workers, *queues);
        queues.map(move |queue| Wanted { hook, queue, is_spare: true })
    });
    // What `most` lets pass is cut only where half of the workers are left, of which the log tells what to set.
    own.chain(spares).take(SOCKETS_MAX).collect()
}

/// The queues beyond those that each worker has anyway, which fall to this one.
fn share(worker: usize, workers: usize, queues: u32) -> impl Iterator<Item = u32> {
    let queues = (queues as usize).min(MAX_WORKERS);
    (worker + workers..queues).step_by(workers.max(1)).filter_map(|queue| u32::try_from(queue).ok())
}

/// How many queues each interface of a side may have in use, if they have more than the workers can have sockets for.
pub(crate) fn most(in_use: &[u32], workers: usize) -> Option<u32> {
    let workers = workers.max(1);
    // The first worker has the largest share.
    let of_first: usize = in_use.iter().map(|queues| (*queues as usize).div_ceil(workers).max(1)).sum();
    let is_beyond = of_first > SOCKETS_MAX || in_use.iter().any(|queues| *queues as usize > MAX_WORKERS);
    let each = workers.saturating_mul(SOCKETS_MAX / in_use.len().max(1)).min(MAX_WORKERS);
    is_beyond.then(|| u32::try_from(each).unwrap_or(u32::MAX))
}

/// Whether workers can have a socket for every queue in use of a side.
///
/// # Errors
/// Names the interfaces with too many, and what to do.
pub(crate) fn check<'a>(hooks: impl Iterator<Item = &'a Hook>, workers: usize) -> Result<()> {
    let in_use: Vec<(&str, u32)> = hooks.map(|hook| (hook.interface.as_str(), hook.queues)).collect();
    match refusal(&in_use, workers) {
        Some(said) => bail!("{said}"),
        None => Ok(()),
    }
}

fn refusal(in_use: &[(&str, u32)], workers: usize) -> Option<String> {
    let most = most(&in_use.iter().map(|(_, queues)| *queues).collect::<Vec<_>>(), workers)?;
    let beyond: Vec<(&str, u32)> = in_use.iter().copied().filter(|(_, queues)| *queues > most).collect();
    let shown: Vec<String> = beyond.iter().map(|(name, queues)| format!("{name} ({queues})")).collect();
    let commands: Vec<String> = plan::channels(beyond.iter().map(|(name, _)| *name), most)
        .iter()
        .map(|setting| format!("'{}'", setting.command()))
        .collect();
    let equal: Vec<String> =
        beyond.iter().map(|(name, _)| format!("'ethtool -X {name} equal {workers}'")).collect();
    Some(format!(
        "more receive queues in use than {workers} workers have sockets for, which is {most} of each interface: {}; what \
         the device puts into the others would be lost: {}; where the driver cannot have fewer, {} and the first \
         {workers} of them in tuning.queues",
        shown.join(", "),
        commands.join(", "),
        equal.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jvpn_abi::ports::MAX_PORTS;

    /// Every queue that the workers have sockets for, by interface, in order.
    fn served(in_use: &[u32], workers: usize) -> Vec<(usize, u32)> {
        let mut all: Vec<(usize, u32)> = (0..workers)
            .flat_map(|worker| wanted(in_use, (worker, workers, worker as u32), Spare::Served))
            .map(|wanted| (wanted.hook, wanted.queue))
            .collect();
        all.sort_unstable();
        all
    }

    fn every(in_use: &[u32]) -> Vec<(usize, u32)> {
        let of = |(hook, queues): (usize, &u32)| (0..*queues).map(move |queue| (hook, queue));
        in_use.iter().enumerate().flat_map(of).collect()
    }

    /// R0.2: every queue of an interface has exactly one worker, however many there are of either; where that cannot be, the
    /// side is refused, and not with as many queues as it is told.
    #[test]
    fn r0_2_every_queue_has_one_worker() {
        let sizes: [u32; 11] = [1, 2, 7, 16, 17, 33, 63, 64, 65, 128, 1_000];
        for interfaces in 1..=MAX_PORTS {
            for workers in [1, 2, 3, 5, 16, 63, MAX_WORKERS] {
                for queues in sizes.into_iter().filter(|queues| *queues as usize >= workers) {
                    let in_use = vec![queues; interfaces];
                    let at = format!("{workers} workers, {in_use:?} queues");
                    let most = most(&in_use, workers);
                    let fits = served(&in_use, workers) == every(&in_use);
                    assert_eq!(most.is_none(), fits, "{at}: {most:?}");
                    let Some(most) = most else { continue };
                    assert!(most < queues && most as usize >= workers, "{at}: {most}");
                    let in_use = vec![most; interfaces];
                    assert_eq!(served(&in_use, workers), every(&in_use), "{at}: {most}");
                }
            }
        }
        assert_eq!(served(&[64, 2], 2), every(&[64, 2]), "uneven");
        assert_eq!(most(&[96, 2], 2), Some(64), "the other one is not in the way");
        let own = wanted(&[8, 8], (1, 2, 5), Spare::Left);
        let own: Vec<_> = own.iter().map(|wanted| (wanted.hook, wanted.queue, wanted.is_spare)).collect();
        assert_eq!(own, [(0, 5, false), (1, 5, false)], "queues that were named are all");
    }

    /// R0.2: who does not start is told which interface, and the command; one with 64 queues starts with any workers.
    #[test]
    fn r0_2_queues_that_nobody_could_serve_are_refused() {
        for workers in 1..=MAX_WORKERS {
            assert_eq!(refusal(&[("eth0", 64)], workers), None, "{workers}");
        }
        let said = refusal(&[("none0", 96), ("none1", 8)], 4).unwrap();
        for part in ["none0 (96)", "'ethtool -L none0 combined 64'", "'ethtool -X none0 equal 4'"] {
            assert!(said.contains(part), "'{part}' is missing: {said}");
        }
        assert!(!said.contains("none1"), "{said}");
        let said = refusal(&[("none0", 64), ("none1", 40)], 1).unwrap();
        for part in ["'ethtool -L none0 combined 32'", "'ethtool -L none1 combined 32'"] {
            assert!(said.contains(part), "'{part}' is missing: {said}");
        }
    }
}
