//! The proof that a transition of a session asks for.

/// A peer has shown that it possesses its static key, and for a reattach also the secret of the session's
/// generation, for a takeover the secret of the session itself (R2.1). Zero-size; made only by
/// `handshake::read_init`, `reattach::RequestFrame::read` and `takeover::Awaited::open`, never copied. (For simulated
/// keys the same exchange runs over a cheap Diffie-Hellman; without the keys there is no proof there either.)
///
/// What it does not say, but for a takeover: that the message is fresh. The caller compares the handshake's timestamp or the
/// request's nonce with the highest it has seen *from this peer*, before or right after.
///
/// It cannot be made elsewhere:
/// ```compile_fail,E0423
/// let forged = jvpn_crypto::Proven(());
/// ```
/// ```compile_fail,E0624
/// let forged = jvpn_crypto::Proven::mint();
/// ```
/// nor kept for a second use:
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<jvpn_crypto::Proven>();
/// ```
/// ```compile_fail,E0382
/// fn twice(proof: jvpn_crypto::Proven) -> (jvpn_crypto::Proven, jvpn_crypto::Proven) {
///     (proof, proof)
/// }
/// ```
#[derive(Debug)]
#[must_use = "a proof that nobody asks for proves nothing"]
pub struct Proven(());

impl Proven {
    /// For the three readers of this crate only.
    #[cfg(feature = "handshake")]
    pub(crate) const fn mint() -> Self {
        Self(())
    }
}
