//! What can go wrong in an exchange of control datagrams.

use crate::rng::RandomError;

/// Why a datagram was refused or could not be made. Says nothing that would help who forged it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// Size, type, version or a reserved octet is not what the protocol says.
    #[error("the datagram is not framed as protocol version {} says", jvpn_abi::PROTOCOL_VERSION)]
    Malformed,
    /// The datagram was not made by the peer, for this exchange, under these keys.
    #[error("the datagram does not authenticate: other keys, another exchange, or changed on the way")]
    Authentication,
    /// This exchange already has its answer, or this message was accepted before.
    #[error("the message was accepted before: a repetition or a replay")]
    Repeated,
    /// The caller's payload does not fit the datagram.
    #[error("a payload of {len} octets does not fit: at most {max}")]
    TooLong {
        /// Octets handed in.
        len: usize,
        /// Most octets that fit.
        max: usize,
    },
    /// The key has reached its limit and must be replaced.
    #[error("the key has reached its limit; a new handshake or reattach replaces it")]
    Exhausted,
    /// No randomness, so no message.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// A part below failed where it cannot fail by its contract.
    #[error("internal failure in {0}; please report it")]
    Internal(&'static str),
}
