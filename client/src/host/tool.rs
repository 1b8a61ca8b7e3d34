//! Programs of the host, called with arguments and input, with their complaint as the error.
//!
//! The agent's only loop waits for them, so none is waited for long: while it waits, no probe is answered. Before that loop
//! begins and after it nothing else waits, and a host that starts is busy.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest part of a complaint that is passed on, characters.
const COMPLAINT_MAX: usize = 400;
/// Octets of a complaint that are kept: four for each character.
const COMPLAINT_OCTETS: usize = 4 * COMPLAINT_MAX;
/// How long a program may take. Those that are called here need milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one may take that nothing but the caller waits for: the kernel may have to load modules, and to wait for every
/// processor of a busy host.
const LONE_PATIENCE: Duration = Duration::from_secs(30);

/// What ends a wait for a program before its time: descriptors that become readable when the agent is to end.
pub(super) type Stops<'a> = &'a [BorrowedFd<'a>];

/// Runs `program` to its end, for at most [`PATIENCE`]: then it is killed, and that is the error.
pub(super) fn run(program: &str, args: &[&str], input: &[u8]) -> io::Result<()> {
    run_within((PATIENCE, &[]), program, args, input)
}

/// The same after the end of the agent's loop: for at most [`LONE_PATIENCE`].
pub(super) fn run_alone(program: &str, args: &[&str], input: &[u8]) -> io::Result<()> {
    run_unless(&[], program, args, input)
}

/// The same before that loop begins: unless one of `stops` becomes readable, which is an error of kind
/// [`io::ErrorKind::ConnectionAborted`].
pub(super) fn run_unless(stops: Stops<'_>, program: &str, args: &[&str], input: &[u8]) -> io::Result<()> {
    run_within((LONE_PATIENCE, stops), program, args, input)
}

fn run_within(
    (patience, stops): (Duration, Stops<'_>),
    program: &str,
    args: &[&str],
    input: &[u8],
) -> io::Result<()> {
    let explain = |error: io::Error| {
        let hint = if error.kind() == io::ErrorKind::NotFound { "; is it installed?" } else { "" };
        io::Error::new(error.kind(), format!("cannot run {program}: {error}{hint}"))
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A group of its own: Ctrl-C at the terminal is for the agent alone, whose program does its work to the end.
    command.process_group(0);
    let mut child = command.spawn().map_err(explain)?;
    let complaint = match converse(&mut child, input, patience, stops) {
        Ok(complaint) => complaint,
        Err(error) => {
            end(child);
            return Err(explain(error));
        }
    };
    // It has ended: this does not wait.
    let status = child.wait().map_err(explain)?;
    if status.success() {
        return Ok(());
    }
    let complaint: String = String::from_utf8_lossy(&complaint).trim().chars().take(COMPLAINT_MAX).collect();
    Err(io::Error::other(format!("{program} failed ({status}): {complaint}")))
}

/// Hands over the input until the program has ended, and returns the first part of what it complained of.
fn converse(child: &mut Child, input: &[u8], patience: Duration, stops: Stops<'_>) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut stdin, mut stderr) = (child.stdin.take(), child.stderr.take());
    stdin.as_ref().map_or(Ok(()), never_block)?;
    stderr.as_ref().map_or(Ok(()), never_block)?;
    let mut input = input;
    let mut complaint = Vec::new();
    loop {
        let nothing_left = stdin.as_mut().is_none_or(|pipe| give(pipe, &mut input));
        if nothing_left {
            stdin = None;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let message = format!("it did not end within {patience:?} and was killed");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let mut fds = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        fds.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        let others = fds.len();
        fds.extend(stops.iter().map(|stop| PollFd::new(*stop, PollFlags::POLLIN)));
        // Rounded up: no round is for nothing.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let has_ended = fds.first().and_then(PollFd::any).unwrap_or(false);
        let is_stopped = fds.iter().skip(others).any(|stop| stop.any().unwrap_or(false));
        drop(fds);
        if stderr.as_mut().is_some_and(|pipe| take(pipe, &mut complaint)) {
            stderr = None;
        }
        // Whoever else holds its ends of the pipes is not waited for.
        if has_ended {
            return Ok(complaint);
        }
        if is_stopped {
            kill_and_await(child, &process, end)?;
            let message = "the agent was told to end meanwhile, and it was killed";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, message));
        }
    }
}

/// Kills a child and waits until it is gone: what it had begun is either done then or never will be.
fn kill_and_await(child: &mut Child, process: &OwnedFd, end: Instant) -> io::Result<()> {
    child.kill()?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(()),
        }
    }
}

fn never_block(pipe: &impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?)
}

/// Writes what the pipe takes; whether it is done with. One that does not read its input says why at its end.
fn give(pipe: &mut impl Write, input: &mut &[u8]) -> bool {
    while !input.is_empty() {
        match pipe.write(input) {
            Ok(written) => *input = input.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Reads what is there; whether that was the end.
fn take(pipe: &mut impl Read, complaint: &mut Vec<u8>) -> bool {
    let mut part = [0; 1_024];
    // So many parts at a time: one that complains without end must not hold up the clock.
    for _ in 0..64 {
        match pipe.read(&mut part) {
            Ok(0) => return true,
            Ok(count) => {
                let room = COMPLAINT_OCTETS.saturating_sub(complaint.len());
                complaint.extend(part.iter().take(count.min(room)));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Kills a child and has it buried. It may be in the kernel's hands for a while: nobody waits for that here.
fn end(mut child: Child) {
    if let Err(error) = child.kill() {
        tracing::warn!(%error, id = child.id(), "a program that took too long was not killed");
    }
    let buried = std::thread::Builder::new().name("burial".to_owned()).spawn(move || child.wait());
    if let Err(error) = buried {
        tracing::debug!(%error, "the child stays a zombie until the agent ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    fn shell(patience: Duration, script: &str, input: &[u8]) -> io::Result<()> {
        run_within((patience, &[]), "sh", &["-c", script], input)
    }

    /// One that hangs is killed after its time, whatever it hangs in; the error says so.
    #[test]
    fn a_program_that_hangs_is_killed() {
        let input = vec![b'x'; 1 << 20];
        for script in ["exec sleep 60", "exec 2>&-; exec sleep 60", "while :; do echo no >&2; done"] {
            let begin = Instant::now();
            let error = shell(SHORT, script, &input).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}: {error}");
            assert!(error.to_string().contains("cannot run sh: it did not end within 200ms"), "{error}");
            assert!(begin.elapsed() < Duration::from_secs(20), "{script}");
        }
    }

    /// The child itself is gone, and not only left behind.
    #[test]
    fn the_killed_one_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let id = folder.path().join("id");
        let script = format!("echo $$ > {}; exec sleep 60", id.display());
        shell(Duration::from_secs(2), &script, &[]).unwrap_err();
        let id: i32 = std::fs::read_to_string(&id).unwrap().trim().parse().unwrap();
        let begin = Instant::now();
        while nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), None).is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(20), "process {id} lives");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// R7.3: Ctrl-C at a terminal goes to the foreground's process group: a program that takes something back is in none but
    /// its own, and does not die of the second one.
    #[test]
    fn r7_3_a_program_is_in_a_process_group_of_its_own() {
        shell(Duration::from_secs(60), "test $(cut -d ' ' -f 5 /proc/$$/stat) = $$", &[]).unwrap();
    }

    /// R7.3: told to end, the agent waits for no program of its start. When it says so, the program is gone.
    #[test]
    fn r7_3_a_program_of_the_start_is_not_waited_for_at_an_end() {
        let (stop, signal) = std::os::unix::net::UnixStream::pair().unwrap();
        let stops = [stop.as_fd()];
        let patience = (Duration::from_secs(60), &stops[..]);
        run_within(patience, "sh", &["-c", "exit 0"], &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let id = folder.path().join("id");
        let script = format!("echo $$ > {}; exec sleep 60", id.display());
        let begin = Instant::now();
        let told = std::thread::scope(|scope| {
            scope.spawn(|| {
                while std::fs::read_to_string(&id).map_or(0, |text| text.len()) == 0 {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                drop(signal);
            });
            run_within(patience, "sh", &["-c", &script], &[]).unwrap_err()
        });
        assert_eq!(told.kind(), io::ErrorKind::ConnectionAborted, "{told}");
        assert!(begin.elapsed() < Duration::from_secs(30));
        let id = std::fs::read_to_string(&id).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        // Buried already, or a zombie that is about to be, or (X) just is.
        let is_dead = stat.as_ref().map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "));
        assert!(is_dead, "process {id} lives: {stat:?}");
    }

    /// Much input arrives whole, one that reads none of it is no error by that, and a complaint is passed on in part.
    #[test]
    fn input_and_complaint() {
        let patience = Duration::from_secs(60);
        let input = vec![b'x'; 1 << 20];
        shell(patience, "test $(wc -c) = 1048576", &input).unwrap();
        shell(patience, "exit 0", &input).unwrap();
        // What a child of its own holds open is not waited for.
        shell(patience, "sleep 5 & exit 0", &[]).unwrap();
        let error = shell(patience, "echo wrong >&2; head -c 100000 /dev/zero | tr '\\0' y >&2; exit 3", &[]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("wrong\ny"), "{error}");
        assert!(error.len() < 500, "{}", error.len());
        let missing = run("jvpn-no-such-program", &[], &[]).unwrap_err();
        assert!(missing.to_string().contains("is it installed?"), "{missing}");
    }
}
