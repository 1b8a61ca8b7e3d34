//! ROUTES as workers read it: PREFIXES, the same in memory. No system call, no lock, no allocation.

use crate::frame::Address;
use crate::pipeline::Routes;
use jvpn_tables::Prefixes;

impl Routes for Prefixes {
    #[inline]
    fn slot_of(&self, destination: Address) -> Option<u32> {
        Self::slot_of(self, destination.0)
    }

    #[inline]
    fn generation(&self) -> u64 {
        Self::generation(self)
    }
}
