//! Where the gateway is: at most one endpoint per address family. An uplink speaks to the one of the family that its
//! datagrams leave in, so a switch may change the family and the session does not.

use jvpn_abi::Endpoint;
use std::net::IpAddr;

/// The gateway's outer endpoints, the preferred family first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayEndpoints {
    preferred: Option<Endpoint>,
    other: Option<Endpoint>,
}

impl GatewayEndpoints {
    /// The first endpoint of each family, in this order of preference.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut known = Self::default();
        for endpoint in endpoints.into_iter().filter(|endpoint| *endpoint != Endpoint::default()) {
            match (known.preferred, known.other) {
                (None, _) => known.preferred = Some(endpoint),
                (Some(first), None) if first.ip().is_ipv4() != endpoint.ip().is_ipv4() => {
                    known.other = Some(endpoint);
                }
                (Some(_), _) => {}
            }
        }
        known
    }

    /// All of them, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = Endpoint> + use<> {
        self.preferred.into_iter().chain(self.other)
    }

    /// The preferred one.
    #[must_use]
    pub const fn preferred(&self) -> Option<Endpoint> {
        self.preferred
    }

    /// The one that datagrams from `source` go to.
    #[must_use]
    pub fn of_family(&self, source: IpAddr) -> Option<Endpoint> {
        self.iter().find(|endpoint| endpoint.ip().is_ipv4() == source.is_ipv4())
    }
}

impl From<Endpoint> for GatewayEndpoints {
    fn from(endpoint: Endpoint) -> Self {
        Self::new([endpoint])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_family_and_the_first_one_first() {
        let at = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
        let (v4, v6) = (at("198.51.100.1:4500"), at("[2001:db8::1]:4500"));
        let known = GatewayEndpoints::new([v6, at("[2001:db8::2]:4500"), v4]);
        assert_eq!(known.iter().collect::<Vec<_>>(), [v6, v4]);
        assert_eq!(known.of_family("10.0.0.1".parse().unwrap()), Some(v4));
        assert_eq!(known.of_family("fd00::1".parse().unwrap()), Some(v6));
        assert_eq!(GatewayEndpoints::from(v4).of_family("fd00::1".parse().unwrap()), None);
        assert_eq!(GatewayEndpoints::from(Endpoint::default()).preferred(), None);
    }
}
