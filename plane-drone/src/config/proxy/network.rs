//! Networks as operators write them: an address, or an address and the length of its prefix (RFC 4632, section 3.1).

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// How many bits stand before the version 4 address in a version 6 one that maps it (RFC 4291, section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Some addresses that have their first bits in common. Those of version 4 are the same as what maps them in version 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// What is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It cannot be read.
    #[error("{0:?} is no IP address, and no network such as 10.0.0.0/8")]
    Unreadable(String),
    /// It may be a mistake: an address is given with the length of a prefix that it is not.
    #[error("{0} has bits beyond its prefix; the network is {1}")]
    BeyondPrefix(IpNet, IpNet),
}

impl Network {
    /// Whether an address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let single = |_| text.parse::<IpAddr>().map(IpNet::from);
        let net = text.parse::<IpNet>().or_else(single).map_err(|_| NetworkError::Unreadable(text.to_owned()))?;
        if net.trunc() != net {
            return Err(NetworkError::BeyondPrefix(net, net.trunc()));
        }
        Ok(Self(canonical(net)))
    }
}

/// A network inside of the mapped addresses as the one of version 4 that it means.
fn canonical(net: IpNet) -> IpNet {
    let mapped = match net.addr().to_canonical() {
        IpAddr::V4(address) if matches!(net, IpNet::V6(_)) => Some(address),
        _ => None,
    };
    let bits = net.prefix_len().checked_sub(MAPPED_BITS);
    mapped.zip(bits).and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(net, IpNet::V4)
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_in_their_networks() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("::ffff:192.0.2.0/120", "192.0.2.9", "192.0.3.9"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
            ("::/0", "2001:db8::1", "8.8.8.8"),
        ] {
            let read: Network = network.parse().unwrap();
            assert!(read.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!read.contains(outside.parse().unwrap()), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/8 ", "a/8", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Unreadable(text.to_owned())), "{text:?}");
        }
        let error = "10.0.0.1/8".parse::<Network>().unwrap_err().to_string();
        assert_eq!(error, "10.0.0.1/8 has bits beyond its prefix; the network is 10.0.0.0/8");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(address: IpAddr, bits in 0u8..=128) {
            let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
            let network: Network = IpNet::new(address, bits).unwrap().trunc().to_string().parse().unwrap();
            prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
            for address in [network.0.addr(), network.0.broadcast()] {
                // A network of version 6 that is wider than the mapped addresses holds none of version 4.
                prop_assert_eq!(network.contains(address), address == address.to_canonical());
            }
        }
    }
}
