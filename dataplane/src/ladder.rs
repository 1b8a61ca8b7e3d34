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
    /// The driver has no native XDP (EOPNOTSUPP).
    NoNativeXdp,
    /// Another XDP program is attached to the interface (EBUSY, EEXIST).
    OtherProgram,
    /// The kernel does not let this process (EPERM, EACCES).
    NotPermitted,
    /// The driver has native XDP but not for this interface as it is set: MTU, queues, offloads (EINVAL, ERANGE, ENOSPC …).
    Unfit,
    /// An earlier process left the port in generic mode, and a link keeps its mode.
    LeftGeneric,
    /// The kernel takes none for this interface in any mode.
    NoXdp,
    /// The kernel gives no AF_XDP socket on this interface.
    NoSocket,
    /// Another interface of the same side has to do without AF_XDP, and a side has one or the other.
    Together,
    /// The kernel refused sockets for some queues: half as many are used.
    FewerQueues,
}

impl Why {
    /// Why attaching a program failed, by the kernel's error number; `otherwise` if that says nothing in particular.
    #[must_use]
    pub fn of_attaching(error: &(dyn std::error::Error + 'static), otherwise: Self) -> Self {
        let numbers = std::iter::successors(Some(error), |error| error.source());
        let number =
            numbers.filter_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error()).last();
        match number {
            Some(libc::EBUSY | libc::EEXIST) => Self::OtherProgram,
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::EINVAL | libc::ERANGE | libc::ENOSPC | libc::E2BIG | libc::EMSGSIZE) => Self::Unfit,
            Some(_) | None => otherwise,
        }
    }

    /// What to do about it, where that is not plain.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::OtherProgram => "; another XDP program is attached ('ip -details link show' names it)",
            Self::NotPermitted => {
                "; CAP_NET_ADMIN and CAP_BPF are needed, and no lockdown or seccomp filter in the way"
            }
            Self::Unfit => {
                "; often the MTU is too large for XDP, all of the device's channels are in use where XDP needs some of its \
                 own ('ethtool -L DEV combined N' with half of them), or LRO is on ('ethtool -K DEV lro off')"
            }
            Self::Configured
            | Self::NoZeroCopy
            | Self::NoNativeXdp
            | Self::LeftGeneric
            | Self::NoXdp
            | Self::NoSocket
            | Self::Together
            | Self::FewerQueues => "",
        }
    }
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

    /// R0.5: the kernel's reasons are told apart, however deep they lie.
    #[test]
    fn r0_5_the_kernels_reasons_are_told_apart() {
        #[derive(Debug, thiserror::Error)]
        #[error("attaching")]
        struct Outer(#[source] std::io::Error);
        for (number, why) in [
            (libc::EOPNOTSUPP, Why::NoNativeXdp),
            (libc::EBUSY, Why::OtherProgram),
            (libc::EEXIST, Why::OtherProgram),
            (libc::EPERM, Why::NotPermitted),
            (libc::EINVAL, Why::Unfit),
            (libc::ERANGE, Why::Unfit),
            (libc::ENOMEM, Why::NoNativeXdp),
        ] {
            let error = Outer(std::io::Error::from_raw_os_error(number));
            assert_eq!(Why::of_attaching(&error, Why::NoNativeXdp), why, "{error:?}");
        }
    }

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
