//! What the data plane would do on this machine, and what a person should change first: `jvpn-dataplane plan`.
//!
//! [`Facts`] are read by [`probe`] and nothing else; [`decide`] makes a [`Plan`] of them without looking at the system, so
//! that machines which nobody here owns can be tested from a recording. A starting data plane takes its workers' CPUs and
//! queues from the same function: what is printed is what is done.

mod advice;
mod checksums;
mod command;
mod cpus;
mod decide;
mod drivers;
mod ethtool;
mod facts;
mod probe;
mod settle;
mod show;

pub use checksums::{leave_checksums, warn_of_generic};
pub use command::{Command, run};
pub use cpus::{choose_cpus, parse_cpu_list};
pub use decide::{Plan, PortPlan, Role, Seat, Wishes, decide, seats};
pub use drivers::{AfXdpSupport, DriverNotes, XdpSupport, driver_notes};
pub use ethtool::Flow;
pub use facts::{
    BusyPollSettings, ChannelKind, Channels, Cpus, Facts, HugePagePool, Interface, Irq, MemoryLock, Node,
    Offloads, Rss, Senders,
};
pub use probe::{facts, queues_in_use};
pub use settle::{Setting, channels, settings, settle, warn};
pub use show::text;

pub use advice::{Advice, Urgency};
