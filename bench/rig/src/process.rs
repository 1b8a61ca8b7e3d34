//! Processes under test: started with their output in a file, watched, ended by ID.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Interrupt, wait};

/// How long an orderly end may take: the client removes its routes, the data plane detaches XDP.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 12;

/// A running process. Ends with its value, unless released.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    child: Child,
    log: PathBuf,
    released: bool,
}

impl Supervised {
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let error_file = file.try_clone().with_context(|| format!("cannot share {}", log.display()))?;
        // A group of its own: Ctrl-C at the terminal goes to the owner alone, who ends all in order.
        command.stdout(file).stderr(error_file).process_group(0);
        let child = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy().into_owned();
            if e.kind() == ErrorKind::NotFound {
                anyhow!("{program} is not there; build it first: cargo xtask build")
            } else {
                anyhow!("cannot start {program}: {e}")
            }
        })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), released: false })
    }

    /// Process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// It has ended; the text has its last words.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))? {
            None => Ok(()),
            Some(status) => {
                bail!("{} has ended ({status}); its last words:\n{}", self.name, self.last_words())
            }
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        if tail.is_empty() { "    (nothing)".to_owned() } else { tail.join("\n") }
    }

    /// SIGTERM, then SIGKILL.
    ///
    /// # Errors
    /// It could not be waited for.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.released = true;
        self.end(Signal::SIGTERM)
    }

    /// As [`Self::stop`], and it must end in order: a crash that nobody waited for shows nowhere else.
    ///
    /// # Errors
    /// It had ended with an error or by a signal, or ends so; the text has its last words. It could not be waited for.
    pub fn stop_in_order(mut self) -> Result<()> {
        self.released = true;
        let status = self.end(Signal::SIGTERM)?;
        let (name, words) = (&self.name, self.last_words());
        ensure!(status.success(), "{name} did not end in order ({status}); its last words:\n{words}");
        Ok(())
    }

    /// SIGKILL at once, as a crash would be.
    ///
    /// # Errors
    /// It could not be waited for.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.released = true;
        self.end(Signal::SIGKILL)
    }

    /// It goes on when this value goes.
    pub fn release(mut self) {
        self.released = true;
    }

    fn end(&mut self, first: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("process ID out of range")?);
        for signal in [first, Signal::SIGKILL] {
            // It is our child and not waited for yet, so the ID cannot be another's.
            let _ = kill(pid, signal);
            // One that is stopped takes SIGTERM when it goes on.
            let _ = kill(pid, Signal::SIGCONT);
            let ended = || self.child.try_wait().context("cannot wait for a child");
            if let Ok(status) = wait::until("end", STOP_PATIENCE, &Interrupt::default(), ended) {
                return Ok(status);
            }
        }
        bail!("{} does not end, not even by SIGKILL", self.name)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if !self.released {
            // The registry has its ID: what does not end now is swept.
            let _ = self.end(Signal::SIGTERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Instant;

    /// A process that was stopped ends in order, too, and nobody waits until patience is over.
    #[test]
    fn a_stopped_process_ends_by_its_first_signal() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Supervised::start("sleeper", command, Path::new("/dev/null")).unwrap();
        let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        let began = Instant::now();
        assert_eq!(process.stop().unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert!(began.elapsed() < STOP_PATIENCE);
    }

    /// R8.4: who asks for an orderly end hears of every other one, also of one that was over before it asked.
    #[test]
    fn r8_4_an_end_that_is_none_in_order_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let mut process = Supervised::start("worker", command, &dir.path().join("log")).unwrap();
            wait::until("it ends", STOP_PATIENCE, &Interrupt::default(), || Ok(process.check().err()))
                .unwrap();
            process.stop_in_order()
        };
        run("exit 0").unwrap();
        let said = run("echo it hurts; exit 101").unwrap_err().to_string();
        assert!(said.contains("worker") && said.contains("101") && said.contains("it hurts"), "{said}");
        assert!(run("kill -SEGV $$").unwrap_err().to_string().contains("signal: 11"));
    }
}
