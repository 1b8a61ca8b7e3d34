//! Where the workers of a running data plane may run, as the kernel has it and not as the data plane says.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What the threads of workers are called, before their number.
const WORKER: &str = "jvpn-worker-";

/// The CPUs of each worker of the data plane `pid`, by worker, in the kernel's notation (`0`, `0-1`).
///
/// # Errors
/// There is no such process, it ends meanwhile, or the numbers of its workers are not 0, 1, ….
pub fn cpus_of_workers(pid: u32) -> Result<Vec<String>> {
    let tasks = format!("/proc/{pid}/task");
    let mut workers = Vec::new();
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let task = task.with_context(|| tasks.clone())?.path();
        // A thread that has ended meanwhile is none of those that work.
        let Ok(name) = read(&task.join("comm")) else { continue };
        let Some(number) = name.trim_end().strip_prefix(WORKER) else { continue };
        let number: usize = number.parse().with_context(|| name.clone())?;
        workers.push((number, allowed(&read(&task.join("status"))?)?));
    }
    workers.sort();
    let numbers: Vec<usize> = workers.iter().map(|(number, _)| *number).collect();
    ensure!(numbers.iter().copied().eq(0..numbers.len()), "the workers of {pid} are {numbers:?}");
    Ok(workers.into_iter().map(|(_, cpus)| cpus).collect())
}

fn allowed(status: &str) -> Result<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.map(|list| list.trim().to_owned()).context("no Cpus_allowed_list (proc(5))")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R0.2: the threads that are found are those of workers, with the CPUs that they really have, in the order of their
    /// numbers.
    #[test]
    fn r0_2_only_workers_are_looked_at() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        let (ready, named) = std::sync::mpsc::channel();
        let start = |name: &str, pins: bool| {
            let (wait, ready) = (std::sync::Arc::clone(&wait), ready.clone());
            let work = move || {
                if pins {
                    let mut set = nix::sched::CpuSet::new();
                    set.set(0).unwrap();
                    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
                }
                ready.send(()).unwrap();
                let _ended = wait.lock().unwrap().recv();
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(work).unwrap()
        };
        let pid = std::process::id();
        let pinned = start("jvpn-worker-0", true);
        let other = start("jvpn-installer", true);
        let free = start("jvpn-worker-1", false);
        (0..3).for_each(|_| named.recv().unwrap());
        let own = allowed(&fs::read_to_string("/proc/self/status").unwrap()).unwrap();
        assert_eq!(cpus_of_workers(pid).unwrap(), ["0".to_owned(), own]);
        let gap = start("jvpn-worker-5", false);
        named.recv().unwrap();
        assert!(format!("{:#}", cpus_of_workers(pid).unwrap_err()).contains("[0, 1, 5]"));
        drop(go);
        for thread in [pinned, other, free, gap] {
            thread.join().unwrap();
        }
    }
}
