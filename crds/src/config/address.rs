//! IP addresses and socket addresses in the configuration.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::config::cel;
use crate::config::schema_shape::quoted;

/// The error number of Linux for an address family that the kernel does not have.
const EAFNOSUPPORT: i32 = 97;

/// The address to listen on instead of `[::]` on a machine without IPv6, for which listening on `address` fails with `error`; `None` for another
/// address or another error.
#[must_use]
pub fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let has_no_ipv6 =
        error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable;
    let is_any = address.is_ipv6() && address.ip().is_unspecified();
    (is_any && has_no_ipv6).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// Schema of a listen address: an IP address and a port. Host names are not allowed, because their addresses may change.
pub(super) struct Listener;

impl Listener {
    const EXAMPLES: [&str; 3] = ["127.0.0.1:4483", "0.0.0.0:4483", "[::]:4483"];
}

/// An IP address as text.
pub(super) struct Ip(IpAddr);

impl Ip {
    const EXAMPLES: [&str; 2] = ["10.0.0.7", "fd00::7"];
}

pub(super) fn listener<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        de::Error::custom(format!(
            "found {}; expected an IP address and a port from 0 to 65535, for example {}; a name such as localhost is not looked up",
            quoted(&text),
            Listener::EXAMPLES.join(" or ")
        ))
    })
}

impl JsonSchema for Listener {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Listener".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "an IP address and a port",
            "examples": Self::EXAMPLES,
        })
    }
}

pub(super) fn ips<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let ips = Vec::<Ip>::deserialize(deserializer)?;
    Ok(ips.into_iter().map(|Ip(address)| address).collect())
}

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| {
            de::Error::custom(format!(
                "found {}; expected an IP address, for example {}; a host name belongs in `url`",
                quoted(&text),
                Self::EXAMPLES.join(" or ")
            ))
        })
    }
}

impl JsonSchema for Ip {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ip".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "an IP address",
            "examples": Self::EXAMPLES,
            "maxLength": 45,
            "x-kubernetes-validations": [cel::rule(
                "isIP(self)",
                "expected an IP address; a host name belongs in `url`",
            )],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Only `[::]` is replaced, and only if the machine has no IPv6.
    #[test]
    fn any_address_is_ipv4_without_ipv6() {
        let missing = io::Error::from_raw_os_error(EAFNOSUPPORT);
        let replaced = |text: &str, error| without_ipv6(text.parse().unwrap(), error);
        assert_eq!(
            replaced("[::]:4483", &missing),
            Some("0.0.0.0:4483".parse().unwrap())
        );
        assert_eq!(replaced("[::1]:4483", &missing), None);
        assert_eq!(replaced("0.0.0.0:4483", &missing), None);
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(replaced("[::]:4483", &taken), None);
    }
}
