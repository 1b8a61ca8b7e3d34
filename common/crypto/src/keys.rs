//! Keys that outlive a session: static X25519 keys, pre-shared keys, the node key; and their text form.
//!
//! Text is base64 with padding, 32 octets, as WireGuard users know it. Secrets are wiped when dropped and
//! never printed; comparing them is constant-time.

#[cfg(feature = "handshake")]
use crate::agreement::{Agreement, Function, Private};
use crate::mac::{self, SECRET_LEN, Secret};
use crate::rng::{Random, RandomError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jvpn_abi::wire::MAC_LEN;
use jvpn_abi::wire::reset::ResetKind;
use std::fmt;
use std::str::FromStr;
#[cfg(feature = "handshake")]
use std::sync::Arc;
use zeroize::Zeroizing;

/// Characters of a key in text form.
pub const KEY_TEXT_LEN: usize = 44;

/// Why a text is no key. Never repeats the text: it may be most of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not 44 characters.
    #[error("a key is {KEY_TEXT_LEN} characters of base64, this is {0}; `jvpn genkey` makes one")]
    Length(usize),
    /// Not canonical base64 of 32 octets.
    #[error("a key is base64 of 32 octets ending in '='; this has a wrong character or a wrong end")]
    Encoding,
}

/// Reads the text form. Blanks and line ends around it do not count.
fn decode(text: &str) -> Result<Secret, KeyTextError> {
    let text = text.trim_ascii();
    if !text.is_ascii() {
        return Err(KeyTextError::Encoding);
    }
    if text.len() != KEY_TEXT_LEN {
        return Err(KeyTextError::Length(text.len()));
    }
    // The engine wants room for an estimate that is larger than 32.
    let mut room = Zeroizing::new([0_u8; KEY_TEXT_LEN]);
    let written = STANDARD.decode_slice(text, &mut *room).map_err(|_| KeyTextError::Encoding)?;
    let octets = room.get(..written).unwrap_or_default();
    Ok(Zeroizing::new(octets.try_into().map_err(|_| KeyTextError::Encoding)?))
}

fn encode(octets: &[u8; SECRET_LEN]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(octets))
}

fn draw(rng: &mut dyn Random) -> Result<Secret, RandomError> {
    let mut octets = Zeroizing::new([0; SECRET_LEN]);
    rng.fill(&mut *octets)?;
    Ok(octets)
}

/// An X25519 public key: the name of a peer or gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyTextError;
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        decode(text).map(|octets| Self(*octets))
    }
}

/// An X25519 private key. (Or a [simulated](Self::simulated) one, in simulations.) Clones share it.
#[cfg(feature = "handshake")]
#[derive(Clone)]
pub struct StaticSecret(Arc<Private>);

#[cfg(feature = "handshake")]
impl StaticSecret {
    /// A new key, clamped as RFC 7748 section 5 says, so that its text form equals that of other tools.
    ///
    /// # Errors
    /// [`RandomError`] of the source.
    pub fn generate(rng: &mut dyn Random) -> Result<Self, RandomError> {
        let mut octets = draw(rng)?;
        let [first, .., last] = &mut *octets;
        *first &= 248;
        *last = *last & 127 | 64;
        Ok(Self::from_octets(octets))
    }

    /// A key of another Diffie-Hellman function, for worlds of simulated hosts: every exchange that is set up with it
    /// uses that function and speaks only with peers whose keys do as well. There is no text form that leads here, so no
    /// configuration does; `cargo xtask tidy` refuses this name outside this crate and the simulation.
    ///
    /// # Errors
    /// [`RandomError`] of the source.
    pub fn simulated(rng: &mut dyn Random, agreement: &'static dyn Agreement) -> Result<Self, RandomError> {
        Ok(Self::with(draw(rng)?, Function::Simulated(agreement)))
    }

    fn from_octets(octets: Secret) -> Self {
        Self::with(octets, Function::X25519)
    }

    fn with(octets: Secret, function: Function) -> Self {
        let key =
            Private::new(function, octets).expect("any 32 octets are an X25519 key (RFC 7748, section 5)");
        Self(Arc::new(key))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        *self.0.public()
    }

    /// The text form, wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        encode(self.0.octets())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        self.0.octets()
    }

    pub(crate) const fn key(&self) -> &Arc<Private> {
        &self.0
    }
}

#[cfg(feature = "handshake")]
impl FromStr for StaticSecret {
    type Err = KeyTextError;
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        decode(text).map(Self::from_octets)
    }
}

#[cfg(feature = "handshake")]
impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticSecret(of {})", self.public())
    }
}

/// A secret that a peer and the gateway share beforehand. All zero = none, as in WireGuard.
#[derive(Clone, Default)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// A new key.
    ///
    /// # Errors
    /// [`RandomError`] of the source.
    pub fn generate(rng: &mut dyn Random) -> Result<Self, RandomError> {
        draw(rng).map(Self)
    }

    /// The text form, wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        encode(&self.0)
    }

    /// Whether two keys are the same, in constant time.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }

    #[cfg(feature = "handshake")]
    pub(crate) fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

impl FromStr for PresharedKey {
    type Err = KeyTextError;
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// What a node seals for itself.
#[cfg(feature = "handshake")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SealPurpose {
    /// Records of JOURNAL.
    Journal = 1,
    /// Records of the durable store.
    Store = 2,
}

/// The secret of one gateway node, persistent: slot serials are unique under it, and RESET tokens are made
/// from it.
pub struct NodeKey(Secret);

impl NodeKey {
    /// A new key. Slot serials may start again under it.
    ///
    /// # Errors
    /// [`RandomError`] of the source.
    pub fn generate(rng: &mut dyn Random) -> Result<Self, RandomError> {
        draw(rng).map(Self)
    }

    /// A key that was stored.
    #[must_use]
    pub fn from_bytes(octets: [u8; 32]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The token that only this node can put into a RESET: MAC(node key, kind ‖ value).
    #[must_use]
    pub fn reset_token(&self, kind: ResetKind, value: [u8; 8]) -> [u8; MAC_LEN] {
        mac::mac(&self.0, &[b"jvpn1 reset", &[kind as u8], &value])
    }

    /// A key of this node for one purpose and one writer, who is told apart by a random `salt`: two writers under one
    /// node key never share a key, so each may count from anywhere.
    #[cfg(feature = "handshake")]
    #[must_use]
    pub fn sealing_key(&self, purpose: SealPurpose, salt: &[u8; 16]) -> Zeroizing<[u8; 32]> {
        mac::expand(&self.0, &[b"jvpn1 seal", &[purpose as u8], salt])
    }

    /// Tells this node key from others without telling it: for memory that may stem from another one.
    #[cfg(feature = "handshake")]
    #[must_use]
    pub fn name(&self) -> u64 {
        u64::from_be_bytes(*mac::expand(&self.0, &[b"jvpn1 node key name"]))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

/// Whether two tokens are equal, in constant time (R2.5).
#[must_use]
pub fn tokens_equal(a: &[u8; MAC_LEN], b: &[u8; MAC_LEN]) -> bool {
    mac::equal(a, b)
}

#[cfg(all(test, feature = "handshake"))]
mod tests;
