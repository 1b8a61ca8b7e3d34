//! The ladder that each port stands on: zero-copy, copy, generic XDP, and at its foot plain sockets. It is climbed down
//! as far as the host makes necessary and no further, and every step says why.

use crate::port::AfXdpMode;
use serde::{Deserialize, Serialize};

/// How far down a port may go, or must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As far as it has to.
    #[default]
    Auto,
    /// Not below native XDP: the data plane does not start otherwise.
    RequireNative,
    /// Generic XDP at once, for drivers whose native mode misbehaves.
    Generic,
    /// No AF_XDP at all, for hosts whose kernel or policy does not allow it.
    NoAfXdp,
}

/// A step, from the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Native XDP; the device writes into UMEM.
    ZeroCopy,
    /// Native XDP; the kernel copies.
    Copy,
    /// XDP behind the driver; the kernel copies.
    Generic,
    /// A UDP socket or a TUN device.
    NoAfXdp,
}

impl Step {
    /// The step of an AF_XDP socket behind a program that is attached this way.
    #[must_use]
    pub fn of(xdp: Option<&str>, mode: AfXdpMode) -> Self {
        match (xdp, mode) {
            (None, _) => Self::NoAfXdp,
            (Some("generic"), _) => Self::Generic,
            (Some(_), AfXdpMode::ZeroCopy) => Self::ZeroCopy,
            (Some(_), AfXdpMode::Copy | AfXdpMode::Unknown | AfXdpMode::None) => Self::Copy,
        }
    }
}

/// Why a step was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The configuration says so.
    Configured,
    /// The driver has no zero-copy, or refused it for this queue.
    NoZeroCopy,
    /// The driver takes no XDP program.
    NoNativeXdp,
    /// The kernel takes none for this interface in any mode.
    NoXdp,
    /// The kernel gives no AF_XDP socket on this interface.
    NoSocket,
    /// Another interface of the same side has to do without AF_XDP, and a side has one or the other.
    Together,
    /// The kernel refused sockets for some queues: half as many are used.
    FewerQueues,
}

/// A step down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fall {
    /// Where it led.
    pub to: Step,
    /// Why.
    pub why: Why,
    /// What the system said.
    pub said: String,
}

/// Where a port stands and how it came there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The step in use.
    pub step: Step,
    /// The steps down, in order.
    pub falls: Vec<Fall>,
}

impl Standing {
    /// At the top, before anything was tried.
    #[must_use]
    pub const fn top() -> Self {
        Self { step: Step::ZeroCopy, falls: Vec::new() }
    }

    /// Goes a step down and says so.
    pub fn fall(&mut self, interface: &str, to: Step, why: Why, said: impl Into<String>) {
        let said = said.into();
        if why == Why::NoZeroCopy || why == Why::Configured {
            tracing::info!(interface, ?to, ?why, "a step down the ladder: {said}");
        } else {
            tracing::warn!(interface, ?to, ?why, "a step down the ladder (slower): {said}");
        }
        self.step = to;
        self.falls.push(Fall { to, why, said });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_ordered_and_named() {
        assert!(Step::ZeroCopy < Step::Copy && Step::Copy < Step::Generic && Step::Generic < Step::NoAfXdp);
        assert_eq!(Step::of(Some("native"), AfXdpMode::ZeroCopy), Step::ZeroCopy);
        assert_eq!(Step::of(Some("native"), AfXdpMode::Copy), Step::Copy);
        assert_eq!(Step::of(Some("generic"), AfXdpMode::Copy), Step::Generic);
        assert_eq!(Step::of(None, AfXdpMode::Unknown), Step::NoAfXdp);
        let mut standing = Standing::top();
        standing.fall("eth0", Step::Copy, Why::NoZeroCopy, "veth");
        let shown = serde_json::to_value(&standing).unwrap();
        assert_eq!(shown["step"], "copy");
        assert_eq!(shown["falls"][0]["why"], "no_zero_copy");
    }
}
