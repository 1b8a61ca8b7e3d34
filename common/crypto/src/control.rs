//! Sealed CONTROL datagrams: messages inside a session, under keys that DATA never uses.
//!
//! Each direction has a key per *incarnation* of its sender. The incarnation must rise, before first use,
//! whenever a sender starts without its counters; a receiver accepts only incarnations from the highest seen
//! upwards, with one replay window for the highest. One epoch, one slot: a CONTROL of another binding does
//! not open.
//!
//! What is kept is the secret that keys come from, not keys made ready: those take 600 octets each, for a few messages per
//! minute, and a gateway has one to four per session. Making one costs less than 2 µs (docs/decisions/0019).

use crate::CryptoError;
use crate::aead::{OpenKey, SealKey};
use crate::limits;
use crate::schedule::{ControlSecret, EpochSecret};
use crate::window::OwnRing;
use jvpn_abi::wire::control::{CONTROL_HEADER_LEN, CONTROL_OVERHEAD, ControlHeader};
use jvpn_abi::wire::{Direction, MAX_CONTROL_DATAGRAM, SlotId, Suite};

/// Most octets of a message.
pub const CONTROL_MESSAGE_MAX: usize = MAX_CONTROL_DATAGRAM - CONTROL_OVERHEAD;

/// Words of the replay window: CONTROL is a few messages per second, so some hundred of them is minutes of
/// reordering.
const WINDOW_WORDS: usize = 8;

/// Seals messages of one direction, epoch and incarnation.
#[derive(Debug)]
pub struct ControlSealer {
    secret: ControlSecret,
    suite: Suite,
    slot: SlotId,
    incarnation: u32,
    counter: u64,
}

impl ControlSealer {
    /// A sealer whose counter starts at 0: `incarnation` must be higher than any that this epoch and
    /// direction has sealed with.
    #[must_use]
    pub fn new(
        secret: &EpochSecret,
        suite: Suite,
        direction: Direction,
        slot: SlotId,
        incarnation: u32,
    ) -> Self {
        Self::from_secret(secret.control_secret(direction), suite, slot, incarnation)
    }

    /// The same from what was kept of the epoch.
    #[must_use]
    pub const fn from_secret(secret: ControlSecret, suite: Suite, slot: SlotId, incarnation: u32) -> Self {
        Self { secret, suite, slot, incarnation, counter: 0 }
    }

    /// What its keys come from.
    #[must_use]
    pub const fn secret(&self) -> &ControlSecret {
        &self.secret
    }

    /// The incarnation that it seals with.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The datagram for a message of at most [`CONTROL_MESSAGE_MAX`] octets.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`]; [`CryptoError::Exhausted`] at [`limits::HARD_PACKETS`] messages.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if message.len() > CONTROL_MESSAGE_MAX {
            return Err(CryptoError::TooLong { len: message.len(), max: CONTROL_MESSAGE_MAX });
        }
        if self.counter >= limits::HARD_PACKETS {
            return Err(CryptoError::Exhausted);
        }
        let counter = self.counter;
        self.counter += 1;
        let header = ControlHeader { slot: self.slot, incarnation: self.incarnation, counter }.encode();
        let mut datagram = vec![0; message.len() + CONTROL_OVERHEAD];
        let (head, body) = datagram.split_at_mut(CONTROL_HEADER_LEN);
        head.copy_from_slice(&header);
        SealKey::new(self.suite, self.secret.key(self.incarnation).as_bytes())
            .seal(counter, &header, message, body)
            .map_err(|_| CryptoError::Internal("sealing a CONTROL message"))?;
        Ok(datagram)
    }
}

/// The newest message that an opener has opened: what must be remembered over a restart so that nothing opens twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Highest incarnation of the sender.
    pub incarnation: u32,
    /// Highest counter in it.
    pub highest_counter: u64,
}

/// Opens messages of one direction and epoch.
#[derive(Debug)]
pub struct ControlOpener {
    secret: ControlSecret,
    suite: Suite,
    slot: SlotId,
    newest: Option<Incarnation>,
    failed_opens: u64,
}

/// The highest incarnation from which a message opened.
#[derive(Debug)]
struct Incarnation {
    number: u32,
    window: OwnRing<WINDOW_WORDS>,
}

impl ControlOpener {
    /// An opener that has seen nothing. Keeps what CONTROL keys come from, nothing else of the epoch.
    #[must_use]
    pub fn new(secret: &EpochSecret, suite: Suite, direction: Direction, slot: SlotId) -> Self {
        Self::from_secret(secret.control_secret(direction), suite, slot, None)
    }

    /// The same from what was kept of the epoch. Nothing up to `heard` opens a second time; of what was under way
    /// below it, nothing opens at all.
    #[must_use]
    pub fn from_secret(secret: ControlSecret, suite: Suite, slot: SlotId, heard: Option<Heard>) -> Self {
        let newest = heard.map(|heard| Incarnation {
            number: heard.incarnation,
            window: OwnRing::used_up_to(heard.highest_counter),
        });
        Self { secret, suite, slot, newest, failed_opens: 0 }
    }

    /// What its keys come from.
    #[must_use]
    pub const fn secret(&self) -> &ControlSecret {
        &self.secret
    }

    /// The newest message that it has opened.
    #[must_use]
    pub fn heard(&self) -> Option<Heard> {
        let newest = self.newest.as_ref()?;
        Some(Heard { incarnation: newest.number, highest_counter: newest.window.highest()? })
    }

    /// The message in a datagram, once.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`]; [`CryptoError::Authentication`], also for another slot;
    /// [`CryptoError::Repeated`] for a replay or an older incarnation; [`CryptoError::Exhausted`] after too
    /// many forgeries.
    pub fn open(&mut self, datagram: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let header = ControlHeader::parse(datagram).ok_or(CryptoError::Malformed)?;
        let (aad, sealed) = datagram.split_at_checked(CONTROL_HEADER_LEN).ok_or(CryptoError::Malformed)?;
        let message_len = sealed.len().checked_sub(jvpn_abi::wire::TAG_LEN).ok_or(CryptoError::Malformed)?;
        if datagram.len() > MAX_CONTROL_DATAGRAM {
            return Err(CryptoError::Malformed);
        }
        if header.slot != self.slot {
            return Err(CryptoError::Authentication);
        }
        if self.failed_opens >= limits::failed_opens(self.suite) {
            return Err(CryptoError::Exhausted);
        }
        let mut message = vec![0; message_len];
        let newest = self.newest.as_ref().map(|newest| newest.number);
        match &mut self.newest {
            Some(newest) if header.incarnation == newest.number => {
                newest.window.ring().check(header.counter).map_err(|_| CryptoError::Repeated)?;
                let key = OpenKey::new(self.suite, self.secret.key(header.incarnation).as_bytes());
                let Ok(opened) = key.open(header.counter, aad, sealed, &mut message) else {
                    self.failed_opens += 1;
                    return Err(CryptoError::Authentication);
                };
                newest.window.commit(&opened).map_err(|_| CryptoError::Repeated)?;
            }
            _ if newest.is_some_and(|newest| header.incarnation < newest) => {
                return Err(CryptoError::Repeated);
            }
            // A higher incarnation counts only once a message opens under it.
            _ => {
                let key = OpenKey::new(self.suite, self.secret.key(header.incarnation).as_bytes());
                let Ok(opened) = key.open(header.counter, aad, sealed, &mut message) else {
                    self.failed_opens += 1;
                    return Err(CryptoError::Authentication);
                };
                let mut window = OwnRing::default();
                window.commit(&opened).map_err(|_| CryptoError::Repeated)?;
                self.newest = Some(Incarnation { number: header.incarnation, window });
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
