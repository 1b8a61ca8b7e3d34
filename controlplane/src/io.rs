//! The only loop of the control plane: sockets, doorbells and the clock on one side, the engine on the other.
//!
//! One thread. Every input is handed to the engine, then its commands are carried out, then its answers are sent, then
//! its audit lines are passed on: in this order an answer never overtakes the binding that it announces.
//!
//! A timer is judged by what was reported before its moment: to handle a datagram may mean to wait for the disk, and a
//! report that came meanwhile is no late one. So reports are read again before timers, and between datagrams.

use crate::abuse::hook::AbuseHook;
use crate::admin::{self, Surroundings};
use crate::audit::AuditHandle;
use crate::config::Config;
use crate::ending::{Departure, Leaving};
use crate::engine::{Engine, TableCommand, TableEvent};
use crate::gap::{Gap, GapMeter};
use crate::journal::{Completeness, Journal, JournalError};
use crate::store::Scan;
use crate::store::writer::StoreWriter;
use crate::tables::{Contexts, Greeted, JournalHandout, Legacy, Offer, Tables, TablesError};
use crate::tries::Tries;
use crate::udp::{self, MAX_DATAGRAM};
use jvpn_abi::BootTime;
use jvpn_abi::tables::Context;
use jvpn_crypto::rng::OsRandom;
use jvpn_host::clock;
use jvpn_host::memory::Memory;
use jvpn_host::status::StatusListener;
use jvpn_tables::Mapping;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A data plane that has not answered a greeting for so long is worth a line in the log: it answers in milliseconds, unless
/// it is stopped.
const SILENCE_TOLD_AFTER: Duration = Duration::from_secs(2);
/// Records of JOURNAL beyond `max_sessions`: its head, and births that will replace a session. Slots have no such spare:
/// the data plane should have twice as many as there may be sessions.
const JOURNAL_SPARE: u32 = 1_024;
/// How often the edge is asked what it refused, while there is something to expect.
const EDGE_EVERY: Duration = Duration::from_secs(1);
/// Datagrams handled before the reports are looked at again.
const DATAGRAMS_PER_TURN: usize = 64;
/// The same, as time: a datagram may let timers of its session fire. Far below the 100 ms
/// that the workers may take to let a binding go.
const REPORTS_EVERY: Duration = Duration::from_millis(5);
/// Datagrams handled before workers and installer are woken for what they caused.
const DATAGRAMS_PER_RING: usize = 16;
/// Longest sleep: what depends on CONTEXT without a timer is at most this late.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why the control plane ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data plane is of another version, or offers nonsense.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// There is no JOURNAL to write to.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The poll loop's own means failed.
    #[error("{step}: {cause}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        cause: io::Error,
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
    tables: Option<Tables>,
    /// The next one, until it answers.
    greeted: Option<Greeted>,
    /// The one before, until its process has ended: then the next is greeted.
    leaving: Option<Leaving>,
    store: StoreWriter,
    /// What was stored when this process started, until it is known whose memory goes on. `None`: nobody could read it.
    stored: Option<Scan>,
    /// From the first data plane on; handed to every later one.
    journal: Option<Journal>,
    legacy: Option<Legacy>,
    last_contexts: Option<Mapping<Context>>,
    tries: Tries,
    /// When the edge is asked what it refused. Its buckets are full until something has passed them, so a datagram that
    /// comes here starts this, and silence ends it.
    edge_due: Option<BootTime>,
    waiting_told: bool,
    /// When a greeting that is not answered is to be told of.
    silence_due: Option<BootTime>,
    buffer: Vec<u8>,
    unsent: u64,
    abuse: Option<AbuseHook>,
    memory: Memory,
    gap: GapMeter,
    config: Config,
}

impl Shell {
    /// Everything that the loop needs; nothing is connected yet.
    #[must_use]
    pub fn new(
        engine: Engine,
        audit: AuditHandle,
        (status, shutdown): (StatusListener, UnixStream),
        config: Config,
        memory: Memory,
        (store, stored): (StoreWriter, Option<Scan>),
        abuse: Option<AbuseHook>,
    ) -> Self {
        Self {
            store,
            stored,
            engine,
            audit,
            status,
            shutdown,
            tables: None,
            greeted: None,
            leaving: None,
            journal: None,
            legacy: None,
            last_contexts: None,
            tries: Tries::default(),
            edge_due: None,
            waiting_told: false,
            silence_due: None,
            buffer: vec![0; MAX_DATAGRAM],
            unsent: 0,
            abuse,
            memory,
            gap: GapMeter::default(),
            config,
        }
    }

    /// Runs until SIGINT or SIGTERM.
    ///
    /// # Errors
    /// [`RunError`], if going on would be a guess.
    pub fn run(mut self) -> Result<(), RunError> {
        loop {
            self.meet()?;
            self.ring_bells();
            let woken = self.wait()?;
            if woken.shutdown {
                return Ok(());
            }
            if woken.lost {
                self.lose_data_plane();
            }
            self.reports(clock::now());
            if woken.stored {
                self.store_outcomes();
            }
            if woken.datagrams {
                self.datagrams()?;
            }
            self.edge();
            self.timers(clock::now());
            if woken.status {
                self.answer_status();
            }
        }
    }

    /// Looks for a data plane: sees the last one off, greets the next, takes it over when it has answered. Waits for none.
    fn meet(&mut self) -> Result<(), RunError> {
        let now = clock::now();
        if let Some(leaving) = &self.leaving {
            match leaving.departure(now) {
                Departure::Ended => {
                    tracing::info!("the data plane's process has ended");
                    self.leaving = None;
                    self.tries.data_plane_ended(now);
                }
                Departure::UnderWay => return Ok(()),
                Departure::Stays => return Err(RunError::Abandoned),
            }
        }
        if self.tables.is_some() {
            return Ok(());
        }
        match self.greet(now).and_then(|()| self.greeted.as_mut().map_or(Ok(None), Greeted::answer)) {
            Ok(Some((tables, journal))) => {
                (self.greeted, self.waiting_told, self.silence_due) = (None, false, None);
                self.take_over(tables, journal, now)
            }
            Ok(None) => {
                if self.silence_due.is_some_and(|due| due <= now) {
                    self.silence_due = None;
                    tracing::warn!("the data plane was greeted and does not answer; is it stopped?");
                }
                Ok(())
            }
            Err(error) if error.is_absence() => {
                (self.greeted, self.silence_due) = (None, None);
                if !self.waiting_told {
                    tracing::info!(%error, "waiting for the data plane (start jvpn-dataplane)");
                    self.waiting_told = true;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Greets a data plane if it is time and none is greeted.
    fn greet(&mut self, now: BootTime) -> Result<(), TablesError> {
        if self.greeted.is_some() || !self.tries.take(now) {
            return Ok(());
        }
        let wish = self.config.policy.max_sessions.saturating_add(JOURNAL_SPARE);
        let offer = self.journal.as_ref().map_or(Offer::Wish(wish), Offer::Mine);
        self.greeted = Some(Greeted::greet(&self.config.dataplane_socket, self.legacy.as_ref(), offer)?);
        self.silence_due = Some(now.after(SILENCE_TOLD_AFTER));
        Ok(())
    }

    /// A data plane is there: goes on from what an earlier control plane left in it, or clears it.
    fn take_over(
        &mut self,
        mut tables: Tables,
        handout: JournalHandout,
        now: BootTime,
    ) -> Result<(), RunError> {
        // It has what it was handed. A socket that it did not take would go on taking datagrams.
        self.legacy = None;
        if self.journal.is_some() {
            tracing::info!("connected to the next data plane; clearing what is bound");
            tables.clear(None)?;
            self.tables = Some(tables);
            return Ok(());
        }
        let mut rng = OsRandom::checked().map_err(JournalError::from)?;
        let node_key = self.engine.node_key();
        let mut journal = Journal::open(handout.fd, handout.elements, node_key, &mut rng, now)?;
        let contents = handout.kept.then(|| journal.read(node_key));
        match contents {
            Some(Ok(contents)) => {
                let (records, damaged) = (contents.snapshots.len(), contents.damaged.len());
                let completeness = contents.completeness;
                let bound = |slot_index| tables.word(slot_index);
                let capacity = journal.capacity();
                let kept = self.engine.adopt(now, capacity, contents.snapshots, &contents.damaged, &bound);
                let completeness = if kept.refused > 0 { Completeness::Incomplete } else { completeness };
                // Before a record is freed: whoever comes after us must not take its session for ended.
                journal.mark(completeness);
                tracing::info!(
                    records,
                    damaged,
                    ?completeness,
                    bindings = kept.words.len(),
                    "going on from JOURNAL; forwarding was not interrupted"
                );
                tables.clear(Some(&kept))?;
                let stored = self.stored.take();
                self.engine.match_store(now, stored, completeness);
            }
            unusable => {
                journal.begin(node_key);
                if let Some(Err(error)) = unusable {
                    tracing::error!(%error, "JOURNAL is no memory to go on from: every binding ends");
                    self.engine.journal_is_unusable(now, &error);
                }
                tracing::info!("connected to the data plane; clearing what is bound");
                self.engine.keep_journal(journal.capacity());
                tables.clear(None)?;
                self.load_stored(now);
            }
        }
        self.journal = Some(journal);
        self.tables = Some(tables);
        self.drain();
        Ok(())
    }

    /// The memory of every stored session is gone: they are loaded, for their clients to take over.
    fn load_stored(&mut self, now: BootTime) {
        let Some(Scan { sessions, unreadable }) = self.stored.take() else {
            return self.engine.store_is_unreadable();
        };
        if !sessions.is_empty() {
            tracing::info!(sessions = sessions.len(), "loading the sessions of the store");
        }
        self.engine.load_stored(now, sessions);
        self.engine.judge_unreadable(now, unreadable);
    }

    fn store_outcomes(&mut self) {
        let outcomes: Vec<_> = self.store.outcomes().collect();
        for outcome in outcomes {
            let view = contexts(&self.tables, &self.last_contexts);
            self.engine.handle_store_outcome(clock::now(), outcome, &view);
            self.drain();
        }
    }

    fn wait(&self) -> Result<Woken, RunError> {
        let now = clock::now();
        let mut until = now.after(LONGEST_SLEEP);
        if let Some(due) = self.engine.poll_timeout() {
            until = until.min(due);
        }
        match (&self.tables, &self.leaving, &self.greeted) {
            (Some(_), _, _) => {}
            (None, Some(leaving), _) => until = until.min(leaving.until()),
            (None, None, Some(_)) => until = self.silence_due.map_or(until, |due| until.min(due)),
            (None, None, None) => until = until.min(self.tries.next()),
        }
        if let Some(due) = self.edge_due {
            until = until.min(due);
        }
        let mut fds = vec![
            PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.status.listener().as_fd(), PollFlags::POLLIN),
            PollFd::new(self.store.bell(), PollFlags::POLLIN),
        ];
        if let Some(tables) = &self.tables {
            fds.push(PollFd::new(tables.report_bell().as_fd(), PollFlags::POLLIN));
            // Until the tables are in order, datagrams wait in the socket instead of being turned away.
            let wanted = if tables.is_up() { PollFlags::POLLIN } else { PollFlags::empty() };
            fds.push(PollFd::new(tables.udp(), wanted));
            fds.push(PollFd::new(tables.process(), PollFlags::POLLIN));
            fds.push(PollFd::new(tables.connection(), PollFlags::POLLIN));
        } else {
            // Whatever these have to say is for `meet`, with which every turn begins.
            let greeted = self.greeted.as_ref().and_then(Greeted::connection);
            let awaited = self.leaving.as_ref().map(Leaving::process).or(greeted);
            fds.extend(awaited.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        // Rounded up: waking a millisecond early would only turn the loop once more.
        let sleep_ms = until.since(now).as_nanos().div_ceil(1_000_000);
        let timeout = PollTimeout::try_from(sleep_ms).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(RunError::System { step: "poll", cause: error.into() }),
        }
        let any = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
        Ok(Woken {
            shutdown: any(0),
            status: any(1),
            stored: any(2),
            datagrams: self.tables.is_some() && any(4),
            lost: self.tables.is_some() && (any(5) || any(6)),
        })
    }

    /// The data plane has closed its connection, or its process has ended. Either comes after its last worker has; nothing
    /// is bound anywhere until its process is gone and the next one is there.
    fn lose_data_plane(&mut self) {
        tracing::warn!("the data plane is gone; waiting for the next one");
        // What it confirmed before its end counts.
        let now = clock::now();
        self.reports(now);
        if let Some(tables) = self.tables.take() {
            let (legacy, last, leaving) = tables.into_legacy(now);
            self.legacy = Some(legacy);
            self.last_contexts = Some(last);
            self.leaving = Some(leaving);
        }
        self.gap.lost(now);
        let view = contexts(&self.tables, &self.last_contexts);
        self.engine.handle_table_event(now, TableEvent::DataPlaneLost, &view);
        self.drain();
    }

    /// What is due at `now`, judged by every report that was there at `now`.
    fn timers(&mut self, now: BootTime) {
        if self.is_due(now) {
            self.reports(now);
        }
        // The reports may have settled what was due.
        if self.is_due(now) {
            self.engine.handle_timeout(now, &contexts(&self.tables, &self.last_contexts));
            self.drain();
        }
    }

    fn is_due(&self, now: BootTime) -> bool {
        self.engine.poll_timeout().is_some_and(|due| due <= now)
    }

    /// Hands every report of the data plane to the engine, all as of `now`, a moment just read: what it decides about one
    /// does not depend on how many stood before it.
    fn reports(&mut self, now: BootTime) {
        let mut events = Vec::new();
        let Some(tables) = &mut self.tables else { return };
        // Silenced before reading: what comes later rings again.
        let _rang = tables.report_bell().silence();
        tables.poll_events(&mut events);
        for event in events {
            if matches!(event, TableEvent::DataPlaneUp { .. } | TableEvent::Adopted { .. }) {
                tracing::info!("data plane is up");
            }
            self.engine.handle_table_event(now, event, &contexts(&self.tables, &self.last_contexts));
            self.drain();
            // What followed from the event has been carried out: a binding that was installed is stored.
            let ended = match event {
                TableEvent::DataPlaneUp { .. } => self.gap.up(now),
                TableEvent::Installed { seq } => self.gap.installed(seq, now),
                TableEvent::InstallRefused { seq } => self.gap.refused(seq, now),
                // An adopted data plane never went away.
                TableEvent::Adopted { .. }
                | TableEvent::Quiesced { .. }
                | TableEvent::Confirmed { .. }
                | TableEvent::DataPlaneLost => None,
            };
            if let Some(Gap { gap_ms, away_ms, bindings_kept }) = ended {
                tracing::info!(gap_ms, away_ms, bindings_kept, "the next data plane forwards");
            }
        }
    }

    /// Asks the edge what it refused, if it is time.
    fn edge(&mut self) {
        let now = clock::now();
        if self.edge_due.is_none_or(|due| now < due) {
            return;
        }
        let refusals = self.tables.as_mut().and_then(Tables::edge_refusals);
        self.edge_due = refusals.is_some().then(|| now.after(EDGE_EVERY));
        if let Some(refusals) = refusals {
            self.engine.handle_edge(now, &refusals);
            self.drain();
        }
    }

    fn datagrams(&mut self) -> Result<(), RunError> {
        let mut read_at = clock::now();
        self.edge_due.get_or_insert(read_at.after(EDGE_EVERY));
        for handled in 0..DATAGRAMS_PER_TURN {
            if handled % DATAGRAMS_PER_RING == 0 {
                self.ring_bells();
            }
            let Some(tables) = &self.tables else { return Ok(()) };
            let received = udp::receive(tables.udp(), &mut self.buffer)
                .map_err(|cause| RunError::System { step: "receive a datagram", cause })?;
            let Some(received) = received else { return Ok(()) };
            let now = clock::now();
            if now.since(read_at) >= REPORTS_EVERY {
                self.reports(now);
                read_at = now;
            }
            let view = contexts(&self.tables, &self.last_contexts);
            let datagram = self.buffer.get(..received.len).unwrap_or_default();
            self.engine.handle_datagram(now, received.remote, received.local, datagram, &view);
            self.drain();
        }
        Ok(())
    }

    fn ring_bells(&mut self) {
        if let Some(tables) = &mut self.tables {
            tables.ring_bells();
        }
    }

    /// Once all that was stored is loaded, and written to JOURNAL, JOURNAL is what counts.
    fn mark_journal(&mut self) {
        if let Some(journal) = &mut self.journal {
            let is_whole = self.engine.journal_is_whole();
            journal.mark(if is_whole { Completeness::Complete } else { Completeness::Incomplete });
        }
    }

    /// Commands, then answers, then audit lines.
    fn drain(&mut self) {
        loop {
            let mut refused = Vec::new();
            while let Some(command) = self.engine.poll_command() {
                tracing::debug!(?command, "table");
                if let TableCommand::Journal { index, snapshot } = &command
                    && let Some(journal) = &mut self.journal
                {
                    match snapshot {
                        Some(snapshot) => journal.write(*index, snapshot),
                        None => journal.clear(*index),
                    }
                    continue;
                }
                if let TableCommand::Install { seq, entry } = &command {
                    self.gap.installing(*seq, entry.op);
                }
                match (&mut self.tables, &self.leaving, &command) {
                    (Some(tables), _, _) => refused.extend(tables.carry_out(command)),
                    (None, Some(leaving), TableCommand::Unbind { slot, .. }) => leaving.unbind(*slot),
                    (None, _, _) => {}
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
            while let Some(request) = self.engine.poll_store() {
                self.store.send(request);
            }
            while let Some(line) = self.engine.poll_audit() {
                self.audit.send(line);
            }
            if let Some(summary) = self.engine.poll_abuse()
                && let Some(abuse) = &mut self.abuse
            {
                abuse.send(&summary);
            }
            if refused.is_empty() {
                return self.mark_journal();
            }
            for event in refused {
                let view = contexts(&self.tables, &self.last_contexts);
                self.engine.handle_table_event(clock::now(), event, &view);
            }
        }
    }

    fn answer_status(&mut self) {
        let Self { status, engine, tables, last_contexts, audit, unsent, abuse, memory, config, gap, .. } =
            self;
        let around = Surroundings {
            node_id: config.node_id.clone(),
            data_plane_connected: tables.is_some(),
            audit_dropped: audit.dropped(),
            datagrams_unsent: *unsent,
            abuse: abuse.as_ref().map(AbuseHook::counts),
            memory: *memory,
            gap: gap.shown(),
        };
        status.serve_waiting(|request| {
            let view = contexts(tables, last_contexts);
            admin::answer(request, engine, config, &around, clock::now(), &view)
        });
        // A request may have ended sessions.
        self.drain();
    }
}

/// What the poll woke up for.
#[derive(Clone, Copy, Debug)]
struct Woken {
    shutdown: bool,
    status: bool,
    stored: bool,
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
