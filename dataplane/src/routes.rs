//! ROUTES as workers read it: the kernel's table, asked only where packets between clients are turned round.

use crate::frame::Address;
use crate::pipeline::Routes;
use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use std::os::fd::OwnedFd;

/// The table behind a descriptor.
pub struct RouteTable(LpmTrie<MapData, [u8; 16], u32>);

impl RouteTable {
    /// The ROUTES table that `fd` names.
    ///
    /// # Errors
    /// If it is another kind of table.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let table = MapData::from_fd(fd).context("ROUTES")?;
        Ok(Self(LpmTrie::try_from(Map::LpmTrie(table)).context("ROUTES")?))
    }
}

impl Routes for RouteTable {
    fn slot_of(&self, destination: Address) -> Option<u32> {
        // One system call, no allocation. With `client_to_client` every packet towards the LAN pays it, because a site's
        // prefix behind another client may be anywhere.
        self.0.get(&Key::new(128, destination.0.to_be_bytes()), 0).ok()
    }
}

impl std::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RouteTable")
    }
}
