//! A rig with the three processes in it, what they write, and what the tests ask of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use jvpn_bench::check_events::rules::PolicyNumbers;
use jvpn_bench::check_events::{Expectations, check_files};
use jvpn_bench::deployment::{self, Deployment, Places, Role, Settings};
use jvpn_bench::events::{Cursor, Event, EventLog, Source, Watch};
use jvpn_bench::peers::heartbeat::Heartbeat;
use jvpn_rig::tool::IP;
use jvpn_rig::{Interrupt, Namespace, Rig, wait};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that normally takes milliseconds: waiting ends with the event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that one test needs. When a test fails, the processes' last words are shown.
pub(crate) struct Lab {
    // In this order they are dropped: the processes before what they run in.
    pub(crate) deployment: Deployment,
    pub(crate) log: EventLog,
    pub(crate) rig: Rig,
    pub(crate) places: Places,
    pub(crate) interrupt: Interrupt,
    bin_dir: std::path::PathBuf,
    out: TempDir,
}

/// A session as both ends see it: what must not change unless something happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) session_id: String,
    pub(crate) state: String,
    pub(crate) state_version: u64,
    pub(crate) epoch: u64,
    pub(crate) slot: u64,
    pub(crate) remote: String,
    pub(crate) client_state: String,
    pub(crate) client_epoch: u64,
    pub(crate) client_slot: u64,
}

impl Lab {
    /// Network, keys and configuration; nothing runs.
    pub(crate) fn prepare() -> Self {
        let out = tempfile::tempdir().unwrap();
        let bin_dir = deployment::find_programs().unwrap();
        let settings =
            Settings { bin_dir: bin_dir.clone(), out_dir: out.path().to_owned(), max_switches_per_min: None };
        let rig = Rig::create().unwrap();
        let places = deployment::prepare(&rig, &settings).unwrap();
        let files =
            [(Source::ControlPlane, places.audit_file()), (Source::Client, places.client_events_file())];
        let log = EventLog::follow(&files, Box::new(|_| {})).unwrap();
        let deployment = Deployment::new(&settings, &places);
        Self { deployment, log, rig, places, interrupt: Interrupt::default(), bin_dir, out }
    }

    /// Everything runs and the session is ATTACHED.
    pub(crate) fn attached() -> Self {
        let mut lab = Self::prepare();
        lab.launch_all();
        lab
    }

    /// Starts everything and waits for ATTACHED.
    pub(crate) fn launch_all(&mut self) {
        self.launch(Role::DataPlane);
        self.launch(Role::ControlPlane);
        let cursor = self.log.end();
        self.launch(Role::Client);
        self.await_attached(cursor);
    }

    /// Replaces a part of a configuration file, which must be there.
    pub(crate) fn edit(&self, role: Role, from: &str, to: &str) {
        let path = self.places.config_dir.join(role.config_file());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{} has no {from}", path.display());
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }

    pub(crate) fn launch(&mut self, role: Role) {
        self.deployment.launch(&self.rig, role, &self.interrupt).unwrap();
    }

    pub(crate) fn kill(&mut self, role: Role) {
        self.deployment.kill(role).unwrap();
    }

    pub(crate) fn end(&mut self, role: Role) {
        let status = self.deployment.end(role).unwrap();
        assert!(status.success(), "{} ended with {status}", role.program());
    }

    /// Waits for an event, as long as the processes live.
    pub(crate) fn await_event(
        &mut self,
        what: &str,
        since: Cursor,
        wanted: impl Fn(&Event) -> bool,
    ) -> Event {
        let deployment = &mut self.deployment;
        let mut health = || deployment.check();
        let mut watch = Watch { interrupt: &self.interrupt, health: &mut health };
        self.log.wait_for(what, since, PATIENCE, &mut watch, wanted).unwrap()
    }

    /// Waits until the client says that it is ATTACHED, and gives the session's ID.
    pub(crate) fn await_attached(&mut self, since: Cursor) -> String {
        let event = self.await_event("the client is ATTACHED", since, |event| {
            is_client(event, "state_change") && event.text("to") == "ATTACHED"
        });
        event.text("session_id").to_owned()
    }

    /// Asks a status socket again and again until `probe` is content.
    pub(crate) fn await_status<T>(
        &mut self,
        what: &str,
        socket: &Path,
        probe: impl Fn(&Value) -> Option<T>,
    ) -> T {
        wait::until(what, PATIENCE, &self.interrupt, || {
            self.deployment.check()?;
            Ok(probe(&jvpn_host::status::query(socket, "status")?))
        })
        .unwrap()
    }

    pub(crate) fn client_status(&self) -> Value {
        jvpn_host::status::query(&self.places.client_socket(), "status").unwrap()
    }

    pub(crate) fn control_plane_status(&self) -> Value {
        jvpn_host::status::query(&self.places.control_plane_socket(), "status").unwrap()
    }

    pub(crate) fn data_plane_status(&self) -> Value {
        jvpn_host::status::query(&self.places.data_plane_socket(), "status").unwrap()
    }

    /// The only live session.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (gateway, client) = (self.control_plane_status(), self.client_status());
        let live: Vec<_> = gateway["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|session| session["state"] != "TERMINATED")
            .collect();
        let [session] = live.as_slice() else { panic!("not one live session: {live:?}") };
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{gateway} {client}")).to_owned();
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{gateway} {client}"));
        assert_eq!(session["id"], client["session_id"]);
        Snapshot {
            session_id: text(&session["id"]),
            state: text(&session["state"]),
            state_version: number(&session["state_version"]),
            epoch: number(&session["epoch"]),
            slot: number(&session["slot"]),
            remote: text(&session["remote"]),
            client_state: text(&client["state"]),
            client_epoch: number(&client["path"]["epoch"]),
            client_slot: number(&client["path"]["slot"]),
        }
    }

    /// Markers go through the tunnel and back from now on.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let heartbeat = Heartbeat::start(&self.rig).unwrap();
        self.await_replies(&heartbeat, 25);
        heartbeat
    }

    /// Waits until so many more markers have come back.
    pub(crate) fn await_replies(&self, heartbeat: &Heartbeat, count: usize) {
        let waited = heartbeat.wait_for_replies(count, PATIENCE, &self.interrupt);
        waited.unwrap_or_else(|error| panic!("{error:#}\n{}", self.deployment.last_words()));
    }

    /// The command that starts one of the processes, for whoever watches its start.
    pub(crate) fn program(&self, role: Role) -> std::process::Command {
        let mut command = std::process::Command::new(self.bin_dir.join(role.program()));
        command.arg("--config").arg(self.places.config_dir.join(role.config_file()));
        command
    }

    /// Starts it in the gateway's namespace.
    pub(crate) fn start(&self, command: &mut std::process::Command) -> std::process::Child {
        self.rig.gateway().run(|| command.spawn()).unwrap().unwrap()
    }

    /// Runs `jvpn` in the client's namespace to its end, and gives its standard output.
    pub(crate) fn jvpn(&self, args: &[&str]) -> String {
        let mut command = std::process::Command::new(self.bin_dir.join("jvpn"));
        let output = self.rig.client().run(|| command.args(args).output()).unwrap().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "jvpn {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The text of all logs.
    pub(crate) fn logs(&self) -> String {
        let files = fs::read_dir(self.out.path()).unwrap().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
        logs.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    /// Ends everything in order. Nothing may have panicked, and nothing may be left.
    pub(crate) fn finish(mut self) {
        self.end_all();
    }

    /// Ends everything in order, while the network stands.
    pub(crate) fn end_all(&mut self) {
        self.deployment.check().unwrap();
        for role in Role::ALL {
            if self.deployment.pid(role).is_some() {
                self.end(role);
            }
        }
        let logs = self.logs();
        assert!(!logs.contains("panicked"), "{logs}");
        self.judge_audit();
    }

    /// The gateway's audit keeps every rule, through all deaths of its processes.
    fn judge_audit(&self) {
        let audit = self.places.audit_file();
        if !fs::metadata(&audit).is_ok_and(|file| file.len() > 0) {
            return;
        }
        let config = self.places.config_dir.join(Role::ControlPlane.config_file());
        let policy = PolicyNumbers::load(&config).unwrap();
        let findings = check_files(&[audit], &Expectations { policy, ..Expectations::default() }).unwrap();
        assert!(findings.good, "{}", findings.text());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.deployment.last_words());
            for event in self.log.since(Cursor::default()) {
                eprintln!("  {} {}", event.source.name(), event.record);
            }
        }
    }
}

/// Whether it is the client's event of this kind.
pub(crate) fn is_client(event: &Event, kind: &str) -> bool {
    event.source == Source::Client && event.text("event") == kind
}

/// What a host's network looks like: devices, routing rules, routes of all tables.
pub(crate) fn network(namespace: &Namespace) -> BTreeSet<String> {
    let listings: [&[&str]; 3] = [&["rule", "show"], &["route", "show", "table", "all"], &["-o", "link"]];
    let lines = listings.into_iter().flat_map(|args| {
        let text = IP.run(Some(namespace), args).unwrap();
        // Of a link only the name counts.
        let name = |line: &str| line.split(": ").nth(1).unwrap_or(line).to_owned();
        let is_link = args.contains(&"link");
        text.lines().map(|line| if is_link { name(line) } else { line.trim().to_owned() }).collect::<Vec<_>>()
    });
    lines.collect()
}

/// The sum of a counter over the workers of a data plane.
pub(crate) fn worker_counter(status: &Value, name: &str) -> u64 {
    let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    workers.iter().filter_map(|worker| worker["counters"][name].as_u64()).sum()
}

/// How long nothing came back, worst case since `start`, shown and returned.
pub(crate) fn report_gap(what: &str, heartbeat: &Heartbeat, start: Instant) -> Duration {
    let gap = heartbeat.longest_pause(start);
    eprintln!("  {what}: longest pause {} ms", gap.as_millis());
    gap
}
