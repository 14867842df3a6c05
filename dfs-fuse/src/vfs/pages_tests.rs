use super::*;
use std::sync::Arc;

/// A kernel that is only told to drop pages.
struct Telling<F: Fn(Ino)>(F);

impl<F: Fn(Ino)> KernelPages for Telling<F> {
    fn drop_pages(&self, ino: Ino) {
        (self.0)(ino);
    }

    fn fill(&self, _: Ino, _: u64, _: &[Bytes]) {
        panic!("nothing is to be added");
    }
}

/// Notify threads that write down what they tell the kernel.
pub(super) struct Kernel {
    pages: Arc<Pages>,
    told: Arc<Mutex<Vec<Ino>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Kernel {
    pub(super) fn new(pages: &Arc<Pages>) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let one = || {
            let (pages, told) = (Arc::clone(pages), Arc::clone(&told));
            std::thread::spawn(move || pages.run(&Telling(|ino| told.lock().unwrap().push(ino))))
        };
        let threads = vec![one(), one()];
        let pages = Arc::clone(pages);
        Self {
            pages,
            told,
            threads,
        }
    }

    pub(super) fn told(self) -> Vec<Ino> {
        self.pages.stop();
        self.threads.into_iter().for_each(|t| t.join().unwrap());
        let mut told = self.told.lock().unwrap().clone();
        told.sort_unstable();
        told
    }
}

pub(super) const INO: Ino = Ino(7);

pub(super) fn r(n: u64) -> Revision {
    Revision(n)
}

#[test]
fn pages_are_kept_only_at_the_revision_they_were_read_at() {
    let pages = Pages::default();
    assert!(!pages.open(INO, r(1)));
    assert!(pages.open(INO, r(1)));
    pages.advance(INO, &(r(1)..=r(2)));
    assert!(pages.open(INO, r(2)));
    pages.advance(INO, &(r(3)..=r(4)));
    assert!(!pages.open(INO, r(4)), "somebody else wrote in between");
    pages.drop_pages(INO);
    assert!(!pages.open(INO, r(4)));
}

#[tokio::test]
async fn what_is_old_is_dropped_before_its_wait_ends_and_nothing_else_is() {
    let pages = Arc::new(Pages::default());
    let kernel = Kernel::new(&pages);
    pages.open(INO, r(3));
    pages.drop_before(INO, r(3)).await;
    assert!(kernel.told.lock().unwrap().is_empty());
    pages.drop_before(INO, r(4)).await;
    assert_eq!(*kernel.told.lock().unwrap(), [INO]);
    assert!(pages.open(INO, r(4)));
    assert_eq!(kernel.told(), [INO]);
}

#[tokio::test]
async fn attributes_wait_for_pages_only_of_files_that_are_open() {
    let pages = Arc::new(Pages::default());
    assert!(pages.may_show(INO, r(9)));
    pages.open(INO, r(3));
    assert!(pages.may_show(INO, r(3)) && !pages.may_show(INO, r(4)));
    assert!(
        pages.may_show(INO, r(2)),
        "an answer overtaken by a newer one"
    );
    pages.drop_pages(INO);
    assert!(!pages.may_show(INO, r(3)));
    pages.close(INO);
    assert!(pages.may_show(INO, r(4)));
}

#[test]
fn an_inode_is_appended_to_while_a_handle_that_appends_is_open() {
    let pages = Pages::default();
    pages.open(INO, r(3));
    assert!(!pages.is_appended(INO));
    pages.open(INO, r(3));
    pages.open_appender(INO);
    pages.close(INO);
    assert!(pages.is_appended(INO) && pages.handles(INO) == 1);
    pages.close_appender(INO);
    assert!(!pages.is_appended(INO) && pages.handles(INO) == 0);
}

#[tokio::test]
async fn an_append_is_not_shown_to_another_reader_before_its_pages_are_gone() {
    let pages = Arc::new(Pages::default());
    let kernel = Kernel::new(&pages);
    pages.open(INO, r(3));
    pages.appending(INO, async {}).await;
    assert!(kernel.told.lock().unwrap().is_empty(), "nobody else has it");
    pages.open(INO, r(3));
    let shows = pages.appending(INO, async { pages.may_show(INO, r(3)) });
    assert!(!shows.await);
    assert!(pages.may_show(INO, r(3)));
    assert_eq!(kernel.told(), [INO]);
}

#[test]
fn everything_open_that_is_dropped_reaches_the_kernel() {
    let pages = Arc::new(Pages::default());
    for i in 0..100 {
        pages.open(Ino(i), r(1));
    }
    pages.close(Ino(0));
    pages.all_invalidated();
    let kernel = Kernel::new(&pages);
    while pages.drop_all.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    assert_eq!(kernel.told(), (1..100).map(Ino).collect::<Vec<_>>());
    assert!(!pages.open(Ino(0), r(1)) && !pages.open(Ino(1), r(1)));
}

/// One file with a stuck page kept every thread: no other file that had changed could be shown.
#[tokio::test]
async fn regression_an_inode_whose_pages_are_stuck_keeps_one_thread() {
    let pages = Arc::new(Pages::default());
    let (release, stuck) = std::sync::mpsc::channel::<()>();
    let stuck = Arc::new(Mutex::new(stuck));
    let told = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let one = || {
        let (pages, stuck, told) = (Arc::clone(&pages), Arc::clone(&stuck), Arc::clone(&told));
        std::thread::spawn(move || {
            pages.run(&Telling(|ino: Ino| {
                if ino == INO {
                    told.fetch_add(1, Ordering::AcqRel);
                    stuck.lock().unwrap().recv().unwrap();
                }
            }));
        })
    };
    let threads = [one(), one()];
    let other = Ino(8);
    for ino in [INO, other] {
        pages.open(ino, r(1));
    }
    let mut waits: Vec<_> = (0..5).map(|_| Box::pin(pages.drop_now(INO))).collect();
    for wait in &mut waits {
        assert!(futures_poll_once(wait.as_mut()).await.is_none());
        // The others come while the first is at it.
        while told.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
    }
    let dropped = tokio::time::timeout(Duration::from_secs(10), pages.drop_now(other));
    dropped.await.expect("the other file is not held up");
    // The first pass is over, and one more for all who came during it.
    for _ in 0..2 {
        release.send(()).unwrap();
    }
    for wait in waits {
        wait.await;
    }
    assert_eq!(told.load(Ordering::Acquire), 2);
    pages.stop();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The thread that was to drop everything waited for the first file whose page was stuck.
#[test]
fn regression_everything_but_a_stuck_inode_is_dropped() {
    let pages = Arc::new(Pages::default());
    for i in 0..100 {
        pages.open(Ino(i), r(1));
    }
    let (release, stuck) = std::sync::mpsc::channel::<()>();
    let stuck = Arc::new(Mutex::new(stuck));
    let told = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let one = || {
        let (pages, stuck, told) = (Arc::clone(&pages), Arc::clone(&stuck), Arc::clone(&told));
        std::thread::spawn(move || {
            pages.run(&Telling(|ino: Ino| {
                if ino.0 % 50 == 7 {
                    stuck.lock().unwrap().recv().unwrap();
                }
                told.lock().unwrap().insert(ino);
            }));
        })
    };
    let threads = [one(), one(), one()];
    pages.session_lost();
    let begun = Instant::now();
    while told.lock().unwrap().len() < 98 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the others wait");
        std::thread::yield_now();
    }
    (0..2).for_each(|_| release.send(()).unwrap());
    pages.stop();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(told.lock().unwrap().len(), 100);
}

async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(cx) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn nobody_waits_for_threads_that_have_ended() {
    let pages = Arc::new(Pages::default());
    let kernel = Kernel::new(&pages);
    pages.open(INO, r(1));
    assert!(kernel.told().is_empty());
    pages.drop_before(INO, r(2)).await;
}

/// Attributes were shown by way of another notification, which made the kernel discard them.
#[tokio::test]
async fn regression_what_was_dropped_is_not_dropped_again_before_attributes_are_shown() {
    let pages = Arc::new(Pages::default());
    pages.open(INO, r(3));
    pages.drop_pages(INO);
    assert!(!pages.may_show(INO, r(4)));
    let kernel = Kernel::new(&pages);
    pages.settled(INO).await;
    assert!(pages.may_show(INO, r(4)));
    pages.drop_before(INO, r(4)).await;
    assert_eq!(*kernel.told.lock().unwrap(), [INO]);
    // Of a change that nobody told of it is asked.
    assert!(!pages.may_show(INO, r(5)));
    pages.drop_before(INO, r(5)).await;
    assert_eq!(kernel.told(), [INO; 2]);
}

/// A lock's holder asked for attributes while the kernel was notified for whoever else had waited.
#[tokio::test]
async fn regression_one_notification_fulfils_all_that_was_wished_before_it() {
    let pages = Arc::new(Pages::default());
    pages.open(INO, r(3));
    pages.drop_pages(INO);
    pages.drop_pages(INO);
    let mut waits = [4, 4, 5].map(|at| Box::pin(pages.drop_before(INO, r(at))));
    for wait in &mut waits {
        assert!(futures_poll_once(wait.as_mut()).await.is_none());
    }
    let kernel = Kernel::new(&pages);
    for wait in waits {
        wait.await;
    }
    pages.settled(INO).await;
    assert_eq!(*kernel.told.lock().unwrap(), [INO]);
    assert!(pages.may_show(INO, r(5)));
    assert_eq!(kernel.told(), [INO]);
}
