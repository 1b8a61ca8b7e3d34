//! Child processes: progress, logs, and an end to all of them on Ctrl-C.
//!
//! Each child gets a process group of its own. A signal to xtask goes to that whole group; a group that has not
//! ended ten seconds later is killed. What a child leaves running in its group is ended with it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A step that takes longer says so.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Without a terminal, a long step repeats itself this often: a log must show that it lives, not scroll.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// What an interrupted child gets to remove its network namespaces.
const GRACE: Duration = Duration::from_secs(10);
/// What a reader of output gets after the child has ended, in case a stray process still holds the pipe.
const DRAIN_MAX: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(40);
/// Lines passed on before signals are looked at again: a child that never stops talking can still be stopped.
const LINES_AT_ONCE: usize = 10_000;

/// A signal asked xtask to stop; carries its number for the exit code.
#[derive(Debug)]
pub(crate) struct Interrupted(pub(crate) usize);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Turns SIGINT, SIGTERM and SIGHUP into [`Interrupted`]. Call once, before the first child.
pub(crate) fn watch_signals() -> Result<()> {
    let flag = SIGNAL.get_or_init(Arc::default);
    for (signal, number) in [(SIGINT, 2), (SIGTERM, 15), (SIGHUP, 1)] {
        signal_hook::flag::register_usize(signal, Arc::clone(flag), number)
            .with_context(|| format!("cannot install a handler for signal {signal}"))?;
    }
    Ok(())
}

pub(crate) fn interrupted() -> Option<Interrupted> {
    let number = SIGNAL.get()?.load(Ordering::Relaxed);
    (number != 0).then_some(Interrupted(number))
}

/// Runs children; knows where their logs go.
#[derive(Debug)]
pub(crate) struct Runner {
    log_dir: PathBuf,
}

impl Runner {
    pub(crate) fn new(log_dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&log_dir)
            .with_context(|| format!("cannot create {} for the logs of long steps", log_dir.display()))?;
        Ok(Self { log_dir })
    }

    /// Runs `command` with its output in a log file, which is shown in full if it fails. Gives that output.
    pub(crate) fn logged(&self, name: &str, command: &mut Command) -> Result<String> {
        self.logged_within(name, command, None)
    }

    /// The same, for as long as `limit` at most; then it is ended, which is a failure.
    pub(crate) fn logged_within(
        &self,
        name: &str,
        command: &mut Command,
        limit: Option<Duration>,
    ) -> Result<String> {
        let start = Instant::now();
        let (child, path) = self.start(name, command)?;
        let mut progress = Progress::new(name, Some(path.clone()));
        let status = wait(child, limit, |elapsed| progress.tick(elapsed))?;
        progress.clear();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        if let Some(signal) = interrupted() {
            bail!(signal);
        }
        if !status.success() {
            print!("{text}");
            let is_late = limit.is_some_and(|limit| start.elapsed() > limit);
            bail!(
                "{name} failed after {}: {} (log: {})",
                seconds(start.elapsed()),
                if is_late { "it may take no longer".to_owned() } else { ended(status) },
                path.display()
            );
        }
        done(name, start.elapsed());
        Ok(text)
    }

    /// Runs `command` with its output in a log file, and passes that on in one piece when it has ended, so that two may
    /// run at once. Each line is also handed to `each_line`.
    pub(crate) fn in_one_piece(
        &self,
        name: &str,
        command: &mut Command,
        each_line: impl FnMut(&str),
    ) -> Result<()> {
        println!("  …     {name}");
        let start = Instant::now();
        let (child, path) = self.start(name, command)?;
        // Two that draw on one line of a terminal would tear each other's.
        let mut progress = Progress { terminal: false, ..Progress::new(name, Some(path.clone())) };
        let status = wait(child, None, |elapsed| progress.tick(elapsed))?;
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        // Nothing sensible is left to do when standard output is gone.
        let _ = io::stdout().lock().write_all(text.as_bytes());
        text.lines().for_each(each_line);
        if let Some(signal) = interrupted() {
            bail!(signal);
        }
        if !status.success() {
            bail!(
                "{name} failed after {}: {} (log: {})",
                seconds(start.elapsed()),
                ended(status),
                path.display()
            );
        }
        done(name, start.elapsed());
        Ok(())
    }

    /// Starts `command` with its output in a log file of that name.
    fn start(&self, name: &str, command: &mut Command) -> Result<(Child, PathBuf)> {
        let path = self.log_dir.join(format!("{}.log", file_name(name)));
        let log = File::create(&path).with_context(|| format!("cannot create the log {}", path.display()))?;
        let copy = log.try_clone().with_context(|| format!("cannot share the log {}", path.display()))?;
        Ok((spawn(command.stdin(Stdio::null()).stdout(log).stderr(copy))?, path))
    }

    /// Runs `command` with its output passed through; each line is also handed to `each_line`.
    pub(crate) fn shown(&self, name: &str, command: &mut Command, each_line: impl FnMut(&str)) -> Result<()> {
        println!("  …     {name}");
        let start = Instant::now();
        let (reader, writer) = io::pipe().context("cannot create a pipe for the output of a child")?;
        let copy = writer.try_clone().context("cannot share the pipe for the output of a child")?;
        let child = spawn(command.stdin(Stdio::null()).stdout(writer).stderr(copy))?;
        // The command holds the parent's copies of the pipe; without this the reader would never see its end.
        command.stdout(Stdio::null()).stderr(Stdio::null());

        let lines = read_lines(reader);
        let mut each_line = each_line;
        let status = wait(child, None, |_| pass_on(&lines, &mut each_line, Duration::ZERO))?;
        pass_on(&lines, &mut each_line, DRAIN_MAX);
        if let Some(signal) = interrupted() {
            bail!(signal);
        }
        if !status.success() {
            bail!("{name} failed after {}: {}", seconds(start.elapsed()), ended(status));
        }
        done(name, start.elapsed());
        Ok(())
    }
}

/// Says that a step went well.
pub(crate) fn done(name: &str, elapsed: Duration) {
    println!("  ok    {name} ({})", seconds(elapsed));
}

pub(crate) fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

fn spawn(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_owned();
    command.process_group(0).spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Waits for the child and calls `tick` meanwhile; passes signals on, ends it when `limit` is over, and ends what remains
/// of its group.
fn wait(mut child: Child, limit: Option<Duration>, mut tick: impl FnMut(Duration)) -> Result<ExitStatus> {
    let start = Instant::now();
    let group = Pid::from_child(&child);
    let mut told: Option<Instant> = None;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            break status;
        }
        match (interrupted(), told) {
            (Some(signal), None) => {
                kill(group, if signal.0 == 2 { Signal::INT } else { Signal::TERM });
                told = Some(Instant::now());
            }
            (_, Some(since)) if since.elapsed() > GRACE => kill(group, Signal::KILL),
            (None, None) if limit.is_some_and(|limit| start.elapsed() > limit) => {
                kill(group, Signal::TERM);
                told = Some(Instant::now());
            }
            _ => tick(start.elapsed()),
        }
        thread::sleep(POLL);
    };
    if let Some(since) = told {
        // The leader (cargo) ends at once; its children may still be removing their network namespaces.
        while test_kill_process_group(group).is_ok() && since.elapsed() < GRACE {
            thread::sleep(POLL);
        }
    }
    kill(group, Signal::KILL);
    Ok(status)
}

fn kill(group: Pid, signal: Signal) {
    // Fails only where the group is empty already, which is what is wanted.
    let _ = kill_process_group(group, signal);
}

fn read_lines(reader: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    receiver
}

/// Prints the lines that have come, waiting up to `patience` for each; stops at the end of the output.
fn pass_on(lines: &Receiver<Vec<u8>>, each_line: &mut impl FnMut(&str), patience: Duration) {
    let mut out = io::stdout().lock();
    for _ in 0..LINES_AT_ONCE {
        let Ok(line) = lines.recv_timeout(patience) else { break };
        // Nothing sensible is left to do when standard output is gone.
        let _ = out.write_all(&line);
        each_line(String::from_utf8_lossy(&line).trim_end());
    }
    let _ = out.flush();
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// One line that says what runs, for how long, and the last line of its log.
struct Progress<'a> {
    name: &'a str,
    log: Option<PathBuf>,
    terminal: bool,
    next: Duration,
    drawn: bool,
}

impl<'a> Progress<'a> {
    fn new(name: &'a str, log: Option<PathBuf>) -> Self {
        Self { name, log, terminal: io::stdout().is_terminal(), next: QUIET_MAX, drawn: false }
    }

    fn tick(&mut self, elapsed: Duration) {
        if elapsed < self.next {
            return;
        }
        let last = self.log.as_deref().and_then(last_line).unwrap_or_default();
        let line = format!("  …     {} ({} s) {last}", self.name, elapsed.as_secs());
        if self.terminal {
            let cut: String = line.chars().take(100).collect();
            print!("\r\x1b[K{cut}");
            let _ = io::stdout().flush();
            self.drawn = true;
            self.next = elapsed + Duration::from_millis(500);
        } else {
            println!("{}", line.trim_end());
            self.next = elapsed + HEARTBEAT;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            print!("\r\x1b[K");
        }
    }
}

fn last_line(path: &Path) -> Option<String> {
    const TAIL: u64 = 400;
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail).into_owned();
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(name: &str) -> Runner {
        Runner::new(std::env::temp_dir().join(format!("jvpn-xtask-{name}-{}", std::process::id()))).unwrap()
    }

    #[test]
    fn a_logged_step_gives_its_output_and_its_failure() {
        let runner = runner("logged");
        let text = runner.logged("says", Command::new("sh").args(["-c", "echo out; echo err >&2"])).unwrap();
        assert!(text.contains("out") && text.contains("err"));
        let error = runner.logged("fails", Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(error.to_string().contains("exit code 3"), "{error}");
        fs::remove_dir_all(&runner.log_dir).unwrap();
    }

    #[test]
    fn a_step_that_takes_too_long_is_ended() {
        let runner = runner("limit");
        let start = Instant::now();
        let limit = Some(Duration::from_millis(200));
        let mut command = Command::new("sh");
        let error = runner.logged_within("slow", command.args(["-c", "sleep 60"]), limit).unwrap_err();
        assert!(error.to_string().contains("no longer"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "it was waited for");
        fs::remove_dir_all(&runner.log_dir).unwrap();
    }

    /// A step that runs beside another one is silent until it has ended.
    #[test]
    fn a_step_in_one_piece_hands_over_every_line_and_its_failure() {
        let runner = runner("piece");
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        let script = "echo one; echo two >&2; echo three; exit 4";
        let outcome = runner.in_one_piece("a b", command.args(["-c", script]), |l| lines.push(l.to_owned()));
        assert_eq!(lines, ["one", "two", "three"]);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("a b failed") && error.contains("exit code 4"), "{error}");
        assert!(error.contains("a-b.log"), "{error}");
        runner.in_one_piece("true", &mut Command::new("true"), |_| ()).unwrap();
        fs::remove_dir_all(&runner.log_dir).unwrap();
    }

    #[test]
    fn a_shown_step_hands_over_every_line_and_does_not_wait_for_strays() {
        let runner = runner("shown");
        let start = Instant::now();
        let mut lines = Vec::new();
        let script = "sleep 60 & for i in $(seq 50); do echo line $i; done";
        runner.shown("lines", Command::new("sh").args(["-c", script]), |l| lines.push(l.to_owned())).unwrap();
        assert_eq!(lines.len(), 50);
        assert!(start.elapsed() < Duration::from_secs(20), "the stray sleep was waited for");
        fs::remove_dir_all(&runner.log_dir).unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let runner = runner("absent");
        let error = runner.logged("absent", &mut Command::new("jvpn-no-such-program")).unwrap_err();
        assert!(error.to_string().contains("jvpn-no-such-program"), "{error}");
        fs::remove_dir_all(&runner.log_dir).unwrap();
    }
}
