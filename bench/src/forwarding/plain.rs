//! Plain forwarding: frames from one port's ring into the other's, with a new destination address, and nothing else.

use super::Direction;
use super::edge::{FAR_MAC, ports};
use super::lab::pin;
use anyhow::{Result, anyhow};
use jvpn_dataplane::port::{Port, RxFrame};
use jvpn_rig::redirect::Redirect;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Frames taken at a time, as a worker does by default.
const BATCH: usize = 64;
/// How long the forwarder sleeps without frames before it looks whether it is to end, ms.
const LOOK: u8 = 20;

/// The running forwarder.
pub(super) struct Plain {
    thread: JoinHandle<Result<()>>,
    id: Pid,
    stop: Arc<AtomicBool>,
    _program: Redirect,
}

impl Plain {
    /// Starts it between the ports of this thread's network namespace.
    pub(super) fn start(direction: Direction, cpu: usize) -> Result<Self> {
        let (from, to) = ports(direction);
        let program = Redirect::attach(from)?;
        let (from, to) = (Port::open(from, 0)?, Port::open(to, 0)?);
        program.set(0, from.raw_fd())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                pin(cpu)?;
                tell.send(nix::unistd::gettid())?;
                forward(from, to, &stop);
                Ok(())
            }
        });
        let id = told.recv().map_err(|_| anyhow!("the forwarder did not start"))?;
        Ok(Self { thread, id, stop, _program: program })
    }

    pub(super) const fn thread(&self) -> Pid {
        self.id
    }

    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the forwarder panicked"))?
    }
}

fn forward(mut from: Port, mut to: Port, stop: &AtomicBool) {
    let mut batch: Vec<RxFrame> = Vec::with_capacity(BATCH);
    while !stop.load(Ordering::Acquire) {
        from.receive(&mut batch, BATCH);
        let handled = batch.len();
        while let Some(mut frame) = batch.pop() {
            if let Some(mut free) = to.take_free() {
                let octets = from.octets(&mut frame);
                let len = octets.len();
                let room = to.room(&mut free);
                if let Some(room) = room.get_mut(..len) {
                    room.copy_from_slice(octets);
                }
                if let Some(address) = room.get_mut(..6) {
                    address.copy_from_slice(&FAR_MAC);
                }
                to.transmit(free, len);
            }
            from.recycle(frame);
        }
        let _refused = from.flush() + to.flush();
        if handled == 0 {
            let _woken = poll(&mut [PollFd::new(from.fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK));
        }
    }
}
