//! A binding as the client holds it: keys, counter, window, sealed CONTROL; and what the next reattach needs.

use super::rekey::KeyLimits;
use crate::paths::UplinkId;
use jvpn_abi::BootTime;
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, Direction, MAC_LEN, SlotId, Suite};
use jvpn_crypto::control::{ControlOpener, ControlSealer};
use jvpn_crypto::limits;
use jvpn_crypto::schedule::{EpochSecret, Resume};
use jvpn_crypto::window::OwnWindow;
use jvpn_crypto::{CryptoError, OpenKey, SealKey};
use jvpn_session::messages::{BindingGrant, Handle};
use std::time::Duration;

/// What a reattach needs: the secret and the names under which the gateway knows it.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) anchor_version: u64,
    pub(super) resume: Resume,
    pub(super) handle: Handle,
    pub(super) handle_token: [u8; MAC_LEN],
}

impl Generation {
    pub(super) fn new(grant: &BindingGrant, secret: &EpochSecret) -> Self {
        Self {
            anchor_version: grant.anchor_version,
            resume: secret.resume(),
            handle: grant.handle,
            handle_token: grant.handle_token,
        }
    }
}

/// Whether DATA may leave under this binding. Receiving goes on until the binding is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Yes.
    Allowed,
    /// No: its path was left.
    Stopped,
}

/// Why a datagram did not come out as a plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// Not framed as DATA.
    Malformed,
    /// For another slot.
    WrongSlot,
    /// Counter seen before or too old.
    Replayed,
    /// Did not authenticate.
    Forged,
    /// Under a key that is past its hard limit.
    Expired,
}

/// A frame that opened.
#[derive(Debug)]
pub(super) struct Opened<'d> {
    pub(super) plaintext: &'d mut [u8],
    /// Whether it came under the newest keys.
    pub(super) newest: bool,
}

/// The receiving half of the keys of one number.
#[derive(Debug)]
struct Keys {
    number: u32,
    since: BootTime,
    open: OpenKey,
    window: OwnWindow,
}

impl Keys {
    const fn phase(&self) -> bool {
        self.number & 1 == 1
    }
}

/// The keys before a rekey: they only receive.
#[derive(Debug)]
struct Previous {
    keys: Keys,
    control_in: ControlOpener,
    /// Until then, once something came under the newer keys.
    until: Option<BootTime>,
}

/// Exactly one of these carries data at any time.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) uplink: UplinkId,
    pub(super) slot: SlotId,
    pub(super) epoch: u64,
    pub(super) slot_token: [u8; MAC_LEN],
    pub(super) sending: Sending,
    pub(super) since: BootTime,
    shard: u16,
    suite: Suite,
    seal: SealKey,
    next_counter: u64,
    current: Keys,
    previous: Option<Previous>,
    limits: KeyLimits,
    pub(super) control_out: ControlSealer,
    pub(super) control_in: ControlOpener,
}

impl Binding {
    pub(super) fn new(
        grant: &BindingGrant,
        secret: &EpochSecret,
        suite: Suite,
        uplink: UplinkId,
        limits: KeyLimits,
        now: BootTime,
    ) -> Self {
        let keys = secret.data_keys();
        let (out, into) = (Direction::ClientToGateway, Direction::GatewayToClient);
        Self {
            uplink,
            slot: grant.slot,
            epoch: grant.epoch,
            slot_token: grant.slot_token,
            sending: Sending::Allowed,
            since: now,
            shard: grant.shard,
            suite,
            seal: SealKey::new(suite, &keys.client_to_gateway),
            next_counter: 0,
            current: Keys {
                number: 0,
                since: now,
                open: OpenKey::new(suite, &keys.gateway_to_client),
                window: OwnWindow::new(),
            },
            previous: None,
            limits,
            // Each epoch has keys of its own, and this process never loses the counter of a live one: incarnation 0.
            control_out: ControlSealer::new(secret, suite, out, grant.slot, 0),
            control_in: ControlOpener::new(secret, suite, into, grant.slot),
        }
    }

    /// Whether keys of this number can be those of a rekey: they follow the ones in use, or replace those of an earlier
    /// answer, under which nothing has come.
    pub(super) fn takes_keys(&self, grant: &BindingGrant, number: u32) -> bool {
        let follows = self.current.number.checked_add(1) == Some(number);
        let replaces = self.current.number == number && self.current.window.received() == 0;
        grant.slot == self.slot && (follows || replaces)
    }

    /// New keys at the same endpoint, which [`Self::takes_keys`]: epoch and slot stay, the old keys only receive.
    pub(super) fn rekey(&mut self, grant: &BindingGrant, number: u32, secret: &EpochSecret, now: BootTime) {
        let follows = self.current.number != number;
        let mut fresh = Self::new(grant, secret, self.suite, self.uplink, self.limits, now);
        fresh.current.number = number;
        fresh.control_out =
            ControlSealer::new(secret, self.suite, Direction::ClientToGateway, self.slot, number);
        fresh.since = self.since;
        fresh.sending = Sending::Allowed;
        let old = std::mem::replace(self, fresh);
        self.previous = if follows {
            Some(Previous { keys: old.current, control_in: old.control_in, until: None })
        } else {
            old.previous
        };
    }

    /// When new keys are to be asked for: at an age, or at once after as many packets of either direction.
    pub(super) fn soft_limit_at(&self) -> BootTime {
        let received = self.current.window.highest().map_or(0, |highest| highest.saturating_add(1));
        if self.next_counter.max(received) >= self.limits.soft_packets {
            return self.current.since;
        }
        self.current.since.after(self.limits.soft_time)
    }

    /// From when on the keys in use are not used any more.
    pub(super) const fn hard_limit_at(&self) -> BootTime {
        self.current.since.after(self.limits.hard_time)
    }

    /// Number and age of the keys in use.
    pub(super) const fn key_number(&self) -> (u32, BootTime) {
        (self.current.number, self.current.since)
    }

    /// Drops the keys before, when their time is over.
    pub(super) fn drop_previous(&mut self, now: BootTime) {
        let hard = self.limits.hard_time;
        self.previous.take_if(|previous| {
            let over = previous.keys.since.after(hard);
            now >= previous.until.map_or(over, |until| until.min(over))
        });
    }

    /// Opens CONTROL under the newest keys or those before.
    pub(super) fn open_control(&mut self, datagram: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let opened = self.control_in.open(datagram);
        match (&opened, &mut self.previous) {
            (Err(_), Some(previous)) => previous.control_in.open(datagram),
            (Ok(_) | Err(_), _) => opened,
        }
    }

    /// Seals `frame` = header space ‖ plaintext ‖ tag space, in place.
    pub(super) fn seal(&mut self, frame: &mut [u8], largest: usize) -> Result<(), CryptoError> {
        let most = limits::hard_packets(self.suite, largest).min(self.limits.hard_packets);
        if self.next_counter >= most {
            return Err(CryptoError::Exhausted);
        }
        let counter = self.next_counter;
        let header =
            DataHeader { key_phase: self.current.phase(), shard: self.shard, slot: self.slot, counter };
        let header = header.encode();
        let (head, body) = frame.split_at_mut_checked(DATA_HEADER_LEN).ok_or(CryptoError::Malformed)?;
        // The counter is spent before it is used: whatever fails below, no key meets a nonce twice.
        self.next_counter = counter + 1;
        head.copy_from_slice(&header);
        self.seal.seal_in_place(counter, &header, body).map_err(|_| CryptoError::Internal("sealing DATA"))
    }

    /// A sealed datagram with this plaintext; for the rare frames (probes, held packets).
    pub(super) fn seal_new(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut frame = vec![0; plaintext.len() + DATA_OVERHEAD];
        if let Some(space) = frame.get_mut(DATA_HEADER_LEN..DATA_HEADER_LEN + plaintext.len()) {
            space.copy_from_slice(plaintext);
        }
        self.seal(&mut frame, plaintext.len())?;
        Ok(frame)
    }

    /// Window check → open → commit, in place. Keys before the newest are heard for `overlap` after the first frame under
    /// the newest.
    pub(super) fn open<'d>(
        &mut self,
        now: BootTime,
        overlap: Duration,
        datagram: &'d mut [u8],
    ) -> Result<Opened<'d>, OpenError> {
        let header = DataHeader::parse(datagram).ok_or(OpenError::Malformed)?;
        if header.slot != self.slot {
            return Err(OpenError::WrongSlot);
        }
        let hard = self.limits;
        let newest = header.key_phase == self.current.phase();
        if !newest {
            self.drop_previous(now);
        }
        let keys = match &mut self.previous {
            _ if newest => &mut self.current,
            Some(previous) => &mut previous.keys,
            None => return Err(OpenError::Forged),
        };
        if now >= keys.since.after(hard.hard_time) || header.counter >= hard.hard_packets {
            return Err(OpenError::Expired);
        }
        keys.window.check(header.counter).map_err(|_| OpenError::Replayed)?;
        let (head, body) = datagram.split_at_mut_checked(DATA_HEADER_LEN).ok_or(OpenError::Malformed)?;
        let (opened, plaintext) =
            keys.open.open_in_place(header.counter, head, body).map_err(|_| OpenError::Forged)?;
        keys.window.commit(opened).map_err(|_| OpenError::Replayed)?;
        if newest && let Some(previous) = &mut self.previous {
            previous.until.get_or_insert(now.after(overlap));
        }
        Ok(Opened { plaintext, newest })
    }

    /// DATA accepted under the newest key, and the highest counter among it.
    pub(super) fn received(&self) -> (u64, u64) {
        (self.current.window.received(), self.current.window.highest().unwrap_or(0))
    }
}
