//! Settings of session stores, for tests that use them without a gateway.

use std::net::SocketAddr;
use std::time::Duration;

use vmcp_gateway::config::{RedisAddress, RedisStorage, RedisTopology, ServerName};

/// How long operations may take: this machine may be busy with other things than this test.
const PATIENCE: Duration = Duration::from_secs(10);

/// The virtual server `name`.
#[must_use]
pub fn server(name: &str) -> ServerName {
    ServerName {
        namespace: "tests".to_owned(),
        name: name.to_owned(),
    }
}

/// What a gateway would use that has only the address of one Redis in its configuration.
#[must_use]
pub fn storage(address: SocketAddr) -> RedisStorage {
    RedisStorage {
        topology: RedisTopology::Single(redis_address(address)),
        db: 0,
        key_prefix: "vmcp:".to_owned(),
        username: None,
        password: None,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_millis(250),
    }
}

/// The same, for a test on a busy machine that is not about time.
#[must_use]
pub fn patient(address: SocketAddr) -> RedisStorage {
    RedisStorage {
        connect_timeout: PATIENCE,
        command_timeout: PATIENCE,
        ..storage(address)
    }
}

/// An address as the configuration has it.
#[must_use]
pub fn redis_address(address: SocketAddr) -> RedisAddress {
    RedisAddress {
        host: address.ip().to_string(),
        port: address.port(),
    }
}
