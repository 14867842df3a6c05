//! Network namespaces on one bridge, and cuts between them by pair and direction.
//!
//! What a namespace sends passes a filter of its own where it leaves: frames to an address that is cut
//! off are dropped there, and a share of all others at random. So a cut has a direction, no reset
//! and no error tells of it, and changing it replaces one program by another in one step.
use crate::proc::netns::{PREFIX, ip, remove};
use crate::proc::run;
use anyhow::Context;
use std::collections::BTreeSet;
use std::process::Command;

/// Number of a namespace on the bridge; its address is 10.88.0.(n + 1).
pub type Place = usize;

/// Namespaces; gone on drop, with whatever runs there.
#[derive(Debug)]
pub struct Net {
    switch: String,
    names: Vec<String>,
    /// Of each: to whom it cannot send.
    cut: Vec<BTreeSet<Place>>,
    /// Percent of what each sends that is lost.
    loss: Vec<u32>,
}

/// What a filter answers: drop, or go on.
const DROP: u32 = 2;
const GO_ON: u32 = u32::MAX;
/// Ancillary word of the kernel: a random number.
const RANDOM: u32 = 0xffff_f038;
/// Places of the frame's type, and of IPv4's destination, in a frame.
const FRAME_TYPE: u32 = 12;
const DESTINATION: u32 = 30;

impl Net {
    /// `n` namespaces.
    ///
    /// # Errors
    /// What could not be made; nothing is left.
    pub fn new(n: usize) -> anyhow::Result<Self> {
        let name = |what: &str| format!("{PREFIX}{}-{what}", std::process::id());
        let mut this = Self {
            switch: name("net"),
            names: Vec::new(),
            cut: vec![BTreeSet::new(); n],
            loss: vec![0; n],
        };
        let switch = this.switch.clone();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for place in 0..n {
            let own = name(&format!("n{place}"));
            ip(&["netns", "add", &own])?;
            this.names.push(own.clone());
            let port = format!("p{place}");
            ip(&["-n", &own, "link", "set", "lo", "up"])?;
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                "netns", &own,
            ])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            let addr = format!("{}/24", Self::addr(place));
            ip(&["-n", &own, "addr", "add", &addr, "dev", "eth0"])?;
            ip(&["-n", &own, "link", "set", "eth0", "up"])?;
            this.tc(place, &["qdisc", "add", "dev", "eth0", "clsact"])?;
        }
        Ok(this)
    }

    /// Its address.
    #[must_use]
    pub fn addr(place: Place) -> String {
        format!("10.88.0.{}", place + 1)
    }

    /// A command that runs there, among the mounts of whoever starts it.
    #[must_use]
    pub fn inside(&self, place: Place) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.names[place]));
        command.arg("--");
        command
    }

    fn tc(&self, place: Place, args: &[&str]) -> anyhow::Result<()> {
        run(self.inside(place).arg("tc").args(args)).map(|_| ())
    }

    /// From now on nothing that `from` sends reaches `to`.
    ///
    /// # Errors
    /// Of `tc`.
    pub fn cut(&mut self, from: Place, to: Place) -> anyhow::Result<()> {
        self.cut[from].insert(to);
        self.apply(from)
    }

    /// The opposite of [`Self::cut`].
    ///
    /// # Errors
    /// Of `tc`.
    pub fn mend(&mut self, from: Place, to: Place) -> anyhow::Result<()> {
        self.cut[from].remove(&to);
        self.apply(from)
    }

    /// A share of what `from` sends is lost from now on, in percent.
    ///
    /// # Errors
    /// Of `tc`.
    pub fn lose(&mut self, from: Place, percent: u32) -> anyhow::Result<()> {
        self.loss[from] = percent;
        self.apply(from)
    }

    /// No cut and no loss.
    ///
    /// # Errors
    /// Of `tc`.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        for place in 0..self.names.len() {
            self.cut[place].clear();
            self.loss[place] = 0;
            self.apply(place)?;
        }
        Ok(())
    }

    fn apply(&self, from: Place) -> anyhow::Result<()> {
        let code = program(&self.cut[from], self.loss[from]);
        let filter = [
            "filter", "replace", "dev", "eth0", "egress", "pref", "1", "handle", "1",
        ];
        let mut args = filter.to_vec();
        args.extend(["bpf", "da", "bytecode", &code]);
        self.tc(from, &args).context("the filter of cuts")
    }
}

/// The program of a filter, as `tc` takes it: "count,code jt jf k,...".
fn program(cut: &BTreeSet<Place>, percent: u32) -> String {
    let mut steps: Vec<(u16, u8, u8, u32)> = Vec::new();
    let (load_half, load_word, is_equal, is_below, answer) = (40, 32, 21, 53, 6);
    // A random word below the limit is lost.
    let limit = u32::try_from(u64::from(percent.min(99)) * (1 << 32) / 100).unwrap_or(u32::MAX);
    steps.push((load_word, 0, 0, RANDOM));
    // `jge limit`: go on with the next check, else drop.
    steps.push((is_below, 1, 0, limit));
    steps.push((answer, 0, 0, DROP));
    // Nothing but IPv4 is cut: neighbours stay known.
    steps.push((load_half, 0, 0, FRAME_TYPE));
    steps.push((is_equal, 1, 0, 0x0800));
    steps.push((answer, 0, 0, GO_ON));
    steps.push((load_word, 0, 0, DESTINATION));
    for place in cut {
        let host = u32::try_from(place + 1).unwrap_or(0);
        steps.push((is_equal, 0, 1, (10 << 24) | (88 << 16) | host));
        steps.push((answer, 0, 0, DROP));
    }
    steps.push((answer, 0, 0, GO_ON));
    let words: Vec<String> = steps
        .iter()
        .map(|(c, t, f, k)| format!("{c} {t} {f} {k}"))
        .collect();
    format!("{},{}", steps.len(), words.join(","))
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.names.iter().rev() {
            remove(name);
        }
        remove(&self.switch);
    }
}
