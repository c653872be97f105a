//! IP addresses and socket addresses in the configuration.

use std::net::{IpAddr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::config::cel;
use crate::config::schema_shape::quoted;

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
