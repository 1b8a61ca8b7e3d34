//! Sealing and opening on the hot path: AES-256-GCM and ChaCha20-Poly1305, in place or from one frame into
//! another.
//!
//! Nothing here allocates once a key exists. The nonce is four zero octets and the big-endian counter, so **a
//! counter must never meet the same key twice**; who calls takes it from the binding's shared counter first.
//! The backend is aws-lc-rs, or RustCrypto in a build with feature `rustcrypto` and without `aws-lc`.

use jvpn_abi::wire::{Suite, TAG_LEN};
use std::fmt;

#[cfg(feature = "aws-lc")]
mod aws_lc;
#[cfg(any(feature = "rustcrypto", test))]
#[cfg_attr(
    all(feature = "aws-lc", not(test)),
    allow(dead_code, reason = "both features at once: aws-lc serves")
)]
mod rustcrypto;

#[cfg(feature = "aws-lc")]
use aws_lc::Key;
#[cfg(all(feature = "rustcrypto", not(feature = "aws-lc")))]
use rustcrypto::Key;

#[cfg(not(any(feature = "aws-lc", feature = "rustcrypto")))]
compile_error!("jvpn-crypto needs an AEAD backend: enable feature `aws-lc` or `rustcrypto`");

/// Octets of a key of either suite.
pub const KEY_LEN: usize = 32;

const NONCE_LEN: usize = 12;

/// Which implementation seals and opens in this build, as `status` shows it.
pub const BACKEND: &str = if cfg!(feature = "aws-lc") { "aws-lc" } else { "rustcrypto" };

/// Why sealing or opening failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AeadError {
    /// The buffers handed in do not fit each other, or the text is longer than the suite allows.
    #[error("buffers do not fit: sealed text is the plain text and {TAG_LEN} octets more")]
    Length,
    /// The text was not sealed with this key, counter and associated data.
    #[error("the sealed text does not authenticate")]
    Authentication,
}

/// The backend refused. It does not say why, and neither do we.
struct Refused;

/// Proof that a frame with this counter authenticated. Only [`OpenKey`] makes it; a replay window asks for
/// it.
///
/// ```compile_fail,E0451
/// let forged = jvpn_crypto::Opened { counter: 7 };
/// ```
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<jvpn_crypto::Opened>();
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "commit it to the replay window before the plain text is used"]
pub struct Opened {
    counter: u64,
}

impl Opened {
    #[cfg(test)]
    pub(crate) const fn for_test(counter: u64) -> Self {
        Self { counter }
    }

    /// The counter that authenticated.
    #[must_use]
    pub const fn counter(&self) -> u64 {
        self.counter
    }
}

const fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// A key that seals.
pub struct SealKey(Key);

impl SealKey {
    /// Expands a key. Allocates; not for the hot path.
    #[must_use]
    pub fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        Self(Key::new(suite, key))
    }

    /// Seals `plaintext` into `out`, which has exactly [`TAG_LEN`] octets more.
    ///
    /// # Errors
    /// [`AeadError::Length`]; `out` must then not be sent. The counter counts as used all the same.
    #[inline]
    pub fn seal(&self, counter: u64, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), AeadError> {
        let (body, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(AeadError::Length)?;
        if tag.len() != TAG_LEN {
            return Err(AeadError::Length);
        }
        self.0.seal(nonce(counter), aad, plaintext, body, tag).map_err(|Refused| AeadError::Length)
    }

    /// Seals in place: `buffer` is the plain text and [`TAG_LEN`] spare octets.
    ///
    /// # Errors
    /// [`AeadError::Length`]; `buffer` must then not be sent. The counter counts as used all the same.
    #[inline]
    pub fn seal_in_place(&self, counter: u64, aad: &[u8], buffer: &mut [u8]) -> Result<(), AeadError> {
        let (body, tag) = split_tag(buffer)?;
        self.0.seal_in_place(nonce(counter), aad, body, tag).map_err(|Refused| AeadError::Length)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// A key that opens.
pub struct OpenKey(Key);

impl OpenKey {
    /// Expands a key. Allocates; not for the hot path.
    #[must_use]
    pub fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        Self(Key::new(suite, key))
    }

    /// Opens `sealed` (cipher text and tag) into `out`, which has exactly [`TAG_LEN`] octets less.
    ///
    /// # Errors
    /// [`AeadError`]; `out` then holds nothing of the plain text.
    #[inline]
    pub fn open(&self, counter: u64, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<Opened, AeadError> {
        let (body, tag) = sealed.split_at_checked(out.len()).ok_or(AeadError::Length)?;
        if tag.len() != TAG_LEN {
            return Err(AeadError::Length);
        }
        self.0.open(nonce(counter), aad, body, tag, out).map_err(|Refused| AeadError::Authentication)?;
        Ok(Opened { counter })
    }

    /// Opens `sealed` (cipher text and tag) in place and returns the plain text within it.
    ///
    /// # Errors
    /// [`AeadError`]; `sealed` then holds nothing of the plain text.
    #[inline]
    pub fn open_in_place<'a>(
        &self,
        counter: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<(Opened, &'a mut [u8]), AeadError> {
        let (body, tag) = split_tag(sealed)?;
        self.0.open_in_place(nonce(counter), aad, body, tag).map_err(|Refused| AeadError::Authentication)?;
        Ok((Opened { counter }, body))
    }
}

impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenKey(..)")
    }
}

fn split_tag(buffer: &mut [u8]) -> Result<(&mut [u8], &mut [u8]), AeadError> {
    let body_len = buffer.len().checked_sub(TAG_LEN).ok_or(AeadError::Length)?;
    buffer.split_at_mut_checked(body_len).ok_or(AeadError::Length)
}

#[cfg(test)]
mod tests;
