//! What drivers can do, by the kernel's sources and documentation. A prediction: the data plane always asks the kernel for
//! what it really got.

use serde::Serialize;

/// How XDP programs can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpSupport {
    /// In the driver.
    Native,
    /// Behind the driver, on socket buffers.
    Generic,
}

/// How AF_XDP gets frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfXdpSupport {
    /// The device writes into our memory.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

/// One driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DriverNotes {
    /// XDP.
    pub xdp: XdpSupport,
    /// AF_XDP.
    pub af_xdp: AfXdpSupport,
    /// Why, in a sentence.
    pub why: &'static str,
    /// Native XDP needs as many spare channels as are in use (dedicated transmit queues).
    pub halves_channels: bool,
}

const ZERO_COPY: [&str; 9] =
    ["i40e", "ixgbe", "ice", "igc", "igb", "mlx5_core", "st_gmac", "stmmac", "am65-cpsw-nuss"];
const NATIVE: [&str; 13] = [
    "bnxt_en",
    "mlx4_en",
    "nfp",
    "qede",
    "sfc",
    "tun",
    "hv_netvsc",
    "xen_netfront",
    "vmxnet3",
    "mvneta",
    "thunder-nicvf",
    "dpaa2-eth",
    "fsl_dpa",
];

/// What is known of a driver.
#[must_use]
pub fn driver_notes(driver: Option<&str>) -> DriverNotes {
    let notes = |xdp, af_xdp, why| DriverNotes { xdp, af_xdp, why, halves_channels: false };
    match driver {
        Some(name) if ZERO_COPY.contains(&name) => notes(
            XdpSupport::Native,
            AfXdpSupport::ZeroCopy,
            "the driver has native XDP and zero-copy AF_XDP; the first native attach may take the link down for seconds",
        ),
        // Without a spare transmit queue for each CPU, XDP_TX and XDP_REDIRECT to a device take a lock (Linux 5.13,
        // virtnet_xdp_set). Nothing here sends by them.
        Some("virtio_net") => notes(
            XdpSupport::Native,
            AfXdpSupport::ZeroCopy,
            "native XDP if guest offloads can be switched off, with any number of channels; zero-copy from Linux 6.11 on",
        ),
        Some("veth") => notes(
            XdpSupport::Native,
            AfXdpSupport::Copy,
            "veth has native XDP, but no zero-copy: the kernel copies each frame once",
        ),
        Some("ena" | "gve") => DriverNotes {
            halves_channels: true,
            ..notes(
                XdpSupport::Native,
                AfXdpSupport::Copy,
                "native XDP takes a transmit queue of its own for each channel: at most half of the channels may be in use",
            )
        },
        Some(name) if NATIVE.contains(&name) => notes(
            XdpSupport::Native,
            AfXdpSupport::Copy,
            "the driver has native XDP, but no zero-copy AF_XDP in the mainline kernel",
        ),
        Some("bonding") => notes(
            XdpSupport::Generic,
            AfXdpSupport::Copy,
            "AF_XDP sockets cannot be bound to a bond: name its slaves instead",
        ),
        Some(_) => notes(
            XdpSupport::Generic,
            AfXdpSupport::Copy,
            "no native XDP is known of this driver: generic XDP runs behind socket buffers and costs about half of the rate",
        ),
        None => notes(
            XdpSupport::Generic,
            AfXdpSupport::Copy,
            "the kernel names no driver for this interface; generic XDP works everywhere",
        ),
    }
}
