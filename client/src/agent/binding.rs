//! A binding as the client holds it: keys, counter, window, sealed CONTROL; and what the next reattach needs.

use crate::paths::UplinkId;
use jvpn_abi::BootTime;
use jvpn_abi::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, Direction, MAC_LEN, SlotId, Suite};
use jvpn_crypto::control::{ControlOpener, ControlSealer};
use jvpn_crypto::limits;
use jvpn_crypto::schedule::{EpochSecret, Resume};
use jvpn_crypto::window::OwnWindow;
use jvpn_crypto::{CryptoError, OpenKey, SealKey};
use jvpn_session::messages::{BindingGrant, Handle};

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
}

/// Keys of one direction pair.
#[derive(Debug)]
struct Keys {
    phase: bool,
    open: OpenKey,
    window: OwnWindow,
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
    /// The key before a rekey: receive-only, dropped when the new one has been heard.
    previous: Option<Keys>,
    pub(super) control_out: ControlSealer,
    pub(super) control_in: ControlOpener,
}

impl Binding {
    pub(super) fn new(
        grant: &BindingGrant,
        secret: &EpochSecret,
        suite: Suite,
        uplink: UplinkId,
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
                phase: false,
                open: OpenKey::new(suite, &keys.gateway_to_client),
                window: OwnWindow::new(),
            },
            previous: None,
            // Each epoch has keys of its own, and this process never loses the counter of a live one: incarnation 0.
            control_out: ControlSealer::new(secret, suite, out, grant.slot, 0),
            control_in: ControlOpener::new(secret, suite, into, grant.slot),
        }
    }

    /// New keys at the same endpoint: epoch and slot stay, the phase flips, the old key only receives.
    pub(super) fn rekey(&mut self, grant: &BindingGrant, secret: &EpochSecret, now: BootTime) {
        let phase = !self.current.phase;
        let mut fresh = Self::new(grant, secret, self.suite, self.uplink, now);
        fresh.current.phase = phase;
        let old = std::mem::replace(self, fresh);
        self.previous = Some(old.current);
    }

    /// Seals `frame` = header space ‖ plaintext ‖ tag space, in place.
    pub(super) fn seal(&mut self, frame: &mut [u8], largest: usize) -> Result<(), CryptoError> {
        if self.next_counter >= limits::hard_packets(self.suite, largest) {
            return Err(CryptoError::Exhausted);
        }
        let counter = self.next_counter;
        let header =
            DataHeader { key_phase: self.current.phase, shard: self.shard, slot: self.slot, counter };
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

    /// Window check → open → commit, in place. The plaintext and whether it came under the newest key.
    pub(super) fn open<'d>(&mut self, datagram: &'d mut [u8]) -> Result<&'d mut [u8], OpenError> {
        let header = DataHeader::parse(datagram).ok_or(OpenError::Malformed)?;
        if header.slot != self.slot {
            return Err(OpenError::WrongSlot);
        }
        let newest = header.key_phase == self.current.phase;
        let keys = if newest { Some(&mut self.current) } else { self.previous.as_mut() };
        let keys = keys.ok_or(OpenError::Forged)?;
        keys.window.check(header.counter).map_err(|_| OpenError::Replayed)?;
        let (head, body) = datagram.split_at_mut_checked(DATA_HEADER_LEN).ok_or(OpenError::Malformed)?;
        let (opened, plaintext) =
            keys.open.open_in_place(header.counter, head, body).map_err(|_| OpenError::Forged)?;
        keys.window.commit(opened).map_err(|_| OpenError::Replayed)?;
        if newest {
            self.previous = None;
        }
        Ok(plaintext)
    }

    /// DATA accepted under the newest key, and the highest counter among it.
    pub(super) fn received(&self) -> (u64, u64) {
        (self.current.window.received(), self.current.window.highest().unwrap_or(0))
    }
}
