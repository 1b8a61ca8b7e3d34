//! The only loop of the control plane: sockets, doorbells and the clock on one side, the engine on the other.
//!
//! One thread. Every input is handed to the engine, then its commands are carried out, then its answers are sent, then
//! its audit lines are passed on: in this order an answer never overtakes the binding that it announces.

use crate::audit::AuditHandle;
use crate::engine::{AdminCommand, Engine, TableEvent};
use crate::tables::{Contexts, Legacy, Tables, TablesError};
use crate::udp::{self, MAX_DATAGRAM};
use jvpn_abi::BootTime;
use jvpn_abi::tables::Context;
use jvpn_host::clock;
use jvpn_host::status::StatusListener;
use jvpn_session::messages::SessionId;
use jvpn_tables::Mapping;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How often an absent data plane is tried.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);
/// How long a process that closed its connection may take to be seen as ended.
const EXIT_PATIENCE_MS: u16 = 1_000;
/// Datagrams handled before the reports are looked at again.
const DATAGRAMS_PER_TURN: usize = 64;
/// Longest sleep: what depends on CONTEXT without a timer is at most this late.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why the control plane ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data plane is of another version, or offers nonsense.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The poll loop's own means failed.
    #[error("{step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The data plane lives but has closed its connection: nobody knows what it still forwards.
    #[error(
        "the data plane closed its connection but its process goes on; ending, so that a new start clears every binding"
    )]
    Abandoned,
}

/// The shell around the engine.
#[derive(Debug)]
pub struct Shell {
    engine: Engine,
    audit: AuditHandle,
    status: StatusListener,
    shutdown: UnixStream,
    dataplane_socket: PathBuf,
    tables: Option<Tables>,
    legacy: Option<Legacy>,
    last_contexts: Option<Mapping<Context>>,
    next_connect: BootTime,
    waiting_told: bool,
    buffer: Vec<u8>,
    unsent: u64,
    node_id: String,
}

impl Shell {
    /// Everything that the loop needs; nothing is connected yet.
    #[must_use]
    pub fn new(
        engine: Engine,
        audit: AuditHandle,
        status: StatusListener,
        shutdown: UnixStream,
        dataplane_socket: PathBuf,
        node_id: String,
    ) -> Self {
        Self {
            engine,
            audit,
            status,
            shutdown,
            dataplane_socket,
            tables: None,
            legacy: None,
            last_contexts: None,
            next_connect: BootTime(0),
            waiting_told: false,
            buffer: vec![0; MAX_DATAGRAM],
            unsent: 0,
            node_id,
        }
    }

    /// Runs until SIGINT or SIGTERM.
    ///
    /// # Errors
    /// [`RunError`], if going on would be a guess.
    pub fn run(mut self) -> Result<(), RunError> {
        loop {
            self.connect()?;
            let woken = self.wait()?;
            if woken.shutdown {
                return Ok(());
            }
            if woken.lost {
                self.lose_data_plane()?;
            }
            self.reports();
            if woken.datagrams {
                self.datagrams()?;
            }
            let now = clock::now();
            if self.engine.poll_timeout().is_some_and(|due| due <= now) {
                self.engine.handle_timeout(now, &contexts(&self.tables, &self.last_contexts));
                self.drain();
            }
            if woken.status {
                self.answer_status();
            }
        }
    }

    fn connect(&mut self) -> Result<(), RunError> {
        let now = clock::now();
        if self.tables.is_some() || now < self.next_connect {
            return Ok(());
        }
        self.next_connect = now.after(RECONNECT_EVERY);
        match Tables::connect(&self.dataplane_socket, self.legacy.as_ref()) {
            Ok(tables) => {
                tracing::info!("connected to the data plane; clearing what is bound");
                self.tables = Some(tables);
                self.waiting_told = false;
                Ok(())
            }
            Err(TablesError::Handover(error))
                if !matches!(error, jvpn_tables::handover::HandoverError::Version { .. }) =>
            {
                if !self.waiting_told {
                    tracing::info!(%error, "waiting for the data plane (start jvpn-dataplane)");
                    self.waiting_told = true;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn wait(&self) -> Result<Woken, RunError> {
        let now = clock::now();
        let mut until = now.after(LONGEST_SLEEP);
        if let Some(due) = self.engine.poll_timeout() {
            until = until.min(due);
        }
        if self.tables.is_none() {
            until = until.min(self.next_connect);
        }
        let mut fds = vec![
            PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.status.listener().as_fd(), PollFlags::POLLIN),
        ];
        if let Some(tables) = &self.tables {
            fds.push(PollFd::new(tables.report_bell().as_fd(), PollFlags::POLLIN));
            fds.push(PollFd::new(tables.udp(), PollFlags::POLLIN));
            fds.push(PollFd::new(tables.process(), PollFlags::POLLIN));
            fds.push(PollFd::new(tables.connection(), PollFlags::POLLIN));
        }
        // Rounded up: waking a millisecond early would only turn the loop once more.
        let sleep_ms = until.since(now).as_nanos().div_ceil(1_000_000);
        let timeout = PollTimeout::try_from(sleep_ms).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(RunError::System { step: "poll", source: error.into() }),
        }
        let any = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
        Ok(Woken { shutdown: any(0), status: any(1), datagrams: any(3), lost: any(4) || any(5) })
    }

    /// The data plane's process has ended, or says so.
    fn lose_data_plane(&mut self) -> Result<(), RunError> {
        let Some(tables) = &self.tables else { return Ok(()) };
        let mut fds = [PollFd::new(tables.process(), PollFlags::POLLIN)];
        let ended = poll(&mut fds, PollTimeout::from(EXIT_PATIENCE_MS)).map_err(|error| {
            RunError::System { step: "wait for the data plane's end", source: error.into() }
        })?;
        if ended == 0 {
            return Err(RunError::Abandoned);
        }
        tracing::warn!("the data plane is gone; waiting for the next one");
        // What it confirmed before its end counts.
        self.reports();
        if let Some(tables) = self.tables.take() {
            let (legacy, last) = tables.into_legacy();
            self.legacy = Some(legacy);
            self.last_contexts = Some(last);
        }
        self.next_connect = clock::now();
        self.engine.handle_table_event(
            clock::now(),
            TableEvent::DataPlaneLost,
            &contexts(&self.tables, &self.last_contexts),
        );
        self.drain();
        Ok(())
    }

    /// Hands every report of the data plane to the engine.
    fn reports(&mut self) {
        let mut events = Vec::new();
        let Some(tables) = &mut self.tables else { return };
        // Silenced before reading: what comes later rings again.
        let _rang = tables.report_bell().silence();
        tables.poll_events(&mut events);
        for event in events {
            let now = clock::now();
            if matches!(event, TableEvent::DataPlaneUp { .. }) {
                tracing::info!("data plane is up");
            }
            self.engine.handle_table_event(now, event, &contexts(&self.tables, &self.last_contexts));
            self.drain();
        }
    }

    fn datagrams(&mut self) -> Result<(), RunError> {
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(tables) = &self.tables else { return Ok(()) };
            let received = udp::receive(tables.udp(), &mut self.buffer)
                .map_err(|source| RunError::System { step: "receive a datagram", source })?;
            let Some(received) = received else { return Ok(()) };
            let view = contexts(&self.tables, &self.last_contexts);
            let datagram = self.buffer.get(..received.len).unwrap_or_default();
            self.engine.handle_datagram(clock::now(), received.remote, received.local, datagram, &view);
            self.drain();
        }
        Ok(())
    }

    /// Commands, then answers, then audit lines.
    fn drain(&mut self) {
        loop {
            let mut refused = Vec::new();
            while let Some(command) = self.engine.poll_command() {
                tracing::debug!(?command, "table");
                if let Some(tables) = &mut self.tables {
                    refused.extend(tables.carry_out(command));
                }
            }
            while let Some(answer) = self.engine.poll_transmit() {
                let Some(tables) = &self.tables else { continue };
                if let Err(error) = udp::send(tables.udp(), answer.remote, answer.local, &answer.payload) {
                    self.unsent += 1;
                    tracing::debug!(remote = %answer.remote, %error, "answer not sent");
                }
            }
            while let Some(change) = self.engine.poll_handle_change() {
                if let Some(tables) = &mut self.tables {
                    tables.tell_edge(change);
                }
            }
            while let Some(line) = self.engine.poll_audit() {
                self.audit.send(line);
            }
            if refused.is_empty() {
                return;
            }
            for event in refused {
                let view = contexts(&self.tables, &self.last_contexts);
                self.engine.handle_table_event(clock::now(), event, &view);
            }
        }
    }

    fn answer_status(&mut self) {
        let Self { status, engine, tables, last_contexts, audit, unsent, node_id, .. } = self;
        let mut acted = false;
        status.serve_waiting(|request| {
            let view = contexts(tables, last_contexts);
            let now = clock::now();
            let mut words = request.split_whitespace();
            let admin = match (words.next(), words.next()) {
                (Some("terminate"), Some(id)) => match id.parse::<SessionId>() {
                    Ok(id) => AdminCommand::TerminateSession(id),
                    Err(()) => return json!({ "error": format!("'{id}' is not a session ID (32 hexadecimal digits)") }),
                },
                (Some("terminate-peer"), Some(name)) => AdminCommand::TerminatePeer(name.to_owned()),
                (Some("revoke-peer"), Some(name)) => AdminCommand::RevokePeer(name.to_owned()),
                (Some("status") | None, _) => {
                    let mut document = serde_json::to_value(engine.status(now, &view)).unwrap_or(Value::Null);
                    if let Some(fields) = document.as_object_mut() {
                        fields.insert("process".into(), json!("jvpn-controlplane"));
                        fields.insert("pid".into(), json!(std::process::id()));
                        fields.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
                        fields.insert("node_id".into(), json!(node_id));
                        fields.insert("data_plane_connected".into(), json!(tables.is_some()));
                        fields.insert("audit_dropped".into(), json!(audit.dropped()));
                        fields.insert("datagrams_unsent".into(), json!(*unsent));
                    }
                    return document;
                }
                (Some(other), _) => {
                    return json!({ "error": format!("unknown request '{other}'; known: status, terminate ID, terminate-peer NAME, revoke-peer NAME") });
                }
            };
            acted = true;
            match engine.handle_admin(now, &admin, &view) {
                Ok(()) => json!({ "ok": true }),
                Err(error) => json!({ "error": error.to_string() }),
            }
        });
        if acted {
            self.drain();
        }
    }
}

/// What the poll woke up for.
#[derive(Clone, Copy, Debug)]
struct Woken {
    shutdown: bool,
    status: bool,
    datagrams: bool,
    lost: bool,
}

/// CONTEXT of the data plane that is there, or of the last one.
fn contexts<'a>(tables: &'a Option<Tables>, last: &'a Option<Mapping<Context>>) -> Contexts<'a> {
    match (tables, last) {
        (Some(tables), _) => Contexts(tables.contexts()),
        (None, Some(last)) => Contexts(last),
        (None, None) => Contexts(&[]),
    }
}
