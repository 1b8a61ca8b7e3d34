//! The backend in pure Rust: RustCrypto. Also the independent oracle of the differential tests.

use super::{KEY_LEN, NONCE_LEN, Refused};
use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use jvpn_abi::wire::{Suite, TAG_LEN};

/// An expanded key. The AES key schedule is boxed because it is an order of magnitude larger than the other
/// key.
pub(super) enum Key {
    Aes(Box<Aes256Gcm>),
    ChaCha(ChaCha20Poly1305),
}

impl Key {
    pub(super) fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        match suite {
            Suite::Aes256Gcm => Self::Aes(Box::new(Aes256Gcm::new(key.into()))),
            Suite::ChaCha20Poly1305 => Self::ChaCha(ChaCha20Poly1305::new(key.into())),
        }
    }

    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        plaintext: &[u8],
        body: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Refused> {
        if body.len() != plaintext.len() {
            return Err(Refused);
        }
        body.copy_from_slice(plaintext);
        self.seal_in_place(nonce, aad, body, tag)
    }

    pub(super) fn seal_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        body: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Refused> {
        let tag: &mut [u8; TAG_LEN] = tag.try_into().map_err(|_| Refused)?;
        let sealed = match self {
            Self::Aes(key) => key.encrypt_in_place_detached(&nonce.into(), aad, body),
            Self::ChaCha(key) => key.encrypt_in_place_detached(&nonce.into(), aad, body),
        };
        *tag = sealed.map_err(|_| Refused)?.into();
        Ok(())
    }

    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        body: &[u8],
        tag: &[u8],
        out: &mut [u8],
    ) -> Result<(), Refused> {
        if body.len() != out.len() {
            return Err(Refused);
        }
        out.copy_from_slice(body);
        self.open_in_place(nonce, aad, out, tag)
    }

    pub(super) fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        body: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Refused> {
        let tag: &[u8; TAG_LEN] = tag.try_into().map_err(|_| Refused)?;
        let opened = match self {
            Self::Aes(key) => key.decrypt_in_place_detached(&nonce.into(), aad, body, tag.into()),
            Self::ChaCha(key) => key.decrypt_in_place_detached(&nonce.into(), aad, body, tag.into()),
        };
        // As aws-lc does: a refused frame leaves no octets that someone could take for plain text.
        opened.map_err(|_| {
            body.fill(0);
            Refused
        })
    }
}
