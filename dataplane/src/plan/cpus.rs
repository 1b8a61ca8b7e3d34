//! Which processors workers get.

use super::facts::Cpus;

/// Reads a list as the kernel writes it: `0-3,8`. What cannot be read is left out.
#[must_use]
pub fn parse_cpu_list(text: &str) -> Vec<usize> {
    /// More processors than Linux supports: a list beyond that is no list.
    const MOST: usize = 8_192;
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { continue };
        if first <= last && last < MOST {
            cpus.extend(first..=last);
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

impl Cpus {
    /// The node of a processor.
    #[must_use]
    pub fn node_of(&self, cpu: usize) -> Option<usize> {
        self.nodes.iter().find(|node| node.cpus.contains(&cpu)).map(|node| node.id)
    }

    /// How many threads of its core come before this one.
    fn thread_of_core(&self, cpu: usize) -> usize {
        let core = self.siblings.iter().find(|threads| threads.contains(&cpu));
        core.and_then(|threads| threads.iter().position(|&thread| thread == cpu)).unwrap_or(0)
    }
}

/// Processors for `workers` workers whose ports hang on `node`: isolated ones first, then those of the node, one thread
/// of each core before any second thread, and CPU 0, which serves everybody else, last. With more workers than
/// processors they are shared in turns.
#[must_use]
pub fn choose_cpus(cpus: &Cpus, node: Option<usize>, workers: usize) -> Vec<usize> {
    let mut order = cpus.allowed.clone();
    order.sort_by_key(|&cpu| {
        (
            node.is_some() && cpus.node_of(cpu) != node,
            !cpus.isolated.contains(&cpu),
            cpus.thread_of_core(cpu),
            cpu == 0,
            cpu,
        )
    });
    let mut chosen: Vec<usize> = order.iter().copied().cycle().take(workers).collect();
    if workers <= order.len() {
        chosen.sort_unstable();
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::Node;

    #[test]
    fn lists_of_the_kernel() {
        assert_eq!(parse_cpu_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_cpu_list("2,1,1"), [1, 2]);
        for nothing in ["", "\n", "a-b", "3-1", "0-99999999999", "-"] {
            assert_eq!(parse_cpu_list(nothing), [0usize; 0], "'{nothing}'");
        }
    }

    fn two_nodes() -> Cpus {
        // Two nodes of two cores with two threads each.
        Cpus {
            allowed: (0..8).collect(),
            isolated: Vec::new(),
            nodes: vec![Node { id: 0, cpus: vec![0, 1, 4, 5] }, Node { id: 1, cpus: vec![2, 3, 6, 7] }],
            siblings: vec![vec![0, 4], vec![1, 5], vec![2, 6], vec![3, 7]],
        }
    }

    /// R0.2: near the device, whole cores first, isolated ones before others, CPU 0 when nothing else is left.
    #[test]
    fn r0_2_workers_sit_near_their_device() {
        let mut cpus = two_nodes();
        assert_eq!(choose_cpus(&cpus, Some(1), 2), [2, 3]);
        assert_eq!(choose_cpus(&cpus, Some(1), 3), [2, 3, 6]);
        assert_eq!(choose_cpus(&cpus, Some(0), 1), [1]);
        assert_eq!(choose_cpus(&cpus, None, 3), [1, 2, 3]);
        cpus.isolated = vec![6, 7];
        assert_eq!(choose_cpus(&cpus, Some(1), 2), [6, 7]);
        assert_eq!(choose_cpus(&cpus, Some(0), 1), [1], "near and not isolated before far and isolated");
        cpus.allowed = vec![0, 1];
        assert_eq!(choose_cpus(&cpus, None, 2), [0, 1]);
        assert_eq!(choose_cpus(&cpus, None, 3), [1, 0, 1], "shared in turns");
        assert_eq!(choose_cpus(&Cpus::default(), None, 3), [0usize; 0], "an unknown machine gives none");
    }
}
