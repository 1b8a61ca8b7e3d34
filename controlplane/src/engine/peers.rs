//! Changing the allow-list while sessions run: nobody but the peers that changed notices.

use super::Engine;
use super::api::{ContextView, PeerSettings};
use super::world::{Peer, Standing};
use jvpn_abi::BootTime;
use jvpn_crypto::keys::PublicKey;
use jvpn_session::Event;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a new allow-list changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeersChanged {
    /// Peers that were not there.
    pub added: usize,
    /// Peers that are not there any more; their sessions ended with KEY_REVOKED.
    pub removed: usize,
    /// Peers with other addresses, prefixes or pre-shared key; their sessions ended with ADMIN_TERMINATE.
    pub changed: usize,
    /// Peers that are as they were.
    pub kept: usize,
}

impl Engine {
    /// Replaces the allow-list. Sessions of peers that stay as they are do not notice.
    pub fn replace_peers(
        &mut self,
        now: BootTime,
        list: Vec<PeerSettings>,
        view: &dyn ContextView,
    ) -> PeersChanged {
        let mut outcome = PeersChanged::default();
        let mut wanted: BTreeMap<PublicKey, PeerSettings> =
            list.into_iter().map(|peer| (peer.public_key, peer)).collect();
        let present: Vec<PublicKey> = self.world.peers.keys().copied().collect();
        for key in present {
            match wanted.remove(&key) {
                None => {
                    self.end_sessions_of(&key, now, view, || Event::PeerRevoked);
                    self.world.peers.remove(&key);
                    outcome.removed += 1;
                }
                Some(settings)
                    if self.world.peers.get(&key).is_some_and(|peer| same(&peer.settings, &settings)) =>
                {
                    if let Some(peer) = self.world.peers.get_mut(&key) {
                        // A list that names a peer again allows it again.
                        peer.standing = Standing::Allowed;
                        peer.settings.name = settings.name;
                    }
                    outcome.kept += 1;
                }
                Some(settings) => {
                    self.end_sessions_of(&key, now, view, || Event::AdminTerminated);
                    if let Some(peer) = self.world.peers.get_mut(&key) {
                        peer.settings = settings;
                        peer.standing = Standing::Allowed;
                    }
                    outcome.changed += 1;
                }
            }
        }
        for (key, settings) in wanted {
            self.world.peers.insert(key, Peer::new(settings));
            outcome.added += 1;
        }
        outcome
    }

    fn end_sessions_of(
        &mut self,
        peer: &PublicKey,
        now: BootTime,
        view: &dyn ContextView,
        why: impl Fn() -> Event,
    ) {
        for id in self.world.sessions_of(peer) {
            self.happen(id, why(), now, view);
        }
    }
}

/// Whether a peer's sessions may go on under its new settings. The name is only shown.
fn same(old: &PeerSettings, new: &PeerSettings) -> bool {
    old.addresses == new.addresses
        && old.prefixes == new.prefixes
        && old.preshared_key.same_as(&new.preshared_key)
}
