use super::super::tests::{INO, Kernel, r};
use super::*;
use dfs_core::types::Revision;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A kernel that takes pages only when it is let.
struct Slow {
    said: Mutex<Vec<String>>,
    let_go: Mutex<Receiver<()>>,
}

impl KernelPages for Slow {
    fn drop_pages(&self, ino: Ino) {
        self.said.lock().unwrap().push(format!("drop {ino}"));
    }

    fn fill(&self, ino: Ino, offset: u64, _: &[Bytes]) {
        self.said
            .lock()
            .unwrap()
            .push(format!("fill {ino} at {offset}"));
        let let_go = self.let_go.lock().unwrap();
        let_go.recv_timeout(Duration::from_secs(5)).unwrap();
        drop(let_go);
        self.said.lock().unwrap().push(format!("filled {ino}"));
    }
}

struct Rig {
    pages: Arc<Pages>,
    kernel: Arc<Slow>,
    let_go: Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    fn new() -> Self {
        let (let_go, gone) = channel();
        let pages = Arc::new(Pages::default());
        let kernel = Arc::new(Slow {
            said: Mutex::default(),
            let_go: Mutex::new(gone),
        });
        let one = || {
            let (pages, kernel) = (Arc::clone(&pages), Arc::clone(&kernel));
            std::thread::spawn(move || pages.run(&*kernel))
        };
        let threads = vec![one(), one()];
        Self {
            pages,
            kernel,
            let_go,
            threads,
        }
    }

    fn fill(&self, moment: Moment) {
        self.pages.fill(Fill {
            ino: INO,
            moment,
            offset: 65536,
            bytes: vec![Bytes::from_static(&[1; 4096])],
        });
    }

    fn said(&self) -> Vec<String> {
        self.kernel.said.lock().unwrap().clone()
    }

    fn until_said(&self, n: usize) {
        let begun = Instant::now();
        while self.said().len() < n {
            assert!(begun.elapsed() < Duration::from_secs(10), "never said");
            std::thread::yield_now();
        }
    }

    fn end(self) -> Vec<String> {
        self.pages.stop();
        self.threads.into_iter().for_each(|t| t.join().unwrap());
        self.kernel.said.lock().unwrap().clone()
    }
}

/// As if the last change had been long ago.
fn calm(pages: &Pages) {
    if let Some(entry) = pages.known().get_mut(&INO) {
        entry.changed_at = Instant::now().checked_sub(QUIET * 5);
    }
}

#[test]
fn pages_are_added_to_files_that_are_open_and_rest() {
    let pages = Pages::default();
    assert_eq!(pages.moment(INO), None, "not open");
    pages.open(INO, r(1));
    let moment = pages.moment(INO);
    assert!(moment.is_some());
    pages.drop_pages(INO);
    assert_eq!(pages.moment(INO), None, "what there is must go first");
    let entry = |f: fn(&mut Known)| f(pages.known().get_mut(&INO).unwrap());
    entry(|k| k.fulfilled = k.wished);
    assert_eq!(pages.moment(INO), None, "a moment ago it was changed");
    calm(&pages);
    assert_eq!(pages.moment(INO), None, "the kernel has not asked since");
    assert!(pages.may_show(INO, r(2)));
    assert_eq!(pages.moment(INO), None, "it is asking");
    calm(&pages);
    assert!(pages.moment(INO).is_some() && pages.moment(INO) != moment);
    pages.open_appender(INO);
    assert_eq!(pages.moment(INO), None, "it is appended to");
    pages.close_appender(INO);
    pages.close(INO);
    assert_eq!(pages.moment(INO), None, "closed");
}

#[tokio::test]
async fn nothing_is_added_that_was_looked_up_before_a_change() {
    type Change = fn(&Pages);
    let changes: [Change; 3] = [
        |pages| pages.drop_pages(INO),
        |pages| pages.advance(INO, &(Revision(1)..=Revision(2))),
        |pages| {
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    drop(runtime.unwrap().block_on(pages.writing(INO)));
                });
            });
        },
    ];
    for change in changes {
        let rig = Rig::new();
        rig.pages.open(INO, r(1));
        let moment = rig.pages.moment(INO).unwrap();
        change(&rig.pages);
        rig.pages.settled(INO).await;
        let _ = rig.pages.may_show(INO, r(3));
        calm(&rig.pages);
        rig.fill(moment);
        // One that is good, as a sign that the one before was looked at.
        let moment = rig.pages.moment(INO).unwrap();
        rig.fill(moment);
        rig.let_go.send(()).unwrap();
        let begun = Instant::now();
        while !rig.said().iter().any(|s| s.starts_with("filled")) {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        let fills = rig.end().iter().filter(|s| s.starts_with("filled")).count();
        assert_eq!(fills, 1);
    }
}

#[tokio::test]
async fn what_is_dropped_while_pages_are_added_is_dropped_after_them() {
    let rig = Rig::new();
    rig.pages.open(INO, r(1));
    rig.fill(rig.pages.moment(INO).unwrap());
    rig.until_said(1);
    let mut dropped = Box::pin(rig.pages.drop_now(INO));
    let soon = tokio::time::timeout(Duration::from_millis(50), dropped.as_mut());
    assert!(soon.await.is_err(), "the pages are still being added");
    rig.let_go.send(()).unwrap();
    dropped.await;
    let all = [
        format!("fill {INO} at 65536"),
        format!("filled {INO}"),
        format!("drop {INO}"),
    ];
    assert_eq!(rig.end(), all);
}

#[tokio::test]
async fn who_writes_waits_until_pages_are_added_and_none_are_until_it_ends() {
    let rig = Rig::new();
    rig.pages.open(INO, r(1));
    rig.fill(rig.pages.moment(INO).unwrap());
    rig.until_said(1);
    // Closed meanwhile, and everything dropped: still it is known that pages are being added.
    rig.pages.close(INO);
    rig.pages.drop_pages(INO);
    let mut writing = Box::pin(rig.pages.writing(INO));
    let soon = tokio::time::timeout(Duration::from_millis(50), writing.as_mut());
    assert!(
        soon.await.is_err(),
        "a late page would cover what is written"
    );
    rig.let_go.send(()).unwrap();
    let writing = writing.await;
    rig.pages.open(INO, r(1));
    calm(&rig.pages);
    assert_eq!(rig.pages.moment(INO), None);
    writing.keep();
    assert_eq!(rig.pages.moment(INO), None);
    rig.pages.end_writing(INO);
    calm(&rig.pages);
    assert!(rig.pages.moment(INO).is_some());
    rig.pages.close(INO);
    rig.end();
}

/// Numbers began anew when nothing was known of an inode any more, and a close was no change.
#[tokio::test]
async fn regression_what_was_looked_up_through_a_handle_that_is_gone_is_not_added() {
    let reopens: [fn(&Pages); 3] = [
        |pages| {
            pages.open(INO, r(2));
        },
        |pages| {
            pages.drop_pages(INO);
            assert!(pages.known().is_empty());
            pages.open(INO, r(1));
        },
        |pages| {
            pages.open(INO, r(1));
        },
    ];
    for reopen in reopens {
        let pages = Pages::default();
        pages.open(INO, r(1));
        let moment = pages.moment(INO).unwrap();
        pages.close(INO);
        reopen(&pages);
        assert!(pages.moment(INO).is_some_and(|now| now != moment));
    }
}

#[tokio::test]
async fn regression_a_reopen_waits_for_pages_that_come_from_a_handle_that_is_gone() {
    let rig = Rig::new();
    rig.pages.open(INO, r(1));
    rig.fill(rig.pages.moment(INO).unwrap());
    rig.until_said(1);
    rig.pages.close(INO);
    let mut opening = Box::pin(rig.pages.opening(INO));
    let soon = tokio::time::timeout(Duration::from_millis(50), opening.as_mut());
    assert!(
        soon.await.is_err(),
        "the kernel drops old pages at the open"
    );
    rig.let_go.send(()).unwrap();
    opening.await;
    rig.end();
}

#[test]
fn regression_what_waits_for_a_fill_that_is_stuck_is_bounded() {
    let rig = Rig::new();
    rig.pages.open(INO, r(1));
    let moment = rig.pages.moment(INO).unwrap();
    rig.fill(moment);
    rig.until_said(1);
    for _ in 0..20 * FILLS_MAX {
        rig.fill(moment);
        std::thread::yield_now();
    }
    let begun = Instant::now();
    while !rig.pages.queue.1.is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the other thread takes them"
        );
        std::thread::yield_now();
    }
    for _ in 0..=FILLS_MAX + 1 {
        rig.let_go.send(()).unwrap();
    }
    rig.until_said(2 * FILLS_MAX);
    let filled = |said: Vec<String>| said.iter().filter(|s| s.starts_with("filled")).count();
    assert!(filled(rig.end()) <= FILLS_MAX + 2);
}

#[tokio::test]
async fn a_file_that_was_only_cut_leaves_nothing() {
    let pages = Arc::new(Pages::default());
    let kernel = Kernel::new(&pages);
    drop(pages.writing(INO).await);
    assert!(pages.known().is_empty());
    assert!(kernel.told().is_empty());
}
