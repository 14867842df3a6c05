//! A wall clock that tests set wrong: this process's, by what a file says, while it runs.
//!
//! The machine's own clock belongs to everybody on it, and no namespace has one.
use dfs_core::net::clock::set_test_offset_ms;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

static FOLLOWED: Once = Once::new();

/// Sets the clock by the file now, and from now on whenever the file has changed. A file that is
/// missing or holds no number changes nothing.
pub fn follow(file: &Path) {
    set(file);
    let file = file.to_owned();
    FOLLOWED.call_once(|| {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(100));
                set(&file);
            }
        });
    });
}

fn set(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    if let Ok(ms) = text.trim().parse() {
        set_test_offset_ms(ms);
    }
}
