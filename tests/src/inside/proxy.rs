//! A TCP proxy in front of one daemon.
//!
//! What passes may be damaged (one bit of a known pattern), all connections may be cut, and those of
//! one process may be held: nothing is lost then, it only waits.
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to the daemon.
    ToNode,
    /// From the daemon.
    FromNode,
}

#[derive(Debug, Default)]
struct Rules {
    flip: Option<(Way, Vec<u8>, u32)>,
    flipped: u32,
    cut: bool,
    held: Vec<SocketAddr>,
}

struct Shared {
    upstream: SocketAddr,
    rules: Mutex<Rules>,
    /// Who connected, and both sockets.
    open: Mutex<Vec<(SocketAddr, TcpStream, TcpStream)>>,
    stopped: AtomicBool,
}

/// See the [module docs](self). Closes everything when dropped.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on a free loopback port and passes everything to `upstream`.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(upstream: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            rules: Mutex::default(),
            open: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stopped.load(Ordering::Acquire) {
                    return;
                }
                if let Ok(stream) = stream {
                    // A daemon that is down refuses; so does its proxy, by closing.
                    let _ = accepting.join(stream);
                }
            }
        });
        Ok(Self {
            addr,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Flips one bit in the middle of the next `times` occurrences of `pattern` that pass in that
    /// direction. Occurrences that lie across two reads may be missed.
    pub fn flip(&self, way: Way, pattern: &[u8], times: u32) {
        lock(&self.shared.rules).flip = Some((way, pattern.to_vec(), times));
    }

    /// Bits flipped so far.
    pub fn flipped(&self) -> u32 {
        lock(&self.shared.rules).flipped
    }

    /// Closes all connections and refuses new ones, or takes them again.
    pub fn cut(&self, is_cut: bool) {
        lock(&self.shared.rules).cut = is_cut;
        if is_cut {
            self.shared.close_all();
        }
    }

    /// Holds all bytes of the connections that process `pid` has made; says how many those are.
    pub fn hold(&self, pid: u32) -> usize {
        let peers: Vec<SocketAddr> = lock(&self.shared.open).iter().map(|o| o.0).collect();
        let held: Vec<SocketAddr> = peers.into_iter().filter(|p| owns(pid, *p)).collect();
        let count = held.len();
        lock(&self.shared.rules).held = held;
        count
    }

    /// Lets everything pass again.
    pub fn release(&self) {
        lock(&self.shared.rules).held.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.close_all();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn close_all(&self) {
        for (_, a, b) in lock(&self.open).drain(..) {
            let _ = a.shutdown(Shutdown::Both);
            let _ = b.shutdown(Shutdown::Both);
        }
    }

    fn join(self: &Arc<Self>, outer: TcpStream) -> std::io::Result<()> {
        if lock(&self.rules).cut {
            return Ok(());
        }
        let peer = outer.peer_addr()?;
        let inner = TcpStream::connect(self.upstream)?;
        for stream in [&outer, &inner] {
            stream.set_nodelay(true)?;
        }
        lock(&self.open).push((peer, outer.try_clone()?, inner.try_clone()?));
        for (way, from, to) in [
            (Way::ToNode, outer.try_clone()?, inner.try_clone()?),
            (Way::FromNode, inner, outer),
        ] {
            let this = Arc::clone(self);
            std::thread::spawn(move || this.pump(way, peer, from, to));
        }
        Ok(())
    }

    /// Passes bytes until either end closes, then closes both.
    fn pump(&self, way: Way, peer: SocketAddr, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => n,
            };
            while lock(&self.rules).held.contains(&peer) && !self.stopped.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(2));
            }
            self.damage(way, &mut buffer[..n]);
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        lock(&self.open).retain(|(p, ..)| *p != peer);
    }

    fn damage(&self, way: Way, bytes: &mut [u8]) {
        let mut rules = lock(&self.rules);
        let Some((wanted, pattern, times)) = &mut rules.flip else {
            return;
        };
        if *wanted != way || *times == 0 || bytes.len() < pattern.len() {
            return;
        }
        let at = bytes.windows(pattern.len()).position(|w| w == pattern);
        if let Some(at) = at {
            bytes[at + pattern.len() / 2] ^= 0x10;
            *times -= 1;
            rules.flipped += 1;
        }
    }
}

/// True if process `pid` has the socket whose local address is `local`.
fn owns(pid: u32, local: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let wanted = format!("0100007F:{:04X}", local.port());
    let inode = table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some(wanted.as_str())).then(|| words.nth(7).map(str::to_owned))?
    });
    let Some(inode) = inode else { return false };
    let socket = format!("socket:[{inode}]");
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files
        .filter_map(Result::ok)
        .any(|f| std::fs::read_link(f.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()))
}
