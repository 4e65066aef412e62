//! Addresses that notifications may be sent to: pure.
//!
//! A target's name is looked up by whoever runs its DNS. An answer that points at the link-local network
//! or at a cloud's metadata service would hand patients' data, or our credentials, to the wrong party:
//! there, we never connect. Loopback and private networks are allowed: that is where sidecars and clinics
//! are. A target's own list of networks narrows it further.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// Metadata services outside the link-local network.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba Cloud
    Ipv4Addr::new(168, 63, 129, 16),   // Azure
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle Cloud
];
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), // AWS
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),  // AWS, credentials of EKS pods
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),  // Google Cloud
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), // Oracle Cloud
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),   // Scaleway
];

/// The networks that a target may be in: any, if it lists none. What is forbidden stays so.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Arc<[IpNet]>);

impl Allowed {
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into())
    }

    /// Whether we may connect to this address. One that is mapped into IPv6 counts as what it stands for.
    pub fn permits(&self, address: IpAddr) -> bool {
        let canonical = address.to_canonical();
        let listed = |network: &IpNet| network.contains(&canonical);
        !is_forbidden(address) && (self.0.is_empty() || self.0.iter().any(listed))
    }
}

/// Whether we never connect to this address.
pub fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        // All of 0.0.0.0/8 means "this host" to Linux, and no one writes it as a destination.
        IpAddr::V4(v4) => v4.octets()[0] == 0 || is_metadata(v4),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.is_unspecified()
                || METADATA_V6.contains(&v6)
                || embedded(v6).any(is_metadata)
        }
    }
}

fn is_metadata(address: Ipv4Addr) -> bool {
    address.is_link_local() || METADATA_V4.contains(&address)
}

/// The IPv4 addresses that an IPv6 one may stand for, once a translator or a tunnel has it.
fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    const LAST: [usize; 4] = [12, 13, 14, 15];
    let octets = address.octets();
    let places: &[[usize; 4]] = match address.segments() {
        // IPv4-compatible (RFC 4291, 2.5.5.1); IPv4-translated (RFC 2765, 2.1); NAT64 with the
        // well-known prefix (RFC 6052, 2.1); ISATAP (RFC 5214, 6.1); Teredo, in its complement.
        [0, 0, 0, 0, 0 | 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _]
        | [_, _, _, _, 0 | 0x200, 0x5efe, _, _]
        | [0x2001, 0, _, _, _, _, _, _] => &[LAST],
        // NAT64 with a prefix of the operator's own (RFC 8215): how long it is, only they know, and so
        // where the address lies (RFC 6052, 2.2).
        [0x64, 0xff9b, 1, ..] => &[[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], LAST],
        // 6to4 (RFC 3056, 2).
        [0x2002, ..] => &[[2, 3, 4, 5]],
        _ => &[],
    };
    // Teredo (RFC 4380, 4) inverts each bit.
    let inverted = if address.segments()[..2] == [0x2001, 0] {
        0xff
    } else {
        0
    };
    let at = move |place: &[usize; 4]| Ipv4Addr::from(place.map(|byte| octets[byte] ^ inverted));
    places.iter().map(at)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Each spelling of an address that stands for one that is forbidden.
    pub const FORBIDDEN: &[&str] = &[
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "0.0.0.1",
        "::",
        "fe80::1",
        "fe80::a9fe:a9fe",
        "febf::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd00:0ec2:0:0:0:0:0:0254",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        // Mapped.
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "0:0:0:0:0:FFFF:A9FE:A9FE",
        "::ffff:168.63.129.16",
        "::ffff:0.0.0.0",
        // Compatible, translated.
        "::169.254.169.254",
        "::a9fe:a9fe",
        "::100.100.100.200",
        "::ffff:0:169.254.169.254",
        "::ffff:0:168.63.129.16",
        // NAT64, with prefixes of 96, and of 48, 56, 64 and 96 bits of the operator's own.
        "64:ff9b::169.254.169.254",
        "64:ff9b::a83f:8110",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
        "64:ff9b:1::169.254.169.254",
        "64:ff9b:1:2:3:4:100.100.100.200",
        // 6to4, Teredo, ISATAP.
        "2002:a9fe:a9fe::",
        "2002:a83f:8110:1::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "fd00::5efe:169.254.169.254",
        "2001:db8::200:5efe:168.63.129.16",
    ];

    /// Hosts that are no address in the usual form, and that resolvers read as one that is forbidden.
    pub const FORBIDDEN_HOSTS: &[&str] = &[
        "2852039166", // decimal
        "0xa9fea9fe", // hexadecimal
        "0XA9FEA9FE",
        "025177524776", // octal
        "0251.0376.0251.0376",
        "0xa9.0xfe.0xa9.0xfe",
        "0xa9.254.0251.254",
        "169.16689662", // fewer parts
        "169.254.43518",
        "0",
        "0x0",
        "0xa83f8110", // 168.63.129.16
        "1684301000", // 100.100.100.200
    ];

    #[test]
    fn link_local_and_metadata_are_forbidden_in_every_form() {
        let all: Allowed =
            Allowed::new(vec!["::/0".parse().unwrap(), "0.0.0.0/0".parse().unwrap()]);
        for forbidden in FORBIDDEN {
            let address = forbidden.parse().unwrap();
            assert!(is_forbidden(address), "G02: {forbidden}");
            assert!(!Allowed::default().permits(address), "G02: {forbidden}");
            assert!(
                !all.permits(address),
                "G02: {forbidden}: a list opens nothing"
            );
        }
    }

    #[test]
    fn loopback_private_and_public_addresses_are_not() {
        for allowed in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.201",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "8.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "64:ff9b:2::169.254.169.254",
            "2002:a00:1::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::169.254.169.254",
            "fd00:ec2::253",
            "fec0::1",
            "2001:db8::1",
        ] {
            let address = allowed.parse().unwrap();
            assert!(!is_forbidden(address), "{allowed}");
            assert!(Allowed::default().permits(address), "{allowed}");
        }
    }

    #[test]
    fn a_list_of_networks_narrows() {
        let network = |text: &&str| text.parse().unwrap();
        let listed = ["10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"];
        let listed = Allowed::new(listed.iter().map(network).collect());
        for (address, permitted) in [
            ("10.1.0.0", true),
            ("10.1.255.255", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.7", true),
            ("2001:db8:1::1", true),
            ("10.0.255.255", false),
            ("10.2.0.0", false),
            ("192.0.2.8", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:10.2.0.0", false),
            ("64:ff9b::10.1.2.3", false),
            ("2001:db9::1", false),
        ] {
            assert_eq!(
                listed.permits(address.parse().unwrap()),
                permitted,
                "{address}"
            );
        }
    }
}
