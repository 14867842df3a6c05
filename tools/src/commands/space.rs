//! `status --space`: what takes the space of each node, after the stores have counted what was written
//! last.
use crate::cluster::Tools;
use crate::format::{Table, short_id, size};
use crate::space::{self, NodeSpace};
use dfs_core::wire::master::StoreInfo;
use serde::Serialize;
use std::time::Duration;

/// How long the nodes are waited for, unless told.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
struct NodeView {
    node: String,
    addr: String,
    #[serde(flatten)]
    space: NodeSpace,
    /// Why there is nothing to show.
    error: Option<String>,
}

/// Runs it.
///
/// # Errors
/// No leader answers.
pub async fn run(tools: &mut Tools) -> anyhow::Result<()> {
    let client = tools.reader().await?;
    let within = tools.global.timeout.unwrap_or(PATIENCE);
    let mut stores = client.status().await?.stores;
    stores.sort_by_key(|s| s.addr);
    let mut all = space::of_nodes(&client, &stores, within, true).await?;
    let mut told = |s: &StoreInfo| all.remove(&s.store).unwrap_or_else(|| Err("?".into()));
    if !tools.out.json {
        let rows = stores.iter().map(|s| (s, told(s)));
        let table = table(rows);
        return tools.out.table(&table);
    }
    let view = |s: &StoreInfo| {
        let (space, error) = match told(s) {
            Ok(space) => (space, None),
            Err(error) => (NodeSpace::default(), Some(error)),
        };
        NodeView {
            node: s.node.to_string(),
            addr: s.addr.to_string(),
            space,
            error,
        }
    };
    let views: Vec<_> = stores.iter().map(view).collect();
    tools.out.json(&views)
}

/// A row per node.
pub(super) fn table<'a>(
    rows: impl Iterator<Item = (&'a StoreInfo, Result<NodeSpace, String>)>,
) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "LIVE>",
        "VERSIONS>",
        "QUARANTINE>",
        "RECLAIMABLE>",
        "METADATA>",
        "BALLAST>",
        "ON DISK>",
        "",
    ]);
    for (store, space) in rows {
        let remark;
        let cells = match space {
            Ok(s) => {
                let remarks = [(s.set_aside, "set aside"), (s.unsettled, "not yet counted")];
                let told = remarks.iter().filter(|(bytes, _)| *bytes > 0);
                let told = told.map(|(bytes, what)| format!("{} {what}", size(*bytes)));
                remark = told.collect::<Vec<_>>().join(", ");
                let all = [
                    s.live,
                    s.version,
                    s.quarantine,
                    s.reclaimable,
                    s.metadata,
                    s.ballast,
                    s.total,
                ];
                all.map(size)
            }
            Err(error) => {
                remark = error;
                std::array::from_fn(|_| "?".to_owned())
            }
        };
        let [
            live,
            version,
            quarantine,
            reclaimable,
            metadata,
            ballast,
            total,
        ] = cells;
        let id = short_id(store.node.0);
        table.row([
            id,
            live,
            version,
            quarantine,
            reclaimable,
            metadata,
            ballast,
            total,
            remark,
        ]);
    }
    table
}
