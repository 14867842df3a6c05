//! What a node argument means: the number of a node of a development cluster, an address, or the
//! beginning of a node id.
use crate::cluster::Tools;
use crate::error::ToolError;
use anyhow::Context;
use dfs_core::client::{Client, ClientError};
use dfs_core::types::{NodeId, StoreId};
use dfs_core::wire::node::{MemberInfo, NodeIdentityInfo};
use dfs_core::wire::{NodeRequest, NodeResponse};
use dfs_daemon::dev::{DevDir, default_dir};
use std::net::SocketAddr;

/// One node that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// Its TCP address.
    pub addr: SocketAddr,
}

/// Who a node is.
///
/// # Errors
/// It does not answer.
pub async fn identify(client: &Client, addr: SocketAddr) -> anyhow::Result<NodeIdentityInfo> {
    match client.node_call(addr, NodeRequest::Id).await {
        Ok(NodeResponse::Id(id)) => Ok(id),
        Ok(_) => Err(ClientError::Mismatch { asked: "id" }.into()),
        Err(e) => Err(e).with_context(|| format!("node {addr}")),
    }
}

/// Members as a node sees them.
///
/// # Errors
/// It does not answer.
pub async fn members(client: &Client, addr: SocketAddr) -> anyhow::Result<Vec<MemberInfo>> {
    match client.node_call(addr, NodeRequest::Members).await {
        Ok(NodeResponse::Members(members)) => Ok(members),
        Ok(_) => Err(ClientError::Mismatch { asked: "members" }.into()),
        Err(e) => Err(e).with_context(|| format!("node {addr}")),
    }
}

/// The first of the known addresses that answers, and who it is.
///
/// # Errors
/// None does; the last one's words.
pub async fn any(client: &Client) -> anyhow::Result<NodeIdentityInfo> {
    let mut last = None;
    for addr in &client.config().seeds {
        match identify(client, *addr).await {
            Ok(id) => return Ok(id),
            Err(e) => last = Some(e),
        }
    }
    let last = last.unwrap_or_else(|| ToolError::Unreachable("no address is known".into()).into());
    Err(last.context("no node answers"))
}

/// All nodes: those that some node lists as a member, that node itself, and, if there is a leader,
/// those that have a store.
///
/// # Errors
/// No node answers.
pub async fn directory(client: &Client) -> anyhow::Result<Vec<Known>> {
    let me = any(client).await?;
    let mut all = vec![Known {
        node: me.node,
        store: me.store,
        addr: me.tcp,
    }];
    let listed = members(client, me.tcp).await?;
    all.extend(listed.iter().map(|m| Known {
        node: m.node,
        store: m.store,
        addr: m.tcp,
    }));
    if let Ok(status) = client.status().await {
        let known = status.stores.iter();
        all.extend(known.map(|s| Known {
            node: s.node,
            store: s.store,
            addr: s.addr,
        }));
    }
    all.sort_by_key(|k| k.addr);
    all.dedup_by_key(|k| (k.node, k.addr));
    Ok(all)
}

/// The address that a node argument stands for.
///
/// # Errors
/// No such node, or several.
pub async fn addr_of(tools: &mut Tools, text: &str) -> anyhow::Result<SocketAddr> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    if let Some(addr) = dev_node(text, tools.global.cluster.as_deref())? {
        return Ok(addr);
    }
    let client = tools.reader().await?;
    let known = directory(&client).await?;
    choose(text, &known).map(|k| k.addr)
}

/// The node that a node argument stands for, also if it is down.
///
/// # Errors
/// No such node, or several.
pub async fn known_of(tools: &mut Tools, text: &str) -> anyhow::Result<Known> {
    let client = tools.reader().await?;
    let known = directory(&client).await?;
    let addr: Option<SocketAddr> = match text.parse() {
        Ok(addr) => Some(addr),
        Err(_) => dev_node(text, tools.global.cluster.as_deref())?,
    };
    let Some(addr) = addr else {
        return choose(text, &known);
    };
    // Of two at one address the later one lives; it was asked last.
    let found = known.iter().rfind(|k| k.addr == addr).copied();
    found.ok_or_else(|| ToolError::NotFound(format!("no node is known at {addr}")).into())
}

/// The address of node number `text` of a development cluster; none if it is no small number, or
/// there is no such cluster.
fn dev_node(text: &str, cluster: Option<&str>) -> anyhow::Result<Option<SocketAddr>> {
    let Some(number) = text.parse::<usize>().ok().filter(|_| text.len() <= 2) else {
        return Ok(None);
    };
    let root = cluster.map(std::path::PathBuf::from).filter(|d| d.is_dir());
    let dir = DevDir::new(root.unwrap_or_else(default_dir));
    let nodes = dir.nodes()?;
    if nodes.is_empty() {
        return Ok(None);
    }
    match number.checked_sub(1).and_then(|i| nodes.get(i)) {
        Some(addr) => Ok(Some(*addr)),
        None => {
            let all = nodes.len();
            let words = format!("no node {number}: this development cluster has 1 to {all}");
            Err(ToolError::NotFound(words).into())
        }
    }
}

/// The only node whose id begins with `text`.
fn choose(text: &str, known: &[Known]) -> anyhow::Result<Known> {
    let wanted = text.replace('-', "").to_ascii_lowercase();
    let mut fitting: Vec<Known> = known.to_vec();
    fitting.retain(|k| !wanted.is_empty() && k.node.to_string().starts_with(&wanted));
    let list = |nodes: &[Known]| {
        let lines: Vec<String> = nodes
            .iter()
            .map(|k| format!("{} at {}", k.node, k.addr))
            .collect();
        lines.join(", ")
    };
    match fitting.as_slice() {
        [one] => Ok(*one),
        [first, rest @ ..] if rest.iter().all(|k| k.node == first.node) => {
            // One node that has changed its address: the store's view comes last.
            Ok(*fitting.last().unwrap_or(first))
        }
        [] => {
            let words = format!("no node {text:?}; there are: {}", list(known));
            Err(ToolError::NotFound(words).into())
        }
        several => {
            let words = format!("{text:?} may be any of: {}", list(several));
            Err(ToolError::Usage(words).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Exit, exit_of};

    fn known() -> Vec<Known> {
        let node = |id: u128, port| Known {
            node: NodeId(id << 96),
            store: StoreId(1),
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        vec![
            node(0xab12_0000, 1),
            node(0xab34_0000, 2),
            node(0xcd00_0000, 3),
        ]
    }

    #[test]
    fn a_unique_beginning_of_an_id_names_a_node() {
        assert_eq!(choose("cd", &known()).unwrap().addr.port(), 3);
        assert_eq!(choose("AB3", &known()).unwrap().addr.port(), 2);
    }

    #[test]
    fn an_unknown_or_ambiguous_one_is_refused_with_the_candidates() {
        let none = choose("ff", &known()).unwrap_err();
        assert!(none.to_string().contains("127.0.0.1:3"), "{none}");
        assert_eq!(exit_of(&none), Exit::NotFound);
        let several = choose("ab", &known()).unwrap_err();
        assert_eq!(exit_of(&several), Exit::Usage);
        assert!(several.to_string().contains("127.0.0.1:2"), "{several}");
        assert!(choose("", &known()).is_err());
    }

    #[test]
    fn numbers_name_nodes_of_a_development_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let addrs = DevDir::new(dir.path()).prepare(3, "").unwrap();
        let dev = dir.path().to_str();
        assert_eq!(dev_node("2", dev).unwrap(), Some(addrs[1]));
        assert_eq!(exit_of(&dev_node("4", dev).unwrap_err()), Exit::NotFound);
        assert_eq!(dev_node("abc", dev).unwrap(), None);
        assert_eq!(dev_node("123", dev).unwrap(), None);
    }
}
