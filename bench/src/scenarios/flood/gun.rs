//! One thread that sends what an attack makes, as fast as it can or at a given rate, and counts it by claimed source.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use jvpn_rig::Rig;
use jvpn_rig::inject::Injector;

use super::attack::{Ammunition, Attack};
use super::rogue::Heard;

/// How often an attacker with a session looks what came back: each look costs him a system call per port.
const LISTEN_INTERVAL: Duration = Duration::from_millis(1);
/// Datagrams between two looks at the clock.
const BURST: u32 = 32;
/// How long an attacker waits who has captured nothing yet.
const NOTHING_YET: Duration = Duration::from_millis(1);

/// What was sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Fired {
    pub(super) datagrams: u64,
    /// Of UDP payload.
    pub(super) octets: u64,
    /// What the attacker's own host did not take.
    pub(super) unsent: u64,
    /// Octets by claimed source.
    pub(super) per_source: HashMap<Ipv4Addr, u64>,
    /// What came back to his own sockets.
    pub(super) heard: Heard,
    pub(super) took: Duration,
}

/// A running attack. Ends with its value.
pub(super) struct Gun {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Fired>>>,
}

impl Gun {
    /// `per_second` = `None`: as much as the thread sends.
    pub(super) fn start(
        rig: &Rig,
        attack: Attack,
        ammunition: Ammunition,
        per_second: Option<u32>,
    ) -> Result<Self> {
        let injector = Injector::new(rig)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let fire = move || fire(&injector, attack, ammunition, per_second, &stopped);
        let thread = thread::Builder::new().name("attacker".to_owned()).spawn(fire);
        Ok(Self { stop, thread: Some(thread.context("no thread for the attacker")?) })
    }

    /// Ends it and says what was sent.
    pub(super) fn stop(mut self) -> Result<Fired> {
        self.end().unwrap_or_else(|| Ok(Fired::default()))
    }

    fn end(&mut self) -> Option<Result<Fired>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(thread.join().map_err(|_| anyhow!("the attacker's thread panicked")).flatten())
    }
}

impl Drop for Gun {
    fn drop(&mut self) {
        // Whoever wants to know what was sent calls `stop`.
        let _fired = self.end();
    }
}

fn fire(
    injector: &Injector,
    attack: Attack,
    mut ammunition: Ammunition,
    per_second: Option<u32>,
    stop: &AtomicBool,
) -> Result<Fired> {
    let (start, mut fired) = (Instant::now(), Fired::default());
    let mut listened = start;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            shoot(injector, attack, &mut ammunition, &mut fired)?;
        }
        if listened.elapsed() >= LISTEN_INTERVAL
            && let Some(rogue) = ammunition.rogue()
        {
            listened = Instant::now();
            rogue.listen()?;
        }
        if let Some(per_second) = per_second {
            let due = Duration::from_secs_f64(fired.datagrams as f64 / f64::from(per_second.max(1)));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    fired.took = start.elapsed();
    if let Some(rogue) = ammunition.rogue() {
        rogue.listen()?;
        fired.heard = rogue.take_heard();
    }
    Ok(fired)
}

fn shoot(injector: &Injector, attack: Attack, ammunition: &mut Ammunition, fired: &mut Fired) -> Result<()> {
    let Some((source, payload)) = ammunition.next()? else {
        thread::sleep(NOTHING_YET);
        return Ok(());
    };
    let own = match attack {
        Attack::ReattachValid => ammunition.rogue(),
        Attack::ReattachReplayed
        | Attack::ReattachRandom
        | Attack::ReattachForged
        | Attack::Handshakes
        | Attack::HandshakesJunk
        | Attack::Flapping
        | Attack::VictimSource => None,
    };
    let (from, sent) = match own {
        Some(rogue) => (rogue.address().map(|address| *address.ip()), rogue.send(&payload)),
        None => {
            let address = source.address();
            (Some(*address.ip()), injector.send(address, &payload).is_ok())
        }
    };
    if !sent {
        fired.unsent += 1;
        return Ok(());
    }
    let octets = payload.len() as u64;
    fired.datagrams += 1;
    fired.octets += octets;
    if let Some(from) = from {
        *fired.per_source.entry(from).or_default() += octets;
    }
    Ok(())
}
