//! A cluster of three nodes.

use std::net::SocketAddr;

use anyhow::Context as _;

use super::{Redis, START_LIMIT};
use crate::{ports, wait};

const SLOTS: u16 = 16_384;

/// A running cluster. Its nodes are killed when this value is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes: three with slots, then the replicas that were added.
    pub nodes: Vec<Redis>,
    buses: Vec<SocketAddr>,
}

impl Cluster {
    /// Starts three nodes and gives each a third of the slots.
    ///
    /// # Errors
    /// When they do not become a cluster.
    pub fn start() -> anyhow::Result<Self> {
        let mut cluster = Self {
            nodes: Vec::new(),
            buses: Vec::new(),
        };
        for number in 0..3_u16 {
            cluster.add_node()?;
            let slots = [number * SLOTS / 3, (number + 1) * SLOTS / 3 - 1].map(|slot| slot.to_string());
            cluster.nodes[usize::from(number)].command::<()>(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &slots[0],
                &slots[1],
            ])?;
            let epoch = (number + 1).to_string();
            cluster.nodes[usize::from(number)].command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
        }
        for node in 1..3 {
            cluster.meet(node)?;
        }
        cluster.wait_until_whole()?;
        Ok(cluster)
    }

    /// The place in [`Self::nodes`] of the node that owns the slot of `key`, as the node `asked` says.
    ///
    /// # Errors
    /// When it does not know.
    pub fn owner(&self, asked: usize, key: &str) -> anyhow::Result<usize> {
        let slot: u16 = self.nodes[asked].command(&["CLUSTER", "KEYSLOT", key])?;
        // The first and the last slot, then the nodes, the owner first.
        let ranges: Vec<Vec<redis::Value>> = self.nodes[asked].command(&["CLUSTER", "SLOTS"])?;
        let mut owner = None;
        for range in ranges {
            let [first, last, node, ..] = &range[..] else {
                continue;
            };
            let [first, last]: [u16; 2] = [
                redis::from_redis_value(first.clone())?,
                redis::from_redis_value(last.clone())?,
            ];
            if (first..=last).contains(&slot) {
                let node: Vec<redis::Value> = redis::from_redis_value(node.clone())?;
                owner = node.get(1).cloned();
            }
        }
        let port: u16 = redis::from_redis_value(owner.context("no node has the slot")?)?;
        let place = self.nodes.iter().position(|node| node.address.port() == port);
        place.context("the owner is not there")
    }

    /// The id of the node at this place.
    ///
    /// # Errors
    /// When it does not say.
    pub fn id(&self, node: usize) -> anyhow::Result<String> {
        self.nodes[node].command(&["CLUSTER", "MYID"])
    }

    /// Adds a replica of the node at `of`, and gives its place.
    ///
    /// # Errors
    /// When it does not follow.
    pub fn add_replica(&mut self, of: usize) -> anyhow::Result<usize> {
        let (place, id) = (self.nodes.len(), self.id(of)?);
        self.add_node()?;
        self.meet(place)?;
        wait::until("the replica follows", START_LIMIT, || {
            self.nodes[place].command::<()>(&["CLUSTER", "REPLICATE", &id])?;
            let info: String = self.nodes[place].command(&["INFO", "replication"])?;
            anyhow::ensure!(info.contains("master_link_status:up"), "{info}");
            Ok(())
        })?;
        self.wait_until_whole()?;
        Ok(place)
    }

    fn add_node(&mut self) -> anyhow::Result<()> {
        // By default Redis takes the port 10,000 above, which another program may have.
        let bus = ports::free()?;
        let bus_port = format!("cluster-port {}", bus.port());
        let settings = [
            "cluster-enabled yes",
            "cluster-node-timeout 1500",
            "repl-diskless-sync-delay 0",
            &bus_port,
        ];
        self.nodes.push(Redis::start_with(None, &settings)?);
        self.buses.push(bus);
        Ok(())
    }

    /// Introduces a node to the first one.
    fn meet(&self, node: usize) -> anyhow::Result<()> {
        let port = self.nodes[0].address.port().to_string();
        let bus = self.buses[0].port().to_string();
        self.nodes[node].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
    }

    fn wait_until_whole(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            wait::until("the cluster is whole", START_LIMIT, || {
                let info: String = node.command(&["CLUSTER", "INFO"])?;
                let all = format!("cluster_known_nodes:{}\r", self.nodes.len());
                anyhow::ensure!(info.contains("cluster_state:ok") && info.contains(&all), "{info}");
                Ok(())
            })?;
        }
        Ok(())
    }
}
