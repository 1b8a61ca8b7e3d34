//! The path of every packet between tunnel device and uplinks, in batches.

use super::{BATCHES_PER_ROUND, Running, Shell};
use crate::agent::Inner;
use crate::io::frames::{BATCH, FRAME_LEN};
use crate::offload::coalesce::{PACKETS_MAX, Place};
use crate::offload::too_big::{self, ANSWER_MAX, Pieces};
use crate::paths::UplinkId;
use crate::tun;
use jvpn_abi::BootTime;
use jvpn_abi::wire::{DATA_HEADER_LEN, TAG_LEN};
use jvpn_host::clock;
use std::io;

impl Shell {
    /// Opens what an uplink received and hands it to the tunnel device.
    pub(super) fn take_datagrams(&mut self, id: UplinkId) {
        for _ in 0..BATCHES_PER_ROUND {
            let Some(transport) = self.uplinks.get_mut(id.index()).and_then(|u| u.transport.as_mut()) else {
                return;
            };
            let more = match transport.receive(&mut self.inbox) {
                Ok(more) => more,
                Err(error) => {
                    // The device went away or a pending error was reported; netlink tells what is true.
                    tracing::debug!(%error, uplink = id.0, "receiving failed");
                    return;
                }
            };
            let now = clock::now();
            for slot in 0..self.inbox.len() {
                let (arrival, places) = self.inbox.datagrams(slot);
                for place in places {
                    let octets = self.inbox.octets();
                    let Some(datagram) = octets.get_mut(place.clone()) else { continue };
                    let opened = self.agent.handle_datagram(now, id, arrival.from, datagram);
                    let Some(packet) = opened else { continue };
                    if !self.agent.pass_mark_on(packet, arrival.mark) {
                        continue;
                    }
                    // Opened in place: the packet lies behind the header.
                    let place = Place { at: place.start + DATA_HEADER_LEN, len: packet.len() };
                    if self.tunnel.is_offloaded() {
                        self.batch.push(octets, place);
                    } else {
                        self.batch.push_alone(place);
                    }
                    if self.batch.len() == PACKETS_MAX {
                        self.tunnel.write(&mut self.batch, self.inbox.octets());
                    }
                }
            }
            self.tunnel.write(&mut self.batch, self.inbox.octets());
            self.flush(now);
            if !more {
                return;
            }
        }
    }

    /// Frame `index` holds a packet that the path does not carry in one piece: it leaves in several, or its sender is told.
    fn refuse_or_cut(&mut self, now: BootTime, index: usize, carried: u16) {
        let frame = self.frames.frame(index);
        let packet = frame.get(DATA_HEADER_LEN..frame.len().saturating_sub(TAG_LEN)).unwrap_or_default();
        if too_big::may_be_cut(packet) {
            let mut pieces = Pieces::new(packet, usize::from(carried));
            let mut buffer = [0; FRAME_LEN];
            while let Some(len) = buffer.get_mut(DATA_HEADER_LEN..).and_then(|room| pieces.next(room)) {
                let Some(piece) = buffer.get_mut(..DATA_HEADER_LEN + len + TAG_LEN) else { break };
                if let Inner::Send(uplink) = self.agent.handle_inner_packet(now, piece)
                    && let Some(transport) =
                        self.uplinks.get_mut(uplink.index()).and_then(|u| u.transport.as_mut())
                {
                    transport.send_one(piece);
                }
            }
        } else {
            let mut answer = [0; ANSWER_MAX];
            if let Some(len) = self.teller.tell(now, packet, carried, &mut answer) {
                self.agent.told_too_big();
                self.tunnel.write_one(answer.get(..len).unwrap_or_default());
            }
        }
        self.frames.set_len(index, 0);
    }

    /// Seals what the host wants to send and hands it to the uplink that carries data.
    ///
    /// # Errors
    /// If the tunnel device was deleted: there is nothing to wait for any more.
    pub(super) fn take_packets(&mut self) -> io::Result<()> {
        for _ in 0..BATCHES_PER_ROUND {
            let now = clock::now();
            let mut filled = 0;
            let mut over = None;
            let mut drained = false;
            while !drained && filled + self.tunnel.most() <= BATCH {
                let count = match self.tunnel.read(&mut self.frames, filled) {
                    Ok(0) => {
                        drained = true;
                        break;
                    }
                    Ok(count) => count,
                    Err(error) if tun::is_deleted(&error) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "reading the tunnel device failed");
                        drained = true;
                        break;
                    }
                };
                for index in filled..filled + count {
                    self.frames.copy_mark(index);
                    match self.agent.handle_inner_packet(now, self.frames.frame_mut(index)) {
                        // At most one path carries data, and it changes only in handle_*: a batch has one uplink.
                        Inner::Send(uplink) => over = Some(uplink),
                        Inner::TooBig(carried) => self.refuse_or_cut(now, index, carried),
                        Inner::Held | Inner::Dropped => self.frames.set_len(index, 0),
                    }
                }
                filled += count;
            }
            if let Some(id) = over
                && let Some(transport) = self.uplinks.get_mut(id.index()).and_then(|u| u.transport.as_mut())
            {
                transport.send(&self.frames, 0..filled);
            }
            if drained {
                break;
            }
        }
        Ok(())
    }

    /// Without its device the agent ends, unless somebody has just asked for its end. As after a crash the kill switch
    /// and what refuses stay, and so does the record of what to take back.
    ///
    /// # Errors
    /// If the device is lost: what the user reads of that end.
    pub(super) fn heed_loss(&self, lost: Option<io::Error>) -> anyhow::Result<()> {
        match lost {
            Some(error) if self.running == Running::Yes => Err(anyhow::anyhow!(
                "the tunnel device {} was deleted ({error}); what [traffic] led into the tunnel is refused and a \
                 kill switch stays on: 'jvpn up' begins anew, 'jvpn down' takes that back",
                self.interface
            )),
            Some(_) | None => Ok(()),
        }
    }
}
