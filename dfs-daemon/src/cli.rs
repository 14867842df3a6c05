//! Command line of `dfs-daemon`.
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Run one node of a DFS cluster: replica store, master candidate and membership.
///
/// The first node of a cluster is started with --bootstrap; it makes the cluster key, which the
/// others need (copy the file), and every other node is started with --join. On a data directory
/// that is in use already both mean nothing new, so one command line fits every start.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "dfs-daemon", version)]
pub struct Cli {
    /// Configuration file (TOML); flags win over it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address for connections (TCP) and membership (UDP, same port)
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address that others use for this node, if it differs (or if --listen is 0.0.0.0)
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<SocketAddr>,
    /// Begin a new cluster with this node
    #[arg(long, conflicts_with = "join")]
    pub bootstrap: bool,
    /// With --bootstrap: no cluster was ever begun with the key that exists already
    #[arg(long, requires = "bootstrap")]
    pub key_unused: bool,
    /// Join a cluster through these live nodes
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    pub join: Vec<SocketAddr>,
    /// File with the cluster key (default: cluster.key in the data directory)
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Failure domain: no two copies in one zone while another has room
    #[arg(long, value_name = "LABEL")]
    pub zone: Option<String>,
}
