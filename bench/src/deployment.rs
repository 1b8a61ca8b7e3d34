//! The three processes as a user would start them: keys by `jvpn genkey`, ordinary TOML files, one command
//! each. What they are configured with is in `places`; here they are started, looked at and ended.

mod places;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jvpn_rig::process::Supervised;
use jvpn_rig::registry::ProcessId;
use jvpn_rig::{Interrupt, Namespace, Rig, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::status::{ControlPlaneStatus, DataPlaneStatus};
pub(crate) use places::generate_key;
use places::output;
pub use places::{Places, prepare};

/// How long a process may take until it answers on its status socket.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long the data plane may take to make room.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// What a run differs in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of `jvpn`, `jvpn-controlplane` and `jvpn-dataplane`.
    pub bin_dir: PathBuf,
    /// Where configuration and logs are left for the user to read. Absolute.
    pub out_dir: PathBuf,
    /// Switches per minute that policy allows; `None` = the preset's.
    pub max_switches_per_min: Option<u32>,
}

/// What one of the processes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `jvpn up`.
    Client,
    /// `jvpn-controlplane`.
    ControlPlane,
    /// `jvpn-dataplane`.
    DataPlane,
}

impl Role {
    /// All of them, in the order in which they end.
    pub const ALL: [Self; 3] = [Self::Client, Self::ControlPlane, Self::DataPlane];

    /// Its program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Client => "jvpn",
            Self::ControlPlane => "jvpn-controlplane",
            Self::DataPlane => "jvpn-dataplane",
        }
    }

    /// Its configuration, in [`Places::config_dir`].
    #[must_use]
    pub const fn config_file(self) -> &'static str {
        match self {
            Self::Client => "client.toml",
            Self::ControlPlane => "controlplane.toml",
            Self::DataPlane => "dataplane.toml",
        }
    }

    const fn args(self) -> &'static [&'static str] {
        match self {
            Self::Client => &["up"],
            Self::ControlPlane | Self::DataPlane => &[],
        }
    }

    /// What it is asked for while it starts: an answer that does not grow with the sessions.
    const fn question(self) -> &'static str {
        match self {
            Self::ControlPlane => "summary",
            Self::Client | Self::DataPlane => "status",
        }
    }

    fn namespace(self, rig: &Rig) -> &Namespace {
        match self {
            Self::Client => rig.client(),
            Self::ControlPlane | Self::DataPlane => rig.gateway(),
        }
    }
}

/// Gateway and client. What runs ends with this value, the client first.
#[derive(Debug)]
pub struct Deployment {
    // In this order they are dropped.
    client: Option<Supervised>,
    control_plane: Option<Supervised>,
    data_plane: Option<Supervised>,
    settings: Settings,
    places: Places,
    launched: Vec<Role>,
    /// Whether somebody was told that something is wrong.
    is_told: bool,
}

/// The directory in which the programs are looked for: `JVPN_BIN_DIR`, else where this program was built.
///
/// # Errors
/// Nobody knows where that is.
pub fn programs_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("JVPN_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let dir = own.parent().context("this program has no directory")?;
    // Cargo keeps test programs one level below the others.
    Ok(if dir.ends_with("deps") { dir.with_file_name("") } else { dir.to_owned() })
}

/// The directory that has the programs, [`programs_dir`].
///
/// # Errors
/// One of them is not there.
pub fn find_programs() -> Result<PathBuf> {
    let dir = programs_dir()?;
    for program in Role::ALL.map(Role::program) {
        if !dir.join(program).is_file() {
            bail!(
                "{program} is not in {}: build it (cargo xtask build), or name the directory in JVPN_BIN_DIR",
                dir.display()
            );
        }
    }
    Ok(dir)
}

impl Deployment {
    /// A deployment of which nothing runs yet.
    #[must_use]
    pub fn new(settings: &Settings, places: &Places) -> Self {
        let (settings, places) = (settings.clone(), places.clone());
        let (client, control_plane, data_plane) = (None, None, None);
        Self { client, control_plane, data_plane, settings, places, launched: Vec::new(), is_told: false }
    }

    /// Starts gateway and client.
    ///
    /// # Errors
    /// One of them ends or does not answer; the text has its last words.
    pub fn start(rig: &Rig, settings: &Settings, places: &Places, interrupt: &Interrupt) -> Result<Self> {
        let mut deployment = Self::new(settings, places);
        for role in [Role::DataPlane, Role::ControlPlane, Role::Client] {
            deployment.launch(rig, role, interrupt)?;
        }
        Ok(deployment)
    }

    /// Starts one of them, again if it has run before, and waits until it answers. Each start has a log of
    /// its own.
    ///
    /// # Errors
    /// It runs already, or it ends or does not answer; the text has its last words.
    pub fn launch(&mut self, rig: &Rig, role: Role, interrupt: &Interrupt) -> Result<()> {
        let launched = self.launch_one(rig, role, interrupt);
        self.is_told |= launched.is_err();
        launched
    }

    fn launch_one(&mut self, rig: &Rig, role: Role, interrupt: &Interrupt) -> Result<()> {
        let program = role.program();
        ensure!(self.process(role).is_none(), "{program} runs already");
        let mut command = Command::new(self.settings.bin_dir.join(program));
        command.args(role.args()).arg("--config").arg(self.places.config_dir.join(role.config_file()));
        self.launched.push(role);
        let log = self.last_log(role);
        let mut process = rig.start(program, role.namespace(rig), command, &log)?;
        let socket = match role {
            Role::Client => self.places.client_socket(),
            Role::ControlPlane => self.places.control_plane_socket(),
            Role::DataPlane => self.places.data_plane_socket(),
        };
        wait::until(&format!("{program} answers"), START_PATIENCE, interrupt, || {
            process.check()?;
            self.check()?;
            // A start that waits for its queues answers too, and says so.
            let answer = jvpn_host::status::query(&socket, role.question()).ok();
            Ok(answer.filter(|answer| answer.get("starting").is_none()))
        })
        .with_context(|| format!("its last words:\n{}", process.last_words()))?;
        *self.place(role) = Some(process);
        self.await_gateway(interrupt)
    }

    /// Once both of its processes run, waits until they have met: a client that comes earlier is put off.
    fn await_gateway(&mut self, interrupt: &Interrupt) -> Result<()> {
        if self.control_plane.is_none() || self.data_plane.is_none() {
            return Ok(());
        }
        let has_met = |socket: PathBuf, role: Role, field: &str, wanted: Value| -> Result<bool> {
            Ok(jvpn_host::status::query(&socket, role.question())?.get(field) == Some(&wanted))
        };
        wait::until("control plane and data plane meet", START_PATIENCE, interrupt, || {
            self.check()?;
            let (data, control) = (Role::DataPlane, Role::ControlPlane);
            let met = has_met(self.places.data_plane_socket(), data, "control_plane_connected", true.into())?
                && has_met(self.places.control_plane_socket(), control, "data_plane", "up".into())?;
            Ok(met.then_some(()))
        })
        .with_context(|| format!("last words:\n{}", self.last_words()))
    }

    /// Ends one of them as a crash would (SIGKILL), and says how it ended: it may have done so before.
    ///
    /// # Errors
    /// It does not run, or could not be waited for.
    pub fn kill(&mut self, role: Role) -> Result<ExitStatus> {
        let process = self.place(role).take();
        process.with_context(|| format!("{} does not run", role.program()))?.kill()
    }

    /// Ends one of them in order (SIGTERM), and says how it ended. A gateway's process must do so, and a data plane with
    /// all its frames.
    ///
    /// # Errors
    /// It does not run, or could not be waited for; one of the gateway had ended by an error or a crash, does so now, or
    /// had to be killed; a frame is missing.
    pub fn end(&mut self, role: Role) -> Result<ExitStatus> {
        let (status, log) = (self.ended(role)?, self.last_log(role));
        let program = role.program();
        ensure!(
            role == Role::Client || status.success(),
            "{program} did not end in order ({status}): {}",
            log.display()
        );
        if role == Role::DataPlane {
            let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
            crate::frames::judge(&text).with_context(|| log.display().to_string())?;
        }
        Ok(status)
    }

    /// Takes note of one that ends by itself, and says how it ended.
    ///
    /// # Errors
    /// It does not run, or could not be waited for.
    pub fn ended(&mut self, role: Role) -> Result<ExitStatus> {
        let process = self.place(role).take();
        process.with_context(|| format!("{} does not run", role.program()))?.stop()
    }

    /// Has the data plane make room for the next one (SIGUSR2), and says how it ended, as [`Self::end`] does.
    ///
    /// # Errors
    /// As [`Self::end`]; or it does not end.
    pub fn end_for_restart(&mut self) -> Result<ExitStatus> {
        let pid = self.pid(Role::DataPlane).context("jvpn-dataplane does not run")?;
        let process = ProcessId::of(pid)?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGUSR2).context("cannot signal jvpn-dataplane")?;
        // The SIGTERM that `end` sends might overtake it on another thread.
        let ended = || Ok((!process.is_alive()).then_some(()));
        wait::until("jvpn-dataplane ends for a restart", END_PATIENCE, &Interrupt::default(), ended)?;
        self.end(Role::DataPlane)
    }

    /// The log of its last start.
    fn last_log(&self, role: Role) -> PathBuf {
        let number = match self.launched.iter().filter(|one| **one == role).count() {
            0 | 1 => String::new(),
            starts => format!("-{starts}"),
        };
        self.settings.out_dir.join(format!("{}{number}.log", role.program()))
    }

    /// Its process ID, if it runs.
    #[must_use]
    pub fn pid(&self, role: Role) -> Option<u32> {
        self.process(role).map(Supervised::pid)
    }

    const fn process(&self, role: Role) -> Option<&Supervised> {
        match role {
            Role::Client => self.client.as_ref(),
            Role::ControlPlane => self.control_plane.as_ref(),
            Role::DataPlane => self.data_plane.as_ref(),
        }
    }

    const fn place(&mut self, role: Role) -> &mut Option<Supervised> {
        match role {
            Role::Client => &mut self.client,
            Role::ControlPlane => &mut self.control_plane,
            Role::DataPlane => &mut self.data_plane,
        }
    }

    /// What the client's program says it is.
    #[must_use]
    pub fn client_version(&self) -> Option<String> {
        let said =
            output(Command::new(self.settings.bin_dir.join(Role::Client.program())).arg("--version"), "");
        said.ok()?.trim().split_once(' ').map(|(_, version)| version.to_owned())
    }

    /// Whether all that were started and not ended run.
    ///
    /// # Errors
    /// One has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let checked = Role::ALL
            .into_iter()
            .try_for_each(|role| self.place(role).as_mut().map_or(Ok(()), Supervised::check));
        self.is_told |= checked.is_err();
        checked
    }

    /// Adds what the processes said last to what went wrong; nothing to an interruption, which is nobody's fault.
    ///
    /// # Errors
    /// `result`.
    pub fn explain<T>(&self, result: Result<T>, interrupt: &Interrupt) -> Result<T> {
        if interrupt.check().is_err() {
            return result;
        }
        result.with_context(|| format!("last words of the processes:\n{}", self.last_words()))
    }

    /// The last words of all of them, for an error that none of them explains.
    #[must_use]
    pub fn last_words(&self) -> String {
        Role::ALL
            .into_iter()
            .filter_map(|role| self.process(role))
            .map(|process| format!("  {}:\n{}", process.name(), process.last_words()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// What the gateway's control plane says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn control_plane_status(&self) -> Result<ControlPlaneStatus> {
        ControlPlaneStatus::query(&self.places.control_plane_socket())
    }

    /// What the gateway's data plane says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn data_plane_status(&self) -> Result<DataPlaneStatus> {
        DataPlaneStatus::query(&self.places.data_plane_socket())
    }

    /// Ends all of them that run, the client first.
    ///
    /// # Errors
    /// One could not be ended; the data plane had ended by itself, or ends with an error; a frame of it is missing.
    pub fn stop(mut self) -> Result<()> {
        self.end_all()
    }

    /// As [`Self::stop`], for whoever keeps this value.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn end_all(&mut self) -> Result<()> {
        let mut ended = Ok(());
        for role in Role::ALL {
            // One that ended badly does not keep the others from being judged.
            if self.process(role).is_some() {
                ended = ended.and(self.end(role).map(drop));
            }
        }
        self.is_told |= ended.is_err();
        ended
    }

    /// They go on when this value goes; gives the commands to look at them.
    #[must_use]
    pub fn release(mut self, rig: &Rig) -> String {
        let bin = self.settings.bin_dir.join("jvpn");
        let status = |socket: PathBuf| format!("  {} status --socket {}", bin.display(), socket.display());
        let enter = |namespace: &Namespace| {
            format!("  nsenter --net={}/{}", jvpn_rig::netns::NETNS_DIR, namespace.name())
        };
        let lines = [
            "The network stands. To look at the processes:".to_owned(),
            status(self.places.client_socket()),
            status(self.places.control_plane_socket()),
            status(self.places.data_plane_socket()),
            "To enter client, router, gateway, LAN and attacker:".to_owned(),
            enter(rig.client()),
            enter(rig.router()),
            enter(rig.gateway()),
            enter(rig.lan()),
            enter(rig.attacker()),
            "To remove it all:".to_owned(),
            "  cargo xtask demo --down".to_owned(),
        ];
        Role::ALL.into_iter().filter_map(|role| self.place(role).take()).for_each(Supervised::release);
        lines.join("\n")
    }
}

/// What nobody ended is ended in order here, so that no data plane goes without a verdict on its frames.
///
/// # Panics
/// If the verdict is bad and nobody was told that something is wrong. Not while another panic, or an error of this value,
/// is on its way: what went wrong first explains the rest.
impl Drop for Deployment {
    fn drop(&mut self) {
        // Meanwhile the processes end with their values, in the same order.
        if std::thread::panicking() || self.is_told {
            return;
        }
        if let Err(error) = self.end_all() {
            panic!("what was left to run did not end in order: {error:#}");
        }
    }
}
