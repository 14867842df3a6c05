//! What commands work with: the connection to the cluster, results, and path arguments.
use crate::cli::Global;
use crate::error::{ToolError, is_code};
use crate::format::escape;
use crate::output::Out;
use crate::path::{ClusterPath, Places};
use anyhow::Context;
use dfs_core::client::{Client, ClientConfig, ClientError, FileLayer};
use dfs_core::types::{Attr, FileKind, Ino, Name};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::master::DirEntry;
use dfs_daemon::discover::discover;
use std::ffi::OsStr;
use std::sync::Arc;

/// Entries asked for at once.
const PAGE: u32 = 2048;
/// Symlinks followed in one path.
const LINKS_MAX: u32 = 40;

/// One run of the tools.
pub struct Tools {
    /// Global flags.
    pub global: Global,
    /// Results.
    pub out: Out,
    places: Places,
    client: Option<Arc<Client>>,
    files: Option<Arc<FileLayer>>,
}

impl Tools {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(global: Global, out: Out) -> Self {
        Self {
            global,
            out,
            places: Places::detect(),
            client: None,
            files: None,
        }
    }

    /// What a path argument means.
    ///
    /// # Errors
    /// It is no path.
    pub fn path(&self, arg: &OsStr) -> anyhow::Result<ClusterPath> {
        self.places.resolve(arg)
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let Global {
            cluster, key_file, ..
        } = &self.global;
        let mut config = discover(cluster.as_deref(), key_file.as_deref())?;
        config.label = format!("dfs-tools pid {}", std::process::id());
        if let Some(timeout) = self.global.timeout {
            config.deadline_data = timeout;
            config.deadline_meta = timeout;
            config.attempt_timeout = config.attempt_timeout.min(timeout);
        }
        Ok(config)
    }

    /// A connection that only reads; does not wait for a leader.
    ///
    /// # Errors
    /// No cluster is named, or its key cannot be used.
    pub async fn reader(&mut self) -> anyhow::Result<Arc<Client>> {
        match &self.client {
            Some(client) => Ok(client.clone()),
            None => self.connect(false).await,
        }
    }

    /// A connection that may change things.
    ///
    /// # Errors
    /// No cluster is named, or no leader is reached in time.
    pub async fn writer(&mut self) -> anyhow::Result<Arc<Client>> {
        match self.client.take() {
            Some(client) if client.config().session => {
                self.client = Some(client.clone());
                Ok(client)
            }
            other => {
                if let Some(reader) = other {
                    reader.shutdown().await;
                }
                self.connect(true).await
            }
        }
    }

    async fn connect(&mut self, session: bool) -> anyhow::Result<Arc<Client>> {
        let mut config = self.config()?;
        config.session = session;
        let client = Client::connect(config)
            .await
            .context("cannot reach the cluster")?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Files of the cluster, for reading and writing content.
    ///
    /// # Errors
    /// As [`writer`](Self::writer).
    pub async fn files(&mut self) -> anyhow::Result<(Arc<Client>, Arc<FileLayer>)> {
        let client = self.writer().await?;
        let files = match &self.files {
            Some(files) => files.clone(),
            None => self.files.insert(FileLayer::new(&client)).clone(),
        };
        Ok((client, files))
    }

    /// Ends the session. Whatever was written has been committed before.
    pub async fn close(&mut self) {
        self.files = None;
        if let Some(client) = self.client.take() {
            client.clear_hooks();
            client.shutdown().await;
        }
    }
}

/// The inode of a path; a symlink in the last place is followed only if asked.
///
/// # Errors
/// `NotFound` and the like, with the path.
pub async fn walk(client: &Client, path: &ClusterPath, follow: bool) -> anyhow::Result<Attr> {
    let follow = follow || path.wants_dir;
    let attr = client
        .walk(&path.to_bytes(), follow)
        .await
        .with_context(|| path.to_string())?;
    if path.wants_dir && attr.kind != FileKind::Dir {
        return Err(anyhow::Error::from(ClientError::from(ErrorCode::NotDir)))
            .with_context(|| path.to_string());
    }
    Ok(attr)
}

/// As [`walk`], but `None` if there is no such name.
///
/// # Errors
/// Anything but `NotFound`.
pub async fn look(
    client: &Client,
    path: &ClusterPath,
    follow: bool,
) -> anyhow::Result<Option<Attr>> {
    match walk(client, path, follow).await {
        Ok(attr) => Ok(Some(attr)),
        Err(e) if is_code(&e, ErrorCode::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The directory above a path, and the path's name in it.
///
/// # Errors
/// The directory is not there, or the path is the root.
pub async fn parent_of(client: &Client, path: &ClusterPath) -> anyhow::Result<(Ino, Name)> {
    let (Some(above), Some(name)) = (path.parent(), path.name()) else {
        return Err(
            ToolError::Usage("the root directory cannot be changed in this way".into()).into(),
        );
    };
    let dir = walk(client, &above, true).await?;
    Ok((dir.ino, name.clone()))
}

/// All entries of a directory, by name.
///
/// # Errors
/// Those of [`Client::readdir`].
pub async fn entries(client: &Client, dir: Ino, with_attrs: bool) -> anyhow::Result<Vec<DirEntry>> {
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let after = all.last().map_or(0, |e| e.cookie);
        let (page, end) = client.readdir(dir, after, PAGE, with_attrs).await?;
        let is_empty = page.is_empty();
        all.extend(page);
        if end || is_empty {
            break;
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Where the history of a path is: the directory, live or removed, and the name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Directory.
    pub parent: Ino,
    /// Name.
    pub name: Name,
    /// What the name is now; `None` if it was removed.
    pub live: Option<Attr>,
    /// The directory itself was removed.
    pub in_removed: bool,
}

/// Finds a name that may be gone, in a directory that may be gone: walks what lives, then goes on
/// through removed directories. A live symlink in the last place is followed.
///
/// # Errors
/// Neither a live nor a removed directory of that path is known.
pub async fn place(client: &Client, path: &ClusterPath) -> anyhow::Result<Place> {
    let mut path = path.clone();
    for _ in 0..LINKS_MAX {
        let found = place_once(client, &path).await?;
        let Some(live) = found.live.as_ref().filter(|a| a.kind == FileKind::Symlink) else {
            return Ok(found);
        };
        let target = client
            .readlink(live.ino)
            .await
            .with_context(|| path.to_string())?;
        path = link_target(&path, &target)?;
    }
    Err(ToolError::NotFound(format!("{path}: too many symbolic links")).into())
}

fn link_target(link: &ClusterPath, target: &[u8]) -> anyhow::Result<ClusterPath> {
    let mut full = Vec::new();
    if target.first() != Some(&b'/') {
        full = link.parent().unwrap_or_else(ClusterPath::root).to_bytes();
        full.push(b'/');
    }
    full.extend_from_slice(target);
    ClusterPath::parse(&full)
}

async fn place_once(client: &Client, path: &ClusterPath) -> anyhow::Result<Place> {
    let Some((name, above)) = path.names().split_last() else {
        return Err(ToolError::Usage("the root directory has no history of its own".into()).into());
    };
    let mut dir = Ino::ROOT;
    let mut in_removed = false;
    let mut at = ClusterPath::root();
    for part in above {
        at = at.join(part);
        if !in_removed && let Some(attr) = look(client, &at, true).await? {
            dir = attr.ino;
            continue;
        }
        let removed = client.removed_dir(dir, part).await;
        dir = match removed {
            Ok(attr) => attr.ino,
            Err(e) if e.code() == ErrorCode::NotFound => {
                let words = format!("no such directory, live or removed: {at}");
                return Err(ToolError::NotFound(words).into());
            }
            Err(e) => return Err(e).with_context(|| at.to_string()),
        };
        in_removed = true;
    }
    let live = match in_removed {
        true => None,
        false => look(client, path, false).await?,
    };
    Ok(Place {
        parent: dir,
        name: name.clone(),
        live,
        in_removed,
    })
}

/// A name for messages.
#[must_use]
pub fn show(name: &Name) -> String {
    escape(name.as_bytes())
}
