//! `dfs-tools`: every operation of a cluster without a mount, and development clusters.
//!
//! [`cli`] is the command line, [`run`] the way from it to an exit code, [`commands`] has one file
//! per command or small family. They share [`cluster`] (the connection), [`path`] (what a path
//! argument means), [`nodes`] (what a node argument means), [`transfer`] (bytes in and out),
//! [`output`], [`mod@format`] and [`view`] (what is printed), and [`error`] (what went wrong).
//! [`mod@bench`] and [`rescue`] are commands that need no cluster.
pub mod bench;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod dev;
pub mod error;
pub mod format;
pub mod nodes;
pub mod output;
pub mod path;
pub mod progress;
pub mod rescue;
pub mod run;
pub mod space;
pub mod transfer;
pub mod view;
